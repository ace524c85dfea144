//! Answers what a plan has to know of the outside, in one batch: files, the output of toolchain commands, variables, git.

use std::{
    collections::BTreeMap,
    fs,
    io::Read,
    os::unix::{fs::MetadataExt, fs::PermissionsExt, process::CommandExt},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use dagrun_model::did_you_mean;
use dagrun_plan::{FactRequest, Facts, FoundFile, GitFacts, GlobRequest, is_glob};
use dagrun_store::{FileError, FileHashes};
use rustc_hash::FxHashMap;
use serde::{Deserialize, Serialize};

use crate::{GivenFacts, RunError, Workspace, own, workspace::write_whole};

/// How long a command of `toolchain` may take.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(10);
/// How much a command of `toolchain` may write.
const COMMAND_OUTPUT: u64 = 1 << 20;

/// Answers a request. Commands of `toolchain` are run, without a shell and at most 10 s each, and remembered by the stat of
/// their program; nothing else is run, but for `git` where the pipeline asks for `git`.
///
/// What a client found out of its own surroundings ([`GivenFacts`]) comes before what is found here.
///
/// # Errors
/// When a file cannot be read or lies outside the project folder unasked; the message names it. A path that is missing
/// is no error here: it finds no files.
pub fn answer(
    request: &FactRequest,
    hashes: &FileHashes,
    workspace: &Workspace,
) -> Result<Facts, RunError> {
    let project = workspace.project();
    let given = GivenFacts::load(workspace)?;
    let globs = find(hashes, project, &request.globs)?;
    Ok(Facts {
        alike: alike(project, &request.globs, &globs),
        globs,
        commands: given.or_commands(&request.commands, |asked| commands(asked, workspace)),
        files: hashes
            .hash(project, &request.files)
            .into_iter()
            .map(|found| match found {
                Ok(blob) => Ok(blob.digest),
                Err(error) => Err(error.to_string()),
            })
            .collect(),
        env: given.or_env(&request.env, |name| {
            std::env::var_os(name).map(|v| v.to_string_lossy().into_owned())
        }),
        git: request.git.then(|| given.or_git(|| git(project))).flatten(),
    })
}

fn find(
    hashes: &FileHashes,
    project: &Path,
    requests: &[GlobRequest],
) -> Result<Vec<Vec<FoundFile>>, RunError> {
    let patterns: Vec<_> = requests
        .iter()
        .map(|glob| (glob.pattern.as_str(), glob.external))
        .collect();
    let named = |(path, blob)| FoundFile { path, blob };
    hashes
        .globs(project, &patterns)
        .into_iter()
        .map(|found| match found {
            Ok(files) => Ok(files.into_iter().map(named).collect()),
            Err(FileError::Missing { .. }) => Ok(Vec::new()),
            Err(error) => Err(RunError::Facts(error.to_string())),
        })
        .collect()
}

/// How many files of a folder are looked at for one that is spelled like a missing one.
const MAX_NEIGHBOURS: usize = 10_000;

/// How many missing paths are guessed at: more than are shown of what is wrong.
const MAX_GUESSES: usize = 100;

/// For paths that found nothing, the first of them, what is spelled most alike beside each.
fn alike(
    project: &Path,
    requests: &[GlobRequest],
    found: &[Vec<FoundFile>],
) -> FxHashMap<String, String> {
    let all = requests.iter().zip(found);
    let missing = all.filter(|(request, files)| files.is_empty() && !is_glob(&request.pattern));
    // Where one name of a folder is mistyped, thousands may be: each folder is read once.
    let mut names: FxHashMap<PathBuf, Vec<String>> = FxHashMap::default();
    missing
        .take(MAX_GUESSES)
        .filter_map(|(request, _)| {
            let path = project.join(&request.pattern);
            let folder = folder_of(&path);
            let names = names
                .entry(folder.into())
                .or_insert_with(|| names_in(folder));
            let near = Path::new(&request.pattern).with_file_name(most_alike(&path, names)?);
            Some((request.pattern.clone(), near.to_str()?.to_string()))
        })
        .collect()
}

/// The name beside a path that does not exist which is spelled most alike, for "did you mean".
pub fn file_alike(path: &Path) -> Option<String> {
    most_alike(path, &names_in(folder_of(path))).map(str::to_string)
}

fn folder_of(path: &Path) -> &Path {
    let folder = path.parent().filter(|folder| *folder != Path::new(""));
    folder.unwrap_or(Path::new("."))
}

fn names_in(folder: &Path) -> Vec<String> {
    fs::read_dir(folder)
        .into_iter()
        .flatten()
        .take(MAX_NEIGHBOURS)
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .collect()
}

fn most_alike<'n>(path: &Path, names: &'n [String]) -> Option<&'n str> {
    let wanted = path.file_name()?.to_str()?;
    did_you_mean(wanted, names.iter().map(String::as_str))
}

/// What a command printed when its program looked like this.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Remembered {
    program: PathBuf,
    stat: [i64; 5],
    output: String,
}

type Memory = BTreeMap<String, Remembered>;

fn commands(requests: &[Vec<String>], workspace: &Workspace) -> Vec<Result<String, String>> {
    if requests.is_empty() {
        return Vec::new();
    }
    let path = workspace.toolchain_path();
    let before: Memory = own::read(&path)
        .ok()
        .and_then(|bytes| serde_json::from_slice(&bytes).ok())
        .unwrap_or_default();
    let answers: Vec<Answer> = std::thread::scope(|scope| {
        let threads: Vec<_> = requests
            .iter()
            .map(|argv| scope.spawn(|| answer_command(argv, workspace.project(), &before)))
            .collect();
        let died = |_| (Err("the thread that ran it died".to_string()), None);
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap_or_else(died))
            .collect()
    });
    let mut memory = before.clone();
    let mut results = Vec::new();
    for (argv, (result, remembered)) in requests.iter().zip(answers) {
        if let Some(remembered) = remembered {
            memory.insert(argv.join("\0"), remembered);
        }
        results.push(result);
    }
    if memory != before {
        let bytes = serde_json::to_vec(&memory).expect("a memory of commands is plain data");
        // Without it the commands are run again.
        let _ = write_whole(&path, &bytes);
    }
    results
}

type Answer = (Result<String, String>, Option<Remembered>);

fn answer_command(argv: &[String], project: &Path, memory: &Memory) -> Answer {
    let Some(name) = argv.first() else {
        return (Err("a toolchain command is empty".into()), None);
    };
    let Some(program) = find_program(name, project) else {
        return (
            Err(format!(
                "`{name}` is not found in PATH; install it or mend `toolchain`"
            )),
            None,
        );
    };
    let stat = stable_stat(&program);
    if let (Some(stat), Some(known)) = (stat, memory.get(&argv.join("\0")))
        && known.program == program
        && known.stat == stat
    {
        return (Ok(known.output.clone()), None);
    }
    let result = run_command(argv, project);
    let remembered = match (&result, stat) {
        (Ok(output), Some(stat)) => Some(Remembered {
            program,
            stat,
            output: output.clone(),
        }),
        _ => None,
    };
    (result, remembered)
}

fn find_program(name: &str, project: &Path) -> Option<PathBuf> {
    let is_program = |path: &PathBuf| {
        fs::metadata(path).is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0)
    };
    if name.contains('/') {
        return Some(project.join(name)).filter(is_program);
    }
    std::env::split_paths(&std::env::var_os("PATH")?)
        .map(|folder| folder.join(name))
        .find(is_program)
}

/// The stat by which a program's output may be remembered. Scripts and the proxies of version managers print what other files
/// say: they are asked each time.
fn stable_stat(program: &Path) -> Option<[i64; 5]> {
    let real = program.canonicalize().ok()?;
    let meta = fs::metadata(&real).ok()?;
    let mut magic = [0; 4];
    fs::File::open(&real).ok()?.read_exact(&mut magic).ok()?;
    let is_proxy = real.ends_with("rustup")
        || (meta.nlink() > 1 && program.parent().is_some_and(|p| p.ends_with(".cargo/bin")));
    if magic.starts_with(b"#!") || is_proxy {
        return None;
    }
    Some([
        meta.dev() as i64,
        meta.ino() as i64,
        meta.size() as i64,
        meta.mtime() * 1_000_000_000 + meta.mtime_nsec(),
        meta.ctime() * 1_000_000_000 + meta.ctime_nsec(),
    ])
}

fn run_command(argv: &[String], project: &Path) -> Result<String, String> {
    let text = argv.join(" ");
    let mut child = Command::new(&argv[0])
        .args(&argv[1..])
        .current_dir(project)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .spawn()
        .map_err(|error| format!("cannot run `{text}`: {error}"))?;
    let stdout = read_aside(child.stdout.take());
    let stderr = read_aside(child.stderr.take());
    let until = Instant::now() + COMMAND_TIMEOUT;
    let status = loop {
        match child.try_wait() {
            Ok(Some(status)) => break status,
            Ok(None) if Instant::now() >= until => {
                kill_group(&child);
                // It was killed: what matters is that it is reaped.
                let _ = child.wait();
                return Err(format!(
                    "`{text}` did not end within {} s",
                    COMMAND_TIMEOUT.as_secs()
                ));
            }
            Ok(None) => std::thread::sleep(Duration::from_millis(2)),
            Err(error) => return Err(format!("cannot wait for `{text}`: {error}")),
        }
    };
    let take = |reader: std::sync::mpsc::Receiver<Vec<u8>>| {
        // What it left running may hold the pipe: its own words are there at once.
        let bytes = reader.recv_timeout(Duration::from_secs(1));
        String::from_utf8_lossy(&bytes.unwrap_or_default())
            .trim_end()
            .to_string()
    };
    let (stdout, stderr) = (take(stdout), take(stderr));
    kill_group(&child);
    if !status.success() {
        let last = stderr.lines().last().unwrap_or("");
        return Err(format!("`{text}` failed ({status}): {last}"));
    }
    // Some tools print their version to the other stream.
    Ok(if stdout.is_empty() { stderr } else { stdout })
}

fn read_aside(pipe: Option<impl Read + Send + 'static>) -> std::sync::mpsc::Receiver<Vec<u8>> {
    let (sender, receiver) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(pipe) = pipe {
            // What was read until an error is what there is.
            let _ = pipe.take(COMMAND_OUTPUT).read_to_end(&mut bytes);
        }
        let _ = sender.send(bytes);
    });
    receiver
}

fn kill_group(child: &std::process::Child) {
    if let Some(pid) = i32::try_from(child.id())
        .ok()
        .and_then(rustix::process::Pid::from_raw)
    {
        // The group may be empty by now.
        let _ = rustix::process::kill_process_group(pid, rustix::process::Signal::KILL);
    }
}

fn git(project: &Path) -> Option<GitFacts> {
    let ask = |args: &[&str]| {
        let argv: Vec<String> = ["git"]
            .iter()
            .chain(args)
            .map(ToString::to_string)
            .collect();
        run_command(&argv, project).ok()
    };
    let commit = ask(&["rev-parse", "HEAD"])?;
    let branch = ask(&["symbolic-ref", "--quiet", "--short", "HEAD"]).unwrap_or_default();
    // Whatever the user's own settings hide: a new file that is not ignored may be read by a job.
    let status = [
        "status",
        "--porcelain",
        "--untracked-files=normal",
        "--ignore-submodules=none",
    ];
    let dirty = ask(&status).is_some_and(|text| !text.is_empty());
    Some(GitFacts {
        commit,
        branch,
        dirty,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bench() -> (tempfile::TempDir, Workspace, FileHashes) {
        let folder = tempfile::tempdir().unwrap();
        let workspace = Workspace::open(folder.path()).unwrap();
        let hashes = FileHashes::open(&workspace.hashes_path());
        (folder, workspace, hashes)
    }

    fn argv(words: &[&str]) -> Vec<String> {
        words.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn commands_are_answered_in_order_with_their_failures() {
        let (_folder, workspace, hashes) = bench();
        let request = FactRequest {
            commands: vec![
                argv(&["printf", "%s", "one two"]),
                argv(&["sh", "-c", "echo broken >&2; exit 3"]),
                argv(&["no-such-program-here"]),
                argv(&["sh", "-c", "echo 4.2 >&2"]),
            ],
            env: argv(&["NO_SUCH_VARIABLE_HERE"]),
            ..FactRequest::default()
        };
        let facts = answer(&request, &hashes, &workspace).unwrap();
        assert_eq!(facts.commands[0], Ok("one two".into()));
        let error = facts.commands[1].clone().unwrap_err();
        assert!(error.contains("broken") && error.contains('3'), "{error}");
        assert!(
            facts.commands[2]
                .clone()
                .unwrap_err()
                .contains("not found in PATH")
        );
        assert_eq!(facts.commands[3], Ok("4.2".into()));
        assert_eq!(facts.env, [None]);
        assert_eq!(facts.git, None);
    }

    #[test]
    fn programs_are_asked_once_and_scripts_each_time() {
        let (folder, workspace, _) = bench();
        let script = folder.path().join("version.sh");
        let write = |text: &str| {
            fs::write(&script, format!("#!/bin/sh\necho {text}\n")).unwrap();
            fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
        };
        write("1");
        let requests = [argv(&["./version.sh"]), argv(&["uname", "-s"])];
        let first = commands(&requests, &workspace);
        write("2");
        let second = commands(&requests, &workspace);
        assert_eq!((&first[0], &second[0]), (&Ok("1".into()), &Ok("2".into())));
        assert_eq!(first[1], second[1]);
        let memory: Memory =
            serde_json::from_slice(&fs::read(workspace.toolchain_path()).unwrap()).unwrap();
        assert_eq!(memory.len(), 1);
    }

    #[test]
    fn new_files_that_are_not_ignored_make_a_repository_dirty() {
        let (folder, _workspace, _) = bench();
        let project = folder.path();
        let run = |args: &[&str]| {
            let output = Command::new("git")
                .args(["-c", "user.name=x", "-c", "user.email=x@y"])
                .args(args)
                .current_dir(project)
                .env("GIT_CONFIG_GLOBAL", "/dev/null")
                .output();
            output.is_ok_and(|output| output.status.success())
        };
        if !run(&["init", "--quiet"]) {
            dagrun_testkit::report_skipped(
                "new_files_that_are_not_ignored_make_a_repository_dirty",
                "there is no git here",
            );
            return;
        }
        let write = |name: &str, text: &str| fs::write(project.join(name), text).unwrap();
        write("tracked", "1");
        write(".gitignore", "*.log\n");
        assert!(run(&["add", "."]) && run(&["commit", "--quiet", "-m", "first"]));
        // The workspace's own folder ignores itself.
        let dirty = || git(project).unwrap().dirty;
        assert!(!dirty());
        write("a.log", "ignored");
        assert!(!dirty());
        assert!(run(&["config", "status.showUntrackedFiles", "no"]));
        write("new", "untracked");
        assert!(dirty());
        fs::remove_file(project.join("new")).unwrap();
        assert!(!dirty());
        write("tracked", "2");
        assert!(dirty());
    }

    #[test]
    fn files_are_found_and_missing_ones_are_not() {
        let (folder, workspace, hashes) = bench();
        fs::write(folder.path().join("a.txt"), "a").unwrap();
        let glob = |pattern: &str| dagrun_plan::GlobRequest {
            pattern: pattern.into(),
            external: false,
            span: Default::default(),
        };
        let request = FactRequest {
            globs: vec![glob("*.txt"), glob("missing"), glob("b.txt")],
            files: argv(&["a.txt", "missing"]),
            ..FactRequest::default()
        };
        let facts = answer(&request, &hashes, &workspace).unwrap();
        assert_eq!(facts.globs[0][0].path, "a.txt");
        assert!(facts.globs[1].is_empty());
        let near = [("b.txt".to_string(), "a.txt".to_string())];
        assert_eq!(facts.alike, near.into_iter().collect());
        assert_eq!(facts.files[0], Ok(dagrun_model::Digest::of(b"a")));
        assert!(facts.files[1].is_err());
    }
}
