//! Connecting: a channel to a coordinator or worker, with this side's credentials, and errors that say what to do.
//!
//! The first bytes of HTTP/2 are sent here and the server's first bytes awaited, before a connection counts as one: only then has the
//! server looked at our certificate, and only then is it sure that both sides speak the same of TLS and plain.

use std::{
    future::Future,
    io,
    path::{Path, PathBuf},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use http::{HeaderValue, Uri, header::AUTHORIZATION};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf},
    net::{TcpStream, UnixStream},
};
use tokio_rustls::{
    TlsConnector, client,
    rustls::{self, AlertDescription, CertificateError, pki_types::ServerName},
};
use tonic::{Status, service::Interceptor, service::interceptor::InterceptedService, transport};
use tower::Service;

use super::{
    address::{Address, is_loopback},
    error::{Error, Kind},
    files::{Watched, read_secret},
    service::KEEPALIVE,
    tls::{ClientTls, TOKEN},
    tokens::Secret,
};

/// The environment variable with a token.
pub const TOKEN_VARIABLE: &str = "DAGRUN_TOKEN";

/// How long a connection may take until it can be used.
const PATIENCE: Duration = Duration::from_secs(10);

/// What a client of HTTP/2 says first.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// The head of a frame of HTTP/2; a server's first one is of this type.
const FRAME: usize = 9;
const SETTINGS: u8 = 4;

/// Windows of flow control: what a server may send ahead on a stream, and on a connection.
const WINDOWS: (u32, u32) = (4 << 20, 16 << 20);

/// The largest frame that a server may send: at HTTP/2's own 16 KiB, frames cost more than their bytes.
const LARGEST_FRAME: u32 = 256 << 10;

/// A connection that makes itself anew, for clients of the protocol.
pub type Channel = InterceptedService<transport::Channel, ShowToken>;

/// Who is expected at the other end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expect {
    /// A coordinator, whose certificate names the host that we connect to.
    Coordinator,
    /// A worker of our cluster, whatever its host is called.
    Worker,
}

/// This side's credentials, for connections that it makes. Read again when their files change.
#[derive(Clone)]
pub struct Connector(Arc<Own>);

struct Own {
    tls: Option<(PathBuf, Watched<ClientTls>)>,
    token: Option<Watched<Secret>>,
}

impl std::fmt::Debug for Connector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connector").finish_non_exhaustive()
    }
}

impl Connector {
    /// Takes the credentials of a folder and a token. The token comes from `token_file`, else from [`TOKEN_VARIABLE`], else from
    /// `token` in the folder.
    pub fn open(tls: Option<&Path>, token_file: Option<&Path>) -> Result<Self, Error> {
        let in_folder = tls.map(|folder| folder.join(TOKEN));
        let variable = std::env::var(TOKEN_VARIABLE)
            .ok()
            .filter(|text| !text.trim().is_empty());
        let token = match (token_file, variable, in_folder) {
            (Some(file), _, _) => Some(watch_token(file.to_path_buf())?),
            (None, Some(text), _) => {
                let secret = Secret::new(&text);
                Some(Watched::open(Vec::new(), move || Ok(secret.clone()))?)
            }
            (None, None, Some(file)) if file.exists() => Some(watch_token(file)?),
            _ => None,
        };
        let tls = tls.map(|folder| {
            let folder = folder.to_path_buf();
            let read = folder.clone();
            let watched = Watched::open(ClientTls::files(&folder), move || ClientTls::read(&read))?;
            Ok((folder, watched))
        });
        Ok(Self(Arc::new(Own {
            tls: tls.transpose()?,
            token,
        })))
    }

    /// Connects, and says what is wrong where that fails. The channel connects again by itself when it is broken.
    pub async fn connect(&self, to: &Address, expect: Expect) -> Result<Channel, Error> {
        let connected = self.connect_by(to, self.dial(to, expect)).await;
        connected.map_err(|error| match (expect, error.kind, &error.hint) {
            (Expect::Coordinator, Kind::Unreachable, None) => {
                error.hint("see that `dagrun serve` runs there, and that no firewall is between")
            }
            _ => error,
        })
    }

    /// Likewise, by connections that `dial` makes.
    pub(crate) async fn connect_by<D, S>(&self, to: &Address, dial: D) -> Result<Channel, Error>
    where
        D: Service<Uri, Response = TokioIo<S>> + Send + 'static,
        D::Error: std::error::Error + Send + Sync + 'static,
        D::Future: Send,
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let channel = endpoint(to)?.connect_with_connector(dial).await;
        let channel = channel.map_err(|error| {
            Error::in_chain(&error)
                .unwrap_or_else(|| Error::unreachable(format!("cannot connect to {to}: {error}")))
        })?;
        Ok(self.with_token(channel))
    }

    /// A channel that connects when it is first used. [`Error::of_status`] says what was wrong with a call's connection.
    pub fn lazy(&self, to: &Address, expect: Expect) -> Result<Channel, Error> {
        let dial = self.dial(to, expect);
        Ok(self.with_token(endpoint(to)?.connect_with_connector_lazy(dial)))
    }

    /// The name in our certificate, if there is one.
    pub fn name(&self) -> Option<String> {
        let (_, tls) = self.0.tls.as_ref()?;
        Some(tls.get().facts.as_ref()?.name.clone())
    }

    fn dial(&self, to: &Address, expect: Expect) -> Dial {
        Dial {
            own: Arc::clone(&self.0),
            to: to.clone(),
            expect,
        }
    }

    fn with_token(&self, channel: transport::Channel) -> Channel {
        InterceptedService::new(channel, ShowToken(Arc::clone(&self.0)))
    }
}

fn watch_token(file: PathBuf) -> Result<Watched<Secret>, Error> {
    Watched::open(vec![file.clone()], move || {
        let secret = Secret::new(&read_secret(&file)?);
        // The value itself is never part of an error.
        match HeaderValue::from_str(secret.reveal()) {
            Ok(value) if !value.is_empty() => Ok(secret),
            _ => Err(Error::settings(format!("{} has no token", file.display()))),
        }
    })
}

fn endpoint(to: &Address) -> Result<transport::Endpoint, Error> {
    // The scheme is plain, since TLS is done by `Dial`; and a unix socket has no authority to name.
    let authority = match to {
        Address::Unix(_) => "localhost".to_owned(),
        tcp => tcp.to_string(),
    };
    let endpoint = transport::Endpoint::from_shared(format!("http://{authority}"))
        .map_err(|_| Error::settings(format!("`{to}` cannot be connected to")))?;
    let (every, wait) = KEEPALIVE;
    Ok(endpoint
        .connect_timeout(PATIENCE + Duration::from_secs(1))
        .http2_keep_alive_interval(every)
        .keep_alive_timeout(wait)
        .keep_alive_while_idle(true)
        .initial_stream_window_size(WINDOWS.0)
        .initial_connection_window_size(WINDOWS.1)
        .max_frame_size(LARGEST_FRAME))
}

/// Puts the token, if there is one, on every call.
#[derive(Clone)]
pub struct ShowToken(Arc<Own>);

impl Interceptor for ShowToken {
    fn call(&mut self, mut request: tonic::Request<()>) -> Result<tonic::Request<()>, Status> {
        if let Some(token) = &self.0.token {
            let value = format!("Bearer {}", token.get().reveal());
            let mut value = HeaderValue::try_from(value).map_err(|_| {
                Status::unauthenticated("the token has characters that no token has")
            })?;
            // Kept out of logs and of header compression.
            value.set_sensitive(true);
            let mut headers = std::mem::take(request.metadata_mut()).into_headers();
            headers.insert(AUTHORIZATION, value);
            *request.metadata_mut() = tonic::metadata::MetadataMap::from_headers(headers);
        }
        Ok(request)
    }
}

/// Makes connections to one address.
#[derive(Clone)]
struct Dial {
    own: Arc<Own>,
    to: Address,
    expect: Expect,
}

impl Service<Uri> for Dial {
    type Response = TokioIo<Started>;
    type Error = Error;
    type Future = Pin<Box<dyn Future<Output = Result<TokioIo<Started>, Error>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let dial = self.clone();
        Box::pin(async move {
            match tokio::time::timeout(PATIENCE, dial.connect()).await {
                Ok(connected) => connected.map(TokioIo::new),
                Err(_) => Err(Error::unreachable(format!(
                    "{} did not answer within {} s",
                    dial.to,
                    PATIENCE.as_secs()
                ))),
            }
        })
    }
}

impl Dial {
    async fn connect(&self) -> Result<Started, Error> {
        match &self.to {
            Address::Unix(path) => {
                let stream = UnixStream::connect(path).await;
                let stream = stream.map_err(|error| self.unreachable(&error))?;
                self.start(Wire::Unix(stream)).await
            }
            Address::Tcp { host, port } => {
                let stream = TcpStream::connect((host.as_str(), *port)).await;
                let stream = stream.map_err(|error| self.unreachable(&error))?;
                stream
                    .set_nodelay(true)
                    .map_err(|error| self.unreachable(&error))?;
                match &self.own.tls {
                    Some((folder, tls)) => {
                        let stream = self.shake_hands(host, stream, folder, &tls.get()).await?;
                        self.start(Wire::Tls(Box::new(stream))).await
                    }
                    None => {
                        self.check_plain(&stream)?;
                        self.start(Wire::Plain(stream)).await
                    }
                }
            }
        }
    }

    /// Nothing, and no token above all, goes over a network in the clear.
    fn check_plain(&self, stream: &TcpStream) -> Result<(), Error> {
        let peer = stream
            .peer_addr()
            .map_err(|error| self.unreachable(&error))?;
        if is_loopback(peer.ip()) {
            return Ok(());
        }
        Err(
            Error::settings(format!("refusing to talk to {} without TLS", self.to)).hint(
                "add --tls DIR, a folder that `dagrun cluster init` or `dagrun cluster cert` made",
            ),
        )
    }

    async fn shake_hands(
        &self,
        host: &str,
        stream: TcpStream,
        folder: &Path,
        tls: &ClientTls,
    ) -> Result<client::TlsStream<TcpStream>, Error> {
        let config = match self.expect {
            Expect::Coordinator => &tls.by_host,
            Expect::Worker => tls.by_role.as_ref().ok_or_else(|| {
                Error::settings(format!(
                    "{} has no certificate of a cluster, by which workers are known",
                    folder.display()
                ))
                .hint("`dagrun cluster cert NAME --role worker` makes one")
            })?,
        };
        let name = ServerName::try_from(host.to_owned())
            .map_err(|_| Error::settings(format!("`{host}` is no name of a host")))?;
        let connector = TlsConnector::from(Arc::clone(config));
        let shaken = connector.connect(name, stream).await;
        shaken.map_err(|error| self.explain(&error))
    }

    async fn start(&self, mut wire: Wire) -> Result<Started, Error> {
        let mut first = [0; FRAME];
        let begun = async {
            wire.write_all(PREFACE).await?;
            wire.flush().await?;
            wire.read_exact(&mut first).await
        };
        let speaks_tls = |first: &[u8]| matches!(first, [0x15 | 0x16, 0x03, ..]);
        if let Err(error) = begun.await {
            // An alert of TLS is shorter than a frame.
            if matches!(wire, Wire::Plain(_)) && speaks_tls(&first) {
                return Err(self.wants_tls());
            }
            return Err(self.explain(&error));
        }
        if speaks_tls(&first) {
            return Err(self.wants_tls());
        }
        if first[3] != SETTINGS {
            return Err(Error::untrusted(format!(
                "what listens on {} does not speak HTTP/2",
                self.to
            ))
            .hint("is it the address of `dagrun serve`?"));
        }
        Ok(Started {
            wire,
            unread: Some(first),
            read: 0,
            skip: PREFACE.len(),
        })
    }

    fn wants_tls(&self) -> Error {
        Error::untrusted(format!("{} speaks TLS alone", self.to)).hint(
            "add --tls DIR, a folder that `dagrun cluster init` or `dagrun cluster cert` made",
        )
    }

    fn unreachable(&self, error: &io::Error) -> Error {
        Error::unreachable(format!("cannot connect to {}: {error}", self.to))
    }

    fn explain(&self, error: &io::Error) -> Error {
        let tls = error
            .get_ref()
            .and_then(|inner| inner.downcast_ref::<rustls::Error>());
        match tls {
            Some(error) => explain_tls(&self.to, self.folder(), error),
            None if error.kind() == io::ErrorKind::UnexpectedEof => Error::unreachable(format!(
                "{} closed the connection at once",
                self.to
            ))
            .hint("its log says why: another user of its machine, too many connections, or it is no dagrun"),
            None => self.unreachable(error),
        }
    }

    fn folder(&self) -> &Path {
        self.own
            .tls
            .as_ref()
            .map_or(Path::new(""), |(folder, _)| folder)
    }
}

/// What a failed handshake means, and what to do.
fn explain_tls(to: &Address, folder: &Path, error: &rustls::Error) -> Error {
    use rustls::Error as Tls;
    let folder = folder.display();
    match error {
        Tls::InvalidCertificate(why) => explain_certificate(to, &folder.to_string(), why),
        Tls::InvalidMessage(_) => Error::untrusted(format!("{to} does not speak TLS")).hint(
            "is it the right port? a coordinator on a loopback address speaks TLS only with --tls",
        ),
        Tls::AlertReceived(alert) => {
            let ours = format!("the certificate in {folder}");
            let why = match alert {
                AlertDescription::UnknownCA
                | AlertDescription::BadCertificate
                | AlertDescription::DecryptError => "it is not of this cluster's CA",
                AlertDescription::CertificateExpired => "it has expired, by the clock there",
                AlertDescription::UnsupportedCertificate => "it is not for clients",
                AlertDescription::ProtocolVersion | AlertDescription::HandshakeFailure => {
                    return Error::untrusted(format!("{to} does not speak TLS 1.3"));
                }
                other => {
                    return Error::untrusted(format!("{to} ended the handshake: {other:?}"));
                }
            };
            Error::untrusted(format!("{to} refuses {ours}: {why}"))
                .hint("`dagrun cluster cert NAME --role ROLE` makes one where the CA is")
        }
        Tls::General(why) => Error::untrusted(format!("{to} is not whom we expect: {why}")),
        other => Error::untrusted(format!("no TLS with {to}: {other}")),
    }
}

/// The names that a certificate is for, of which `presented` has their debug output, as people write them. Names of roles are left out:
/// nobody connects by one.
fn plain_names(presented: &[String]) -> String {
    let name = |shown: &String| {
        let (kind, rest) = shown.split_once('(')?;
        let name = rest.strip_suffix(')')?.trim_matches('"');
        match kind {
            "UniformResourceIdentifier" => None,
            // It is shown with leading zeros and without the shortest form.
            "IpAddress" => Some(
                name.parse::<std::net::IpAddr>()
                    .map_or_else(|_| name.to_owned(), |address| address.to_string()),
            ),
            _ => Some(name.to_owned()),
        }
    };
    let names: Vec<String> = presented.iter().filter_map(name).collect();
    match names.is_empty() {
        true => "no host".into(),
        false => names.join(", "),
    }
}

fn explain_certificate(to: &Address, folder: &str, why: &CertificateError) -> Error {
    use CertificateError as Bad;
    match why {
        Bad::UnknownIssuer | Bad::BadSignature => Error::untrusted(format!(
            "the certificate of {to} is not of the CA in {folder}/ca.pem"
        ))
        .hint("take ca.pem from the folder that `dagrun cluster init` made for this coordinator; or somebody is in between"),
        Bad::Expired | Bad::ExpiredContext { .. } => {
            Error::untrusted(format!("the certificate of {to} has expired"))
                .hint("renew it where the CA is: dagrun cluster cert server --renew")
        }
        Bad::NotValidYet | Bad::NotValidYetContext { .. } => Error::untrusted(format!(
            "the certificate of {to} is not valid yet, by this machine's clock"
        ))
        .hint("set the clock"),
        Bad::NotValidForNameContext { presented, .. } => Error::untrusted(format!(
            "the certificate of {to} is for {}",
            plain_names(presented)
        ))
        .hint("connect by one of these names, or add this one: dagrun cluster cert server --renew --host HOST"),
        Bad::NotValidForName => Error::untrusted(format!(
            "the certificate of {to} is for another host"
        ))
        .hint("add this one: dagrun cluster cert server --renew --host HOST"),
        Bad::InvalidPurpose | Bad::InvalidPurposeContext { .. } => Error::untrusted(format!(
            "the certificate of {to} is not for servers"
        )),
        other => Error::untrusted(format!("the certificate of {to} is not usable: {other}")),
    }
}

impl Error {
    /// The error of connecting that a call failed with, if it was one.
    pub fn of_status(status: &Status) -> Option<Self> {
        Self::in_chain(status)
    }

    fn in_chain(error: &(dyn std::error::Error + 'static)) -> Option<Self> {
        let mut next = Some(error);
        while let Some(error) = next {
            if let Some(own) = error.downcast_ref::<Self>() {
                return Some(own.clone());
            }
            next = error.source();
        }
        None
    }
}

/// The kinds of connections.
enum Wire {
    Unix(UnixStream),
    Plain(TcpStream),
    Tls(Box<client::TlsStream<TcpStream>>),
}

/// Does the same with whatever it is.
macro_rules! on_wire {
    ($wire:expr, $inner:ident => $do:expr) => {
        match $wire.get_mut() {
            Wire::Unix(inner) => {
                let $inner = Pin::new(inner);
                $do
            }
            Wire::Plain(inner) => {
                let $inner = Pin::new(inner);
                $do
            }
            Wire::Tls(inner) => {
                let $inner = Pin::new(inner.as_mut());
                $do
            }
        }
    };
}

impl AsyncRead for Wire {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        on_wire!(self, inner => inner.poll_read(cx, buf))
    }
}

impl AsyncWrite for Wire {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        on_wire!(self, inner => inner.poll_write(cx, buf))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        on_wire!(self, inner => inner.poll_write_vectored(cx, bufs))
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Unix(inner) => inner.is_write_vectored(),
            Self::Plain(inner) => inner.is_write_vectored(),
            Self::Tls(inner) => inner.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        on_wire!(self, inner => inner.poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        on_wire!(self, inner => inner.poll_shutdown(cx))
    }
}

/// A connection on which the preface was sent and the head of the first frame read: gives that again, and swallows the preface that
/// the client writes.
struct Started {
    wire: Wire,
    unread: Option<[u8; FRAME]>,
    read: usize,
    skip: usize,
}

impl AsyncRead for Started {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if let Some(first) = self.unread {
            let rest = &first[self.read..];
            let now = rest.len().min(buf.remaining());
            buf.put_slice(&rest[..now]);
            self.read += now;
            if self.read == FRAME {
                self.unread = None;
            }
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.wire).poll_read(cx, buf)
    }
}

impl AsyncWrite for Started {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let skipped = self.skip.min(buf.len());
        if skipped > 0 {
            debug_assert!(PREFACE[PREFACE.len() - self.skip..].starts_with(&buf[..skipped]));
            self.skip -= skipped;
            return Poll::Ready(Ok(skipped));
        }
        Pin::new(&mut self.wire).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.skip > 0 {
            let first = bufs.iter().find(|buf| !buf.is_empty());
            return self.poll_write(cx, first.map_or(&[], |buf| buf));
        }
        Pin::new(&mut self.wire).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.wire.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.wire).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.wire).poll_shutdown(cx)
    }
}
