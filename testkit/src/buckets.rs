//! Object stores as other people's servers have them: S3 by moto (PyPI), Azure's blobs by Azurite (npm).

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use crate::skip::{Unavailable, require_program};

/// The bucket or container that a server has from the start.
pub const BUCKET: &str = "shared";

/// The account that Azurite has, and its key, which are the same everywhere and no secret.
pub const AZURITE_ACCOUNT: (&str, &str) = (
    "devstoreaccount1",
    "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==",
);

/// An account SAS of that key, by which containers may be made until 2099.
const MAY_MAKE: &str = "sv=2020-02-10&ss=b&srt=c&spr=https%2Chttp&se=2099-01-01T00%3A00%3A00Z&sp=c\
                        &sig=1N16DtUlfoV8shOrFXpubE%2BWzh6iVZhaBb7o2KiZWW8%3D";

/// A server of objects on the loopback, with [`BUCKET`]. It ends with this value.
pub struct BucketServer {
    child: Child,
    address: SocketAddr,
}

impl BucketServer {
    /// S3: moto of the virtual environment that `cargo xtask ci` makes below `target`, else that in `PATH`.
    ///
    /// # Errors
    /// When moto is not installed or does not start.
    pub fn moto() -> Result<Self, Unavailable> {
        let program = program("moto_server", "pip install 'moto[server,s3]'")?;
        let start = |port: &str| {
            let mut command = Command::new(&program);
            command.args(["-H", "127.0.0.1", "-p", port]);
            command
        };
        Self::start("moto_server", start, &format!("/{BUCKET}"))
    }

    /// Azure: Azurite of the folder that `cargo xtask ci` makes below `target`, else that in `PATH`.
    ///
    /// # Errors
    /// When Azurite is not installed or does not start.
    pub fn azurite() -> Result<Self, Unavailable> {
        let program = program("azurite-blob", "npm install -g azurite")?;
        let start = |port: &str| {
            let mut command = Command::new(&program);
            command.args(["--blobPort", port, "--inMemoryPersistence"]);
            // The client may be newer than the server knows.
            command.args(["--silent", "--skipApiVersionCheck"]);
            command
        };
        let container = format!(
            "/{}/{BUCKET}?restype=container&{MAY_MAKE}",
            AZURITE_ACCOUNT.0
        );
        Self::start("azurite-blob", start, &container)
    }

    /// Starts a server that makes its bucket by `PUT` to a path.
    fn start(
        name: &str,
        command: impl Fn(&str) -> Command,
        bucket: &str,
    ) -> Result<Self, Unavailable> {
        // Another process may take the port before the server does: then it ends at once, and another port is tried.
        for _ in 0..5 {
            let address = free_port();
            let child = command(&address.port().to_string())
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .map_err(|error| Unavailable(format!("cannot start {name}: {error}")))?;
            let mut server = Self { child, address };
            if server.answers(bucket) {
                return Ok(server);
            }
        }
        Err(Unavailable(format!("{name} does not answer")))
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
    fn answers(&mut self, bucket: &str) -> bool {
        let deadline = Instant::now() + Duration::from_secs(60);
        while Instant::now() < deadline && matches!(self.child.try_wait(), Ok(None)) {
            if self.make(bucket).is_some() {
                return true;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        false
    }

    fn make(&self, bucket: &str) -> Option<()> {
        let mut stream = TcpStream::connect(self.address).ok()?;
        let head = format!(
            "PUT {bucket} HTTP/1.1\r\nHost: {}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
            self.address
        );
        stream.write_all(head.as_bytes()).ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        let made = [" 200 ", " 201 "].iter().any(|it| answer.contains(it));
        made.then_some(())
    }
}

impl Drop for BucketServer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A program that `cargo xtask ci` installed, or one of `PATH`.
fn program(name: &str, remedy: &str) -> Result<PathBuf, Unavailable> {
    let test = std::env::current_exe().unwrap_or_default();
    let mut places = test.ancestors().flat_map(|folder| {
        let peers = folder.join("test-peers");
        ["bin", "node_modules/.bin"].map(|bin| peers.join(bin).join(name))
    });
    match places.find(|path| path.is_file()) {
        Some(path) => Ok(path),
        None => require_program(name).map_err(|_| Unavailable(format!("needs {name}: `{remedy}`"))),
    }
}

fn free_port() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("the loopback has a free port");
    listener.local_addr().expect("it is bound")
}
