//! A connection as the server sees it: who is there, whether it may go on, and the socket itself.

use std::{
    future::Future,
    io,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use futures_util::task::AtomicWaker;
use rustc_hash::FxHashMap;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpStream, UnixStream},
    time::Sleep,
};
use tokio_rustls::server::TlsStream;
use tonic::transport::server::Connected;

use super::{
    gate::Limits,
    identity::{Facts, Identity},
    tokens::Token,
};

/// Who is on the other side of a connection, before any call.
#[derive(Debug)]
pub(super) enum Peer {
    /// The user of this machine.
    Local(Identity),
    /// Somebody with a certificate of the cluster's CA.
    Certificate(Facts),
    /// Somebody who must show a token with each call; why their certificate does not count, where they showed one.
    Unknown { why: Option<String> },
}

/// A connection. Requests have it among their extensions.
#[derive(Clone, Debug)]
pub(super) struct Connection(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    peer: Peer,
    address: Option<SocketAddr>,
    /// A call was let in.
    admitted: AtomicBool,
    /// It ends at once.
    cut: AtomicBool,
    reader: AtomicWaker,
    /// Tokens that calls on it were let in by.
    tokens: Mutex<Vec<Token>>,
}

/// Tokens that one connection may use: nobody has many.
const TOKENS: usize = 16;

impl Connection {
    pub(super) fn new(peer: Peer, address: Option<SocketAddr>) -> Self {
        Self(Arc::new(Inner {
            peer,
            address,
            admitted: AtomicBool::new(false),
            cut: AtomicBool::new(false),
            reader: AtomicWaker::new(),
            tokens: Mutex::default(),
        }))
    }

    pub(super) fn peer(&self) -> &Peer {
        &self.0.peer
    }

    /// Where it comes from; a unix socket has no address.
    pub(super) fn address(&self) -> Option<SocketAddr> {
        self.0.address
    }

    /// For logs.
    pub(super) fn from(&self) -> String {
        self.0
            .address
            .map_or_else(|| "a unix socket".into(), |address| address.to_string())
    }

    /// A call on it was let in, by this token if any.
    pub(super) fn admit(&self, token: Option<&Token>) -> bool {
        self.0.admitted.store(true, Ordering::Relaxed);
        let Some(token) = token else { return true };
        let mut tokens = self.tokens();
        if tokens.contains(token) {
            return true;
        }
        let room = tokens.len() < TOKENS;
        if room {
            tokens.push(token.clone());
        }
        room
    }

    pub(super) fn tokens(&self) -> MutexGuard<'_, Vec<Token>> {
        self.0.tokens.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends it, and all its calls.
    pub(super) fn cut(&self) {
        self.0.cut.store(true, Ordering::Release);
        self.0.reader.wake();
    }

    pub(super) fn is_cut(&self) -> bool {
        self.0.cut.load(Ordering::Acquire)
    }
}

/// How many connections there may be.
#[derive(Clone, Copy, Debug)]
pub(super) struct Room {
    pub(super) all: usize,
    pub(super) from_one: usize,
    pub(super) unfinished_from_one: usize,
}

/// The connections there are, counted and to be found.
#[derive(Debug, Default)]
pub(super) struct Connections(Mutex<Table>);

#[derive(Debug, Default)]
struct Table {
    next: u64,
    open: FxHashMap<u64, (Option<IpAddr>, Option<Connection>)>,
    from: FxHashMap<IpAddr, Count>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Count {
    open: usize,
    unfinished: usize,
}

impl Connections {
    /// Takes a place for a connection from `address`, whose handshake is unfinished; none when there is no room.
    pub(super) fn enter(self: &Arc<Self>, address: Option<IpAddr>, room: Room) -> Option<Place> {
        let source = address.map(source);
        let mut table = self.table();
        if table.open.len() >= room.all {
            return None;
        }
        if let Some(source) = source {
            let count = table.from.entry(source).or_default();
            if count.open >= room.from_one || count.unfinished >= room.unfinished_from_one {
                return None;
            }
            count.open += 1;
            count.unfinished += 1;
        }
        let number = table.next;
        table.next += 1;
        table.open.insert(number, (source, None));
        Some(Place {
            connections: Arc::clone(self),
            number,
            finished: false,
        })
    }

    /// Those whose handshakes are finished.
    pub(super) fn all(&self) -> Vec<Connection> {
        let table = self.table();
        table
            .open
            .values()
            .filter_map(|(_, connection)| connection.clone())
            .collect()
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whom connections are counted for: an address, or the network of 64 bits that one IPv6 host has whole.
fn source(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(ip) => Ipv6Addr::from_bits(ip.to_bits() >> 64 << 64).into(),
        v4 => v4,
    }
}

/// The place of a connection, free again when it is dropped.
#[derive(Debug)]
pub(super) struct Place {
    connections: Arc<Connections>,
    number: u64,
    finished: bool,
}

impl Place {
    /// The handshake is over: this is who it is.
    pub(super) fn finish(&mut self, connection: &Connection) {
        let mut table = self.connections.table();
        let Some((source, slot)) = table.open.get_mut(&self.number) else {
            return;
        };
        *slot = Some(connection.clone());
        let source = *source;
        if let Some(count) = source.and_then(|source| table.from.get_mut(&source)) {
            count.unfinished -= 1;
        }
        self.finished = true;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut table = self.connections.table();
        let Some((Some(source), _)) = table.open.remove(&self.number) else {
            return;
        };
        if let Some(count) = table.from.get_mut(&source) {
            count.open -= 1;
            count.unfinished -= usize::from(!self.finished);
            if count.open == 0 {
                table.from.remove(&source);
            }
        }
    }
}

/// The kinds of sockets.
#[derive(Debug)]
pub(super) enum Socket {
    Unix(UnixStream),
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

/// An accepted connection, as tonic's server takes it.
///
/// Ends by itself when it is cut, and when no call was let in on it within its time: who holds connections open without a word, or
/// with an unfinished one, loses them. Ends too when the other side takes nothing for a while: HTTP/2's keepalive does notice that,
/// but its goodbye then waits behind what is not taken.
#[derive(Debug)]
pub struct Io {
    socket: Socket,
    connection: Connection,
    patience: Option<Pin<Box<Sleep>>>,
    /// While a write waits.
    stalled: Option<Pin<Box<Sleep>>>,
    stall: Duration,
    _place: Place,
}

impl Io {
    pub(super) fn new(
        socket: Socket,
        connection: Connection,
        mut place: Place,
        limits: &Limits,
    ) -> Self {
        place.finish(&connection);
        Self {
            socket,
            connection,
            patience: Some(Box::pin(tokio::time::sleep(limits.patience))),
            stalled: None,
            stall: limits.stall,
            _place: place,
        }
    }

    fn check(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        if self.connection.is_cut() {
            let why = "the credential of this connection is no longer valid";
            return Err(io::Error::new(io::ErrorKind::ConnectionAborted, why));
        }
        let Some(patience) = &mut self.patience else {
            return Ok(());
        };
        if self.connection.0.admitted.load(Ordering::Relaxed) {
            self.patience = None;
        } else if patience.as_mut().poll(cx).is_ready() {
            let why = "no call was let in on this connection in time";
            return Err(io::Error::new(io::ErrorKind::TimedOut, why));
        }
        Ok(())
    }

    /// Passes on how a write went; one that waits too long fails.
    fn watch<T>(
        &mut self,
        cx: &mut Context<'_>,
        written: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.stalled = None;
            return written;
        }
        let stall = self.stall;
        let stalled = self
            .stalled
            .get_or_insert_with(|| Box::pin(tokio::time::sleep(stall)));
        ready!(stalled.as_mut().poll(cx));
        let why = "the other side takes nothing";
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, why)))
    }
}

impl Connected for Io {
    type ConnectInfo = ConnectionOf;

    fn connect_info(&self) -> ConnectionOf {
        ConnectionOf(self.connection.clone())
    }
}

/// The connection of a request, among its extensions: for the gate alone.
#[derive(Clone, Debug)]
pub struct ConnectionOf(pub(super) Connection);

/// Does the same with whatever socket it is.
macro_rules! on_socket {
    ($io:expr, $socket:ident => $do:expr) => {
        match &mut $io.socket {
            Socket::Unix($socket) => {
                let $socket = Pin::new($socket);
                $do
            }
            Socket::Plain($socket) => {
                let $socket = Pin::new($socket);
                $do
            }
            Socket::Tls($socket) => {
                let $socket = Pin::new($socket.as_mut());
                $do
            }
        }
    };
}

impl AsyncRead for Io {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.connection.0.reader.register(cx.waker());
        self.check(cx)?;
        on_socket!(self, socket => socket.poll_read(cx, buf))
    }
}

impl AsyncWrite for Io {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.check(cx)?;
        let written = on_socket!(self, socket => socket.poll_write(cx, buf));
        self.watch(cx, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.check(cx)?;
        let written = on_socket!(self, socket => socket.poll_write_vectored(cx, bufs));
        self.watch(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        match &self.socket {
            Socket::Unix(socket) => socket.is_write_vectored(),
            Socket::Plain(socket) => socket.is_write_vectored(),
            Socket::Tls(socket) => socket.is_write_vectored(),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = on_socket!(self, socket => socket.poll_flush(cx));
        self.watch(cx, flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        on_socket!(self, socket => socket.poll_shutdown(cx))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_counted_by_source_and_given_back() {
        let connections = Arc::new(Connections::default());
        let room = Room {
            all: 5,
            from_one: 3,
            unfinished_from_one: 2,
        };
        let enter = |ip: &str| connections.enter(Some(ip.parse().unwrap()), room);
        let mut one = enter("10.0.0.1").unwrap();
        let two = enter("::ffff:10.0.0.1").unwrap();
        assert!(enter("10.0.0.1").is_none(), "two unfinished handshakes");
        one.finish(&Connection::new(Peer::Unknown { why: None }, None));
        let three = enter("10.0.0.1").unwrap();
        assert!(enter("10.0.0.1").is_none(), "three connections");
        assert_eq!(connections.all().len(), 1);
        let _four = enter("fd00::1").unwrap();
        let five = enter("fd00::2").unwrap();
        assert!(enter("10.0.0.2").is_none(), "five in all");
        drop((one, two, three, five));
        assert_eq!(connections.table().from.len(), 1);
        assert!(enter("10.0.0.1").is_some());
        assert!(
            connections.enter(None, room).is_some(),
            "unix sockets have no source"
        );
    }
}
