//! F57: expired, wrong CA, wrong name, plain and TLS mixed up, no token, revoked, replayed; and changes of files while calls go on.

use std::{
    io::Write,
    os::unix::{fs::MetadataExt, process::CommandExt},
    path::Path,
    sync::{Arc, Mutex},
    time::{Duration, SystemTime},
};

use dagrun_proto::v1::{self, runs_client::RunsClient, workers_client::WorkersClient};
use tokio::sync::mpsc;
use tonic::Code;

use crate::security::{
    Connector, Error, Expect, Gate, Kind, Limits, Role, Tokens,
    testing::{HOUR, Lab, STATUS, Served, call, connect, status, until},
};

const SHORT: Duration = Duration::from_secs(2);

fn says(result: Result<(), String>, words: &[&str]) {
    let text = result.expect_err("it should be refused");
    for word in words {
        assert!(text.contains(word), "`{text}` should say `{word}`");
    }
}

#[tokio::test]
async fn both_sides_must_be_of_one_ca() {
    let (lab, other) = (Lab::new(&["127.0.0.1"]), Lab::new(&["127.0.0.1"]));
    let mine = lab.client("me", &[Role::Admin], HOUR);
    let theirs = other.client("them", &[Role::Admin], HOUR);
    let served = Served::new(&lab.gate(Limits::default()), "127.0.0.1:0").await;
    assert_eq!(status(&mine, &served.at).await, Ok(()));
    // A client of the other cluster does not believe the server ...
    says(
        status(&theirs, &served.at).await,
        &["is not of the CA in", "ca.pem"],
    );
    // ... and where it does, the server does not believe it.
    std::fs::copy(mine.join("ca.pem"), theirs.join("ca.pem")).unwrap();
    says(
        status(&theirs, &served.at).await,
        &[
            "refuses the certificate in",
            "not of this cluster's CA",
            "dagrun cluster cert",
        ],
    );
}

#[tokio::test]
async fn a_server_is_known_by_its_name() {
    let lab = Lab::new(&["127.0.0.1", "::1", "elsewhere.example"]);
    let admin = lab.client("admin", &[Role::Admin], HOUR);
    let served = Served::new(&lab.gate(Limits::default()), "127.0.0.1:0").await;
    says(
        status(&admin, &served.by("localhost")).await,
        &["is for 127.0.0.1, ::1, elsewhere.example", "--renew --host"],
    );
    lab.renew_server(&["127.0.0.1", "localhost"], HOUR);
    let at = served.by("localhost");
    until("the new certificate is shown", async || {
        status(&admin, &at).await.is_ok()
    })
    .await;
}

/// A worker's certificate serves blobs, and never passes for a coordinator.
#[tokio::test]
async fn workers_are_known_by_their_role() {
    let lab = Lab::new(&["127.0.0.1"]);
    let worker = lab.client("w1", &[Role::Worker], HOUR);
    let peer = lab.client("w2", &[Role::Worker], HOUR);
    let viewer = lab.client("v", &[Role::Viewer, Role::CacheRead], HOUR);
    let gate = Gate::open(Some(&worker), Limits::default()).unwrap();
    let served = Served::new(&gate, "127.0.0.1:0").await;
    const READ: &str = "/dagrun.cluster.v1.Blobs/Read";
    for folder in [&peer, &lab.server(), &viewer] {
        let connector = Connector::open(Some(folder), None).unwrap();
        let channel = connector.connect(&served.at, Expect::Worker).await.unwrap();
        call(&channel, READ).await.unwrap();
        let error = connector.connect(&served.at, Expect::Coordinator).await;
        assert_eq!(error.unwrap_err().kind, Kind::Untrusted);
    }
    let coordinator = Served::new(&lab.gate(Limits::default()), "127.0.0.1:0").await;
    let connector = Connector::open(Some(&peer), None).unwrap();
    let error = connector.connect(&coordinator.at, Expect::Worker).await;
    says(
        error.map(drop).map_err(|error| error.to_string()),
        &["not that of a worker of cluster `lab`"],
    );
    // A certificate that is for clients alone cannot serve.
    let gate = Gate::open(Some(&viewer), Limits::default()).unwrap();
    let served = Served::new(&gate, "127.0.0.1:0").await;
    let error = connector.connect(&served.at, Expect::Worker).await;
    says(
        error.map(drop).map_err(|error| error.to_string()),
        &["not for servers"],
    );
}

#[tokio::test]
async fn what_expired_is_refused_and_connections_of_it_end() {
    let lab = Lab::new(&["127.0.0.1"]);
    let short = lab.client("short", &[Role::Admin], SHORT);
    let (token, _) = lab.holder("brief", &[Role::Admin], SHORT, None);
    let served = Served::new(&lab.gate(Limits::default()), "127.0.0.1:0").await;
    let loaded = Connector::open(Some(&short), None).unwrap();
    let channel = loaded
        .connect(&served.at, Expect::Coordinator)
        .await
        .unwrap();
    let (_sender, mut answers) = join(channel.clone()).await;
    assert_eq!(status(&token, &served.at).await, Ok(()));
    let ended = tokio::time::timeout(SHORT * 5, answers.message()).await;
    assert!(ended.expect("the stream is cut").is_err());
    // By its own clock the client would not even try; one that does is told.
    says(
        status(&short, &served.at).await,
        &["client.pem expired at", "--renew"],
    );
    let error = loaded.connect(&served.at, Expect::Coordinator).await;
    says(
        error.map(drop).map_err(|error| error.to_string()),
        &["it has expired"],
    );
    says(
        status(&token, &served.at).await,
        &["Unauthenticated", "token `brief` expired at"],
    );
}

#[tokio::test]
async fn a_server_whose_certificate_expired_is_not_believed_and_does_not_start() {
    let lab = Lab::new(&["127.0.0.1"]);
    let admin = lab.client("admin", &[Role::Admin], HOUR);
    lab.renew_server(&["127.0.0.1"], SHORT);
    let served = Served::new(&lab.gate(Limits::default()), "127.0.0.1:0").await;
    assert_eq!(status(&admin, &served.at).await, Ok(()));
    tokio::time::sleep(SHORT + Duration::from_millis(1100)).await;
    says(
        status(&admin, &served.at).await,
        &["has expired", "dagrun cluster cert server --renew"],
    );
    let error = Gate::open(Some(&lab.server()), Limits::default())
        .err()
        .unwrap();
    assert!(error.to_string().contains("expired at"), "{error}");
    // It lives again without a restart.
    lab.renew_server(&["127.0.0.1"], HOUR);
    until("the server is believed again", async || {
        status(&admin, &served.at).await.is_ok()
    })
    .await;
}

#[tokio::test]
async fn plain_and_tls_say_that_they_are_mixed_up() {
    let lab = Lab::new(&["127.0.0.1"]);
    let admin = lab.client("admin", &[Role::Admin], HOUR);
    let served = Served::new(&lab.gate(Limits::default()), "127.0.0.1:0").await;
    let plain = Connector::open(None, None).unwrap();
    let error = plain.connect(&served.at, Expect::Coordinator).await;
    says(
        error.map(drop).map_err(|error| error.to_string()),
        &["speaks TLS alone", "--tls DIR"],
    );
    // The same, where the channel connects at the first call.
    let lazy = plain.lazy(&served.at, Expect::Coordinator).unwrap();
    let failed = call(&lazy, STATUS).await.unwrap_err();
    let error = Error::of_status(&failed).expect("the call says why");
    assert!(error.to_string().contains("speaks TLS alone"), "{error}");

    let open = Gate::open(None, Limits::default()).unwrap();
    let served = Served::new(&open, "127.0.0.1:0").await;
    says(status(&admin, &served.at).await, &["does not speak TLS"]);
    let channel = plain
        .connect(&served.at, Expect::Coordinator)
        .await
        .unwrap();
    call(&channel, STATUS).await.unwrap();
}

#[tokio::test]
async fn what_is_no_dagrun_is_named() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap().to_string().parse().unwrap();
    tokio::spawn(async move {
        for answer in ["HTTP/1.1 400 Bad Request\r\n\r\n", ""] {
            let (mut stream, _) = listener.accept().await.unwrap();
            use tokio::io::AsyncWriteExt;
            stream.write_all(answer.as_bytes()).await.unwrap();
            // Closing with unread bytes would reset the connection before its answer was read.
            let mut preface = [0; 24];
            tokio::io::AsyncReadExt::read_exact(&mut stream, &mut preface)
                .await
                .unwrap();
        }
    });
    let plain = Connector::open(None, None).unwrap();
    for words in [
        "does not speak HTTP/2",
        "closed the connection at once",
        "cannot connect",
    ] {
        let error = plain.connect(&at, Expect::Coordinator).await.err().unwrap();
        assert!(error.to_string().contains(words), "{error}");
    }
}

#[tokio::test]
async fn tokens_that_are_not_known_are_refused() {
    let lab = Lab::new(&["127.0.0.1"]);
    let other = Lab::new(&["127.0.0.1"]);
    let (folder, secret) = lab.holder("laptop", &[Role::Viewer], HOUR, None);
    let (_, foreign) = other.holder("laptop", &[Role::Admin], HOUR, None);
    let served = Served::new(&lab.gate(Limits::default()), "127.0.0.1:0").await;
    assert_eq!(status(&folder, &served.at).await, Ok(()));
    let nobody = lab.stranger("nobody");
    says(status(&nobody, &served.at).await, &["no credentials"]);
    let mut wrong = secret.reveal().to_owned();
    let last = if wrong.ends_with('0') { "1" } else { "0" };
    wrong.replace_range(wrong.len() - 1.., last);
    for text in [wrong.as_str(), "x", foreign.reveal()] {
        let file = nobody.join("token");
        let _ = std::fs::remove_file(&file);
        crate::security::files::write_new(&file, text).unwrap();
        says(
            status(&nobody, &served.at).await,
            &["Unauthenticated", "not known here"],
        );
    }
    // A file with no token, or one that others may read, is named before anything is sent.
    std::fs::write(nobody.join("token"), "\n").unwrap();
    says(status(&nobody, &served.at).await, &["has no token"]);
}

/// A stream for as long as the sender is kept.
async fn join(
    channel: crate::security::Channel,
) -> (mpsc::Sender<v1::FromWorker>, tonic::Streaming<v1::ToWorker>) {
    let (sender, messages) = mpsc::channel(1);
    let messages = tokio_stream::wrappers::ReceiverStream::new(messages);
    sender.send(v1::FromWorker::default()).await.unwrap();
    let mut answers = WorkersClient::new(channel)
        .join(messages)
        .await
        .unwrap()
        .into_inner();
    answers.message().await.unwrap().expect("an answer");
    (sender, answers)
}

#[tokio::test]
async fn revocation_ends_streams_and_refuses_new_calls() {
    let lab = Lab::new(&["127.0.0.1"]);
    let worker = lab.client("w1", &[Role::Worker, Role::Viewer], HOUR);
    let (holder, _) = lab.holder("t1", &[Role::Worker, Role::Viewer], HOUR, None);
    let stays = lab.client("w2", &[Role::Worker], HOUR);
    let served = Served::new(&lab.gate(Limits::default()), "127.0.0.1:0").await;
    let mut streams = Vec::new();
    for folder in [&worker, &holder, &stays] {
        streams.push(join(connect(folder, &served.at).await.unwrap()).await);
    }
    assert_eq!(lab.authority.revoke("w1").unwrap(), 1);
    let mut tokens = Tokens::read(&lab.authority.tokens()).unwrap();
    assert!(tokens.revoke("t1"));
    tokens.write(&lab.authority.tokens()).unwrap();
    for (_sender, answers) in &mut streams[..2] {
        let ended = tokio::time::timeout(Duration::from_secs(10), answers.message()).await;
        assert!(ended.expect("the stream is cut").is_err());
    }
    let (sender, answers) = &mut streams[2];
    sender.send(v1::FromWorker::default()).await.unwrap();
    assert!(answers.message().await.unwrap().is_some(), "others go on");
    says(
        status(&worker, &served.at).await,
        &[
            "Unauthenticated",
            "certificate `w1` was revoked",
            "dagrun cluster cert",
        ],
    );
    says(
        status(&holder, &served.at).await,
        &["Unauthenticated", "not known here"],
    );
    assert!(
        lab.authority
            .revoke("nobody")
            .unwrap_err()
            .to_string()
            .contains("w1")
    );
}

#[tokio::test]
async fn a_token_for_one_run_opens_no_other() {
    let lab = Lab::new(&["127.0.0.1"]);
    let (folder, _) = lab.holder("ci", &[Role::Submit], HOUR, Some("run-1"));
    let served = Served::new(&lab.gate(Limits::default()), "127.0.0.1:0").await;
    let channel = connect(&folder, &served.at).await.unwrap();
    let mut runs = RunsClient::new(channel.clone());
    let cancel = |run: &str| v1::CancelRun {
        run: run.to_owned(),
        kill: true,
    };
    let follow = |run: &str| v1::FollowRun {
        run: run.to_owned(),
        from: 0,
        until_now: false,
    };
    runs.cancel(cancel("run-1")).await.unwrap();
    runs.follow(follow("run-1")).await.unwrap();
    for run in ["run-2", "", "run-11"] {
        let refused = runs.cancel(cancel(run)).await.unwrap_err();
        assert_eq!(refused.code(), Code::PermissionDenied);
        assert!(
            refused.message().contains("for run `run-1` alone"),
            "{refused}"
        );
        let refused = runs.follow(follow(run)).await.unwrap_err();
        assert_eq!(refused.code(), Code::PermissionDenied);
    }
    assert_eq!(served.stub.reached("v1.Runs/Cancel"), 1);
    assert_eq!(served.stub.reached("v1.Runs/Follow"), 1);
    for path in ["Runs/Submit", "Runs/List", "Blobs/Read", "Cluster/Status"] {
        let path = format!("/dagrun.cluster.v1.{path}");
        let refused = call(&channel, &path).await.unwrap_err();
        assert_eq!(refused.code(), Code::PermissionDenied, "{path}");
    }
}

#[tokio::test]
async fn certificates_and_tokens_change_while_a_stream_goes_on() {
    let lab = Lab::new(&["127.0.0.1"]);
    let worker = lab.client("w1", &[Role::Worker, Role::Viewer], HOUR);
    let served = Served::new(&lab.gate(Limits::default()), "127.0.0.1:0").await;
    let (sender, mut answers) = join(connect(&worker, &served.at).await.unwrap()).await;
    let before = shown(&worker, served.port()).await;

    // A broken certificate changes nothing ...
    let file = lab.server().join("server.pem");
    let good = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, "-----BEGIN CERTIFICATE-----\nx\n").unwrap();
    tokio::time::sleep(Duration::from_millis(2500)).await;
    assert_eq!(shown(&worker, served.port()).await, before);
    std::fs::write(&file, good).unwrap();

    // ... and a new one is shown to whoever connects anew.
    lab.renew_server(&["127.0.0.1"], HOUR);
    until("the new certificate is shown", async || {
        shown(&worker, served.port()).await != before
    })
    .await;
    let (holder, _) = lab.holder("late", &[Role::Viewer], HOUR, None);
    until("the new token is known", async || {
        status(&holder, &served.at).await.is_ok()
    })
    .await;

    sender.send(v1::FromWorker::default()).await.unwrap();
    assert!(
        answers.message().await.unwrap().is_some(),
        "the stream goes on"
    );
}

/// The certificate that a server shows.
async fn shown(client: &Path, port: u16) -> Vec<u8> {
    let tls = crate::security::tls::ClientTls::read(client).unwrap();
    let stream = tokio::net::TcpStream::connect(("127.0.0.1", port))
        .await
        .unwrap();
    let connector = tokio_rustls::TlsConnector::from(tls.by_host);
    let name = "127.0.0.1".try_into().unwrap();
    let stream = connector.connect(name, stream).await.unwrap();
    let chain = stream.get_ref().1.peer_certificates().unwrap();
    chain[0].to_vec()
}

#[tokio::test]
async fn only_safe_addresses_are_listened_on_without_tls() {
    let gate = Gate::open(None, Limits::default()).unwrap();
    for at in ["0.0.0.0:0", "[::]:0"] {
        let error = gate.bind(&at.parse().unwrap()).err().unwrap();
        let text = error.to_string();
        assert!(text.contains("refusing to listen on"), "{text}");
        assert!(text.contains("dagrun cluster init"), "{text}");
    }
    let lab = Lab::new(&["127.0.0.1"]);
    lab.gate(Limits::default())
        .bind(&"0.0.0.0:0".parse().unwrap())
        .unwrap();
    // A folder of the CA instead of the server's is a slip that is named.
    let ca = lab.server().parent().unwrap().to_path_buf();
    let error = Gate::open(Some(&ca), Limits::default()).err().unwrap();
    assert!(error.to_string().contains("did you mean --tls"), "{error}");
}

#[tokio::test]
async fn a_unix_socket_is_for_its_owner() {
    let folder = dagrun_testkit::scratch();
    let path = folder.path().join("d/dagrun.sock");
    let at = format!("unix:{}", path.display());
    let gate = Gate::open(None, Limits::default()).unwrap();
    let served = Served::new(&gate, &at).await;
    let mode = |path: &Path| std::fs::metadata(path).unwrap().mode() & 0o777;
    assert_eq!((mode(&path), mode(path.parent().unwrap())), (0o600, 0o700));
    let plain = Connector::open(None, None).unwrap();
    let channel = plain
        .connect(&served.at, Expect::Coordinator)
        .await
        .unwrap();
    call(&channel, STATUS).await.unwrap();
    let error = gate.bind(&served.at).err().unwrap().to_string();
    assert!(error.contains("listens on"), "{error}");
    // One that was left behind is replaced, one that is no socket is not.
    drop(served);
    until("the socket is gone", async || !path.exists()).await;
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    let served = Served::new(&gate, &at).await;
    drop(served);
    until("the socket is gone", async || !path.exists()).await;
    std::fs::write(&path, "mine").unwrap();
    let error = gate.bind(&at.parse().unwrap()).err().unwrap().to_string();
    assert!(error.contains("no socket"), "{error}");
}

/// A log of a test.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// F57 and F59: the log says who was refused what and why; no token and no key is in it, on any level.
/// Whether anybody listens to a place that logs is state of the whole process, and other tests change it: this one has a
/// process of its own.
#[test]
fn refusals_are_logged_without_secrets() {
    let apart = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["security::tests::trust::what_is_logged_of_refusals"])
        .args(["--exact", "--ignored", "--nocapture"])
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&apart.stdout);
    assert!(
        apart.status.success() && told.contains("1 passed"),
        "{told}\n{}",
        String::from_utf8_lossy(&apart.stderr)
    );
}

#[tokio::test]
#[ignore = "`refusals_are_logged_without_secrets` runs it in a process of its own"]
async fn what_is_logged_of_refusals() {
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing_subscriber::filter::LevelFilter::TRACE)
        .with_ansi(false)
        .with_writer(move || writer.clone())
        .finish();
    let _here = tracing::subscriber::set_default(subscriber);
    let lab = Lab::new(&["127.0.0.1"]);
    let (holder, secret) = lab.holder("laptop", &[Role::Worker], HOUR, None);
    let (gone, revoked) = lab.holder("gone", &[Role::Admin], HOUR, None);
    let mut tokens = Tokens::read(&lab.authority.tokens()).unwrap();
    tokens.revoke("gone");
    tokens.write(&lab.authority.tokens()).unwrap();
    let served = Served::new(&lab.gate(Limits::default()), "127.0.0.1:0").await;
    let mut told = String::new();
    told.push_str(&status(&holder, &served.at).await.unwrap_err());
    told.push_str(&status(&gone, &served.at).await.unwrap_err());
    let other = Lab::new(&["127.0.0.1"]);
    let foreign = other.client("them", &[Role::Admin], HOUR);
    std::fs::copy(holder.join("ca.pem"), foreign.join("ca.pem")).unwrap();
    told.push_str(&status(&foreign, &served.at).await.unwrap_err());
    let connector = Connector::open(Some(&holder), None).unwrap();
    connector
        .connect(&served.at, Expect::Coordinator)
        .await
        .unwrap();

    let read = || String::from_utf8_lossy(&log.0.lock().unwrap()).into_owned();
    // The client hears of it before the server has written it down.
    for _ in 0..500 {
        if read().contains("refused a connection") {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let log = read();
    for words in [
        "refused a call",
        "token `laptop` (worker) may not call Cluster/Status",
        "not known here",
        "refused a connection",
    ] {
        assert!(log.contains(words), "the log should say `{words}`:\n{log}");
    }
    for secret in [&secret, &revoked] {
        let bare = &secret.reveal()["dagrun_".len()..];
        assert!(!log.contains(bare) && !told.contains(bare));
    }
    for file in ["server/server.key", "ca.key"] {
        let key = std::fs::read_to_string(lab.server().parent().unwrap().join(file)).unwrap();
        let line = key.lines().nth(1).unwrap();
        assert!(!log.contains(line), "{file} is in the log");
    }
}

#[test]
fn a_folder_of_a_ca_is_for_its_owner_and_never_written_over() {
    let lab = Lab::new(&["127.0.0.1"]);
    lab.client("w1", &[Role::Worker], HOUR);
    let ca = lab.server().parent().unwrap().to_path_buf();
    let mut folders = vec![ca.clone()];
    let mut files = 0;
    while let Some(folder) = folders.pop() {
        let mode = |path: &Path| std::fs::metadata(path).unwrap().mode() & 0o777;
        assert_eq!(mode(&folder), 0o700, "{}", folder.display());
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                assert_eq!(mode(&path), 0o600, "{}", path.display());
                files += 1;
            }
        }
    }
    assert_eq!(files, 3 + 3 + 3);
    let error = crate::security::authority::Authority::create(&ca, "lab", SystemTime::now());
    assert!(
        error
            .err()
            .unwrap()
            .to_string()
            .contains("never written over")
    );
    let wanted = crate::security::authority::Wanted {
        name: "w1",
        roles: crate::security::Roles::of(&[Role::Admin]),
        hosts: Vec::new(),
        expires: SystemTime::now() + HOUR,
    };
    let error = lab.authority.issue(&wanted, false).unwrap_err();
    assert!(error.to_string().contains("already"), "{error}");
    assert!(!lab.authority.facts("w1").unwrap().roles.allow(Role::Admin));
}

/// Other users of a machine reach its loopback; they are told nothing.
#[tokio::test]
async fn other_users_of_the_machine_are_not_let_in() {
    const NOBODY: u32 = 65_534;
    let name = "other_users_of_the_machine_are_not_let_in";
    dagrun_testkit::skip!(name, dagrun_testkit::require_root());
    let bash = dagrun_testkit::skip!(name, dagrun_testkit::require_program("bash"));
    let gate = Gate::open(None, Limits::default()).unwrap();
    let served = Served::new(&gate, "127.0.0.1:0").await;
    let answered = async |uid: u32| {
        // Whatever the server sends first, until it closes or a second has passed.
        let script = format!(
            "exec 3<>/dev/tcp/127.0.0.1/{}; timeout 1 head -c 1 <&3 | wc -c",
            served.port()
        );
        let mut command = std::process::Command::new(&bash);
        command.args(["-c", &script]).uid(uid);
        let ran = tokio::task::spawn_blocking(move || command.output());
        let ran = ran.await.unwrap().unwrap();
        String::from_utf8_lossy(&ran.stdout).trim().to_owned()
    };
    assert_eq!(answered(0).await, "1");
    assert_eq!(answered(NOBODY).await, "0");
}
