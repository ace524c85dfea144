//! The page: a section for each part, each with the commit at which it was measured.

use std::{fmt::Write as _, fs};

use crate::tools::{output, root};

const PAGE: &str = "docs/benchmarks/cluster.md";
const HEAD: &str = "# Clusters of real processes\n\nWritten by `cargo xtask bench cluster --peers`: the release build as `dagrun serve` and \
                    `dagrun worker`s with stores of their own, over the loopback of one machine, beside other engines in the same run. Quote ratios, not \
                    seconds: the seconds are those of a shared machine. What a part does and how is in `xtask/src/bench/cluster`. Hosts that are not \
                    here, and what second attempts gain beside a slow one, are [measured on a simulated clock](cluster-simulated.md).\n\nPeers are packages of PyPI; HyperQueue's own program `hq`, which has no package, is used where it is on the PATH (built from its \
                    sources, with its solver `microlp`).\n";

/// A part's tables.
pub(super) struct Section {
    /// The name of the part.
    pub(super) part: &'static str,
    /// Its heading.
    pub(super) title: &'static str,
    /// What is done, how, and what the goal is.
    pub(super) what: String,
    /// The names of the columns; all but the first and the last hold figures.
    pub(super) columns: &'static [&'static str],
    /// The cells.
    pub(super) rows: Vec<Vec<String>>,
    /// What else is to be said.
    pub(super) notes: Vec<String>,
}

impl Section {
    /// As Markdown, without the heading.
    pub(super) fn markdown(&self) -> String {
        let last = self.columns.len() - 1;
        let rule = |at: usize| if at == 0 || at == last { "---" } else { "---:" };
        let rules: Vec<&str> = (0..=last).map(rule).collect();
        let mut text = format!(
            "\n{}\n\n| {} |\n|{}|\n",
            self.what,
            self.columns.join(" | "),
            rules.join("|")
        );
        for row in &self.rows {
            let cells: Vec<String> = row.iter().map(|cell| cell.replace('|', "/")).collect();
            let _ = writeln!(text, "| {} |", cells.join(" | "));
        }
        for note in &self.notes {
            let _ = write!(text, "\n{note}\n");
        }
        text
    }
}

/// Puts a section in the place of its former one.
pub(super) fn write(
    section: &Section,
    load: &str,
    order: impl Iterator<Item = &'static str>,
) -> Result<(), String> {
    let path = root().join(PAGE);
    let former = fs::read_to_string(&path).unwrap_or_default();
    let commit = output("git", &["rev-parse", "--short", "HEAD"]).unwrap_or_default();
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    let new = format!(
        "## {}: {}\n{}\nMeasured at commit {} on {cpus} CPUs; load of the machine in the minute before: {load}.\n",
        section.part,
        section.title,
        section.markdown(),
        commit.trim()
    );
    let mut page = HEAD.to_owned();
    for part in order {
        let kept = former.split("\n## ").skip(1);
        let mut kept = kept.filter(|text| text.starts_with(&format!("{part}: ")));
        let text = match kept.next() {
            _ if part == section.part => new.clone(),
            Some(text) => format!("## {}\n", text.trim_end()),
            None => continue,
        };
        let _ = write!(page, "\n{text}");
    }
    fs::write(&path, page).map_err(|error| format!("cannot write {}: {error}", path.display()))
}

/// The least and the most of what was measured.
pub(super) fn span(values: &[f64], digits: usize) -> String {
    let from = values.iter().copied().fold(f64::INFINITY, f64::min);
    let to = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    format!("{from:.digits$} - {to:.digits$}")
}

/// How many processes wanted a CPU in the last minute, in the mean.
pub(super) fn load() -> String {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').next().unwrap_or("unknown").to_owned()
}
