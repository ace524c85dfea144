//! Listening: a unix socket, the loopback, or TLS; nothing else.
//!
//! Handshakes run side by side, each with its time and all with their number limited, so that nobody holds up the others.

use std::{
    io,
    net::{SocketAddr, ToSocketAddrs},
    os::unix::fs::{FileTypeExt, PermissionsExt},
    path::{Path, PathBuf},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use tokio::{
    net::{TcpListener, TcpStream, UnixListener, UnixStream},
    sync::{OwnedSemaphorePermit, mpsc},
    task::JoinHandle,
};
use tokio_rustls::TlsAcceptor;
use tokio_stream::Stream;

use super::{
    address::{Address, is_loopback},
    connection::{Connection, Io, Peer, Place, Socket},
    error::Error,
    files::make_private_folder,
    gate::Gate,
    identity::{Facts, Identity},
    loopback,
};

/// Connections that wait for the server to take them.
const READY: usize = 64;

/// How long to wait when the system gives no more sockets.
const NO_SOCKETS: Duration = Duration::from_millis(50);

/// Connections that passed their handshake, for `serve_with_incoming`. Stops listening when it is dropped.
#[derive(Debug)]
pub struct Incoming {
    at: Address,
    ready: mpsc::Receiver<Io>,
    accepting: JoinHandle<()>,
    socket: Option<PathBuf>,
}

impl Incoming {
    /// Where it listens, with the port that the system chose.
    pub fn at(&self) -> &Address {
        &self.at
    }
}

impl Stream for Incoming {
    type Item = io::Result<Io>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<io::Result<Io>>> {
        self.ready.poll_recv(cx).map(|io| io.map(Ok))
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        self.accepting.abort();
        if let Some(socket) = &self.socket {
            // Gone already when somebody tidied up.
            let _ = std::fs::remove_file(socket);
        }
    }
}

/// A socket that is bound, where connections wait until somebody serves them.
pub struct Bound {
    gate: Arc<Gate>,
    listener: Listener<std::os::unix::net::UnixListener, std::net::TcpListener>,
    at: Address,
}

enum Listener<U, T> {
    Unix(U),
    Tcp(T),
}

impl Bound {
    /// Where it listens, with the port that the system chose.
    pub fn at(&self) -> &Address {
        &self.at
    }

    /// The gate that its connections pass.
    pub fn gate(&self) -> &Arc<Gate> {
        &self.gate
    }

    /// Begins to take connections, on the runtime that this is called on.
    ///
    /// # Errors
    /// When the runtime does not take the socket.
    pub fn incoming(self) -> io::Result<Incoming> {
        let (listener, socket) = match self.listener {
            Listener::Unix(listener) => {
                let socket = match &self.at {
                    Address::Unix(path) => Some(path.clone()),
                    Address::Tcp { .. } => None,
                };
                (Listener::Unix(UnixListener::from_std(listener)?), socket)
            }
            Listener::Tcp(listener) => (Listener::Tcp(TcpListener::from_std(listener)?), None),
        };
        let (sender, ready) = mpsc::channel(READY);
        self.gate.keep_watch();
        Ok(Incoming {
            at: self.at,
            ready,
            accepting: tokio::spawn(accept(self.gate, listener, sender)),
            socket,
        })
    }
}

impl Gate {
    /// Binds a socket. An address that others reach needs TLS; without it this refuses, and says what to do.
    ///
    /// # Errors
    /// When the address is not safe, or cannot be had.
    pub fn bind(self: &Arc<Self>, at: &Address) -> Result<Bound, Error> {
        let bound = |listener, at: &Address| Bound {
            gate: Arc::clone(self),
            listener,
            at: at.clone(),
        };
        match at {
            Address::Unix(path) => Ok(bound(Listener::Unix(bind_unix(path)?), at)),
            Address::Tcp { host, port } => {
                let failed = |error: io::Error| cannot_listen(at, &error);
                let listener = self.bind_tcp(at, host, *port)?;
                listener.set_nonblocking(true).map_err(failed)?;
                let port = listener.local_addr().map_err(failed)?.port();
                let host = host.clone();
                Ok(bound(Listener::Tcp(listener), &Address::Tcp { host, port }))
            }
        }
    }

    fn bind_tcp(
        &self,
        at: &Address,
        host: &str,
        port: u16,
    ) -> Result<std::net::TcpListener, Error> {
        let failed = |error: io::Error| cannot_listen(at, &error);
        let found: Vec<SocketAddr> = (host, port).to_socket_addrs().map_err(failed)?.collect();
        if self.tls.is_none() && !found.iter().all(|address| is_loopback(address.ip())) {
            return Err(unprotected(at));
        }
        std::net::TcpListener::bind(&found[..]).map_err(failed)
    }
}

fn unprotected(at: &Address) -> Error {
    Error::settings(format!(
        "refusing to listen on {at} without TLS: whoever reaches it could run commands here"
    ))
    .hint(
        "make certificates with `dagrun cluster init DIR` and add `--tls DIR/server`; or listen on 127.0.0.1:PORT or unix:PATH",
    )
}

fn cannot_listen(at: &Address, error: &io::Error) -> Error {
    Error::settings(format!("cannot listen on {at}: {error}"))
}

/// Binds a socket that only its owner reaches: 0600 in a folder of 0700. A socket that nobody listens on any more is replaced.
fn bind_unix(path: &Path) -> Result<std::os::unix::net::UnixListener, Error> {
    let at = Address::Unix(path.to_path_buf());
    let failed = |error: io::Error| cannot_listen(&at, &error);
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    make_private_folder(folder)?;
    if let Ok(meta) = std::fs::symlink_metadata(path) {
        if !meta.file_type().is_socket() {
            return Err(Error::settings(format!(
                "{} is there and is no socket",
                path.display()
            )));
        }
        if std::os::unix::net::UnixStream::connect(path).is_ok() {
            return Err(Error::settings(format!(
                "something listens on {at} already"
            )));
        }
        std::fs::remove_file(path).map_err(failed)?;
    }
    let listener = std::os::unix::net::UnixListener::bind(path).map_err(failed)?;
    listener.set_nonblocking(true).map_err(failed)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).map_err(failed)?;
    Ok(listener)
}

async fn accept(
    gate: Arc<Gate>,
    listener: Listener<UnixListener, TcpListener>,
    ready: mpsc::Sender<Io>,
) {
    loop {
        let permit = Arc::clone(&gate.handshakes).acquire_owned().await;
        let permit = permit.expect("the semaphore is never closed");
        let accepted = match &listener {
            Listener::Unix(listener) => listener
                .accept()
                .await
                .map(|(stream, _)| Accepted::Unix(stream)),
            Listener::Tcp(listener) => listener
                .accept()
                .await
                .map(|(stream, peer)| Accepted::Tcp(stream, peer)),
        };
        match accepted {
            Ok(accepted) => gate.begin(accepted, permit, ready.clone()),
            Err(error) => {
                if gate.tell(None) {
                    tracing::warn!(%error, "cannot accept a connection");
                }
                tokio::time::sleep(NO_SOCKETS).await;
            }
        }
    }
}

enum Accepted {
    Unix(UnixStream),
    Tcp(TcpStream, SocketAddr),
}

impl Accepted {
    fn peer(&self) -> Option<SocketAddr> {
        match self {
            Self::Unix(_) => None,
            Self::Tcp(_, peer) => Some(*peer),
        }
    }
}

impl Gate {
    fn begin(
        self: &Arc<Self>,
        accepted: Accepted,
        permit: OwnedSemaphorePermit,
        ready: mpsc::Sender<Io>,
    ) {
        let peer = accepted.peer();
        let from = peer.map(|peer| peer.ip());
        let Some(place) = self.connections.enter(from, self.room()) else {
            if self.tell(from) {
                tracing::warn!(?peer, "closed a connection: there are too many");
            }
            return;
        };
        let gate = Arc::clone(self);
        tokio::spawn(async move {
            let limit = gate.limits.handshake;
            let welcomed = tokio::time::timeout(limit, gate.welcome(accepted, place)).await;
            drop(permit);
            let why = match welcomed {
                // Nobody takes it when the server has ended.
                Ok(Ok(io)) => return drop(ready.send(io).await),
                Ok(Err(error)) => error.to_string(),
                Err(_) => format!("the handshake took longer than {} s", limit.as_secs_f64()),
            };
            if gate.tell(from) {
                tracing::warn!(?peer, %why, "refused a connection");
            }
        });
    }

    async fn welcome(&self, accepted: Accepted, place: Place) -> io::Result<Io> {
        let address = accepted.peer();
        let (socket, peer) = match accepted {
            Accepted::Unix(stream) => {
                let uid = mine(stream.peer_cred()?.uid())?;
                (Socket::Unix(stream), Peer::Local(Identity::local(uid)))
            }
            Accepted::Tcp(stream, peer) => {
                stream.set_nodelay(true)?;
                match &self.tls {
                    Some(tls) => {
                        let tls = tls.get();
                        let acceptor = TlsAcceptor::from(Arc::clone(&tls.config));
                        let stream = acceptor.accept(stream).await?;
                        let shown = stream.get_ref().1.peer_certificates();
                        let shown = shown.and_then(|chain| chain.first()).map(Facts::of);
                        let peer = self.peer_of(&tls.facts, shown);
                        (Socket::Tls(Box::new(stream)), peer)
                    }
                    None => {
                        let here = stream.local_addr()?;
                        let owner =
                            tokio::task::spawn_blocking(move || loopback::owner(peer, here));
                        let owner = owner.await.map_err(io::Error::other)??;
                        let uid =
                            mine(owner.ok_or_else(|| io::Error::other("it is closed already"))?)?;
                        (Socket::Plain(stream), Peer::Local(Identity::local(uid)))
                    }
                }
            }
        };
        let connection = Connection::new(peer, address);
        Ok(Io::new(socket, connection, place, &self.limits))
    }
}

/// Without credentials, only the user that this process runs as is let in, and root.
fn mine(uid: u32) -> io::Result<u32> {
    let me = rustix::process::geteuid().as_raw();
    if uid == me || uid == 0 {
        return Ok(uid);
    }
    Err(io::Error::new(
        io::ErrorKind::PermissionDenied,
        format!("it is of user {uid}, and this is of user {me}; others need TLS (--tls)"),
    ))
}
