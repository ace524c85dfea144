//! `docs/benchmarks/studies.md` and its chart.

use std::fmt::Write as _;

use super::{Figure, Group};
use crate::tools::{output, root};

/// The figures as Markdown.
pub(super) fn markdown(groups: &[Group]) -> String {
    let mut text = String::new();
    for group in groups {
        let _ = writeln!(
            text,
            "\n### {}\n\n{}\n\n| figure | goal | measured | note |\n|---|---:|---:|---|",
            group.name, group.what
        );
        for figure in &group.figures {
            let _ = writeln!(
                text,
                "| {} | {} | {} | {} |",
                figure.what, figure.goal, figure.measured, figure.note
            );
        }
    }
    text
}

/// Writes page and chart.
pub(super) fn write(groups: &[Group]) -> Result<(), String> {
    let folder = root().join("docs/benchmarks");
    std::fs::create_dir_all(&folder).map_err(|error| error.to_string())?;
    let commit = output("git", &["rev-parse", "--short", "HEAD"]).unwrap_or_default();
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    let text = format!(
        "# Benchmarks of studies\n\nWritten by `cargo xtask bench study --peers`. R: replicates, T: targets, cv: standard deviation / mean. \
         All but \"Long studies\" and \"Real processes\" are exact: the real study, planner and scheduler on a simulated clock, the same on \
         every machine, and asserted by `cargo test -p xtask`.\n\n![times better than the other way](studies.svg)\n\nLast written at commit \
         {}, on {cpus} CPUs.\n{}",
        commit.trim(),
        markdown(groups)
    );
    std::fs::write(folder.join("studies.md"), text)
        .and_then(|()| std::fs::write(folder.join("studies.svg"), chart(groups)))
        .map_err(|error| format!("cannot write to {}: {error}", folder.display()))
}

/// Bars of how many times better dagrun's way is than the other; a tick where the documents have it.
fn chart(groups: &[Group]) -> String {
    let bars: Vec<(&Group, &Figure, f64, f64)> = groups
        .iter()
        .flat_map(|group| group.figures.iter().map(move |figure| (group, figure)))
        .filter_map(|(group, figure)| {
            let (goal, measured) = figure.bar?;
            Some((group, figure, goal, measured))
        })
        .collect();
    let (left, width, row_height, top) = (430.0, 330.0, 24.0, 50.0);
    let height = top + bars.len() as f64 * row_height + 16.0;
    let most = bars.iter().map(|bar| bar.2.max(bar.3)).fold(2.0, f64::max);
    let x = |times: f64| left + times / most * width;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 820 {height:.0}\" width=\"820\" height=\"{height:.0}\" \
         font-family=\"system-ui, sans-serif\" font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n\
         <text x=\"12\" y=\"20\" font-size=\"14\" font-weight=\"600\" fill=\"#16202e\">How many times better than the other way</text>\n\
         <text x=\"12\" y=\"38\" fill=\"#5b6472\">bar: measured, tick: goal</text>\n\
         <line x1=\"{0:.1}\" x2=\"{0:.1}\" y1=\"{1:.1}\" y2=\"{2:.1}\" stroke=\"#16202e\"/>\n",
        x(1.0),
        top - 6.0,
        height - 10.0
    );
    for (row, (group, figure, goal, measured)) in bars.iter().enumerate() {
        let y = top + row as f64 * row_height;
        let (text, tick, end) = (y + 11.0, x(*goal), x(*measured));
        let _ = writeln!(
            svg,
            "<text x=\"{:.0}\" y=\"{text:.1}\" text-anchor=\"end\" fill=\"#16202e\">{}: {}</text>\
             <rect x=\"{left:.0}\" y=\"{y:.1}\" width=\"{:.1}\" height=\"14\" fill=\"#2f855a\"/>\
             <line x1=\"{tick:.1}\" x2=\"{tick:.1}\" y1=\"{:.1}\" y2=\"{:.1}\" stroke=\"#b7791f\" stroke-width=\"3\"/>\
             <text x=\"{:.1}\" y=\"{text:.1}\" fill=\"#5b6472\">{measured:.2}</text>",
            left - 8.0,
            group.name,
            figure.what,
            end - left,
            y - 3.0,
            y + 17.0,
            end.max(tick) + 6.0,
        );
    }
    svg.push_str("</svg>\n");
    svg
}
