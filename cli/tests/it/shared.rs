//! Shared caches: what one machine made is a hit on another, and no trouble there fails a run.

use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use dagrun_testkit::{AZURITE_ACCOUNT, Asked, BUCKET, BucketServer, FaultProxy, Mishap, skip};

use crate::kit::Project;

/// Three nodes and one that reads what they made, which is exported.
const PIPELINE: &str = "
dagrun: 1
name: shared
jobs:
  make:
    matrix: {n: [1, 2, 3]}
    outputs: {out: out.txt}
    run: echo \"value ${{ matrix.n }}\" > out.txt; echo \"made ${{ matrix.n }}\"
  sum:
    needs: make
    inputs: {parts: \"${{ needs.make.outputs.out }}\"}
    outputs: {sum: sum.txt}
    run: cat ${{ inputs.parts }} > sum.txt
export:
  result.txt: ${{ jobs.sum.outputs.sum }}
";

/// Another reader of what `make` made, which was never made before.
fn with_another_reader() -> String {
    PIPELINE.replace("cat ${{", "sort -r ${{")
}

/// A machine: a project with a cache of its own, and a shared one behind it.
struct Machine {
    project: Project,
    shared: String,
}

impl Machine {
    fn new(shared: &str) -> Self {
        Self::with(shared, PIPELINE)
    }

    fn with(shared: &str, pipeline: &str) -> Self {
        Self {
            project: Project::new(pipeline),
            shared: shared.into(),
        }
    }

    fn run(&self, more: &[&str]) -> crate::kit::Said {
        let mut args = vec!["run", "--cache", &self.shared];
        args.extend(more);
        self.project.ok(&args)
    }

    fn write(&self) -> crate::kit::Said {
        self.run(&["--cache-mode", "read-write"])
    }

    fn here(&self, args: &[&str]) -> crate::kit::Said {
        let mut all = args.to_vec();
        all.extend(["--cache", &self.shared]);
        self.project.ok(&all)
    }

    fn result(&self) -> String {
        self.project.read("result.txt")
    }

    fn blobs(&self) -> usize {
        files(&self.project.cache().join("blobs")).len()
    }
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        match entry.path().is_dir() {
            true => found.extend(files(&entry.path())),
            false => found.push(entry.path()),
        }
    }
    found
}

/// A folder that machines share.
fn folder() -> (tempfile::TempDir, PathBuf, String) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("shared");
    let url = format!("file://{}", path.display());
    (folder, path, url)
}

const SUM: &str = "value 1\nvalue 2\nvalue 3\n";

#[test]
fn what_one_machine_made_is_a_hit_on_another() {
    let (_folder, path, url) = folder();
    let maker = Machine::new(&url);
    maker.write().has("4 results uploaded").has_not("warning");
    assert_eq!(files(&path.join("actions")).len(), 4);

    let other = Machine::new(&url);
    other.run(&[]).has("4 results found").has_not("warning");
    assert_eq!(other.project.counts(), [0, 4, 0, 0, 0]);
    assert_eq!(other.project.executed(), 0);
    assert_eq!(other.result(), SUM);
    assert_eq!(other.blobs(), 1, "only what is exported came");
    // A log and an output that nobody has asked for come when they are wanted.
    other.here(&["get", "make[n=2]", "got"]);
    assert_eq!(other.project.read("got/out.txt"), "value 2\n");
    // Once it is here, it is not asked for there.
    other.run(&[]).has_not("found");
    assert_eq!(other.project.counts(), [0, 4, 0, 0, 0]);
}

#[test]
fn a_node_that_runs_fetches_what_it_reads() {
    let (_folder, _, url) = folder();
    Machine::new(&url).write();
    // In this process, and in others that ask it.
    for more in [&[] as &[&str], &["--workers", "2"]] {
        let other = Machine::with(&url, &with_another_reader());
        other.run(more).has("3 results found");
        assert_eq!(other.project.counts(), [1, 3, 0, 0, 0]);
        assert_eq!(other.result(), "value 3\nvalue 2\nvalue 1\n");
    }
}

#[test]
fn blobs_that_are_gone_or_wrong_there_are_made_again() {
    for spoil in [
        (|path: &Path| fs::remove_file(path).unwrap()) as fn(&Path),
        |path| fs::write(path, "poison!\n").unwrap(),
        |path| fs::write(path, "").unwrap(),
    ] {
        let (_folder, path, url) = folder();
        Machine::new(&url).write();
        for blob in files(&path.join("blobs")) {
            spoil(&blob);
        }
        let other = Machine::with(&url, &with_another_reader());
        other.run(&[]);
        assert_eq!(other.result(), "value 3\nvalue 2\nvalue 1\n");
        // An export whose bytes are not to be had is no hit either.
        let same = Machine::new(&url);
        same.run(&[]);
        assert_eq!(same.result(), SUM);
    }
}

#[test]
fn reading_is_the_default_and_off_is_off() {
    let (_folder, path, url) = folder();
    fs::create_dir(&path).unwrap();
    Machine::new(&url).run(&[]).has_not("uploaded");
    assert!(files(&path).is_empty());
    Machine::new(&url).write();
    let off = Machine::new(&url);
    off.run(&["--cache-mode", "off"]).has_not("found");
    assert_eq!(off.project.executed(), 4);
}

#[test]
fn the_environment_and_settings_name_it_too() {
    let (_folder, path, url) = folder();
    let project = Project::new(PIPELINE);
    project.write(
        "dagrun.toml",
        &format!("[cache]\nshared = \"{url}\"\nmode = \"read-write\"\npatience = \"5s\"\n"),
    );
    project.ok(&["run"]);
    assert_eq!(files(&path.join("actions")).len(), 4);
    let settings = project.json(&["settings", "--json"]);
    assert_eq!(settings["cache.shared"]["value"], url);
    assert_eq!(
        settings["cache.trust"]["value"],
        "everybody who can write there"
    );
    assert_eq!(settings["cache.mode"]["value"], "read-write");
    let flag = project.json(&["settings", "--json", "--cache-mode", "off"]);
    assert_eq!(flag["cache.mode"]["origin"], "flag --cache-mode");

    // As the address of the shared cache, the variable leaves the folder as it was.
    let other = Project::new(PIPELINE);
    let mut command = other.command(&["run", "--cache"]);
    command.arg(other.cache()).env("DAGRUN_CACHE", &url);
    let output = command.output().unwrap();
    assert!(output.status.success());
    assert!(other.cache().join("VERSION").is_file());
    assert_eq!(other.executed(), 0);
}

#[test]
fn only_signed_results_count_where_keys_are_trusted() {
    let (_folder, _, url) = folder();
    let stranger = Machine::new(&url);
    stranger.write();

    let maker = Machine::new(&url);
    let public = maker.project.ok(&["cache", "keygen", "keys"]).stdout;
    let settings = format!("[cache]\ntrust = [\"{}\"]\n", public.trim());
    maker.project.write("dagrun.toml", &settings);
    // What the stranger made does not count, so it is made here, and signed by a key from the environment.
    let key = maker.project.read("keys/cache.key");
    let mut command = maker.project.command(&["run", "--cache", &url]);
    let output = command
        .env("DAGRUN_CACHE_MODE", "read-write")
        .env("DAGRUN_CACHE_SIGN", "env:A_SECRET_OF_CI")
        .env("A_SECRET_OF_CI", &key)
        .output()
        .unwrap();
    let said = crate::kit::said(output);
    said.has("not signed by a key that is trusted")
        .has("4 results uploaded")
        .has_not(key.lines().nth(1).unwrap());
    assert_eq!((said.code, maker.project.executed()), (0, 4));

    let reader = Machine::new(&url);
    reader.project.write("dagrun.toml", &settings);
    reader.run(&[]).has("4 results found").has_not("warning");
    assert_eq!(reader.project.executed(), 0);
}

#[test]
fn whole_caches_are_pushed_and_pulled() {
    let (_folder, _, url) = folder();
    let maker = Machine::new(&url);
    maker.project.ok(&["run"]);
    let pushed = maker.here(&["cache", "push", "--json"]).stdout;
    let pushed: serde_json::Value = serde_json::from_str(&pushed).unwrap();
    assert_eq!(
        (&pushed["results"], &pushed["complete"]),
        (&4.into(), &true.into())
    );

    let other = Machine::new(&url);
    other.here(&["cache", "pull"]).has("4 results are here");
    let stat = other.here(&["cache", "stat", "--json"]).stdout;
    let stat: serde_json::Value = serde_json::from_str(&stat).unwrap();
    assert_eq!(stat["entries"], 4);
    assert_eq!(stat["shared"]["entries"], 4);
    assert_eq!(stat["shared"]["blobs"], stat["blobs"]);
    other.project.ok(&["run"]);
    assert_eq!(other.project.executed(), 0);
}

#[test]
fn what_is_no_cache_says_what_to_write() {
    let project = Project::new(PIPELINE);
    project
        .fails(2, &["run", "--cache", "s4://bucket"])
        .has("s3://bucket/prefix");
    project
        .fails(2, &["run", "--cache", "s3://id:secret@bucket"])
        .has("credentials come from the environment")
        .has_not("id:secret");
    project
        .fails(2, &["cache", "push"])
        .has("there is no shared cache")
        .has("--cache s3://");
    project.write("dagrun.toml", "[cache]\ntrust = [\"rsa:1\"]\n");
    project.fails(3, &["run"]).has("cache keygen");
    project.write("dagrun.toml", "[cache]\nsharde = \"s3://b\"\n");
    project.fails(3, &["run"]).has("unknown key `cache.sharde`");
}

#[test]
fn a_folder_that_is_not_mounted_is_left_out_with_a_warning() {
    let machine = Machine::new("file:///nowhere/that/is/mounted");
    machine.run(&[]).has("the shared cache is left out");
    assert_eq!(machine.project.executed(), 4);
}

/// A machine that talks to S3.
fn on_s3(endpoint: &str, args: &[&str]) -> (Project, crate::kit::Said) {
    let project = Project::new(PIPELINE);
    let mut command = project.command(&["run"]);
    let output = command
        .args(args)
        .args(["--cache", &format!("s3://{BUCKET}/team")])
        .env("AWS_ENDPOINT_URL", endpoint)
        .env("AWS_ACCESS_KEY_ID", "test")
        .env("AWS_SECRET_ACCESS_KEY", "test")
        .output()
        .unwrap();
    (project, crate::kit::said(output))
}

#[test]
fn a_run_over_azure_finds_what_another_made() {
    let server = skip!("Azure", BucketServer::azurite());
    let (account, key) = AZURITE_ACCOUNT;
    let run = |args: &[&str]| {
        let project = Project::new(PIPELINE);
        let mut command = project.command(&["run"]);
        let output = command
            .args(args)
            .args(["--cache", &format!("az://{BUCKET}/team")])
            .env(
                "AZURE_STORAGE_ENDPOINT",
                format!("{}/{account}", server.url()),
            )
            .env("AZURE_STORAGE_ACCOUNT_NAME", account)
            .env("AZURE_STORAGE_ACCOUNT_KEY", key)
            .output()
            .unwrap();
        (project, crate::kit::said(output))
    };
    let (maker, said) = run(&["--cache-mode", "read-write"]);
    said.has("4 results uploaded").has_not("warning");
    assert_eq!((said.code, maker.executed()), (0, 4));
    let (reader, said) = run(&[]);
    said.has("4 results found").has_not("warning");
    assert_eq!((said.code, reader.executed()), (0, 0));
    assert_eq!(reader.read("result.txt"), SUM);
}

#[test]
fn f52_a_run_over_s3_that_fails_in_every_way_ends_well() {
    let moto = skip!("F52", BucketServer::moto());
    let (maker, said) = on_s3(&moto.url(), &["--cache-mode", "read-write"]);
    said.has("4 results uploaded").has_not("warning");
    assert_eq!((said.code, maker.executed()), (0, 4));

    // Every third request fails at first, each in its own way.
    let troubled = FaultProxy::start(moto.address(), |asked: &Asked| match asked.before {
        0 => [
            Mishap::Status(503, "SlowDown"),
            Mishap::Reset,
            Mishap::Short(10),
            Mishap::Flip,
            Mishap::None,
        ][asked.path.len() % 5]
            .clone(),
        _ => Mishap::None,
    });
    let (reader, said) = on_s3(&troubled.url(), &[]);
    assert_eq!(said.code, 0, "{said:?}");
    assert_eq!(reader.read("result.txt"), SUM);
    assert!(reader.executed() <= 4);

    // Down, forbidding, silent: the run makes everything itself, in bounded time.
    for mishap in [
        Mishap::Status(503, "SlowDown"),
        Mishap::Status(403, "AccessDenied"),
        Mishap::Hang,
    ] {
        let proxy = FaultProxy::start(moto.address(), move |_| mishap.clone());
        let project = Project::new(PIPELINE);
        project.write("dagrun.toml", "[cache]\npatience = \"2s\"\n");
        let began = Instant::now();
        let mut command = project.command(&["run", "--cache-mode", "read-write", "--cache"]);
        let output = command
            .arg(format!("s3://{BUCKET}/team"))
            .env("AWS_ENDPOINT_URL", proxy.url())
            .env("AWS_ACCESS_KEY_ID", "test")
            .env("AWS_SECRET_ACCESS_KEY", "test")
            .output()
            .unwrap();
        let said = crate::kit::said(output);
        said.has("warning");
        assert_eq!((said.code, project.executed()), (0, 4), "{said:?}");
        assert_eq!(project.read("result.txt"), SUM);
        assert!(began.elapsed() < Duration::from_secs(60), "{said:?}");
    }
}
