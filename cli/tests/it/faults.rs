//! Damage to caches and journals, full disks, system calls that fail or kill.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use dagrun_testkit::{
    ClusterSettings, Fault, Fs, Loss, PowerCut, Pty, SmallDisk, Subject, TestCluster, Traced,
    require_program, skip,
};

use crate::kit::{Project, dagrun, said};

const CHAIN: &str = r#"
dagrun: 1
name: chain
jobs:
  one:
    outputs: {o: o.txt}
    run: seq 1 100 > ${{ outputs.o }}
  two:
    needs: one
    inputs: {o: "${{ needs.one.outputs.o }}"}
    outputs: {o: o2.txt}
    run: grep -c 7 ${{ inputs.o }} > ${{ outputs.o }}; echo some text >&2
  three:
    needs: [one, two]
    inputs: {one: "${{ needs.one.outputs.o }}", two: "${{ needs.two.outputs.o }}"}
    outputs: {o: o3.txt}
    run: cat ${{ inputs.two }} ${{ inputs.one }} > ${{ outputs.o }}
export:
  three.txt: ${{ jobs.three.outputs.o }}
"#;

fn blobs(project: &Project) -> Vec<PathBuf> {
    let mut found = Vec::new();
    walk(&project.cache().join("blobs"), &mut found);
    found.sort();
    found
}

fn walk(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            walk(&path, found)
        } else {
            found.push(path)
        }
    }
}

fn replace(path: &Path, bytes: &[u8]) {
    fs::remove_file(path).unwrap();
    fs::write(path, bytes).unwrap();
}

type Damage = fn(&[u8]) -> Vec<u8>;

#[test]
fn damaged_blobs_are_found_before_use_and_healed() {
    let damages: [(&str, Damage); 3] = [
        ("truncated", |bytes| bytes[..bytes.len() / 2].to_vec()),
        ("empty", |_| Vec::new()),
        ("flipped", |bytes| {
            let mut bytes = bytes.to_vec();
            bytes[0] ^= 1;
            bytes
        }),
    ];
    for (name, damage) in damages {
        let project = Project::new(CHAIN);
        project.ok(&["run"]);
        let whole = project.read("three.txt");
        for path in blobs(&project) {
            let bytes = fs::read(&path).unwrap();
            if !bytes.is_empty() {
                replace(&path, &damage(&bytes));
            }
        }
        fs::remove_file(project.dir().join("three.txt")).unwrap();
        // A new recipe for `two` must read what `one` made.
        let text = project
            .read("pipeline.yaml")
            .replace("grep -c 7", "grep -c 8");
        project.write("pipeline.yaml", &text);
        project
            .ok(&["run"])
            .has("was damaged and has been moved to")
            .has("are made again");
        assert_eq!(
            project.read("three.txt").lines().count(),
            whole.lines().count(),
            "{name}"
        );
        assert!(
            project.read("three.txt").starts_with("19\n1\n2\n"),
            "{name}"
        );
    }
}

#[test]
fn evicted_blobs_are_made_again_when_they_are_read() {
    let project = Project::new(CHAIN);
    project.ok(&["run"]);
    let whole = project.read("three.txt");
    fs::remove_dir_all(project.cache().join("blobs")).unwrap();
    project.ok(&["run"]);
    assert_eq!(
        project.executed(),
        0,
        "the file is exported already, and digests are enough for hits"
    );
    fs::remove_file(project.dir().join("three.txt")).unwrap();
    project.ok(&["run"]);
    assert_eq!(project.read("three.txt"), whole);
    assert_eq!(
        project.counts(),
        [3, 0, 0, 0, 0],
        "all three are made again"
    );
}

#[test]
fn a_damaged_journal_is_refused_with_the_remedy_and_a_torn_one_is_not() {
    let project = Project::new(CHAIN);
    project.ok(&["run"]);
    let journal = journal_of(&project);
    let whole = fs::read(&journal).unwrap();
    fs::write(&journal, &whole[..whole.len() - 3]).unwrap();
    let torn = project.ok(&["show"]);
    assert_eq!(
        torn.stderr.matches("cut off at byte").count(),
        1,
        "{torn:?}"
    );
    torn.has("3 succeeded");
    let mut flipped = whole.clone();
    let middle = whole.len() / 2;
    flipped[middle] ^= 0x10;
    fs::write(&journal, &flipped).unwrap();
    project.fails(3, &["show"]).has("dagrun journal repair");
    project.ok(&["journal", "repair"]);
    project.ok(&["show"]);
    fs::write(&journal, &whole).unwrap();
    project.ok(&["show"]);
}

fn journal_of(project: &Project) -> PathBuf {
    let mut runs: Vec<PathBuf> = fs::read_dir(project.dir().join(".dagrun/runs"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    runs.sort();
    runs.pop().unwrap().join("journal.log")
}

/// Runs a subject with a fault, up to what it has reported until then.
fn run_with(fault: &Fault, subject: &mut Subject) -> Traced {
    let args = subject.run_args();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let traced = fault.run_with(dagrun(), &args, |command| subject.prepare(command));
    subject.note();
    traced.expect("strace can be had")
}

/// Kills a run at the N-th of some system calls of each of its threads, for every N that there is, and goes on.
///
/// The thread that comes first to its N-th is the one that is hit; the folders that a first run makes are synced by
/// another thread than results are, so `warm` says whether they are there already.
fn kill_sweep(calls: &str, warm: bool) -> u32 {
    let mut injected = 0;
    let root = tempfile::tempdir().unwrap();
    let mut subject = Subject::new(dagrun(), root.path(), root.path(), 2).unwrap();
    if warm {
        subject.recover().unwrap();
    }
    for when in 1.. {
        let cold = tempfile::tempdir().unwrap();
        if warm {
            subject.next_round();
        } else {
            subject = Subject::new(dagrun(), cold.path(), cold.path(), 2).unwrap();
        }
        let fault = Fault {
            calls: calls.into(),
            effect: "signal=KILL".into(),
            when: when.to_string(),
            path: None,
        };
        let traced = run_with(&fault, &mut subject);
        if let Err(lost) = subject.recover() {
            panic!("{calls} {when}: {lost}");
        }
        if !traced.injected {
            break;
        }
        injected += 1;
    }
    injected
}

#[test]
fn a_kill_at_any_sync_or_rename_loses_nothing() {
    skip!(
        "a_kill_at_any_sync_or_rename_loses_nothing",
        require_program("strace")
    );
    for (calls, warm, least) in [
        ("fsync", false, 12),
        ("fsync", true, 6),
        ("fdatasync", true, 3),
        ("rename,renameat,renameat2", false, 2),
        ("rename,renameat,renameat2", true, 2),
    ] {
        let met = kill_sweep(calls, warm);
        // So many that the sweep is none of nothing; results of short runs share their syncs.
        assert!(met >= least, "{calls} {warm}: {met}");
    }
}

#[test]
fn a_kill_at_any_write_loses_nothing() {
    skip!(
        "a_kill_at_any_write_loses_nothing",
        require_program("strace")
    );
    // The log of results is written by another call than all else.
    for (calls, least) in [("write", 10), ("pwrite64", 3)] {
        let met = kill_sweep(calls, true);
        assert!(met >= least, "{calls}: {met}");
    }
}

/// The results of the sweep's subject that are too large to travel inside the log of results.
fn large_blobs(width: u64) -> Vec<PathBuf> {
    let root = tempfile::tempdir().unwrap();
    let mut subject = Subject::new(dagrun(), root.path(), root.path(), width).unwrap();
    subject.recover().unwrap();
    let mut blobs = Vec::new();
    walk(&root.path().join("cache/blobs"), &mut blobs);
    blobs.retain(|blob| fs::metadata(blob).unwrap().len() > 16 << 10);
    let below = |blob: PathBuf| blob.strip_prefix(root.path()).unwrap().to_path_buf();
    blobs.into_iter().map(below).collect()
}

/// A large blob gets its name, is synced, and then its folder is: a run dies at, or has an error from, each of these in turn.
#[test]
fn a_fault_at_any_step_of_a_large_blob_loses_nothing() {
    skip!(
        "a_fault_at_any_step_of_a_large_blob_loses_nothing",
        require_program("strace")
    );
    let blobs = large_blobs(2);
    assert_eq!(blobs.len(), 3, "{blobs:?}");
    for blob in &blobs {
        let folder = blob.parent().unwrap();
        for (call, path, effect) in [
            ("renameat2", blob.as_path(), "signal=KILL"),
            ("renameat2", blob, "error=EIO"),
            ("fsync", blob, "signal=KILL"),
            ("fsync", blob, "error=EIO"),
            ("fsync", folder, "signal=KILL"),
            ("fsync", folder, "error=EIO"),
        ] {
            let root = tempfile::tempdir().unwrap();
            let mut subject = Subject::new(dagrun(), root.path(), root.path(), 2).unwrap();
            let fault = Fault {
                calls: call.into(),
                effect: effect.into(),
                when: "1".into(),
                path: Some(root.path().join(path)),
            };
            let traced = run_with(&fault, &mut subject);
            assert!(traced.injected, "no {call} of {path:?}");
            let said = said(traced.output);
            if call == "fsync" && effect == "error=EIO" {
                assert_eq!(said.code, 3, "{said:?}");
                said.has("Input/output error");
            }
            assert_ne!(said.code, 0, "{said:?}");
            let ran = subject.recover().unwrap_or_else(|lost| {
                panic!("{call} of {path:?} with {effect}: {lost}");
            });
            // Until all steps are done it is nobody's result.
            let digest = blob.iter().rev().take(2).map(|part| part.to_str().unwrap());
            let digest: String = digest.collect::<Vec<_>>().into_iter().rev().collect();
            assert!(
                ran.contains(&digest),
                "{call} of {path:?} with {effect}: {ran:?}"
            );
        }
    }
}

#[test]
fn a_failing_sync_ends_the_run_and_claims_nothing() {
    skip!(
        "a_failing_sync_ends_the_run_and_claims_nothing",
        require_program("strace")
    );
    let mut failed = 0;
    // The store's own test takes each of its syncs in turn.
    for when in (1..).step_by(2) {
        let root = tempfile::tempdir().unwrap();
        let mut subject = Subject::new(dagrun(), root.path(), root.path(), 2).unwrap();
        subject.recover().unwrap();
        subject.next_round();
        let fault = Fault {
            calls: "fsync,fdatasync".into(),
            effect: "error=EIO".into(),
            when: when.to_string(),
            path: None,
        };
        let traced = run_with(&fault, &mut subject);
        let said = said(traced.output);
        if !traced.injected {
            assert_eq!(said.code, 0, "{said:?}");
            break;
        }
        let failing = &traced.failed;
        match said.code {
            // The files of small results are synced last, when the store is closed: their bytes lie in the log, and who opens it
            // next does it again.
            0 => assert!(
                failing.iter().all(|call| call.contains("/blobs/")),
                "{when}: {failing:?}"
            ),
            // The result is safe, and its copy in the project is said to be missing.
            1 => _ = said.has("not exported"),
            code => {
                assert_eq!(code, 3, "{when}: {said:?}, {failing:?}");
                said.has("Input/output error");
                failed += 1;
            }
        }
        // What was reported was durable before the sync that failed.
        if let Err(lost) = subject.recover() {
            panic!("{when}: {lost}");
        }
    }
    assert!(failed > 1, "only {failed} syncs failed");
}

/// What was reported before the power went is there when it is back, with the right bytes.
fn power_cuts(fs: Fs, mib: u64) {
    let cut = skip!("power_cuts", PowerCut::new(fs, mib));
    let beside = tempfile::tempdir().unwrap();
    let mut subject = Subject::new(dagrun(), cut.path(), beside.path(), 6).unwrap();
    let mut reported = 0;
    for loss in Loss::ALL {
        for wanted in [2, 7, 12] {
            let mut child = subject.run().spawn().unwrap();
            while subject.note() < wanted && child.try_wait().unwrap().is_none() {
                std::thread::sleep(std::time::Duration::from_millis(1));
            }
            reported += subject.note();
            cut.cut(loss);
            let _ = child.kill();
            child.wait().unwrap();
            cut.restore();
            if let Err(lost) = subject.recover() {
                panic!("{fs:?} {loss:?} after {wanted}: {lost}");
            }
            subject.next_round();
        }
    }
    assert!(reported >= 60, "{reported}");
}

#[test]
fn a_power_cut_on_ext4_takes_nothing_that_was_reported() {
    power_cuts(Fs::Ext4, 256);
}

#[test]
fn a_power_cut_on_xfs_takes_nothing_that_was_reported() {
    power_cuts(Fs::Xfs, 320);
}

#[test]
fn a_full_disk_is_told_and_survived() {
    // Needs root and a file system that can be mounted.
    let disk = skip!(
        "a_full_disk_is_told_and_survived",
        SmallDisk::new(1 << 20, None)
    );
    let project = Project::new(
        "dagrun: 1\nname: big\njobs:\n  a:\n    outputs: {o: o.bin}\n    run: head -c 3000000 /dev/zero | tr '\\0' x > ${{ outputs.o }}\n",
    );
    let output = project
        .command(&["run"])
        .env("DAGRUN_CACHE", disk.path().join("cache"))
        .output()
        .unwrap();
    let full = said(output);
    assert_ne!(full.code, 0);
    full.has("disk full");
    // On a disk with room it goes on.
    project.ok(&["run"]);
    project.ok(&["cache", "verify"]);
}

/// What ails a place, how it is mended, and words that the message has beside the path.
type Ailment = (fn(&SmallDisk), fn(&SmallDisk), &'static [&'static str]);

/// A run whose cache or whose workspace has no room, no inodes, or may not be written.
#[test]
fn places_without_room_are_named_and_used_again_when_they_have_it() {
    let ailments: [Ailment; 3] = [
        (
            |disk| drop(disk.fill()),
            |disk| fs::remove_file(disk.path().join("filler")).unwrap(),
            &["No space left", "disk full"],
        ),
        (
            |disk| while fs::write(disk.path().join(unique()), "").is_ok() {},
            |disk| remove_all(disk.path(), "file-"),
            &["No space left", "disk full"],
        ),
        (
            |disk| disk.remount("ro"),
            |disk| disk.remount("rw"),
            &["Read-only", "read-only", "cannot be written"],
        ),
    ];
    for (ail, mend, words) in ailments {
        for place in ["cache", "p"] {
            let disk = skip!(
                "places_without_room_are_named_and_used_again_when_they_have_it",
                SmallDisk::new(1 << 20, Some(400))
            );
            let project = Project::new(CHAIN);
            let moved = project.folder.path().join(place);
            project.ok(&["plan"]);
            // The place moves to the small disk, and is found there by a link.
            let target = disk.path().join(place);
            let copied = Command::new("cp")
                .arg("-a")
                .args([&moved, &target])
                .status();
            assert!(copied.unwrap().success());
            fs::remove_dir_all(&moved).unwrap();
            std::os::unix::fs::symlink(&target, &moved).unwrap();
            ail(&disk);
            let ailing = project.say(&["run"]);
            assert!(matches!(ailing.code, 1 | 3), "{place}: {ailing:?}");
            assert!(
                words.iter().any(|word| ailing.stderr.contains(word)),
                "{place} {words:?}: {ailing:?}"
            );
            let paths = [
                disk.path().display().to_string(),
                moved.display().to_string(),
                "`./.dagrun".into(),
                "three.txt".into(),
            ];
            assert!(
                paths.iter().any(|path| ailing.stderr.contains(path)),
                "{place}: {ailing:?}"
            );
            mend(&disk);
            project.ok(&["run"]);
            assert!(project.read("three.txt").starts_with("19\n1\n"));
            project.ok(&["cache", "verify"]);
        }
    }
}

/// A name that no file has.
fn unique() -> String {
    static COUNT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
    let count = COUNT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    format!("file-{count}")
}

fn remove_all(folder: &Path, prefix: &str) {
    for entry in fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        if entry.file_name().to_string_lossy().starts_with(prefix) {
            fs::remove_file(entry.path()).unwrap();
        }
    }
}

/// The declared memory is held, what a node had is told, and it gets more where it says so, up to what there is.
#[test]
fn a_node_out_of_memory_gets_more_where_it_asks_for_it() {
    // Without a cgroup memory is looked at now and then: it is held for long enough.
    let eats = |name: &str, more: &str| {
        format!(
            "  {name}:\n    resources: {{memory: 64 MiB}}\n    outputs: {{o: o.txt}}\n{more}    run: |\n      \
             python3 -c 'import time; x = b\"x\" * (100 << 20); time.sleep(1); print(len(x), \"{name}\")' > o.txt\n"
        )
    };
    let retry = "    retry: {max: 2, when: [oom], memory: 2x, backoff: 10ms}\n";
    let charged = "    retry: {max: 2, when: [exit], backoff: 10ms}\n";
    let project = Project::new(&format!(
        "dagrun: 1\nname: eaters\njobs:\n{}{}",
        eats("grows", retry),
        eats("stays", charged)
    ));
    for no_cgroup in [false, true] {
        let mut command = project.command(&["run", "--force"]);
        if no_cgroup {
            command.env("DAGRUN_NO_CGROUP", "1");
        }
        let said = said(command.output().unwrap());
        assert_eq!(said.code, 1, "{said:?}");
        said.has("FAILED stays: out of memory: limit 64.0 MiB, peak ");
        let shown = project.last_run();
        let attempts = |id: &str| {
            let mut rows = shown["nodes"].as_array().unwrap().iter();
            let row = rows.find(|row| row["id"] == id).unwrap();
            (row["outcome"].clone(), row["attempts"].clone())
        };
        assert_eq!(attempts("grows"), ("succeeded".into(), 2.into()));
        // Memory is no exit code: nothing is tried again for it here.
        assert_eq!(attempts("stays"), ("failed".into(), 1.into()));
    }
}

/// The greatest resident memory in KiB of a process, as long as it is there.
fn peak_of(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|line| line.trim().strip_suffix(" kB")?.trim().parse().ok())
        .unwrap_or(0)
}

fn children(pid: u32) -> Vec<u32> {
    let threads = fs::read_dir(format!("/proc/{pid}/task"))
        .into_iter()
        .flatten()
        .flatten();
    let text: String = threads
        .map(|thread| fs::read_to_string(thread.path().join("children")).unwrap_or_default())
        .collect();
    text.split_whitespace()
        .filter_map(|pid| pid.parse().ok())
        .collect()
}

/// F29: more takes longer and is no different, for what is kept is a ring.
#[test]
fn a_flood_of_output_costs_no_memory_and_is_shown_escaped() {
    let flood: u64 = 400_000_000;
    let project = Project::new(&format!(
        "dagrun: 1\nname: flood\njobs:\n  a:\n    run: |\n      \
         printf 'first \\033[2J\\377\\342\\200\\256\\n'; head -c {flood} /dev/zero | tr '\\0' x; printf '\\nlast\\n'; exit 4\n"
    ));
    let mut child = project.start(&["run"]);
    let (mut engine, mut spawner) = (0, 0);
    while child.try_wait().unwrap().is_none() {
        engine = peak_of(child.id()).max(engine);
        spawner = children(child.id())
            .into_iter()
            .map(peak_of)
            .fold(spawner, u64::max);
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    let told = said(child.wait_with_output().unwrap());
    assert_eq!(told.code, 1, "{told:?}");
    told.has("exit code 4").has("last");
    assert!(engine > 0 && engine < 100 << 10, "{engine} KiB");
    assert!(spawner > 0 && spawner < 100 << 10, "{spawner} KiB");
    let shown = project.say(&["log", "a"]);
    assert_eq!(
        shown.stderr,
        "standard output: 16.0 MiB of 381.5 MiB kept\n"
    );
    assert!(
        shown.stdout.starts_with("first \u{1b}[2J"),
        "a pipe gets the bytes"
    );
    assert!(shown.stdout.ends_with("x\nlast\n"));
    // One line of hundreds of megabytes, on a terminal.
    let pty = skip!(
        "a_flood_of_output_costs_no_memory_and_is_shown_escaped",
        Pty::start(&project.command(&["log", "a"]), 80, 24)
    );
    let (code, shown) = pty.wait();
    assert_eq!(code, 0);
    assert!(
        shown.contains("first \\u{1b}[2J\u{fffd}\\u{202e}"),
        "{:?}",
        &shown[..200]
    );
    assert!(!shown.contains("\u{1b}[2J"));
}

#[test]
fn few_file_descriptors_are_enough_or_it_says_so() {
    let project = Project::new(
        "dagrun: 1\nname: many\njobs:\n  a:\n    matrix: {i: \"${{ range(1, 2000) }}\"}\n    run: [\"true\", \"${{ matrix.i }}\"]\n",
    );
    let mut command = Command::new("sh");
    project.prepare(&mut command);
    let output = command
        .args([
            "-c",
            &format!("ulimit -n 64; exec {} run -j 8", dagrun().display()),
        ])
        .output()
        .unwrap();
    let said = said(output);
    if said.code == 0 {
        assert_eq!(project.counts()[0], 2000);
    } else {
        assert_eq!(said.code, 3, "{said:?}");
        said.has("file");
    }
    project.ok(&["run"]);
}

#[test]
fn an_input_that_changes_while_a_node_runs_is_not_cached() {
    let project = Project::new("");
    let dir = project.dir().display().to_string();
    project.write(
        "pipeline.yaml",
        &format!(
            "dagrun: 1\nname: racing\njobs:\n  a:\n    inputs: [data.txt]\n    outputs: {{o: o.txt}}\n    run: |\n      \
             cp data.txt ${{{{ outputs.o }}}}\n      if [ -e {dir}/race ]; then echo changed > {dir}/data.txt; fi\n"
        ),
    );
    project.write("data.txt", "before\n");
    project.write("race", "");
    project.fails(1, &["run"]).has("data.txt").has("changed");
    fs::remove_file(project.dir().join("race")).unwrap();
    project.ok(&["run"]);
    assert_eq!(project.executed(), 1);
}

#[test]
fn unwritable_places_are_named() {
    let project = Project::new("dagrun: 1\nname: c\njobs:\n  a:\n    run: echo\n");
    let file = project.folder.path().join("file");
    fs::write(&file, "").unwrap();
    let output = project
        .command(&["run"])
        .env("DAGRUN_CACHE", file.join("cache"))
        .output()
        .unwrap();
    let said = said(output);
    assert_eq!(said.code, 3, "{said:?}");
    said.has(&file.display().to_string());
}

#[test]
fn an_export_never_leaves_the_project_by_a_link() {
    let project = Project::new(
        "dagrun: 1\nname: out\njobs:\n  a:\n    outputs: {o: o.txt}\n    run: echo x > ${{ outputs.o }}\nexport: {link/o.txt: \"${{ jobs.a.outputs.o }}\"}\n",
    );
    let outside = project.folder.path().join("outside");
    fs::create_dir(&outside).unwrap();
    std::os::unix::fs::symlink(&outside, project.dir().join("link")).unwrap();
    project.fails(1, &["run"]).has("leads out");
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
}

#[test]
fn a_full_standard_output_is_no_success() {
    let project = Project::new(CHAIN);
    let full = || {
        fs::OpenOptions::new()
            .write(true)
            .open("/dev/full")
            .unwrap()
    };
    let status = project
        .command(&["plan", "--json"])
        .stdout(full())
        .status()
        .unwrap();
    assert_eq!(status.code(), Some(3));
}

#[test]
fn a_cache_that_is_deleted_during_a_run_can_be_used_again() {
    let project = Project::new(
        "dagrun: 1\nname: gone\njobs:\n  a:\n    matrix: {i: [1, 2, 3, 4]}\n    outputs: {o: o.txt}\n    run: sleep 0.3; echo ${{ matrix.i }} > ${{ outputs.o }}\n",
    );
    let child = project.start(&["run", "-j", "1"]);
    std::thread::sleep(std::time::Duration::from_millis(500));
    // The run puts new files into it meanwhile.
    while project.cache().exists() {
        let _ = fs::remove_dir_all(project.cache());
    }
    assert_ne!(said(child.wait_with_output().unwrap()).code, 0);
    project.ok(&["run"]);
    assert_eq!(project.counts()[0], 4);
}

/// A node whose output has no room on one worker's disk runs on another, though its author wants no retries.
#[test]
fn what_one_disk_has_no_room_for_goes_to_another_worker() {
    let test = "what_one_disk_has_no_room_for_goes_to_another_worker";
    let disk = skip!(test, SmallDisk::new(4 << 20, None));
    let mut cluster = TestCluster::here(dagrun(), 0, ClusterSettings::default());
    cluster.add_worker_at(disk.path());
    cluster.wait_for_workers(1);
    let marks = tempfile::tempdir().unwrap();
    let mark = |name: &str| marks.path().join(name);
    let project = Project::new(&format!(
        "name: big\njobs:\n  a:\n    outputs: {{o: o.bin}}\n    run: |\n      touch {0}/began$DAGRUN_ATTEMPT\n      \
         until test -e {0}/go; do sleep 0.05; done\n      head -c 8000000 /dev/zero | tr '\\0' x > o.bin\n",
        marks.path().display()
    ));
    let run = project.start(&["pipeline.yaml", "--on", &cluster.address()]);
    // It is where there is too little room before there is another place.
    cluster.wait_until("the node runs", |_| mark("began1").exists());
    cluster.add_worker();
    cluster.wait_for_workers(2);
    fs::write(mark("go"), "").unwrap();
    let done = said(run.wait_with_output().unwrap());
    assert_eq!(done.code, 0, "{done:?}\n{}", cluster.logs());
    done.has("worker w0 had too little room on its disk for a node: `")
        .has(" of 4.0 MiB free; while it is short");
    assert!(mark("began2").exists());
    assert_eq!(project.executed(), 2);
}

/// While a disk stays full its worker is passed over, and says so; alone it is tried all the same, and the failure is clear.
#[test]
fn a_worker_with_a_full_disk_is_passed_over_until_it_has_room() {
    let test = "a_worker_with_a_full_disk_is_passed_over_until_it_has_room";
    let disk = skip!(test, SmallDisk::new(4 << 20, None));
    let mut cluster = TestCluster::here(dagrun(), 0, ClusterSettings::default());
    cluster.add_worker_at(disk.path());
    cluster.wait_for_workers(1);
    let run = |cluster: &TestCluster, n: u32| {
        let project = Project::new(&format!(
            "name: big\njobs: {{a: {{outputs: {{o: o.txt}}, run: 'seq {n} 20000 > o.txt'}}}}\n"
        ));
        let mut run = project.command(&["pipeline.yaml", "--on", &cluster.address()]);
        let said = said(run.output().unwrap());
        (said, project.executed())
    };
    assert_eq!(run(&cluster, 1).0.code, 0);
    let filler = disk.fill();
    let (failed, _) = run(&cluster, 2);
    assert_eq!(failed.code, 1, "{failed:?}");
    failed.has("disk full");
    let full = |cluster: &TestCluster| cluster.status()["workers"][0]["full"].clone();
    let told = full(&cluster);
    assert_eq!(told["total_bytes"], 4 << 20, "{told}");
    let status = said(cluster.say(&["cluster", "status"]));
    assert!(status.stdout.contains("disk full: w0: `"), "{status:?}");
    // Not even tried there.
    cluster.add_worker();
    cluster.wait_for_workers(2);
    for n in 3..8 {
        let (done, attempts) = run(&cluster, n);
        assert_eq!((done.code, attempts), (0, 1), "{done:?}");
    }
    fs::remove_file(filler).unwrap();
    cluster.wait_until("there is room", |cluster| full(cluster).is_null());
    cluster.kill_worker(1);
    assert_eq!(run(&cluster, 9).0.code, 0);
}
