//! An S3 server that nobody here wrote: moto's, from PyPI.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use crate::skip::{Unavailable, require_program};

/// A server with an empty bucket. Ends when it is dropped.
#[derive(Debug)]
pub struct MotoServer {
    child: Child,
    address: SocketAddr,
}

/// The bucket that a server has from the start.
pub const BUCKET: &str = "shared";

impl MotoServer {
    /// Starts one: that of the virtual environment that `cargo xtask ci` makes below `target`, else that in `PATH`.
    ///
    /// # Errors
    /// When moto is not installed or does not start.
    pub fn start() -> Result<Self, Unavailable> {
        let program = program()?;
        // Another process may take the port before the server does: then it ends at once, and another port is tried.
        for _ in 0..5 {
            let address = free_port();
            let child = Command::new(&program)
                .args(["-H", "127.0.0.1", "-p", &address.port().to_string()])
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .map_err(|error| Unavailable(format!("cannot start {program:?}: {error}")))?;
            let mut server = Self { child, address };
            if server.answers() {
                return Ok(server);
            }
        }
        Err(Unavailable(format!("{program:?} does not answer")))
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where it listens, as an address of HTTP.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Waits until it has made its bucket.
    fn answers(&mut self) -> bool {
        let deadline = Instant::now() + Duration::from_secs(60);
        while Instant::now() < deadline && matches!(self.child.try_wait(), Ok(None)) {
            if self.make_bucket().is_some() {
                return true;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        false
    }

    fn make_bucket(&self) -> Option<()> {
        let mut stream = TcpStream::connect(self.address).ok()?;
        let head = format!(
            "PUT /{BUCKET} HTTP/1.1\r\nHost: {}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
            self.address
        );
        stream.write_all(head.as_bytes()).ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        answer.contains(" 200 ").then_some(())
    }
}

impl Drop for MotoServer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn program() -> Result<PathBuf, Unavailable> {
    let test = std::env::current_exe().unwrap_or_default();
    let installed = test
        .ancestors()
        .map(|folder| folder.join("test-peers/bin/moto_server"))
        .find(|path| path.is_file());
    match installed {
        Some(path) => Ok(path),
        None => require_program("moto_server")
            .map_err(|_| Unavailable("needs moto_server: `pip install 'moto[server,s3]'`".into())),
    }
}

fn free_port() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("the loopback has a free port");
    listener.local_addr().expect("it is bound")
}
