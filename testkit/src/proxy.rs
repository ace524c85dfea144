//! A proxy for HTTP that fails as servers and networks do: refusals, resets, short and damaged bodies, silence, lost replies.
//!
//! One request a connection, so that every fault hits exactly one. What happens to a request is decided by a rule of the
//! test, which sees its method, its path and how often that was asked for before.

use std::{
    collections::BTreeMap,
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

/// What happens to a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mishap {
    /// Nothing: it is forwarded and answered.
    None,
    /// It is answered with this status and a body as S3 writes it, and not forwarded.
    Status(u16, &'static str),
    /// The connection is closed without an answer, and it is not forwarded.
    Reset,
    /// It is forwarded, and the connection is closed instead of the answer.
    LoseReply,
    /// The answer ends after so many bytes of its body.
    Short(usize),
    /// A bit of the answer's body is another.
    Flip,
    /// No answer comes until the proxy ends.
    Hang,
    /// The answer comes late.
    Delay(Duration),
}

/// A request as a rule sees it.
#[derive(Clone, Debug)]
pub struct Asked {
    /// Such as `GET`.
    pub method: String,
    /// With the query.
    pub path: String,
    /// How often the same was asked for before.
    pub before: usize,
}

type Rule = dyn Fn(&Asked) -> Mishap + Send + Sync;

/// A proxy before a server on this machine. Ends when it is dropped.
pub struct FaultProxy {
    address: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    upstream: SocketAddr,
    rule: Box<Rule>,
    seen: Mutex<BTreeMap<(String, String), usize>>,
    ended: AtomicBool,
}

impl std::fmt::Debug for FaultProxy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("FaultProxy").field(&self.address).finish()
    }
}

impl FaultProxy {
    /// Starts one on a free port of the loopback.
    ///
    /// # Panics
    /// When there is no port.
    pub fn start(
        upstream: SocketAddr,
        rule: impl Fn(&Asked) -> Mishap + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("the loopback has a free port");
        let address = listener.local_addr().expect("it is bound");
        let shared = Arc::new(Shared {
            upstream,
            rule: Box::new(rule),
            seen: Mutex::default(),
            ended: AtomicBool::new(false),
        });
        let here = Arc::clone(&shared);
        std::thread::spawn(move || {
            for client in listener.incoming() {
                if here.ended.load(Ordering::Relaxed) {
                    return;
                }
                let here = Arc::clone(&here);
                if let Ok(client) = client {
                    std::thread::spawn(move || here.serve(client));
                }
            }
        });
        Self { address, shared }
    }

    /// Where it listens, as an address of HTTP.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// How many requests came so far.
    pub fn requests(&self) -> usize {
        self.shared.lock().values().sum()
    }
}

impl Drop for FaultProxy {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::Relaxed);
        // Wakes the thread that accepts.
        let _ = TcpStream::connect(self.address);
    }
}

impl Shared {
    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<(String, String), usize>> {
        self.seen
            .lock()
            .unwrap_or_else(|poison| poison.into_inner())
    }

    fn serve(&self, mut client: TcpStream) {
        let Some((head, body)) = read_message(&mut client) else {
            return;
        };
        let mut words = head.split_whitespace().map(str::to_owned);
        let (Some(method), Some(path)) = (words.next(), words.next()) else {
            return;
        };
        let before = {
            let mut seen = self.lock();
            let count = seen.entry((method.clone(), path.clone())).or_default();
            *count += 1;
            *count - 1
        };
        let mishap = (self.rule)(&Asked {
            method,
            path,
            before,
        });
        match mishap {
            Mishap::Reset => return,
            Mishap::Hang => {
                while !self.ended.load(Ordering::Relaxed) {
                    std::thread::sleep(Duration::from_millis(20));
                }
                return;
            }
            Mishap::Status(status, code) => {
                let body = format!("<Error><Code>{code}</Code><Message>injected</Message></Error>");
                let answer = format!(
                    "HTTP/1.1 {status} {code}\r\nContent-Type: application/xml\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
                    body.len()
                );
                let _ = client.write_all(answer.as_bytes());
                return;
            }
            Mishap::Delay(time) => std::thread::sleep(time),
            Mishap::None | Mishap::LoseReply | Mishap::Short(_) | Mishap::Flip => {}
        }
        let Some(mut answer) = self.forward(&head, &body) else {
            return;
        };
        let at = body_start(&answer).unwrap_or(answer.len());
        match mishap {
            Mishap::LoseReply => return,
            Mishap::Short(most) => answer.truncate((at + most).min(answer.len())),
            Mishap::Flip if at < answer.len() => {
                let middle = (at + answer.len()) / 2;
                answer[middle] ^= 0x10;
            }
            _ => {}
        }
        let _ = client.write_all(&answer);
    }

    /// Sends a request on and gives the whole answer.
    fn forward(&self, head: &str, body: &[u8]) -> Option<Vec<u8>> {
        let mut server = TcpStream::connect(self.upstream).ok()?;
        let kept = head.split("\r\n").filter(|line| {
            !line.is_empty() && !line.to_ascii_lowercase().starts_with("connection:")
        });
        let mut request: String = kept.map(|line| format!("{line}\r\n")).collect();
        request.push_str("Connection: close\r\n\r\n");
        server.write_all(request.as_bytes()).ok()?;
        server.write_all(body).ok()?;
        let mut answer = Vec::new();
        server.read_to_end(&mut answer).ok()?;
        Some(answer)
    }
}

fn body_start(message: &[u8]) -> Option<usize> {
    message
        .windows(4)
        .position(|window| window == b"\r\n\r\n")
        .map(|at| at + 4)
}

/// The head of a request and its body.
fn read_message(stream: &mut TcpStream) -> Option<(String, Vec<u8>)> {
    let mut bytes = Vec::new();
    let mut piece = [0; 16 << 10];
    let start = loop {
        match stream.read(&mut piece).ok()? {
            0 => return None,
            n => bytes.extend_from_slice(&piece[..n]),
        }
        if let Some(start) = body_start(&bytes) {
            break start;
        }
    };
    let head = String::from_utf8_lossy(&bytes[..start]).into_owned();
    let length = head
        .lines()
        .find_map(|line| {
            let (name, value) = line.split_once(':')?;
            name.eq_ignore_ascii_case("content-length")
                .then(|| value.trim().parse().ok())?
        })
        .unwrap_or(0);
    let mut body = bytes.split_off(start);
    while body.len() < length {
        match stream.read(&mut piece).ok()? {
            0 => return None,
            n => body.extend_from_slice(&piece[..n]),
        }
    }
    Some((head, body))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A server that answers every request with the same body.
    fn server(body: &'static str) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                if read_message(&mut stream).is_some() {
                    let length = body.len();
                    let answer =
                        format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{body}");
                    stream.write_all(answer.as_bytes()).unwrap();
                }
            }
        });
        address
    }

    fn get(proxy: &FaultProxy, path: &str) -> String {
        let mut stream = TcpStream::connect(proxy.address).unwrap();
        stream
            .write_all(format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes())
            .unwrap();
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        String::from_utf8_lossy(&answer).into_owned()
    }

    #[test]
    fn every_mishap_happens_to_its_request() {
        let proxy = FaultProxy::start(server("a body"), |asked| match asked.path.as_str() {
            "/status" => Mishap::Status(503, "SlowDown"),
            "/reset" => Mishap::Reset,
            "/lost" => Mishap::LoseReply,
            "/short" => Mishap::Short(2),
            "/flip" => Mishap::Flip,
            "/once" if asked.before == 0 => Mishap::Reset,
            _ => Mishap::None,
        });
        assert!(get(&proxy, "/").ends_with("\r\n\r\na body"));
        assert!(get(&proxy, "/status").starts_with("HTTP/1.1 503 SlowDown"));
        assert_eq!(get(&proxy, "/reset"), "");
        assert_eq!(get(&proxy, "/lost"), "");
        assert!(get(&proxy, "/short").ends_with("\r\n\r\na "));
        let flipped = get(&proxy, "/flip");
        assert!(!flipped.ends_with("a body") && flipped.contains("Content-Length: 6"));
        assert_eq!(get(&proxy, "/once"), "");
        assert!(get(&proxy, "/once").ends_with("a body"));
        assert_eq!(proxy.requests(), 8);
    }
}
