//! What may help a node that failed, by how it ended and by what it said last.

use std::path::{Component, Path};

use dagrun_model::FailureCause;
use dagrun_run::Failure;

/// How programs say that a file is not there, in lowercase.
const NOT_THERE: [&str; 4] = [
    "no such file",
    "cannot open",
    "does not exist",
    "filenotfound",
];

/// A line of advice, where there is any to give.
pub(super) fn remedy(failure: &Failure, project: &Path) -> Option<String> {
    let of_attempt = || failure.attempt.as_ref()?.cause.as_ref();
    match failure.cause.as_ref().or_else(of_attempt)? {
        FailureCause::OutOfMemory { .. } => Some(
            "`resources: {memory: SIZE}` says what it may take; `retry: {when: oom, memory: 2x}` tries it again with more"
                .into(),
        ),
        FailureCause::Exit { .. } => {
            let log = failure.attempt.as_ref()?.stderr.as_ref()?;
            let file = undeclared(&log.tail, project)?;
            Some(format!(
                "`{file}` is in the project, but a node sees only its inputs: add it to `inputs`"
            ))
        }
        _ => None,
    }
}

/// A file of the project that a program missed, as far as its last words say so.
fn undeclared<'t>(tail: &'t str, project: &Path) -> Option<&'t str> {
    let lines = tail.lines().rev().take(10);
    let lines = lines.filter(|line| {
        let line = line.to_lowercase();
        NOT_THERE.iter().any(|words| line.contains(words))
    });
    let is_of_project = |word: &&str| {
        let path = Path::new(word);
        let is_plain = path
            .components()
            .all(|it| matches!(it, Component::Normal(_)));
        !word.is_empty() && is_plain && project.join(path).is_file()
    };
    lines
        .flat_map(|line| {
            let quoted = line.split(['\'', '"', '`', '‘', '’']);
            quoted.chain(line.split([' ', ':', ',', '(', ')']))
        })
        .map(|word| word.trim().trim_start_matches("./"))
        .find(is_of_project)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_was_forgotten_is_found_in_what_programs_say() {
        let project = tempfile::tempdir().unwrap();
        std::fs::create_dir(project.path().join("in")).unwrap();
        for file in ["data.csv", "in/my data.csv"] {
            std::fs::write(project.path().join(file), "").unwrap();
        }
        let found = |tail| undeclared(tail, project.path());
        for (tail, file) in [
            (
                "Traceback\nFileNotFoundError: [Errno 2] No such file or directory: 'data.csv'",
                Some("data.csv"),
            ),
            (
                "cat: data.csv: No such file or directory\n",
                Some("data.csv"),
            ),
            (
                "cat: ./data.csv: No such file or directory\n",
                Some("data.csv"),
            ),
            (
                "Error in file(file, \"rt\") : cannot open file 'in/my data.csv': No such file or directory",
                Some("in/my data.csv"),
            ),
            ("cat: other.csv: No such file or directory", None),
            ("cat: /etc/passwd: No such file or directory", None),
            ("cat: ../data.csv: No such file or directory", None),
            ("data.csv has a bad row", None),
            ("cat: in: No such file or directory", None),
            ("", None),
        ] {
            assert_eq!(found(tail), file, "{tail}");
        }
    }
}
