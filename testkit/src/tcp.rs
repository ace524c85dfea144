//! A proxy for any protocol over TCP that fails as networks do: it refuses, resets, stalls, delays, throttles, damages.
//!
//! What happens to a connection is decided by a rule of the test, which sees how many connections there were before. Bytes
//! are counted on their way from the server to the client.

use std::{
    io::{Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

/// What happens to a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TcpFault {
    /// Nothing.
    None,
    /// It is closed at once.
    Refuse,
    /// It is closed after so many bytes.
    CutAfter(u64),
    /// After so many bytes nothing comes any more, and it stays open.
    StallAfter(u64),
    /// One bit of the byte at this position is another.
    FlipAt(u64),
    /// Everything comes so much later.
    Delay(Duration),
    /// At most so many bytes come in a second.
    Rate(u64),
}

/// A proxy before a server on this machine. Ends, with all its connections, when it is dropped.
pub struct TcpProxy {
    address: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    upstream: SocketAddr,
    rule: Box<dyn Fn(usize) -> TcpFault + Send + Sync>,
    connections: AtomicUsize,
    bytes: AtomicU64,
    ended: AtomicBool,
}

impl std::fmt::Debug for TcpProxy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("TcpProxy").field(&self.address).finish()
    }
}

/// How often a connection looks whether the proxy has ended.
const LOOK: Duration = Duration::from_millis(20);

impl TcpProxy {
    /// Starts one on a free port of the loopback.
    ///
    /// # Panics
    /// When there is no port.
    pub fn start(
        upstream: SocketAddr,
        rule: impl Fn(usize) -> TcpFault + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("the loopback has a free port");
        let address = listener.local_addr().expect("it is bound");
        let shared = Arc::new(Shared {
            upstream,
            rule: Box::new(rule),
            connections: AtomicUsize::new(0),
            bytes: AtomicU64::new(0),
            ended: AtomicBool::new(false),
        });
        let here = Arc::clone(&shared);
        std::thread::spawn(move || {
            for client in listener.incoming() {
                if here.ended.load(Relaxed) {
                    return;
                }
                if let Ok(client) = client {
                    connect(&here, client);
                }
            }
        });
        Self { address, shared }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// How many connections came so far.
    pub fn connections(&self) -> usize {
        self.shared.connections.load(Relaxed)
    }

    /// How many bytes were let through to clients so far.
    pub fn bytes(&self) -> u64 {
        self.shared.bytes.load(Relaxed)
    }
}

impl Drop for TcpProxy {
    fn drop(&mut self) {
        self.shared.ended.store(true, Relaxed);
        // Wakes the thread that accepts.
        let _ = TcpStream::connect(self.address);
    }
}

fn connect(shared: &Arc<Shared>, client: TcpStream) {
    let fault = (shared.rule)(shared.connections.fetch_add(1, Relaxed));
    if fault == TcpFault::Refuse {
        return;
    }
    let Ok(server) = TcpStream::connect(shared.upstream) else {
        return;
    };
    let clones = (client.try_clone(), server.try_clone());
    let (Ok(client_in), Ok(server_out)) = clones else {
        return;
    };
    let there = Arc::clone(shared);
    std::thread::spawn(move || {
        there.pass(client_in, server_out, TcpFault::None, &AtomicU64::new(0))
    });
    let back = Arc::clone(shared);
    std::thread::spawn(move || back.pass(server, client, fault, &back.bytes));
}

impl Shared {
    /// Passes bytes on in one direction until either side or the proxy ends.
    fn pass(&self, mut from: TcpStream, mut to: TcpStream, fault: TcpFault, bytes: &AtomicU64) {
        let _ = from.set_read_timeout(Some(LOOK));
        let _ = to.set_nodelay(true);
        let began = Instant::now();
        let mut passed = 0_u64;
        let mut buffer = vec![0; 64 << 10];
        while !self.ended.load(Relaxed) {
            let n = match from.read(&mut buffer) {
                Ok(0) => break,
                Ok(n) => n,
                Err(error) if is_timeout(&error) => continue,
                Err(_) => break,
            };
            let piece = &mut buffer[..n];
            let Some(piece) = self.spoil(piece, fault, passed, began) else {
                break;
            };
            if to.write_all(piece).is_err() {
                break;
            }
            passed += piece.len() as u64;
            bytes.fetch_add(piece.len() as u64, Relaxed);
            if matches!(fault, TcpFault::CutAfter(at) if passed >= at) {
                break;
            }
        }
        let _ = from.shutdown(Shutdown::Both);
        let _ = to.shutdown(Shutdown::Both);
    }

    /// What is let through of a piece; `None` where the connection ends.
    fn spoil<'a>(
        &self,
        piece: &'a mut [u8],
        fault: TcpFault,
        passed: u64,
        began: Instant,
    ) -> Option<&'a [u8]> {
        let length = piece.len() as u64;
        match fault {
            TcpFault::None | TcpFault::Refuse => {}
            TcpFault::CutAfter(at) => {
                return Some(&piece[..at.saturating_sub(passed).min(length) as usize]);
            }
            TcpFault::StallAfter(at) if passed + length > at => {
                self.wait(Duration::MAX);
                return None;
            }
            TcpFault::StallAfter(_) => {}
            TcpFault::FlipAt(at) => {
                let at = at.checked_sub(passed).map(|at| at as usize);
                if let Some(byte) = at.and_then(|at| piece.get_mut(at)) {
                    *byte ^= 0x10;
                }
            }
            TcpFault::Delay(time) => self.wait(time),
            TcpFault::Rate(rate) => {
                let due = Duration::from_secs_f64((passed + length) as f64 / rate as f64);
                self.wait(due.saturating_sub(began.elapsed()));
            }
        }
        Some(piece)
    }

    fn wait(&self, time: Duration) {
        let began = Instant::now();
        while !self.ended.load(Relaxed) && began.elapsed() < time {
            std::thread::sleep(LOOK.min(time.saturating_sub(began.elapsed())));
        }
    }
}

fn is_timeout(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{Interrupted, TimedOut, WouldBlock};
    matches!(error.kind(), Interrupted | TimedOut | WouldBlock)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A server that sends the same bytes to everybody and closes.
    fn server() -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let _ = stream.unwrap().write_all(&[7; 1000]);
            }
        });
        address
    }

    fn get(proxy: &TcpProxy) -> Vec<u8> {
        let mut stream = TcpStream::connect(proxy.address()).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_millis(300)))
            .unwrap();
        let mut bytes = Vec::new();
        let mut buffer = [0; 4096];
        while let Ok(n) = stream.read(&mut buffer) {
            if n == 0 {
                break;
            }
            bytes.extend_from_slice(&buffer[..n]);
        }
        bytes
    }

    #[test]
    fn every_fault_happens_to_its_connection() {
        let proxy = TcpProxy::start(server(), |before| match before {
            0 => TcpFault::None,
            1 => TcpFault::Refuse,
            2 => TcpFault::CutAfter(100),
            3 => TcpFault::StallAfter(500),
            4 => TcpFault::FlipAt(999),
            5 => TcpFault::Delay(Duration::from_millis(60)),
            _ => TcpFault::Rate(10_000),
        });
        assert_eq!(get(&proxy), [7; 1000]);
        assert_eq!(get(&proxy), b"");
        assert_eq!(get(&proxy), [7; 100]);
        assert!(get(&proxy).len() <= 500);
        let flipped = get(&proxy);
        assert_eq!((flipped[998], flipped[999]), (7, 7 ^ 0x10));
        for at_least in [60, 100] {
            let began = Instant::now();
            assert_eq!(get(&proxy), [7; 1000]);
            assert!(began.elapsed() >= Duration::from_millis(at_least));
        }
        assert_eq!(proxy.connections(), 7);
    }
}
