//! F58: clients that want to harm. The server keeps within its memory and serves others meanwhile.

use std::time::{Duration, Instant};

use dagrun_proto::v1::{self, blobs_client::BlobsClient};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tonic::Code;

use crate::security::{
    Channel, Connector, Expect, Gate, Limits, MESSAGE, Rate, Role,
    testing::{HOUR, Lab, STATUS, Served, call, connect, status, until},
};

/// Bytes of this process in memory.
fn memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:"));
    let kib: u64 = line
        .and_then(|line| line.split_ascii_whitespace().nth(1))
        .and_then(|word| word.parse().ok())
        .unwrap();
    kib << 10
}

/// Set in processes that [`in_own_process`] starts.
const ALONE: &str = "DAGRUN_TEST_ALONE";

/// Runs the test that calls it in a process of its own, where the memory is that of nobody else; false in that process.
fn in_own_process() -> bool {
    if std::env::var_os(ALONE).is_some() {
        return false;
    }
    let thread = std::thread::current();
    let name = thread.name().expect("a test's thread has its name");
    let ran = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", name])
        .env(ALONE, "1")
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&ran.stdout);
    assert!(ran.status.success() && told.contains("1 passed"), "{told}");
    true
}

/// The process may have grown by so many MiB since.
fn grew_less_than(before: u64, mib: u64) {
    let grown = memory().saturating_sub(before) >> 20;
    assert!(grown < mib, "{grown} MiB more");
}

async fn plain(limits: Limits) -> (Served, Channel) {
    let gate = Gate::open(None, limits).unwrap();
    let served = Served::new(&gate, "127.0.0.1:0").await;
    let connector = Connector::open(None, None).unwrap();
    let channel = connector.connect(&served.at, Expect::Coordinator).await;
    (served, channel.unwrap())
}

/// Serves a well-behaved client, and quickly.
async fn still_serves(channel: &Channel) {
    let start = Instant::now();
    call(channel, STATUS).await.unwrap();
    assert!(start.elapsed() < Duration::from_secs(5));
}

/// Frames of HTTP/2, by hand: no client would send these.
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut bytes = length[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

/// Headers of a call, in literals of HPACK: method, scheme, path, content type.
fn headers(path: &str) -> Vec<u8> {
    // POST and http stand in the static table.
    let mut block = vec![0x83, 0x86];
    let mut literal = |name: &[u8], value: &str| {
        block.extend(name);
        block.push(u8::try_from(value.len()).unwrap());
        block.extend(value.as_bytes());
    };
    literal(&[0x04], path);
    literal(&[0x01], "localhost");
    literal(&[0x0f, 0x10], "application/grpc");
    literal(&[0x00, 2, b't', b'e'], "trailers");
    block
}

async fn raw(served: &Served) -> TcpStream {
    let mut stream = TcpStream::connect(("127.0.0.1", served.port()))
        .await
        .unwrap();
    stream
        .write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
        .await
        .unwrap();
    stream.write_all(&frame(SETTINGS, 0, 0, &[])).await.unwrap();
    stream
}

/// Whether the other side closes the connection within a time; reads away what it sends.
async fn is_closed(stream: &mut TcpStream, within: Duration) -> bool {
    let mut buffer = vec![0; 64 << 10];
    let read = async { while !matches!(stream.read(&mut buffer).await, Ok(0) | Err(_)) {} };
    tokio::time::timeout(within, read).await.is_ok()
}

/// Reads frames until one on a stream, and gives its kind.
async fn answer(stream: &mut TcpStream) -> u8 {
    loop {
        let mut head = [0; 9];
        stream.read_exact(&mut head).await.unwrap();
        let [a, b, c, kind, _, on @ ..] = head;
        let mut payload = vec![0; u32::from_be_bytes([0, a, b, c]) as usize];
        stream.read_exact(&mut payload).await.unwrap();
        if u32::from_be_bytes(on) != 0 {
            return kind;
        }
    }
}

#[tokio::test]
async fn a_huge_message_is_refused_before_it_is_kept() {
    if in_own_process() {
        return;
    }
    let (served, channel) = plain(Limits::default()).await;
    // More than the limit of the gate, and of nobody else: services are told to take more.
    let huge = v1::FindBlobs {
        digests: vec![vec![7; MESSAGE + 1].into()],
    };
    let refused = BlobsClient::new(channel.clone())
        .find(huge)
        .await
        .unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted);
    assert!(
        refused.message().contains("the most is 67108864"),
        "{refused}"
    );
    // A gigabyte that is only announced is answered at once.
    let before = memory();
    let mut stream = raw(&served).await;
    let call = headers("/dagrun.cluster.v1.Runs/Submit");
    stream
        .write_all(&frame(HEADERS, END_HEADERS, 1, &call))
        .await
        .unwrap();
    stream
        .write_all(&frame(DATA, 0, 1, &[0, 0x40, 0, 0, 0, 1, 2, 3]))
        .await
        .unwrap();
    let answered = tokio::time::timeout(Duration::from_secs(5), answer(&mut stream)).await;
    assert_eq!(answered, Ok(HEADERS));
    still_serves(&channel).await;
    grew_less_than(before, 32);
}

/// Sends as much of a flood as the server takes, which meanwhile serves others. Whether the server is rid of the one who floods.
async fn flood(each: impl Fn(u32) -> Vec<u8>, count: u32) -> bool {
    let (served, channel) = plain(Limits::default()).await;
    let before = memory();
    let stream = raw(&served).await;
    let (mut reading, mut writing) = stream.into_split();
    let reader = tokio::spawn(async move {
        let mut buffer = vec![0; 64 << 10];
        while !matches!(reading.read(&mut buffer).await, Ok(0) | Err(_)) {}
    });
    for batch in 0..count / 100 {
        let bytes: Vec<u8> = (0..100).flat_map(|at| each(batch * 100 + at)).collect();
        if writing.write_all(&bytes).await.is_err() {
            break;
        }
        if batch % 100 == 0 {
            still_serves(&channel).await;
        }
    }
    // Sooner than keepalive would end it.
    let ended = tokio::time::timeout(Duration::from_secs(3), reader).await;
    still_serves(&channel).await;
    grew_less_than(before, 48);
    ended.is_ok()
}

/// Those beyond the limit are refused one by one, which costs the server nothing that lasts.
#[tokio::test]
async fn a_hundred_thousand_streams_are_not_kept() {
    if in_own_process() {
        return;
    }
    let call = headers(STATUS);
    let open = |at| frame(HEADERS, END_HEADERS, 2 * at + 1, &call);
    flood(open, 100_000).await;
}

#[tokio::test]
async fn streams_that_are_opened_and_reset_end_their_connection() {
    if in_own_process() {
        return;
    }
    let call = headers(STATUS);
    let open_and_reset = |at| {
        let mut bytes = frame(HEADERS, END_HEADERS, 2 * at + 1, &call);
        bytes.extend(frame(RST_STREAM, 0, 2 * at + 1, &[0, 0, 0, 8]));
        bytes
    };
    assert!(flood(open_and_reset, 100_000).await);
}

#[tokio::test]
async fn headers_without_end_end_their_connection() {
    if in_own_process() {
        return;
    }
    let call = headers(STATUS);
    let filler = [0x00, 1, b'x', 100];
    let more = |at| {
        if at == 0 {
            return frame(HEADERS, 0, 1, &call);
        }
        let mut block = filler.to_vec();
        block.extend([b'y'; 100]);
        frame(CONTINUATION, 0, 1, &block)
    };
    assert!(flood(more, 100_000).await);
}

/// A gigabyte is asked for with windows without bounds, and nothing of it read.
#[tokio::test]
async fn a_client_that_never_reads_is_ended() {
    if in_own_process() {
        return;
    }
    let (served, channel) = plain(Limits {
        stall: Duration::from_secs(1),
        ..Limits::default()
    })
    .await;
    let before = memory();
    let mut stream = raw(&served).await;
    const INITIAL_WINDOW: [u8; 6] = [0, 4, 0x7f, 0xff, 0xff, 0xff];
    stream
        .write_all(&frame(SETTINGS, 0, 0, &INITIAL_WINDOW))
        .await
        .unwrap();
    let whole = (0x7fff_ffff_u32 - 65_535).to_be_bytes();
    stream
        .write_all(&frame(WINDOW_UPDATE, 0, 0, &whole))
        .await
        .unwrap();
    let mut request = vec![0, 0, 0, 8, 0];
    request.extend([0x0a, 0].repeat(1024));
    let call = headers("/dagrun.cluster.v1.Blobs/Read");
    stream
        .write_all(&frame(HEADERS, END_HEADERS, 1, &call))
        .await
        .unwrap();
    stream
        .write_all(&frame(DATA, END_STREAM, 1, &request))
        .await
        .unwrap();
    let reached = async || served.stub.reached("v1.Blobs/Read") == 1;
    until("the call is there", reached).await;
    assert_eq!(served.gate.connections.all().len(), 2);
    still_serves(&channel).await;
    let alone = async || served.gate.connections.all().len() == 1;
    until("the connection is ended", alone).await;
    still_serves(&channel).await;
    grew_less_than(before, 48);
}

/// A connection from another address of this machine, so that limits by address tell the two apart.
async fn from_elsewhere(port: u16) -> std::io::Result<TcpStream> {
    let socket = tokio::net::TcpSocket::new_v4()?;
    socket.bind("127.0.0.2:0".parse().unwrap())?;
    socket.connect(([127, 0, 0, 1], port).into()).await
}

#[tokio::test]
async fn unfinished_handshakes_do_not_hold_up_others() {
    let lab = Lab::new(&["127.0.0.1"]);
    let admin = lab.client("admin", &[Role::Admin], HOUR);
    let limits = Limits {
        handshakes: 64,
        handshakes_from_one: 32,
        handshake: Duration::from_secs(2),
        ..Limits::default()
    };
    let served = Served::new(&lab.gate(limits), "127.0.0.1:0").await;
    let mut idle = Vec::new();
    for at in 0..200 {
        let mut stream = from_elsewhere(served.port()).await.unwrap();
        if at % 2 == 0 {
            // The beginning of a handshake, and never its end. Those over the limit are closed already.
            let _ = stream.write_all(&[0x16, 3, 1, 2, 0, 1]).await;
        }
        idle.push(stream);
    }
    let start = Instant::now();
    assert_eq!(status(&admin, &served.at).await, Ok(()));
    assert!(start.elapsed() < Duration::from_secs(2), "others waited");
    for stream in &mut idle {
        assert!(is_closed(stream, Duration::from_secs(5)).await);
    }
    assert_eq!(status(&admin, &served.at).await, Ok(()));
}

#[tokio::test]
async fn connections_without_a_call_are_ended() {
    let lab = Lab::new(&["127.0.0.1"]);
    let nobody = lab.stranger("nobody");
    let admin = lab.client("admin", &[Role::Admin], HOUR);
    let limits = Limits {
        patience: Duration::from_secs(1),
        ..Limits::default()
    };
    let gate = lab.gate(limits.clone());
    let served = Served::new(&gate, "127.0.0.1:0").await;
    // Whose certificate counts, and who called, may be idle; who is refused, and who is silent, goes.
    let good = connect(&admin, &served.at).await.unwrap();
    call(&good, STATUS).await.unwrap();
    let refused = connect(&nobody, &served.at).await.unwrap();
    assert!(call(&refused, STATUS).await.is_err());
    let _silent = connect(&nobody, &served.at).await.unwrap();
    assert_eq!(gate.connections.all().len(), 3);
    let alone = async || gate.connections.all().len() == 1;
    until("the others are ended", alone).await;
    tokio::time::sleep(limits.patience).await;
    assert_eq!(gate.connections.all().len(), 1);
    call(&good, STATUS).await.unwrap();
    // Half a preface, byte by byte, on a plain connection.
    let (served, _channel) = plain(limits).await;
    let mut drip = TcpStream::connect(("127.0.0.1", served.port()))
        .await
        .unwrap();
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(20) && drip.write_all(b"P").await.is_ok() {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(
        start.elapsed() < Duration::from_secs(20),
        "it drips for ever"
    );
}

#[tokio::test]
async fn a_request_that_drips_is_ended() {
    let (served, channel) = plain(Limits {
        silence: Duration::from_millis(500),
        ..Limits::default()
    })
    .await;
    let (sender, chunks) = tokio::sync::mpsc::channel(1);
    sender.send(v1::BlobChunk::default()).await.unwrap();
    let chunks = tokio_stream::wrappers::ReceiverStream::new(chunks);
    let mut blobs = BlobsClient::new(channel.clone());
    let ended = tokio::time::timeout(Duration::from_secs(10), blobs.write(chunks)).await;
    let ended = ended.expect("the call is ended").unwrap_err();
    assert_eq!(ended.code(), Code::DeadlineExceeded, "{ended}");
    assert_eq!(served.stub.reached("v1.Blobs/Write"), 1);
    still_serves(&channel).await;
}

#[tokio::test]
async fn too_many_connections_from_one_address_are_closed() {
    let (served, channel) = plain(Limits {
        connections_from_one: 10,
        ..Limits::default()
    })
    .await;
    let mut open = Vec::new();
    for _ in 0..30 {
        open.push(from_elsewhere(served.port()).await.unwrap());
    }
    let mut closed = 0;
    for stream in &mut open {
        closed += usize::from(is_closed(stream, Duration::from_millis(50)).await);
    }
    assert_eq!(closed, 20);
    still_serves(&channel).await;
    drop(open);
    let one = async || served.gate.connections.all().len() == 1;
    until("their places are free", one).await;
    let mut again = from_elsewhere(served.port()).await.unwrap();
    assert!(!is_closed(&mut again, Duration::from_millis(200)).await);
}

#[tokio::test]
async fn who_calls_too_often_is_slowed_and_others_are_not() {
    let lab = Lab::new(&["127.0.0.1"]);
    let (eager, calm) = (
        lab.client("eager", &[Role::Viewer], HOUR),
        lab.client("calm", &[Role::Viewer], HOUR),
    );
    let limits = Limits {
        calls: Rate {
            each_second: 1.0,
            burst: 20.0,
        },
        ..Limits::default()
    };
    let served = Served::new(&lab.gate(limits), "127.0.0.1:0").await;
    let channel = connect(&eager, &served.at).await.unwrap();
    let mut refused = 0;
    for _ in 0..40 {
        if let Err(status) = call(&channel, STATUS).await {
            assert_eq!(status.code(), Code::ResourceExhausted);
            assert!(status.message().contains("certificate `eager`"), "{status}");
            refused += 1;
        }
    }
    assert!((10..=20).contains(&refused), "{refused} refused");
    assert_eq!(status(&calm, &served.at).await, Ok(()));
}

#[tokio::test]
async fn who_guesses_tokens_is_cut_off() {
    let lab = Lab::new(&["127.0.0.1"]);
    let guesser = lab.stranger("guesser");
    let admin = lab.client("admin", &[Role::Admin], HOUR);
    let served = Served::new(&lab.gate(Limits::default()), "127.0.0.1:0").await;
    let good = connect(&admin, &served.at).await.unwrap();
    crate::security::files::write_new(&guesser.join("token"), "dagrun_guess").unwrap();
    let channel = connect(&guesser, &served.at).await.unwrap();
    let mut told = 0;
    let mut cut = 0;
    for _ in 0..200 {
        match call(&channel, STATUS).await.unwrap_err().code() {
            Code::Unauthenticated => told += 1,
            _ => cut += 1,
        }
    }
    assert!(cut > 0, "never cut off");
    assert!(told >= 50, "{told}");
    call(&good, STATUS).await.unwrap();
}
