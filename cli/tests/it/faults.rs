//! Damage to caches and journals, full disks, system calls that fail or kill.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use dagrun_testkit::{SmallDisk, require_program, skip};

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
        project.ok(&["run"]);
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
    project.ok(&["show"]);
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

#[test]
fn a_kill_at_any_system_call_loses_nothing() {
    skip!(
        "a_kill_at_any_system_call_loses_nothing",
        require_program("strace")
    );
    let whole = {
        let project = Project::new(CHAIN);
        project.ok(&["run"]);
        project.read("three.txt")
    };
    let mut killed = 0;
    for (calls, most) in [
        ("fsync,fdatasync", 12),
        ("rename,renameat,renameat2", 12),
        ("pwrite64,write", 30),
    ] {
        // The later boundaries are spread out, so that the sweep ends.
        for when in (1..=most).step_by(if most > 20 { 3 } else { 1 }) {
            let project = Project::new(CHAIN);
            let mut command = Command::new("strace");
            project.prepare(&mut command);
            let output = command
                .args(["-qq", "-o", "/dev/null", "-e", &format!("trace={calls}")])
                .args(["-e", &format!("inject={calls}:signal=KILL:when={when}")])
                .arg(dagrun())
                .args(["run", "--quiet", "-j", "2"])
                .output()
                .unwrap();
            if !output.status.success() {
                killed += 1;
            }
            project.ok(&["run"]);
            assert_eq!(project.read("three.txt"), whole, "{calls} {when}");
            project.ok(&["cache", "verify"]);
        }
    }
    assert!(
        killed > 10,
        "only {killed} runs were killed: the sweep misses its target"
    );
}

#[test]
fn a_failing_sync_ends_the_run_and_claims_nothing() {
    skip!(
        "a_failing_sync_ends_the_run_and_claims_nothing",
        require_program("strace")
    );
    for when in ["1", "2", "3"] {
        let project = Project::new(CHAIN);
        let mut command = Command::new("strace");
        project.prepare(&mut command);
        let output = command
            .args([
                "-f",
                "-qq",
                "-o",
                "/dev/null",
                "-e",
                "trace=fsync,fdatasync",
            ])
            .args([
                "-e",
                &format!("inject=fsync,fdatasync:error=EIO:when={when}"),
            ])
            .arg(dagrun())
            .args(["run", "-j", "1"])
            .output()
            .unwrap();
        let said = said(output);
        assert_ne!(said.code, 0, "{said:?}");
        project.ok(&["run"]);
        project.ok(&["cache", "verify"]);
    }
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

#[test]
fn few_file_descriptors_are_enough_or_it_says_so() {
    let project = Project::new(
        "dagrun: 1\nname: many\njobs:\n  a:\n    matrix: {i: \"${{ range(1, 300) }}\"}\n    run: [\"true\", \"${{ matrix.i }}\"]\n",
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
        assert_eq!(project.counts()[0], 300);
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
