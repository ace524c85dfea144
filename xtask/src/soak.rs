//! `cargo xtask soak`: faults in a loop, for as long as wanted, on the release build.
//!
//! What tests do a few times, with the same tools and the same checks. The first thing that is lost or wrong ends the loop with
//! its seed, and each loop ends with a line for docs/reliability.md.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use dagrun_testkit::{ClusterSettings, Fs, Loss, PowerCut, Rounds, Subject, TestCluster, measure};

use crate::tools::{root, run};

/// What a soak is asked for.
struct Options {
    loops: u64,
    seed: u64,
}

/// Runs a kind of soak: `kill`, `cluster`, `power`, `hostile` or `flood`, with `--loops N` and `--seed N`.
pub(crate) fn soak(args: &[&str]) -> Result<(), String> {
    let [kind, rest @ ..] = args else {
        return Err("a soak needs a kind: kill, cluster, power, hostile or flood".into());
    };
    let soak: fn(&Path, &Options) -> Result<String, String> = match *kind {
        "kill" => kill,
        "cluster" => cluster,
        "power" => power,
        "hostile" => hostile,
        "flood" => flood,
        other => return Err(format!("there is no soak `{other}`")),
    };
    let options = options(rest)?;
    run("cargo", &["build", "--release", "--quiet", "-p", "dagrun"])?;
    let began = Instant::now();
    let told = soak(&root().join("target/release/dagrun"), &options)?;
    println!(
        "soak {kind}: {told}; {} s, seed {}",
        began.elapsed().as_secs(),
        options.seed
    );
    Ok(())
}

fn options(args: &[&str]) -> Result<Options, String> {
    let mut options = Options {
        loops: 100,
        seed: 1,
    };
    for pair in args.chunks(2) {
        let [flag, value] = pair else {
            return Err(format!("`{}` needs a value", pair[0]));
        };
        let number = value.parse();
        let number = number.map_err(|_| format!("`{flag} {value}`: write a number"))?;
        match *flag {
            "--loops" => options.loops = number,
            "--seed" => options.seed = number,
            other => return Err(format!("a soak has no flag `{other}`")),
        }
    }
    Ok(options)
}

/// A sequence of numbers that look random, by its seed (SplitMix64).
struct Dice(u64);

impl Dice {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % end
    }
}

fn scratch() -> tempfile::TempDir {
    tempfile::tempdir().expect("a folder for temporary files can be made")
}

/// kill -9 of the engine, of the process that runs nodes, or of both, at random moments.
fn kill(dagrun: &Path, options: &Options) -> Result<String, String> {
    let folder = scratch();
    let subject = Subject::new(dagrun, folder.path(), folder.path(), 6);
    let mut subject = subject.map_err(|error| error.to_string())?;
    let mut dice = Dice(options.seed);
    let (mut engines, mut spawners, mut reported) = (0, 0, 0);
    for number in 0..options.loops {
        let mut child = start(&subject)?;
        std::thread::sleep(Duration::from_millis(1 + dice.below(150)));
        let what = dice.below(4);
        let alive = child.try_wait().is_ok_and(|ended| ended.is_none());
        if what != 0 {
            engines += u64::from(alive);
        }
        if what < 2 {
            spawners += kill_spawner(child.id());
        }
        if what != 0 {
            let _ = child.kill();
        }
        let status = child.wait().map_err(|error| error.to_string())?;
        if what == 0 && !status.success() {
            return Err(format!(
                "loop {number}: without its spawner the run ended with {status}"
            ));
        }
        reported += subject.note() as u64;
        subject
            .recover()
            .map_err(|lost| format!("loop {number}: {lost}"))?;
        subject.next_round();
    }
    Ok(format!(
        "{} loops, {engines} engines and {spawners} spawners killed, {reported} results reported before, 0 lost, 0 run twice",
        options.loops
    ))
}

fn start(subject: &Subject) -> Result<Child, String> {
    let started = subject.run().spawn();
    started.map_err(|error| format!("cannot start dagrun: {error}"))
}

/// Kills the process that runs nodes for an engine. Gives how many there were.
fn kill_spawner(engine: u32) -> u64 {
    let threads = fs::read_dir(format!("/proc/{engine}/task"));
    let children = threads.into_iter().flatten().flatten().flat_map(|thread| {
        let text = fs::read_to_string(thread.path().join("children")).unwrap_or_default();
        text.split_whitespace()
            .map(str::to_owned)
            .collect::<Vec<_>>()
    });
    let is_spawner = |pid: &String| {
        fs::read(format!("/proc/{pid}/cmdline"))
            .is_ok_and(|line| line.split(|b| *b == 0).any(|word| word == b"__spawner"))
    };
    let spawners = children.filter(is_spawner);
    let killed = spawners.filter(|pid| {
        let done = Command::new("kill").args(["-9", pid]).status();
        done.is_ok_and(|status| status.success())
    });
    killed.count() as u64
}

/// Workers of the cluster that is killed.
const WORKERS: usize = 3;

/// kill -9 of a coordinator and of its workers, in the middle of runs; `--loops` counts kills.
fn cluster(dagrun: &Path, options: &Options) -> Result<String, String> {
    let settings = ClusterSettings {
        lease: Some("2s".into()),
        ..ClusterSettings::default()
    };
    let mut cluster = TestCluster::here(dagrun, WORKERS, settings);
    let mut rounds = Rounds::new(&cluster, 8);
    let mut dice = Dice(options.seed);
    let (mut coordinators, mut workers, mut runs) = (0, 0, 0);
    let (mut attempts, mut drivers) = (0, 0);
    while coordinators + workers < options.loops {
        let client = rounds.start(&cluster);
        for _ in 0..=dice.below(4) {
            std::thread::sleep(Duration::from_millis(dice.below(500)));
            if dice.below(3) == 0 {
                cluster.kill_coordinator();
                std::thread::sleep(Duration::from_millis(dice.below(200)));
                cluster.start_coordinator();
                coordinators += 1;
            } else {
                let worker = dice.below(WORKERS as u64) as usize;
                cluster.kill_worker(worker);
                std::thread::sleep(Duration::from_millis(dice.below(200)));
                cluster.start_worker(worker);
                workers += 1;
            }
        }
        let told = rounds.finish(&cluster, client)?;
        runs += 1;
        attempts += told.attempts;
        drivers += told.drivers;
    }
    cluster.verify_cache()?;
    Ok(format!(
        "{coordinators} coordinators and {workers} workers killed in {runs} runs of 17 nodes, {attempts} attempts by {drivers} drivers, \
         0 results lost, 0 committed twice"
    ))
}

/// Power cuts of each kind in turn, on ext4 and on XFS, at random moments.
fn power(dagrun: &Path, options: &Options) -> Result<String, String> {
    let mut dice = Dice(options.seed);
    let (mut cuts, mut reported) = (0, 0);
    for (fs, mib) in [(Fs::Ext4, 256), (Fs::Xfs, 320)] {
        let cut = PowerCut::new(fs, mib).map_err(|why| why.to_string())?;
        let beside = scratch();
        let subject = Subject::new(dagrun, cut.path(), beside.path(), 6);
        let mut subject = subject.map_err(|error| error.to_string())?;
        for number in 0..options.loops.div_ceil(2) {
            let loss = Loss::ALL[number as usize % Loss::ALL.len()];
            let mut child = start(&subject)?;
            std::thread::sleep(Duration::from_millis(20 + dice.below(120)));
            // Only what was reported before the cut counts.
            reported += subject.note() as u64;
            cut.cut(loss);
            let _ = child.kill();
            let _ = child.wait();
            cut.restore();
            cuts += 1;
            subject
                .recover()
                .map_err(|lost| format!("{fs:?} {loss:?} cut {number}: {lost}"))?;
            subject.next_round();
        }
    }
    Ok(format!(
        "{cuts} cuts, half on ext4 and half on XFS, {reported} results reported before, 0 lost"
    ))
}

/// Pieces that mean something to YAML, to templates or to the language.
const PIECES: [&str; 34] = [
    "",
    " ",
    "\n",
    "\n  ",
    "\t",
    ": ",
    "- ",
    "[",
    "]",
    "{",
    "}",
    "\"",
    "'",
    "#",
    "&a ",
    "*a",
    "!x ",
    "|\n",
    "${{ ",
    " }}",
    "null",
    "<<: *a",
    "3.10",
    "../",
    "\0",
    "\u{fc}",
    "? ",
    "---\n",
    "(",
    "range(1, 1000)",
    "*",
    "/",
    "${{ matrix.",
    "needs: ",
];

/// Damaged pipelines: each is answered, soon and in little memory.
fn hostile(dagrun: &Path, options: &Options) -> Result<String, String> {
    let folder = scratch();
    let files = ["sweep.yaml", "ci.yaml", "calibrate.yaml"]
        .map(|name| fs::read_to_string(root().join("dsl/tests/fixtures").join(name)));
    let mut texts = Vec::new();
    for file in files {
        texts.push(file.map_err(|error| format!("cannot read a fixture: {error}"))?);
    }
    let mut dice = Dice(options.seed);
    let (mut slowest, mut largest, mut refused) = (Duration::ZERO, 0, 0);
    for number in 0..options.loops {
        let text = damaged(&texts[dice.below(3) as usize], &mut dice);
        let path = folder.path().join("p.yaml");
        fs::write(&path, &text).map_err(|error| error.to_string())?;
        let mut plan = Command::new(dagrun);
        plan.current_dir(folder.path())
            .args(["plan", "p.yaml"])
            .env("DAGRUN_CACHE", folder.path().join("cache"));
        let measured = measure(&mut plan).map_err(|error| error.to_string())?;
        let code = measured.output.status.code();
        let bad = !matches!(code, Some(0..=3))
            || measured.wall > Duration::from_secs(1)
            || measured.peak > 100 << 20;
        if bad {
            let kept = keep(&path)?;
            return Err(format!(
                "file {number} (kept as {}): exit {code:?}, {:?}, {} bytes of memory",
                kept.display(),
                measured.wall,
                measured.peak
            ));
        }
        refused += u64::from(code == Some(2));
        slowest = slowest.max(measured.wall);
        largest = largest.max(measured.peak);
    }
    Ok(format!(
        "{} files, {refused} refused, 0 panics, the slowest {} ms, the most memory {} MiB",
        options.loops,
        slowest.as_millis(),
        largest >> 20
    ))
}

fn keep(path: &Path) -> Result<PathBuf, String> {
    let kept = root().join("target/soak-hostile.yaml");
    fs::copy(path, &kept).map_err(|error| error.to_string())?;
    Ok(kept)
}

/// A text with one to four of its parts replaced.
fn damaged(text: &str, dice: &mut Dice) -> String {
    let mut text = text.to_owned();
    for _ in 0..=dice.below(4) {
        let start = floor(&text, dice.below(text.len() as u64) as usize);
        let end = floor(&text, (start + dice.below(12) as usize).min(text.len()));
        let piece = PIECES[dice.below(PIECES.len() as u64) as usize];
        let times = if dice.below(8) == 0 { 1000 } else { 1 };
        text.replace_range(start..end.max(start), &piece.repeat(times));
    }
    text
}

fn floor(text: &str, mut at: usize) -> usize {
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    at
}

/// A node that writes so many hundreds of megabytes to its standard output.
fn flood(dagrun: &Path, options: &Options) -> Result<String, String> {
    let folder = scratch();
    let bytes = options.loops * 100_000_000;
    let pipeline = format!("jobs: {{a: {{run: 'head -c {bytes} /dev/zero'}}}}\n");
    let written = fs::write(folder.path().join("pipeline.yaml"), pipeline);
    written.map_err(|error| error.to_string())?;
    let mut command = Command::new(dagrun);
    command
        .current_dir(folder.path())
        .args(["run", "--quiet"])
        .env("DAGRUN_CACHE", folder.path().join("cache"))
        .stdin(Stdio::null());
    // The engine waits for its spawner, so that the greater of the two is what is measured.
    let measured = measure(&mut command).map_err(|error| error.to_string())?;
    if !measured.output.status.success() || measured.peak > 100 << 20 {
        return Err(format!("{measured:?}"));
    }
    Ok(format!(
        "{bytes} bytes of output, {:.1} s, {} MiB of memory at most",
        measured.wall.as_secs_f64(),
        measured.peak >> 20
    ))
}
