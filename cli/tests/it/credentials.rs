//! `dagrun cluster init`, `cert`, `revoke` and `token`.

use std::{
    os::unix::fs::MetadataExt,
    process::Stdio,
    time::{Duration, Instant},
};

use dagrun_cluster::{
    net::Routes,
    pool::{Config, Pool},
    security::{Gate, Limits},
};
use serde_json::json;

use crate::kit::{Project, signal};

fn cluster() -> Project {
    let project = Project::new("version: 1\njobs:\n  a:\n    run: 'true'\n");
    project.ok(&[
        "cluster",
        "init",
        "lab",
        "--name",
        "lab",
        "--host",
        "head.example",
    ]);
    project
}

#[test]
fn init_says_what_goes_where_and_writes_nothing_over() {
    let project = Project::new("version: 1\njobs:\n  a:\n    run: 'true'\n");
    let args = [
        "cluster",
        "init",
        "lab",
        "--host",
        "head.example",
        "--host",
        "10.1.2.3",
    ];
    let said = project.ok(&args);
    for words in [
        "dagrun serve --listen 0.0.0.0:7460 --tls lab/server",
        "dagrun worker --connect head.example:7460 --tls lab/clients/worker",
        "dagrun FILE --on head.example:7460 --tls lab/clients/submit",
    ] {
        assert!(said.stdout.contains(words), "{}", said.stdout);
    }
    assert!(
        said.stderr
            .contains("head.example, 10.1.2.3, localhost, 127.0.0.1, ::1")
    );
    for file in [
        "lab/ca.key",
        "lab/server/server.key",
        "lab/server/tokens",
        "lab/clients/admin/client.key",
    ] {
        let mode = std::fs::metadata(project.dir().join(file)).unwrap().mode();
        assert_eq!(mode & 0o777, 0o600, "{file}");
        assert!(!said.stdout.contains(&project.read(file)));
    }
    let before = project.read("lab/ca.key");
    let again = project.fails(2, &args);
    assert!(
        again.stderr.contains("never written over"),
        "{}",
        again.stderr
    );
    assert_eq!(project.read("lab/ca.key"), before);
    let bad = project.fails(2, &["cluster", "init", "other", "--host", "no host"]);
    assert!(
        bad.stderr.contains("`no host` is no name"),
        "{}",
        bad.stderr
    );
    assert!(!project.exists("other"));
}

#[test]
fn certificates_are_made_renewed_and_revoked() {
    let project = cluster();
    let cert = |args: &[&str]| {
        let mut all = vec!["cluster", "cert", "--dir", "lab"];
        all.extend(args);
        project.say(&all)
    };
    let made = cert(&["gpu-1", "--role", "worker", "--days", "30"]);
    assert_eq!(made.stdout.trim(), "lab/clients/gpu-1", "{}", made.stderr);
    let pem = project.read("lab/clients/gpu-1/client.pem");
    for (args, words) in [
        (&["gpu-1", "--role", "admin"][..], "--renew"),
        (&["x"], "without a role"),
        (&["x", "--renew"], "there is no certificate `x`"),
        (&["../x", "--role", "worker"], "is no name"),
        (
            &["x", "--role", "worker", "--days", "36500"],
            "the CA itself ends at",
        ),
    ] {
        let said = cert(args);
        assert_eq!(said.code, 2, "{args:?}");
        assert!(said.stderr.contains(words), "{}", said.stderr);
    }
    assert_eq!(project.read("lab/clients/gpu-1/client.pem"), pem);
    let renewed = cert(&["gpu-1", "--renew"]);
    assert!(renewed.stderr.contains("(worker)"), "{}", renewed.stderr);
    assert_ne!(project.read("lab/clients/gpu-1/client.pem"), pem);
    let server = cert(&["server", "--renew", "--host", "head2.example"]);
    assert_eq!(server.stdout.trim(), "lab/server");

    // Both that were made for the name.
    let revoked = project.ok(&["cluster", "revoke", "gpu-1", "--dir", "lab"]);
    assert!(
        revoked.stderr.contains("revoked 2 certificates"),
        "{}",
        revoked.stderr
    );
    assert_eq!(
        project.read("lab/server/revoked").matches("gpu-1").count(),
        2
    );
    let nobody = project.fails(2, &["cluster", "revoke", "nobody", "--dir", "lab"]);
    assert!(nobody.stderr.contains("gpu-1"), "{}", nobody.stderr);
}

#[test]
fn tokens_are_told_once_listed_and_revoked() {
    let project = cluster();
    let add = [
        "cluster", "token", "add", "ci", "--role", "submit", "--dir", "lab",
    ];
    let said = project.ok(&add);
    let token = said.stdout.trim();
    assert!(
        token.starts_with("dagrun_") && token.len() == 7 + 64,
        "{token}"
    );
    assert!(!said.stderr.contains(token));
    assert!(!project.read("lab/server/tokens").contains(&token[7..]));
    let again = project.fails(2, &add);
    assert!(again.stderr.contains("token revoke ci"), "{}", again.stderr);
    project.ok(&[
        "cluster",
        "token",
        "add",
        "one",
        "--role",
        "viewer",
        "--run",
        "r7",
        "--dir",
        "lab/server",
    ]);
    let list = project.json(&["cluster", "token", "list", "--dir", "lab", "--json"]);
    let rows: Vec<_> = list
        .as_array()
        .unwrap()
        .iter()
        .map(|row| (&row["name"], &row["roles"], &row["run"], &row["expired"]))
        .collect();
    assert_eq!(
        json!(rows),
        json!([
            ["ci", ["submit"], null, false],
            ["one", ["viewer"], "r7", false]
        ])
    );
    project.ok(&["cluster", "token", "revoke", "ci", "--dir", "lab"]);
    let gone = project.fails(2, &["cluster", "token", "revoke", "ci", "--dir", "lab"]);
    assert!(gone.stderr.contains("known: one"), "{}", gone.stderr);
    let elsewhere = project.fails(2, &["cluster", "token", "list"]);
    assert!(
        elsewhere.stderr.contains("--dir DIR"),
        "{}",
        elsewhere.stderr
    );
}

/// Waits until a coordinator has so many workers.
fn wait_for(pool: &Pool, workers: usize) {
    let start = Instant::now();
    while pool.workers() != workers {
        assert!(
            start.elapsed() < Duration::from_secs(30),
            "never {workers} workers"
        );
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// The whole way: credentials from `init`, a coordinator behind TLS, workers as processes, and one of them revoked.
#[test]
fn workers_join_by_tls_and_leave_when_they_are_revoked() {
    let project = cluster();
    project.ok(&["cluster", "cert", "w1", "--role", "worker", "--dir", "lab"]);
    let gate = Gate::open(Some(&project.dir().join("lab/server")), Limits::default()).unwrap();
    let bound = gate.bind(&"127.0.0.1:0".parse().unwrap()).unwrap();
    let at = bound.at().to_string();
    let pool = Pool::start(Config::new(env!("CARGO_PKG_VERSION"), 1), None).unwrap();
    pool.serve(bound, Routes::default());
    let (told, news) = std::sync::mpsc::channel();
    pool.watch(move |it| {
        let _ = told.send(it.to_string());
    });
    let args = |tls| {
        [
            "worker",
            "--connect",
            &at,
            "--tls",
            tls,
            "--reach-within",
            "1s",
        ]
        .map(str::to_owned)
    };
    let refused = |tls| {
        let args = args(tls);
        let args: Vec<_> = args.iter().map(String::as_str).collect();
        project.fails(3, &args).stderr
    };
    let viewer = refused("lab/clients/viewer");
    assert!(
        viewer.contains("may not call Workers/Join, which needs the role worker"),
        "{viewer}"
    );
    assert!(
        viewer.contains("`dagrun cluster cert NAME --role worker` makes one with it"),
        "{viewer}"
    );
    let plain = project.fails(3, &["worker", "--connect", &at, "--reach-within", "1s"]);
    assert!(
        plain.stderr.contains("speaks TLS alone"),
        "{}",
        plain.stderr
    );
    assert!(plain.stderr.contains("--tls DIR"), "{}", plain.stderr);

    let start = |tls| {
        let mut command = project.command(&[]);
        command.args(args(tls)).stderr(Stdio::null());
        command.spawn().unwrap()
    };
    let mut one = start("lab/clients/w1");
    let mut two = start("lab/clients/worker");
    wait_for(&pool, 2);
    project.ok(&["cluster", "revoke", "w1", "--dir", "lab"]);
    wait_for(&pool, 1);
    let again = refused("lab/clients/w1");
    assert!(again.contains("certificate `w1` was revoked"), "{again}");
    assert_eq!(pool.workers(), 1);
    one.kill().unwrap();
    one.wait().unwrap();
    // The last words of one that goes in order get out by TLS too: it is not taken for lost.
    signal(&two, "TERM");
    assert!(two.wait().unwrap().success());
    wait_for(&pool, 0);
    let last = news.try_iter().last().unwrap();
    assert!(last.ends_with(" left"), "{last}");
}

/// Who is refused is told what is needed, and is in the coordinator's log.
#[test]
fn refusals_are_in_the_log_of_the_coordinator() {
    let project = cluster();
    project.write("pipeline.yaml", "jobs: {a: {run: 'true'}}\n");
    let file = project.dir().join("serve.log");
    let log = || std::fs::read_to_string(&file).unwrap();
    let mut serve = project.command(&[
        "serve",
        "--listen",
        "127.0.0.1:0",
        "--tls",
        "lab/server",
        "--state",
        "state",
    ]);
    let serve = serve
        .stdout(std::fs::File::create(&file).unwrap())
        .stderr(
            std::fs::OpenOptions::new()
                .append(true)
                .open(&file)
                .unwrap(),
        )
        .spawn()
        .unwrap();
    let serve = Ends(serve);
    let began = Instant::now();
    let at = loop {
        let log = log();
        if let Some((_, rest)) = log.split_once("127.0.0.1:") {
            let port: String = rest.chars().take_while(char::is_ascii_digit).collect();
            if rest.len() > port.len() {
                break format!("127.0.0.1:{port}");
            }
        }
        assert!(began.elapsed() < Duration::from_secs(20), "{log}");
        std::thread::sleep(Duration::from_millis(20));
    };
    for role in ["viewer", "worker"] {
        let tls = format!("lab/clients/{role}");
        let said = project.fails(3, &["pipeline.yaml", "--on", &at, "--tls", &tls]);
        assert!(said.stderr.contains("role `submit`"), "{}", said.stderr);
    }
    project.ok(&["cluster", "init", "other", "--name", "other", "--host", "x"]);
    // It believes the server, and the server does not believe it.
    let other = project.dir().join("other/clients/viewer/ca.pem");
    std::fs::copy(project.dir().join("lab/clients/viewer/ca.pem"), other).unwrap();
    project.fails(
        3,
        &[
            "cluster",
            "status",
            "--on",
            &at,
            "--tls",
            "other/clients/viewer",
        ],
    );
    let log = log();
    for words in [
        "refused a call",
        "/dagrun.cluster.v1.Blobs/",
        "`viewer`",
        "refused a connection",
    ] {
        assert!(log.contains(words), "{words}\n{log}");
    }
    drop(serve);
}

/// A process that ends with the test.
struct Ends(std::process::Child);

impl Drop for Ends {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
