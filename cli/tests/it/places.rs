//! Places that are not as a run would like them: a cache that may only be read, a workspace that is deleted in use.

use std::{
    fs,
    path::Path,
    process::{Command, Output},
};

use dagrun_testkit::{NOBODY, Unavailable, require_program, require_root, skip, unprivileged};

use crate::kit::{Project, dagrun, said};

const TWO: &str = r#"
dagrun: 1
name: two
jobs:
  one:
    outputs: {o: o.txt}
    run: seq 1 100 > ${{ outputs.o }}
  two:
    needs: one
    inputs: {o: "${{ needs.one.outputs.o }}"}
    outputs: {o: o2.txt}
    run: grep -c 7 ${{ inputs.o }} > ${{ outputs.o }}
export:
  two.txt: ${{ jobs.two.outputs.o }}
"#;

/// Ends a command for a reason that is none of dagrun's codes.
const NOT_HERE: i32 = 99;

/// A way to run dagrun in a project whose cache may only be read.
type Way = fn(&Project, &[&str]) -> Result<Output, Unavailable>;

/// In a mount namespace of its own, where the cache is mounted read-only.
fn mounted(project: &Project, args: &[&str]) -> Result<Output, Unavailable> {
    let mut command = Command::new(require_program("unshare")?);
    project.prepare(&mut command);
    command.arg(if require_root().is_ok() { "-m" } else { "-Urm" });
    let script = format!(
        r#"mount --bind "$1" "$1" && mount -o remount,bind,ro "$1" || exit {NOT_HERE}; shift; exec "$@""#
    );
    command.args(["sh", "-c", &script, "sh"]);
    command.arg(project.cache()).arg(dagrun()).args(args);
    run(command, "mount namespaces")
}

/// As a user who has no right to write into it.
fn without_rights(project: &Project, args: &[&str]) -> Result<Output, Unavailable> {
    let command = unprivileged(&project.command(args))?;
    if require_root().is_ok() {
        let nobody = format!("{NOBODY}:{NOBODY}");
        shell(&["chown", "-R", &nobody], project.folder.path());
    }
    shell(&["chmod", "-R", "a-w"], &project.cache());
    let output = run(command, "a user without rights");
    shell(&["chmod", "-R", "u+w"], &project.cache());
    output
}

fn shell(words: &[&str], path: &Path) {
    let done = Command::new(words[0]).args(&words[1..]).arg(path).status();
    assert!(done.unwrap().success(), "{words:?}");
}

fn run(mut command: Command, needs: &str) -> Result<Output, Unavailable> {
    let output = command.output().unwrap();
    if output.status.code() == Some(NOT_HERE)
        || !output.status.success() && output.stderr.starts_with(b"unshare:")
    {
        return Err(Unavailable(format!("needs {needs}")));
    }
    Ok(output)
}

fn check_read_only(name: &str, way: Way) {
    let project = Project::new(TWO);
    project.ok(&["run"]);
    fs::remove_file(project.dir().join("two.txt")).unwrap();
    let hits = said(skip!(name, way(&project, &["run"])));
    assert_eq!(hits.code, 0, "{hits:?}");
    assert_eq!(project.read("two.txt"), "19\n");
    assert_eq!(
        hits.stderr.matches("cannot be written").count(),
        1,
        "{hits:?}"
    );

    let text = project.read("pipeline.yaml");
    let text = text.replace("grep -c 7", "grep -c 8");
    project.write("pipeline.yaml", &text);
    let misses = said(skip!(name, way(&project, &["run"])));
    assert_eq!(misses.code, 3, "{misses:?}");
    misses
        .has("nodes have to run, and the cache does not take results")
        .has(&project.cache().display().to_string());
    assert_eq!(project.executed(), 0);
    project.ok(&["plan"]);
}

#[test]
fn hits_of_a_cache_that_is_mounted_read_only_are_used() {
    check_read_only(
        "hits_of_a_cache_that_is_mounted_read_only_are_used",
        mounted,
    );
}

#[test]
fn hits_of_a_cache_without_rights_are_used() {
    check_read_only("hits_of_a_cache_without_rights_are_used", without_rights);
}

/// F11: a project and a cache of somebody else. What only looks needs no right to write.
#[test]
fn a_project_of_somebody_else_can_be_planned_and_says_why_it_does_not_run() {
    let name = "a_project_of_somebody_else_can_be_planned_and_says_why_it_does_not_run";
    let project = Project::new(TWO);
    shell(&["chmod", "a+rx"], project.folder.path());
    let mine = project.folder.path().join("mine");
    fs::create_dir(&mine).unwrap();
    shell(&["chmod", "a+rwx"], &mine);
    if require_root().is_err() {
        shell(&["chmod", "a-w"], &project.dir());
    }
    let say = |cache: &Path, args: &[&str]| {
        let mut command = project.command(args);
        command.env("DAGRUN_CACHE", cache);
        Some(said(unprivileged(&command).ok()?.output().unwrap()))
    };
    skip!(name, unprivileged(&project.command(&[])));
    let cache = mine.join("cache");
    let planned = say(&cache, &["plan"]).unwrap();
    assert_eq!(planned.code, 0, "{planned:?}");
    planned.has("2 nodes");
    let ran = say(&cache, &["run"]).unwrap();
    assert_eq!(ran.code, 3, "{ran:?}");
    ran.has("cannot make `./.dagrun`: Permission denied");
    // A cache below a folder of somebody else.
    let refused = say(&project.dir().join("cache"), &["plan"]).unwrap();
    assert_eq!(refused.code, 3, "{refused:?}");
    refused
        .has("Permission denied")
        .has(&project.dir().display().to_string());
    if require_root().is_err() {
        shell(&["chmod", "u+w"], &project.dir());
    }
}

#[test]
fn a_run_whose_lock_is_deleted_stops_and_keeps_its_results() {
    for gone in [".dagrun", ".dagrun/lock"] {
        let project = Project::new("");
        let dir = project.dir().display().to_string();
        project.write(
            "pipeline.yaml",
            &format!(
                r#"
dagrun: 1
name: unlocked
jobs:
  quick: {{outputs: {{o: o.txt}}, run: "echo quick > ${{{{ outputs.o }}}}"}}
  slow: {{needs: quick, run: "echo > {dir}/started; sleep 60"}}
"#
            ),
        );
        let first = project.start(&["run", "--json"]);
        project.wait_for("started");
        let path = project.dir().join(gone);
        if path.is_dir() {
            fs::remove_dir_all(path).unwrap();
        } else {
            fs::remove_file(path).unwrap();
        }
        let second = project.ok(&["run", "--until", "quick"]);
        second.has("1 cached");
        let first = said(first.wait_with_output().unwrap());
        assert_eq!(first.code, 3, "{gone}: {first:?}");
        first.has("was deleted during the run");
    }
}

#[test]
fn files_of_former_parameters_leave_an_exported_folder() {
    let project = Project::new(
        "dagrun: 1\nname: folder\nparams: {n: {type: int, default: 3}}\njobs:\n  a:\n    matrix: {i: \"${{ range(1, params.n) }}\"}\n    outputs: {o: o.txt}\n    run: echo ${{ matrix.i }} > ${{ outputs.o }}\nexport: {results/: \"${{ jobs.a.outputs.o }}\"}\n",
    );
    project.ok(&["run", "-p", "n=4"]);
    let all = listed(&project.dir().join("results"));
    assert_eq!(all.len(), 4, "{all:?}");
    project.write("results/mine.txt", "mine");
    project.write(&format!("results/{}", all[3]), "changed");
    // What was selected says nothing of the rest.
    let part = project.ok(&["run", "-p", "n=2", "--only", "a[i=1]"]);
    part.has_not("removed");
    let said = project.ok(&["run", "-p", "n=2"]);
    said.has(&format!(
        "removed 1 file that a former run exported and this one does not: results/{}",
        all[2]
    ));
    said.has(&format!("so it stays: `results/{}`", all[3]));
    let mut left = vec![all[0].clone(), all[1].clone(), all[3].clone()];
    left.push("mine.txt".into());
    assert_eq!(listed(&project.dir().join("results")), left);
    project.ok(&["run", "-p", "n=2"]).has_not("stays");
}

fn listed(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap();
    let mut names: Vec<String> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort_unstable();
    names
}

#[test]
fn an_empty_variable_names_no_cache() {
    let project = Project::new(TWO);
    let mut settings = project.command(&["settings", "--json"]);
    settings
        .env("DAGRUN_CACHE", "")
        .env("XDG_CACHE_HOME", project.folder.path().join("xdg"));
    let said = said(settings.output().unwrap());
    assert_eq!(said.code, 0, "{said:?}");
    said.has("xdg/dagrun").has_not("environment DAGRUN_CACHE");
}

#[test]
fn what_names_nothing_is_2_and_what_the_machine_lacks_is_3() {
    let project = Project::new("dagrun: 1\nname: c\njobs:\n  a:\n    run: echo\n");
    project.fails(2, &["show"]).has("nothing has run");
    project.fails(2, &["run", "none.yaml"]);
    project.ok(&[
        "run",
        "--events",
        "new/folder/events",
        "--profile",
        "other/folder/trace",
    ]);
    assert!(project.exists("new/folder/events") && project.exists("other/folder/trace"));
    for args in [
        &["show", "19990101"][..],
        &["log", "nowhere"],
        &["log", "a", "--run", "19990101"],
        &["journal", "repair", "19990101"],
        &["explain", "nowhere"],
        &["run", "--only", "nowhere"],
    ] {
        project.fails(2, args);
    }
    let mut few = Command::new("sh");
    project.prepare(&mut few);
    let script = format!("ulimit -n 16; exec {} run", dagrun().display());
    let said = said(few.args(["-c", &script]).output().unwrap());
    assert_eq!(said.code, 3, "{said:?}");
    said.has("the limit is 16").has("ulimit -n 4096");
}
