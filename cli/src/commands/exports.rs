//! What is said of exports after a run: what was laid into the project folder, and what was removed.

use std::{collections::BTreeMap, path::Path};

use crate::term::{Ink, Style, escape, first_of, plural};

/// Files of one folder that are named one by one; more are counted.
const NAMED: usize = 3;
/// Lines about files that were written.
const LISTED: usize = 10;
/// Removed files that are named.
const REMOVED: usize = 2;

/// A line for each folder or file that was written, as seen from here, and one for all that was removed.
pub(crate) fn lines<'a>(
    project: &Path,
    written: impl Iterator<Item = &'a str>,
    removed: &[String],
    style: Style,
) -> Vec<String> {
    let mut written = folders(written)
        .into_iter()
        .flat_map(|(folder, files)| in_folder(project, folder, &files))
        .collect::<Vec<_>>();
    let more = written.len().saturating_sub(LISTED);
    written.truncate(LISTED);
    if more > 0 {
        written.push(format!("{more} more"));
    }
    let wrote = written.iter();
    let wrote = wrote.map(|what| format!("{} {what}", style.paint(Ink::Dim, "wrote")));
    let removed = what_was_removed(removed);
    let removed = removed.map(|what| format!("{} {what}", style.paint(Ink::Dim, "removed")));
    wrote.chain(removed).collect()
}

/// Targets by the folder that they lie in.
fn folders<'a>(targets: impl Iterator<Item = &'a str>) -> BTreeMap<&'a str, Vec<&'a str>> {
    let mut folders: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for target in targets {
        let folder = target.rsplit_once('/').map_or("", |(folder, _)| folder);
        folders.entry(folder).or_default().push(target);
    }
    folders
}

fn in_folder(project: &Path, folder: &str, files: &[&str]) -> Vec<String> {
    if files.len() > NAMED {
        let count = plural(files.len() as u64, "file");
        return vec![format!("{count} in {}/", from_here(project, folder))];
    }
    files.iter().map(|file| from_here(project, file)).collect()
}

/// So that it can be opened from here.
fn from_here(project: &Path, path: &str) -> String {
    let path = project.join(path).display().to_string();
    let path = path.strip_prefix("./").unwrap_or(&path);
    escape(path.trim_end_matches('/')).to_string()
}

fn what_was_removed(removed: &[String]) -> Option<String> {
    if removed.is_empty() {
        return None;
    }
    let count = plural(removed.len() as u64, "file");
    Some(format!(
        "{count} that a former run exported and this one does not: {}",
        first_of(removed, REMOVED)
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: Style = Style {
        color: false,
        out_color: false,
        live: false,
        quiet: false,
        verbose: 0,
    };

    fn told(written: &[&str], removed: &[&str]) -> Vec<String> {
        let removed: Vec<String> = removed.iter().map(ToString::to_string).collect();
        let written = written.iter().copied();
        lines(Path::new("."), written, &removed, PLAIN)
    }

    #[test]
    fn many_files_of_a_folder_are_one_line() {
        let series: Vec<String> = (0..27).map(|n| format!("out/series/x={n}.csv")).collect();
        let mut written: Vec<&str> = series.iter().map(String::as_str).collect();
        written.push("out/figure.svg");
        assert_eq!(
            told(&written, &[]),
            ["wrote out/figure.svg", "wrote 27 files in out/series/"]
        );
    }

    #[test]
    fn what_was_removed_is_one_line_with_its_first_files() {
        let words = "that a former run exported and this one does not";
        assert_eq!(
            told(&[], &["o/a"]),
            [format!("removed 1 file {words}: o/a")]
        );
        assert_eq!(
            told(&[], &["o/a", "o/b", "o/c"]),
            [format!("removed 3 files {words}: o/a, o/b and 1 more")]
        );
    }
}
