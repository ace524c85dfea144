//! A run as one page of HTML: no network, no script, so that it also opens from a build server's artifacts. The figures are in it
//! as JSON too.
//!
//! Text of nodes is escaped, and a content security policy forbids what would still get through.

mod study;
mod timeline;

use std::{
    collections::BTreeMap,
    fmt::Write,
    time::{Duration, UNIX_EPOCH},
};

use dagrun_events::{NodeCounts, ParamRow, RunStarted, RunState};
use dagrun_model::{Phases, format_seconds};

use crate::{
    SlotTime, Statistics, attempts_text, data,
    escape::entities,
    escape_line, escape_text, failure_groups, job_of, plural, slot_time, statistics,
    statistics::{stderr, steps},
    text::{ending, job_rows},
};

const STYLE: &str = include_str!("html/style.css");
/// Kinds of failure that are on the page.
const FAILURES: usize = 50;
/// Lines of standard error that are shown of a failure.
const TAIL: usize = 40;
/// Steps of the critical path on the page: the longest ones.
const PATH: usize = 30;
/// Exports and warnings on the page.
const LISTED: usize = 100;
/// Exports that are.
const EXPORTS: usize = 10;

/// Writing to a string cannot fail.
macro_rules! put {
    ($out:expr, $($arg:tt)*) => {
        writeln!($out, $($arg)*).expect("a string takes all")
    };
}
use put;

/// A trial that a run before has told.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct EarlierTrial {
    /// Its number.
    pub trial: u64,
    /// Its objective.
    pub value: f64,
    /// Whether it may be the best: it breaks no constraint.
    pub feasible: bool,
}

/// The page. `paces` as in [`summary`](crate::summary); `earlier`: the trials of the study that are not of this run, where they are known.
pub fn html(state: &RunState, paces: &BTreeMap<String, f64>, earlier: &[EarlierTrial]) -> String {
    let (found, slot_time) = (statistics(state), slot_time(state));
    let default = RunStarted::default();
    let started = state.started.as_ref().unwrap_or(&default);
    let mut out = String::new();
    let title = format!("{} · run {}", started.pipeline, started.run);
    put!(
        out,
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n\
         <title>{}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>",
        line(&title)
    );
    header(&mut out, state, started);
    put!(out, "<main>");
    tiles(&mut out, state, &found, found.saved(paces));
    failures(&mut out, state);
    study::section(&mut out, state, earlier);
    timeline::section(&mut out, state, &found);
    slots(&mut out, state, &slot_time);
    jobs(&mut out, &found);
    phases(&mut out, &found);
    path(&mut out, state, &found);
    slowest(&mut out, &found);
    notes(&mut out, state);
    about(&mut out, started);
    put!(out, "</main>");
    // In JSON `<` may be written as an escape, so that no text can end the element.
    let data = data::data(state, &found, &slot_time, paces)
        .to_string()
        .replace('<', "\\u003c");
    put!(
        out,
        "<script type=\"application/json\" id=\"data\">{data}</script>\n</body>\n</html>"
    );
    out
}

/// Text on one line, for an element or an attribute.
fn line(text: &str) -> String {
    entities(&escape_line(text))
}

fn header(out: &mut String, state: &RunState, started: &RunStarted) {
    let class = match state.exit_code {
        Some(0) => "good",
        Some(130) | None => "warn",
        Some(_) => "bad",
    };
    put!(
        out,
        "<header><h1>{}</h1><p><b class=\"{class}\">{}</b> after {}</p><p class=\"dim\">run {} on {}, {}</p></header>",
        line(&started.pipeline),
        ending(state),
        format_seconds(state.wall),
        line(&started.run),
        line(&started.host),
        date(state.started_at)
    );
    if let Some(why) = &state.gave_up {
        put!(out, "<p>It could not go on: {}</p>", line(why));
    }
    if let Some(resumes) = &started.resumes {
        put!(
            out,
            "<p class=\"dim\">It went on with run {}, which was cut off or gave up.</p>",
            line(resumes)
        );
    }
}

fn date(seconds: f64) -> String {
    let since = Duration::try_from_secs_f64(seconds.max(0.0)).unwrap_or_default();
    humantime::format_rfc3339_seconds(UNIX_EPOCH + since).to_string()
}

fn tiles(out: &mut String, state: &RunState, found: &Statistics, saved: Option<f64>) {
    let NodeCounts {
        succeeded,
        cached,
        failed,
        skipped,
        cancelled,
    } = state.counts;
    put!(out, "<ul class=\"tiles\">");
    let mut tile = |value: String, what: &str, class: &str| {
        put!(out, "<li class=\"{class}\"><b>{value}</b> {what}</li>");
    };
    for (n, what, class) in [
        (failed, "failed", "bad"),
        (cancelled, "cancelled", "warn"),
        (skipped, "skipped", "warn"),
        (succeeded, "ran", "good"),
        (cached, "from the cache", "info"),
    ] {
        if n > 0 {
            tile(n.to_string(), what, class);
        }
    }
    if state.executed > 0 {
        let attempts = attempts_text(state);
        tile(format_seconds(found.busy), &format!("in {attempts}"), "");
        let cpu = found.jobs.iter().map(|job| job.cpu).sum();
        tile(format_seconds(cpu), "of CPU", "");
    }
    if let Some(share) = found.utilisation {
        tile(format!("{:.0} %", share * 100.0), "of the slots busy", "");
    }
    if let Some(seconds) = saved.filter(|_| cached > 0) {
        tile(
            format!("≈ {}", format_seconds(seconds)),
            "saved by hits",
            "info",
        );
    }
    put!(out, "</ul>");
}

fn failures(out: &mut String, state: &RunState) {
    let groups = failure_groups(state);
    if groups.is_empty() {
        return;
    }
    put!(out, "<section id=\"failures\"><h2>Failures</h2>");
    for (nodes, why) in groups.iter().take(FAILURES) {
        let node = nodes[0];
        put!(
            out,
            "<details open><summary><b class=\"bad\">{}</b> {}</summary>",
            line(&node.id),
            line(why)
        );
        if nodes.len() > 1 {
            let some: Vec<String> = nodes[1..].iter().take(5).map(|n| line(&n.id)).collect();
            let dots = if nodes.len() > 6 { ", …" } else { "" };
            put!(
                out,
                "<p>and {} of <i>{}</i> for the same reason: {}{dots}</p>",
                plural(nodes.len() as u64 - 1, "more node"),
                line(job_of(&node.id)),
                some.join(", ")
            );
        }
        let tail = stderr(state, node).map_or("", |log| log.tail.as_str());
        if !tail.is_empty() {
            let lines: Vec<&str> = tail.lines().collect();
            let last = lines[lines.len().saturating_sub(TAIL)..].join("\n");
            put!(out, "<pre>{}</pre>", entities(&escape_text(&last)));
        }
        put!(
            out,
            "<p>again: <code>{}</code></p></details>",
            line(&data::rerun(state, &node.id))
        );
    }
    if groups.len() > FAILURES {
        let more = plural((groups.len() - FAILURES) as u64, "more kind of failure");
        put!(out, "<p>and {more}</p>");
    }
    put!(out, "</section>");
}

fn jobs(out: &mut String, found: &Statistics) {
    if found.jobs.is_empty() {
        return;
    }
    let jobs = found.jobs_by_concern();
    let most = jobs.iter().map(|job| sum(&job.phases)).fold(0.0, f64::max);
    let (header, rows) = job_rows(&jobs);
    let class = |column: usize| match header[column] {
        "failed" => " class=\"bad\"",
        "cancelled" => " class=\"warn\"",
        _ => "",
    };
    put!(
        out,
        "<section id=\"jobs\"><h2>Jobs</h2><div class=\"wide\"><table>\n<thead><tr>"
    );
    for name in &header {
        put!(out, "<th>{name}</th>");
    }
    put!(
        out,
        "<th class=\"mix\">time by phase</th></tr></thead>\n<tbody>"
    );
    for (job, row) in jobs.iter().zip(&rows) {
        put!(out, "<tr><th>{}</th>", entities(&row[0]));
        for (column, cell) in row.iter().enumerate().skip(1) {
            put!(out, "<td{}>{}</td>", class(column), entities(cell));
        }
        put!(
            out,
            "<td class=\"mix\">{}</td></tr>",
            mix(&job.phases, most)
        );
    }
    put!(out, "</tbody></table></div></section>");
}

fn sum(phases: &Phases) -> f64 {
    steps(phases).iter().map(|(_, seconds)| seconds).sum()
}

/// A bar of phases, as long as its share of `most`.
fn mix(phases: &Phases, most: f64) -> String {
    if most <= 0.0 || sum(phases) <= 0.0 {
        return String::new();
    }
    let mut bar = String::from(
        "<svg viewBox=\"0 0 1000 10\" preserveAspectRatio=\"none\" role=\"img\" aria-label=\"time by phase\">",
    );
    let mut x = 0.0;
    for (name, seconds) in steps(phases) {
        let width = seconds / most * 1000.0;
        if width > 0.0 {
            let told = format_seconds(seconds);
            write!(
                bar,
                "<rect class=\"{name}\" x=\"{x:.1}\" width=\"{width:.1}\" height=\"10\"><title>{name} {told}</title></rect>"
            )
            .expect("a string takes all");
            x += width;
        }
    }
    bar.push_str("</svg>");
    bar
}

/// What slots did and waited for, the greatest first, with what would help.
fn slots(out: &mut String, state: &RunState, found: &SlotTime) {
    if found.causes.is_empty() {
        return;
    }
    put!(
        out,
        "<section id=\"slots\"><h2>Where the time of slots went</h2><p>{}.</p>",
        found.heading(state.wall)
    );
    let rows: Vec<(String, f64)> = found
        .shown()
        .map(|(cause, seconds)| (cause.to_string(), *seconds))
        .collect();
    bars(out, rows.iter());
    for remedy in found.advice() {
        put!(out, "<p>{}</p>", line(&remedy));
    }
    put!(out, "</section>");
}

fn phases(out: &mut String, found: &Statistics) {
    let all = sum(&found.phases);
    if all <= 0.0 {
        return;
    }
    put!(
        out,
        "<section id=\"phases\"><h2>Where the time of attempts went</h2><div class=\"whole\">{}</div><dl>",
        mix(&found.phases, all)
    );
    let meaning = |name| match name {
        "fetch" => "laying inputs out",
        "start" => "making the folder and starting the process",
        "decode" => "reading inputs into a warm process",
        "compute" => "the command itself",
        "encode" => "writing outputs out of a warm process",
        _ => "hashing and storing outputs",
    };
    for (name, seconds) in steps(&found.phases) {
        if seconds > 0.0 {
            put!(
                out,
                "<div><dt><i class=\"{name}\"></i>{name}</dt><dd>{}, {:.0} %<br><span class=\"dim\">{}</span></dd></div>",
                format_seconds(seconds),
                seconds / all * 100.0,
                meaning(name)
            );
        }
    }
    if found.phases.queue > 0.0 {
        put!(
            out,
            "<div><dt>queue</dt><dd>{}<br><span class=\"dim\">handed to a worker, waiting for its turn</span></dd></div>",
            format_seconds(found.phases.queue)
        );
    }
    put!(out, "</dl></section>");
}

fn path(out: &mut String, state: &RunState, found: &Statistics) {
    let path = &found.critical_path;
    if path.len() < 2 {
        return;
    }
    let seconds: f64 = path.iter().map(|(_, seconds)| seconds).sum();
    put!(
        out,
        "<section id=\"path\"><h2>Critical path</h2><p>{} one after the other took {} of {}. {}</p>",
        plural(path.len() as u64, "node"),
        format_seconds(seconds),
        format_seconds(state.wall),
        what_limits(seconds, state.wall)
    );
    // Of a long path the longest steps, in its order.
    let mut order: Vec<usize> = (0..path.len()).collect();
    order.sort_by(|a, b| path[*b].1.total_cmp(&path[*a].1));
    order.truncate(PATH);
    order.sort_unstable();
    let told: Vec<&(String, f64)> = order.into_iter().map(|ix| &path[ix]).collect();
    if told.len() < path.len() {
        put!(out, "<p class=\"dim\">The longest {}:</p>", told.len());
    }
    bars(out, told.into_iter());
    put!(out, "</section>");
}

/// What keeps a run from being shorter, by the seconds of its critical path.
fn what_limits(path: f64, wall: f64) -> &'static str {
    match path > wall / 2.0 {
        true => "The run can only be shorter where one of them is, or starts sooner.",
        false => {
            "That is no more than half of the time: what limits the run is its slots, and more of them would make it shorter."
        }
    }
}

fn slowest(out: &mut String, found: &Statistics) {
    if found.slowest.len() < 2 {
        return;
    }
    put!(out, "<section id=\"slowest\"><h2>Slowest attempts</h2>");
    bars(out, found.slowest.iter());
    put!(out, "</section>");
}

/// Names with times and bars in proportion.
fn bars<'a>(out: &mut String, rows: impl Iterator<Item = &'a (String, f64)> + Clone) {
    let most = rows.clone().map(|(_, s)| *s).fold(0.0, f64::max);
    put!(out, "<ol class=\"bars\">");
    for (id, seconds) in rows {
        let share = if most > 0.0 {
            seconds / most * 100.0
        } else {
            0.0
        };
        put!(
            out,
            "<li><span>{}</span><b>{}</b><i style=\"width:{share:.1}%\"></i></li>",
            line(id),
            format_seconds(*seconds)
        );
    }
    put!(out, "</ol>");
}

fn notes(out: &mut String, state: &RunState) {
    let list = |out: &mut String, title: &str, rows: Vec<String>, most: usize| {
        if rows.is_empty() {
            return;
        }
        put!(out, "<section><h2>{title}</h2><ul>");
        for row in rows.iter().take(most) {
            put!(out, "<li>{row}</li>");
        }
        if rows.len() > most {
            put!(out, "<li>and {} more</li>", rows.len() - most);
        }
        put!(out, "</ul></section>");
    };
    let kept = state.kept_back.iter();
    let kept = kept.map(|(path, why)| format!("<code>{}</code>: {}", line(path), line(why)));
    list(out, "Not exported", kept.collect(), LISTED);
    let warnings = state.warnings.iter().map(|text| line(text));
    list(out, "Warnings", warnings.collect(), LISTED);
    let other = state.non_determinism.iter();
    let other = other.map(|(node, output)| format!("{}: {}", line(node), line(output)));
    list(out, "Other bytes than before", other.collect(), LISTED);
    let exported = state.exported.iter();
    let exported =
        exported.map(|(path, node, _)| format!("<code>{}</code> of {}", line(path), line(node)));
    list(out, "Exported", exported.collect(), EXPORTS);
}

fn about(out: &mut String, started: &RunStarted) {
    rows(out, "Parameters", &started.params);
    rows(out, "Settings", &started.settings);
    put!(
        out,
        "<section id=\"about\"><h2>Run</h2><p><code>{}</code></p><p class=\"dim\">dagrun {}, {} in {}</p></section>",
        line(&started.command.join(" ")),
        line(&started.dagrun),
        line(&started.path),
        line(&started.workspace)
    );
}

fn rows(out: &mut String, title: &str, rows: &[ParamRow]) {
    if rows.is_empty() {
        return;
    }
    put!(
        out,
        "<section><h2>{title}</h2><div class=\"wide\"><table class=\"words\">\n<thead><tr><th>name</th><th>value</th><th>from</th></tr></thead>\n<tbody>"
    );
    for row in rows {
        let value = match &row.value {
            serde_json::Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        put!(
            out,
            "<tr><th>{}</th><td><code>{}</code></td><td>{}</td></tr>",
            line(&row.name),
            line(&value),
            line(&row.origin)
        );
    }
    put!(out, "</tbody></table></div></section>");
}

#[cfg(test)]
mod tests;
