//! Sockets: where a coordinator listens, and how it is reached.
//!
//! Owns: the terms of every connection (sizes, keepalive, no delay). Knows nothing of messages.

use std::{fmt, io, net::SocketAddr, path::PathBuf, time::Duration};

use tokio_stream::wrappers::{TcpListenerStream, UnixListenerStream};
use tonic::transport::{Channel, Endpoint, Server};

/// Services beside those that a listener is for.
pub use tonic::service::Routes;

/// The greatest message: an action may name many files.
pub(crate) const MESSAGE: usize = 64 << 20;
/// How often a silent connection is asked whether it is there, and how long it may take to answer.
const KEEPALIVE: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(5));
/// How long a connection may take to be made.
const CONNECT: Duration = Duration::from_secs(5);

/// Where connections come in. Bound already, so that troubles with the address are told where it was named.
#[derive(Debug)]
pub enum Listener {
    /// An address.
    Tcp(std::net::TcpListener),
    /// A file, for this machine alone.
    Unix(std::os::unix::net::UnixListener),
}

impl Listener {
    /// Listens on an address; port 0 takes a free one.
    ///
    /// # Errors
    /// When the address cannot be had.
    pub fn tcp(addr: SocketAddr) -> io::Result<Self> {
        let listener = std::net::TcpListener::bind(addr)?;
        listener.set_nonblocking(true)?;
        Ok(Self::Tcp(listener))
    }

    /// Listens on a file, which must not exist.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn unix(path: &std::path::Path) -> io::Result<Self> {
        let listener = std::os::unix::net::UnixListener::bind(path)?;
        listener.set_nonblocking(true)?;
        Ok(Self::Unix(listener))
    }

    /// The address, where it has one.
    pub fn addr(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(listener) => listener.local_addr().ok(),
            Self::Unix(_) => None,
        }
    }
}

/// Serves connections until the runtime ends.
pub(crate) async fn serve(listener: Listener, routes: Routes) {
    let server = Server::builder()
        .http2_keepalive_interval(Some(KEEPALIVE.0))
        .http2_keepalive_timeout(Some(KEEPALIVE.1))
        .tcp_nodelay(true)
        .add_routes(routes);
    let served = match listener {
        Listener::Tcp(listener) => match tokio::net::TcpListener::from_std(listener) {
            Ok(listener) => {
                server
                    .serve_with_incoming(TcpListenerStream::new(listener))
                    .await
            }
            Err(error) => return tracing::error!("cannot listen: {error}"),
        },
        Listener::Unix(listener) => match tokio::net::UnixListener::from_std(listener) {
            Ok(listener) => {
                server
                    .serve_with_incoming(UnixListenerStream::new(listener))
                    .await
            }
            Err(error) => return tracing::error!("cannot listen: {error}"),
        },
    };
    if let Err(error) = served {
        tracing::error!("the server ended: {error}");
    }
}

/// Where a coordinator is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// `HOST:PORT`.
    Tcp(String),
    /// A file on this machine.
    Unix(PathBuf),
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(text) => f.write_str(text),
            Self::Unix(path) => path.display().fmt(f),
        }
    }
}

impl Address {
    /// Reads `HOST:PORT`, or `unix:PATH`.
    ///
    /// # Errors
    /// When it is neither; with what to write.
    pub fn parse(text: &str) -> Result<Self, String> {
        if let Some(path) = text.strip_prefix("unix:") {
            return Ok(Self::Unix(path.into()));
        }
        let port = text
            .rsplit_once(':')
            .map(|(host, port)| (host, port.parse::<u16>()));
        match port {
            Some((host, Ok(port))) if !host.is_empty() && port > 0 => Ok(Self::Tcp(text.into())),
            _ => Err(format!(
                "`{text}` is no address: write HOST:PORT, such as node7:7400"
            )),
        }
    }

    fn endpoint(&self) -> Result<Endpoint, tonic::transport::Error> {
        let uri = match self {
            Self::Tcp(text) => format!("http://{text}"),
            Self::Unix(path) => format!("unix://{}", path.display()),
        };
        Ok(Endpoint::from_shared(uri)?
            .connect_timeout(CONNECT)
            .tcp_nodelay(true)
            .http2_keep_alive_interval(KEEPALIVE.0)
            .keep_alive_timeout(KEEPALIVE.1)
            .keep_alive_while_idle(true))
    }

    /// Makes a connection.
    ///
    /// # Errors
    /// When it cannot be made; why, in words.
    pub(crate) async fn connect(&self) -> Result<Channel, String> {
        let endpoint = self.endpoint().map_err(|error| reasons(&error))?;
        endpoint.connect().await.map_err(|error| reasons(&error))
    }
}

/// An error with all that led to it, without what says nothing.
pub(crate) fn reasons(error: &dyn std::error::Error) -> String {
    let mut text = String::new();
    let mut next = Some(error);
    while let Some(error) = next {
        let own = error.to_string();
        if own != "transport error" && !text.ends_with(&own) {
            if !text.is_empty() {
                text.push_str(": ");
            }
            text.push_str(&own);
        }
        next = error.source();
    }
    text
}
