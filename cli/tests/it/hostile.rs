//! Files that are wrong on purpose: a clear error with a place, fast and small.

use crate::kit::{Project, said};

/// What a refusal may take, at most. A debug build on a machine that does other things needs more time than a release does.
const SECONDS: u64 = if cfg!(debug_assertions) { 10 } else { 1 };
const MEMORY: u64 = 100 << 20;

fn refused(pipeline: &str, words: &[&str]) {
    refused_in(&Project::new(pipeline), words);
}

fn refused_in(project: &Project, words: &[&str]) {
    let mut plan = project.command(&["plan"]);
    let measured = dagrun_testkit::measure(&mut plan).unwrap();
    assert!(
        measured.wall < std::time::Duration::from_secs(SECONDS),
        "{measured:?}"
    );
    assert!(measured.peak < MEMORY, "{measured:?}");
    let said = said(measured.output);
    assert_eq!(said.code, 2, "{said:?}");
    for word in words {
        said.has(word);
    }
    assert!(!project.exists("PWN"));
}

#[test]
fn bombs_and_depths() {
    let mut laughs = String::from("x-a: &a [1,1,1,1,1,1,1,1,1]\n");
    for (from, to) in ["a", "b", "c", "d", "e", "f", "g", "h"]
        .iter()
        .zip(["b", "c", "d", "e", "f", "g", "h", "i"])
    {
        laughs.push_str(&format!("x-{to}: &{to} [*{from},*{from},*{from},*{from},*{from},*{from},*{from},*{from},*{from}]\n"));
    }
    refused(
        &format!("{laughs}dagrun: 1\nname: bomb\njobs: {{a: {{run: [*i]}}}}\n"),
        &["pipeline.yaml"],
    );
    refused(
        &format!("dagrun: 1\nname: deep\nx-d: {}\n", "[".repeat(200_000)),
        &["pipeline.yaml"],
    );
    refused(
        &format!("dagrun: 1\nname: deep\nx-d: {}\n", "{a: ".repeat(20_000)),
        &["pipeline.yaml"],
    );
    refused(&"- ".repeat(100_000), &["pipeline.yaml"]);
}

#[test]
fn a_huge_product_is_refused_before_it_is_expanded() {
    let axes: String = (0..6)
        .map(|i| format!("      a{i}: \"${{{{ range(1, 100) }}}}\"\n"))
        .collect();
    refused(
        &format!("dagrun: 1\nname: huge\njobs:\n  a:\n    matrix:\n{axes}    run: echo\n"),
        &["a"],
    );
}

#[test]
fn places_and_remedies() {
    for (pipeline, words) in [
        (
            "dagrun: 1\nname: x\njobs:\n  a: {run: echo, needs: b}\n  b: {run: echo, needs: a}\n",
            vec!["a", "b", "cycle"],
        ),
        (
            "dagrun: 1\nname: x\njobs:\n  a: {run: echo}\n  a: {run: echo}\n",
            vec!["pipeline.yaml:5:3"],
        ),
        ("dagrun: 1\nname: x\njobs:\n\ta: {run: echo}\n", vec!["tab"]),
        (
            "dagrun: 1\nname: x\njobs:\n  a: {run: \"echo ${{ params.nope }}\"}\n",
            vec!["nope", "pipeline.yaml:4"],
        ),
        (
            "dagrun: 1\nname: x\njobs:\n  a: {run: echo, outputs: {o: ../../PWN}}\n",
            vec!["..", "pipeline.yaml:4"],
        ),
        (
            "dagrun: 1\nname: x\njobs:\n  a: {run: echo, inputs: [/etc/passwd]}\n",
            vec!["external"],
        ),
        (
            "dagrun: 1\nname: x\njobs:\n  a: {run: echo, inputs: [nowhere.txt]}\n",
            vec!["nowhere.txt"],
        ),
        ("dagrun: 1\nname: x\n", vec!["jobs"]),
        ("dagrun: 2\nname: x\njobs: {a: {run: echo}}\n", vec!["1"]),
    ] {
        refused(pipeline, &words);
    }
}

#[test]
fn all_errors_come_at_once() {
    refused(
        "dagrun: 1\nname: x\njobs:\n  a: {rum: echo}\n  b: {run: echo, need: a}\n  c: {run: \"echo ${{ nope }}\"}\n",
        &["rum", "`need`", "nope"],
    );
}

#[test]
fn a_file_that_is_no_text_or_too_large() {
    let project = Project::new("");
    std::fs::write(project.dir().join("pipeline.yaml"), b"name: \xff\xfe").unwrap();
    project.fails(2, &["plan"]).has("UTF-8");
    std::fs::write(project.dir().join("pipeline.yaml"), vec![b' '; 5 << 20]).unwrap();
    project.fails(2, &["plan"]).has("bytes");
}

/// Values that would run as code if they were pasted into a script.
#[test]
fn values_never_become_script_text() {
    let project = Project::new(
        r#"
dagrun: 1
name: injection
params: {v: {type: string}}
jobs:
  a:
    outputs: {o: o.txt}
    run: |
      printf '%s\n' ${{ params.v }} > ${{ outputs.o }}
      printf '%s\n' "${{ params.v }}" >> ${{ outputs.o }}
      printf '%s\n' '${{ params.v }}' >> ${{ outputs.o }}
export: {out.txt: "${{ jobs.a.outputs.o }}"}
"#,
    );
    let target = project.dir().join("PWN");
    let pwn = target.display();
    for value in [
        format!("x; touch {pwn}"),
        format!("$(touch {pwn})"),
        format!("`touch {pwn}`"),
        format!("\"; touch {pwn}; \""),
        format!("'; touch {pwn}; '"),
        format!("a && touch {pwn}"),
        format!("a | touch {pwn}"),
        "${HOME}".to_string(),
        "a  b\tc".to_string(),
        "*".to_string(),
        "\\".to_string(),
        "-n".to_string(),
        "é ü 漢".to_string(),
    ] {
        project.ok(&["run", "-p", &format!("v={value}")]);
        assert!(!project.exists("PWN"), "{value}");
        assert_eq!(
            project.read("out.txt"),
            format!("{value}\n{value}\n{value}\n")
        );
    }
}

#[test]
fn arguments_that_cannot_be_meant_are_refused() {
    let project = Project::new("params: {x: {type: any, default: 1}}\njobs:\n  a: {run: 'true'}\n");
    project
        .fails(2, &["run", "-j", "1000000"])
        .has("1000000 slots are too many: the most is 4096")
        .has("open files");
    project
        .fails(2, &["plan", "--only", "a["])
        .has("a selector is `job` or `job[axis=value,...]`");
    project.write("p.json", "{\"x\": 1, \"y\": {\"a\": 1, \"a\": 2}}");
    project
        .fails(2, &["plan", "--params-file", "p.json"])
        .has("p.json:1:24: `a` stands twice in this map");
}

#[test]
fn a_symlink_without_end_is_named() {
    let project = Project::new("jobs:\n  a: {inputs: [data], run: ls}\n");
    std::fs::create_dir(project.dir().join("data")).unwrap();
    std::os::unix::fs::symlink("../data", project.dir().join("data/self")).unwrap();
    let said = project.say(&["plan"]);
    assert_ne!(said.code, 0);
    said.has("data/self` is a symbolic link that leads back to itself");
}

/// A project may come from a stranger, with links and pipes in the place of dagrun's own files: nothing is written through them,
/// and nobody waits for them.
#[test]
fn what_lies_in_the_place_of_own_files_is_no_trap() {
    let pipeline = "name: p\njobs:\n  a:\n    outputs: {o: o.txt}\n    run: echo 1 > o.txt\nexport: {o.txt: \"${{ jobs.a.outputs.o }}\"}\n";
    let names = [
        "lock",
        "history.log",
        "exports.json",
        "exports.tmp",
        "hashes",
        ".gitignore",
    ];
    let traps: [fn(&std::path::Path); 3] = [
        |path| std::os::unix::fs::symlink("../../victim", path).unwrap(),
        |path| {
            let made = std::process::Command::new("mkfifo").arg(path).status();
            assert!(made.unwrap().success());
        },
        |path| std::fs::create_dir(path).unwrap(),
    ];
    for name in names {
        for (ix, trap) in traps.into_iter().enumerate() {
            let project = Project::new(pipeline);
            let victim = project.folder.path().join("victim");
            std::fs::write(&victim, "of somebody else").unwrap();
            std::fs::create_dir(project.dir().join(".dagrun")).unwrap();
            trap(&project.dir().join(".dagrun").join(name));
            for command in ["run", "plan", "explain a", "runs", "show"] {
                let args: Vec<&str> = command.split(' ').collect();
                let mut child = project.start(&args);
                let begun = std::time::Instant::now();
                while child.try_wait().unwrap().is_none() {
                    if begun.elapsed().as_secs() > 20 {
                        child.kill().unwrap();
                        panic!("{command} waits for {name} ({ix})");
                    }
                    std::thread::sleep(std::time::Duration::from_millis(5));
                }
                let said = said(child.wait_with_output().unwrap());
                // What is not kept is told, but for what only saves time.
                let fatal = command == "run" && name == "lock";
                let expected: &[i32] = if fatal { &[3] } else { &[0, 2] };
                assert!(expected.contains(&said.code), "{name} {ix}: {said:?}");
            }
            assert_eq!(
                std::fs::read_to_string(victim).unwrap(),
                "of somebody else",
                "{name}"
            );
        }
    }
}

/// Paths are bytes: a folder or a file whose name is no UTF-8 is like any other.
#[test]
fn a_pipeline_may_have_a_name_that_is_not_utf8() {
    use std::os::unix::ffi::OsStrExt;
    let project = Project::new("");
    let name = std::ffi::OsStr::from_bytes(b"\xff\xfe");
    let folder = project.dir().join(name);
    let text = "name: p\njobs:\n  a:\n    outputs: {o: o}\n    run: echo 1 > o\nexport: {made: \"${{ jobs.a.outputs.o }}\"}\n";
    std::fs::create_dir(&folder).unwrap();
    std::fs::write(folder.join(name), text).unwrap();
    for args in [&["run"][..], &["plan"], &["show", "-f"], &["runs"]] {
        let mut command = project.command(args);
        let said = said(command.arg(folder.join(name)).output().unwrap());
        assert_eq!(said.code, 0, "{said:?}");
    }
    assert_eq!(std::fs::read_to_string(folder.join("made")).unwrap(), "1\n");
}

/// As many names that are wrong as right ones: each is guessed at, and none for long.
#[test]
fn thousands_of_mistyped_names_are_told_at_once() {
    let jobs: String = (0..9900)
        .map(|i| format!("  job{i}: {{run: 'true {i}', needs: jib{i}}}\n"))
        .collect();
    refused(
        &format!("dagrun: 1\nname: wrong\njobs:\n{jobs}"),
        &["there is no job `jib0`", "did you mean `job0`?"],
    );
}

/// The same of files, which all lie in one folder.
#[test]
fn thousands_of_mistyped_files_are_told_at_once() {
    let jobs: String = (0..5000)
        .map(|i| format!("  job{i}: {{run: 'true {i}', inputs: [data/seires-{i:04}.csv]}}\n"))
        .collect();
    let project = Project::new(&format!("dagrun: 1\nname: wrong\njobs:\n{jobs}"));
    for i in 0..1000 {
        project.write(&format!("data/series-{i:04}.csv"), "");
    }
    refused_in(
        &project,
        &[
            "there is no file `data/seires-0000.csv`",
            "did you mean `data/series-0000.csv`?",
        ],
    );
}
