//! The end of a run in words: failures with what is needed to look into them, totals, the study, exports.

use std::{collections::BTreeMap, path::Path};

use dagrun_events::AttemptSummary;
use dagrun_model::format_seconds;
use dagrun_run::{Failure, RunSummary, StudySummary};

use super::{exports, remedy::remedy};
use crate::{
    args::INTERRUPTED,
    say,
    term::{Ink, Style, escape, job_of, plural, short_text, some_trials},
    trial,
    typed::Typed,
};

/// Failures that are listed at the end.
const LISTED: usize = 10;
/// Kinds of failures of trials that are.
const REASONS: usize = 3;
/// Characters of the value of a template that are shown with a failure.
const VALUE_LENGTH: usize = 100;
/// Values of templates that are shown with a failure.
const VALUES: usize = 8;
/// Lines of its command that are shown with a failure, and characters of each.
const COMMAND_LINES: usize = 12;
const COMMAND_WIDTH: usize = 300;

/// The end of a run, and what is said of it.
pub(super) struct End<'a> {
    pub(super) summary: &'a RunSummary,
    pub(super) pipeline: &'a dagrun_model::Pipeline,
    pub(super) project: &'a Path,
    pub(super) typed: &'a Typed,
    /// The command that goes on with a run that was stopped.
    pub(super) again: String,
    pub(super) style: Style,
}

impl End<'_> {
    /// Says it: failures, how nodes ended, the study, exports.
    pub(super) fn conclude(&self) {
        let Self { summary, style, .. } = *self;
        // A trial that failed is a value of its study; where the study has failed, its trials say why.
        let study = summary.study.as_ref();
        let values = study.is_some_and(|study| study.succeeded);
        let (in_trials, others): (Vec<&Failure>, Vec<&Failure>) =
            summary.failures.iter().partition(|failure| {
                study.is_some() && self.is_of_trial(&failure.id) && !failure.input_changed()
            });
        let mut listed = others;
        if !values {
            listed.extend(&in_trials);
        }
        self.list(&listed, values);
        if summary.dropped_events > 0 && style.verbose > 0 {
            say!(
                "{} events came too fast for the screen; the journal has them",
                summary.dropped_events
            );
        }
        if style.quiet && summary.exit_code == 0 {
            return;
        }
        say!("{}", totals(summary, style));
        if let Some(study) = study {
            let again = in_trials.first().map(|failure| failure.id.as_str());
            say!("{}", study_lines(study, again, self.typed, style));
        }
        if !style.quiet {
            if summary.exit_code == i32::from(INTERRUPTED) {
                say!("the same command goes on where it stopped: {}", self.again);
            }
            self.exports();
        }
    }

    fn is_of_trial(&self, id: &str) -> bool {
        trial::phase_of(self.pipeline, id) == Some(dagrun_plan::JobPhase::Trial)
    }

    fn list(&self, failures: &[&Failure], values: bool) {
        let groups = groups(failures);
        for group in groups.iter().take(LISTED) {
            let remedy = group
                .first()
                .and_then(|failure| remedy(failure, self.project));
            say!(
                "{}",
                describe(group, remedy.as_deref(), self.typed, self.style)
            );
        }
        let told: usize = groups.iter().take(LISTED).map(Vec::len).sum();
        let values = match &self.summary.study {
            Some(study) if values => study.failed_nodes,
            _ => 0,
        };
        let failed = self.summary.counts.failed.saturating_sub(values);
        if failed > told as u64 {
            say!(
                "... and {}; `{}` lists them",
                plural(failed - told as u64, "more failed node"),
                self.typed.show()
            );
        }
    }

    fn exports(&self) {
        let targets = self.summary.exported.iter().map(|(target, _)| &**target);
        for line in exports::lines(self.project, targets, &self.summary.removed, self.style) {
            say!("  {line}");
        }
    }
}

/// Failures of the same job for the same reason, in the order of the first of each.
fn groups<'f>(failures: &[&'f Failure]) -> Vec<Vec<&'f Failure>> {
    let mut groups: Vec<Vec<&Failure>> = Vec::new();
    let mut at: BTreeMap<(&str, String), usize> = BTreeMap::new();
    for failure in failures {
        let group = *at
            .entry((job_of(&failure.id), failure.describe()))
            .or_insert_with(|| {
                groups.push(Vec::new());
                groups.len() - 1
            });
        groups[group].push(failure);
    }
    groups
}

/// How a study stands, in a few lines; `again` is a node of a trial that failed.
fn study_lines(study: &StudySummary, again: Option<&str>, typed: &Typed, style: Style) -> String {
    let counts = &study.counts;
    let mut text = format!(
        "study {}: {}",
        style.paint(Ink::Bold, &study.name),
        dagrun_report::trials_ended(counts.told, study.trials, study.told_now),
    );
    if let Some(reason) = &study.ended {
        text.push_str(&format!("; {}", escape(&reason.to_string())));
    }
    if let Some((best, params)) = &study.best {
        let params: Vec<String> = params
            .iter()
            .map(|(name, value)| format!("{name}={}", short_text(value)))
            .collect();
        text.push_str(&format!(
            "\n  best: {} in trial {} ({})",
            style.paint(Ink::Good, &dagrun_model::short_float_text(best.value)),
            best.trial,
            escape(&params.join(", "))
        ));
    }
    if study.front > 0 {
        text.push_str(&format!(
            "\n  {} on the Pareto front",
            plural(study.front as u64, "trial")
        ));
    }
    if counts.failed > 0 {
        let failed = format!("{} of {} trials failed", counts.failed, counts.told);
        text.push_str(&format!("\n  {}", style.paint(Ink::Warn, &failed)));
        let reasons = study.failures.iter();
        let reasons = reasons.map(|(trial, why)| (*trial, why.as_str()));
        for (reason, trials) in dagrun_report::trial_failures(reasons).iter().take(REASONS) {
            let some = some_trials(trials);
            text.push_str(&format!("\n    {} ({some})", escape(reason)));
        }
        if let Some(node) = again {
            text.push_str(&format!("\n    log: {}", typed.log(node)));
            text.push_str(&format!("\n    rerun one: {}", typed.only(node)));
        }
    }
    text
}

fn totals(summary: &RunSummary, style: Style) -> String {
    let counts = &summary.counts;
    let open = summary.nodes.saturating_sub(counts.total());
    let in_trials = summary.study.as_ref().map_or(0, |study| study.failed_nodes);
    let mut parts = Vec::new();
    for (n, word, ink) in [
        (counts.succeeded, "ran", Ink::Good),
        (counts.cached, "cached", Ink::Info),
        (counts.failed.saturating_sub(in_trials), "failed", Ink::Bad),
        (in_trials, "failed in trials", Ink::Warn),
        (counts.skipped, "skipped", Ink::Warn),
        (counts.cancelled, "cancelled", Ink::Warn),
        (open, "not run", Ink::Warn),
    ] {
        if n > 0 {
            parts.push(style.paint(ink, &format!("{n} {word}")).into_owned());
        }
    }
    let (word, ink) = match summary.exit_code {
        0 => ("done", Ink::Good),
        130 => ("interrupted", Ink::Warn),
        _ => ("failed", Ink::Bad),
    };
    if parts.is_empty() {
        parts.push("nothing had to run".into());
    }
    format!(
        "{} in {}: {}",
        style.paint(ink, word),
        format_seconds(summary.wall),
        parts.join(", ")
    )
}

/// The beginning of a text of several lines, to stand in a column.
fn few_lines(text: &str) -> String {
    let text = text.trim_end();
    let mut lines: Vec<String> = text
        .lines()
        .take(COMMAND_LINES)
        .map(|line| shortened(line, COMMAND_WIDTH))
        .collect();
    if text.lines().count() > COMMAND_LINES {
        lines.push("…".into());
    }
    lines.join(&format!("\n{}", " ".repeat(11)))
}

fn shortened(text: &str, most: usize) -> String {
    match text.char_indices().nth(most) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text.to_owned(),
    }
}

/// A failed node: what it is, how it ended, its command, the end of its stderr, how to run it again, what it blocks; and
/// which others failed like it.
fn describe(group: &[&Failure], remedy: Option<&str>, typed: &Typed, style: Style) -> String {
    let Some((failure, others)) = group.split_first() else {
        return String::new();
    };
    let mut text = format!(
        "\n{} {}",
        style.paint(Ink::Bad, "failed:"),
        style.paint(Ink::Bold, &escape(&failure.id))
    );
    let mut row = |name: &str, value: &str| {
        text.push_str(&format!(
            "\n  {} {value}",
            style.paint(Ink::Dim, &format!("{name:>8}"))
        ));
    };
    row("why", &escape(&failure.describe()));
    if let Some(host) = &failure.host {
        row("on", &escape(host));
    }
    if !failure.command.is_empty() {
        row("command", &few_lines(&escape(&failure.command)));
    }
    for (name, value) in failure.values.iter().take(VALUES) {
        let line = escape(value).replace('\n', "⏎");
        row(
            "with",
            &format!("{name}={}", shortened(&line, VALUE_LENGTH)),
        );
    }
    if failure.values.len() > VALUES {
        row(
            "",
            &format!("... and {} more", failure.values.len() - VALUES),
        );
    }
    if failure.attempts > 1 {
        row("attempts", &failure.attempts.to_string());
    }
    if let Some(attempt) = &failure.attempt {
        let log = attempt.stderr.as_ref().or(attempt.stdout.as_ref());
        let tail = log.map_or("", |log| log.tail.as_str());
        let lines: Vec<&str> = tail.lines().collect();
        for line in &lines[lines.len().saturating_sub(10)..] {
            row("│", &escape(line));
        }
        if let Some(folder) = &attempt.kept_folder {
            row("folder", folder);
        }
    }
    if failure.blocked > 0 {
        row("blocks", &plural(failure.blocked, "node"));
    }
    if let Some(remedy) = remedy {
        row("help", &escape(remedy));
    }
    let said = |it: &AttemptSummary| it.stdout.is_some() || it.stderr.is_some();
    if failure.attempt.as_ref().is_some_and(|it| !said(it)) {
        row(
            "log",
            &format!(
                "empty; `{}` is in its folder, with its environment",
                typed.shell(&failure.id)
            ),
        );
    } else {
        row("log", &typed.log(&failure.id));
    }
    row("rerun", &typed.only(&failure.id));
    if !others.is_empty() {
        let ids: Vec<String> = others
            .iter()
            .take(3)
            .map(|other| escape(&other.id))
            .collect();
        let dots = if others.len() > 3 { ", ..." } else { "" };
        text.push_str(&format!(
            "\n  and {} more of `{}` for the same reason: {}{dots}",
            others.len(),
            escape(job_of(&failure.id)),
            ids.join(", ")
        ));
    }
    text
}
