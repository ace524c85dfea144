//! Every example of the docs, as it stands there.
//!
//! A fence with `file=NAME` is a file; each such pipeline is planned at once. On pages that have files, lines of `console`
//! fences that begin with `$ ` are run; the fence says `exit=N` where that is not 0.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use dagrun_testkit::ProcWatch;

use crate::kit::{Project, dagrun};

struct Fence {
    line: usize,
    language: String,
    file: Option<String>,
    exit: i32,
    body: String,
}

fn fences(text: &str) -> Vec<Fence> {
    let mut fences = Vec::new();
    let mut open: Option<Fence> = None;
    for (number, line) in text.lines().enumerate() {
        match (&mut open, line.strip_prefix("```")) {
            (None, Some(info)) if !info.is_empty() => {
                let mut words = info.split_whitespace();
                let language = words.next().unwrap_or_default().to_string();
                let attributes: Vec<(&str, &str)> =
                    words.filter_map(|word| word.split_once('=')).collect();
                let get = |name: &str| {
                    attributes
                        .iter()
                        .find(|(key, _)| *key == name)
                        .map(|(_, value)| (*value).to_string())
                };
                let exit = get("exit").map_or(0, |code| code.parse().expect("exit=N has a number"));
                open = Some(Fence {
                    line: number + 1,
                    language,
                    file: get("file"),
                    exit,
                    body: String::new(),
                });
            }
            (Some(_), Some("")) => fences.extend(open.take()),
            (Some(fence), _) => {
                fence.body.push_str(line);
                fence.body.push('\n');
            }
            (None, _) => {}
        }
    }
    fences
}

fn pages(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            pages(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "md") {
            found.push(path);
        }
    }
}

#[test]
fn the_examples_of_the_docs_run() {
    let top = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let mut all = vec![top.join("README.md")];
    pages(&top.join("docs"), &mut all);
    let mut ran = 0;
    for page in all {
        let fences = fences(&std::fs::read_to_string(&page).unwrap());
        if !fences.iter().any(|fence| fence.file.is_some()) {
            continue;
        }
        let project = Project::new("");
        let left = Leftovers(ProcWatch::new());
        for fence in fences {
            let place = format!("{}:{}", page.display(), fence.line);
            if let Some(file) = &fence.file {
                project.write(file, &fence.body);
                if file == "pipeline.yaml" {
                    let said = project.say(&["plan", file]);
                    assert_eq!(said.code, 0, "{place}\n{}\n{}", said.stdout, said.stderr);
                    ran += 1;
                }
            } else if fence.language == "console" {
                for line in fence
                    .body
                    .lines()
                    .filter_map(|line| line.strip_prefix("$ "))
                {
                    let output = bash(&project, &left.0, line);
                    let code = output.status.code().unwrap_or(-1);
                    let (stdout, stderr) = (
                        String::from_utf8_lossy(&output.stdout),
                        String::from_utf8_lossy(&output.stderr),
                    );
                    assert_eq!(code, fence.exit, "{place}: {line}\n{stdout}\n{stderr}");
                    ran += 1;
                }
            }
        }
    }
    assert!(ran > 20, "only {ran} examples were found");
}

/// Servers that a page has started end with it, also where a line of it failed.
struct Leftovers(ProcWatch);

impl Drop for Leftovers {
    fn drop(&mut self) {
        self.0.kill();
    }
}

fn bash(project: &Project, watch: &ProcWatch, line: &str) -> std::process::Output {
    let mut command = Command::new("bash");
    project.prepare(&mut command);
    command.env(ProcWatch::NAME, watch.value());
    let path = std::env::var("PATH").unwrap_or_default();
    let own = dagrun().parent().unwrap().display().to_string();
    command
        .args(["-c", line])
        .env("PATH", format!("{own}:{path}"))
        .output()
        .expect("bash can be started")
}
