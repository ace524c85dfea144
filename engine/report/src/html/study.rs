//! The study on a page: figures, the curve of the best so far, failures of trials by reason.

use std::fmt::Write;

use dagrun_events::{RunState, StudyRow, TrialRow};
use dagrun_model::{float_text, short_float_text};

use super::{line, put, timeline::axis};
use crate::{
    EarlierTrial, Scale, mark_text, plural, plural_of,
    study::{figures, pace_text, params, saved, some_trials, trials_ended},
};

/// About so many values stand at the curve.
const MARKS: usize = 5;
/// Points of a page at the most: of longer studies some are left out, the curve has all its steps.
const POINTS: usize = 4_000;
/// Kinds of failure.
const KINDS: usize = 20;

pub(super) fn section(out: &mut String, state: &RunState, earlier: &[EarlierTrial]) {
    let Some(study) = &state.study else {
        return;
    };
    let found = figures(study);
    put!(
        out,
        "<section id=\"study\"><h2>Study {}</h2>",
        line(&study.study)
    );
    let mut told = trials_ended(study.told(), study.trials, study.told_now);
    if study.failed_now > 0 {
        write!(told, ", {} failed", study.failed_now).expect("a string takes all");
    }
    if let Some(end) = &study.end {
        let class = if end.succeeded { "good" } else { "bad" };
        write!(told, "; <b class=\"{class}\">{}</b>", line(&end.reason))
            .expect("a string takes all");
    }
    put!(out, "<p>{told}</p>");
    if let Some((trial, value)) = study.best {
        let name = study.objectives.first().map_or("value", String::as_str);
        put!(
            out,
            "<p>best: <b>{} = {}</b> in trial {trial}{}</p>",
            line(name),
            short_float_text(value),
            line(&params(study.best_params.as_ref()))
        );
    }
    let pace = pace_text(study.pace.told, study.pace.seconds);
    let figures: Vec<String> = [pace, saved(&found)].into_iter().flatten().collect();
    if !figures.is_empty() {
        put!(out, "<p class=\"dim\">{}</p>", figures.join("; "));
    }
    curve(out, state, study, earlier);
    failures(out, &found.failures);
    put!(out, "</section>");
}

fn failures(out: &mut String, failures: &[(String, Vec<u64>)]) {
    if failures.is_empty() {
        return;
    }
    put!(
        out,
        "<div class=\"wide\"><table class=\"words\">\n<thead><tr><th>trials failed</th><th>why</th><th>which</th></tr></thead>\n<tbody>"
    );
    for (reason, trials) in failures.iter().take(KINDS) {
        put!(
            out,
            "<tr><th>{}</th><td>{}</td><td>{}</td></tr>",
            trials.len(),
            line(reason),
            some_trials(trials)
        );
    }
    put!(out, "</tbody></table></div>");
    if failures.len() > KINDS {
        let more = plural((failures.len() - KINDS) as u64, "more kind of failure");
        put!(out, "<p>and {more}</p>");
    }
}

/// The trials with one value each, in the order in which they ended, with when.
fn told(study: &StudyRow) -> Vec<(&TrialRow, f64, f64)> {
    let rows = study.rows.iter();
    let valued = rows.filter_map(|row| Some((row, row.ended?, *row.values.first()?)));
    let mut told: Vec<_> = valued.filter(|(.., value)| value.is_finite()).collect();
    told.sort_by(|a, b| a.1.total_cmp(&b.1));
    told
}

/// Share of the width that trials of earlier runs have at least, and at most where this run has told some.
const EARLIER: (f64, f64) = (8.0, 50.0);

/// Values of trials over time, and the best so far. Of studies with one objective. What earlier runs have told stands before it, in
/// its order: of when there is no word.
fn curve(out: &mut String, state: &RunState, study: &StudyRow, earlier: &[EarlierTrial]) {
    let told = told(study);
    let best = told.iter().rev().find_map(|(row, ..)| row.best);
    let best = best.or(study.best.map(|(_, value)| value));
    let (1, Some(best)) = (study.objectives.len(), best) else {
        return;
    };
    let values = || {
        let now = told.iter().map(|(.., value)| *value);
        earlier.iter().map(|it| it.value).chain(now)
    };
    // Which way is better no event says, but the best value does.
    let worse = values().filter(|value| *value > best).count();
    let maximize = worse * 2 < values().count().saturating_sub(1);
    let Some(scale) = Scale::of_best(values(), maximize) else {
        return;
    };
    let last = told.last().map_or(0.0, |(_, at, _)| *at);
    let span = (last - state.started_at).max(1e-3);
    let (all, before) = (values().count() as f64, earlier.len() as f64);
    let before = match (earlier.is_empty(), told.is_empty()) {
        (true, _) => 0.0,
        (_, true) => 100.0,
        _ => (before / all * 100.0).clamp(EARLIER.0, EARLIER.1),
    };
    let x = |at: f64| {
        let share = ((at - state.started_at) / span).clamp(0.0, 1.0);
        before + share * (100.0 - before)
    };
    let y = |value: f64| 100.0 * (1.0 - scale.place(value));
    let x_earlier = |ix: usize| (ix as f64 + 0.5) / earlier.len() as f64 * before;
    let name = study.objectives.first().map_or("value", String::as_str);
    let marks = scale.marks(MARKS);
    put!(
        out,
        "<figure class=\"curve\"><div class=\"marks\" aria-hidden=\"true\">"
    );
    for mark in &marks {
        put!(
            out,
            "<span style=\"top:{:.2}%\">{}</span>",
            y(*mark),
            mark_text(*mark)
        );
    }
    put!(
        out,
        "</div><svg role=\"img\" aria-label=\"{} of trials over time, and the best so far\">",
        line(name)
    );
    for mark in &marks {
        put!(
            out,
            "<line x2=\"100%\" y1=\"{0:.2}%\" y2=\"{0:.2}%\"/>",
            y(*mark)
        );
    }
    if before > 0.0 && before < 100.0 {
        put!(
            out,
            "<line class=\"now\" x1=\"{before:.2}%\" x2=\"{before:.2}%\" y2=\"100%\"/>"
        );
    }
    let now = told
        .iter()
        .map(|(row, at, value)| (x(*at), "", row.trial, *value));
    let points = earlier.iter().enumerate();
    let points = points.map(|(ix, it)| (x_earlier(ix), " earlier", it.trial, it.value));
    let every = values().count().div_ceil(POINTS).max(1);
    for (x, class, trial, value) in points.chain(now).step_by(every) {
        put!(
            out,
            "<circle class=\"{}{class}\" cx=\"{x:.2}%\" cy=\"{:.2}%\" r=\"3\"><title>trial {trial}: {}</title></circle>",
            if scale.holds(value) {
                "trial"
            } else {
                "beyond"
            },
            y(value),
            float_text(value)
        );
    }
    // The best so far, where it stands from when on.
    let mut so_far: Option<f64> = None;
    let mut steps: Vec<(f64, f64)> = Vec::new();
    for (ix, it) in earlier.iter().enumerate().filter(|(_, it)| it.feasible) {
        let better = |former: f64| (it.value > former) == maximize && it.value != former;
        if so_far.is_none_or(better) {
            so_far = Some(it.value);
            steps.push((x_earlier(ix), it.value));
        }
    }
    for (row, at, _) in &told {
        if let Some(best) = row.best.filter(|best| so_far != Some(*best)) {
            so_far = Some(best);
            steps.push((x(*at), best));
        }
    }
    // Shares of width and height are no units of a path: it has a drawing of its own, and lines of the same width.
    put!(
        out,
        "<svg viewBox=\"0 0 100 100\" preserveAspectRatio=\"none\"><path d=\"{}H100\"/></svg></svg>",
        path(&steps, y)
    );
    if !told.is_empty() {
        put!(out, "<div style=\"margin-left:{before:.2}%\">");
        axis(out, span);
        put!(out, "</div>");
    }
    let beyond = values().filter(|value| !scale.holds(*value)).count() as u64;
    put!(
        out,
        "<figcaption class=\"dim\">{} of trials over time, and the best so far{}{}{}</figcaption></figure>",
        line(name),
        if scale.is_log() {
            "; logarithmic scale"
        } else {
            ""
        },
        match beyond {
            0 => String::new(),
            n => format!(
                "; <span class=\"warn\">{} beyond it</span>, at the edge",
                plural(n, "trial")
            ),
        },
        of_earlier(study, earlier.len() as u64)
    );
}

/// What is said of trials of earlier runs. Those that failed have no value to draw.
fn of_earlier(study: &StudyRow, drawn: u64) -> String {
    match (drawn, study.told_before) {
        (0, 0) => String::new(),
        (0, n) => format!(
            "; {} not drawn",
            plural_of(n, "trial of earlier runs is", "trials of earlier runs are")
        ),
        (n, _) => format!(
            "; {} pale, and before the time of this one",
            plural_of(n, "trial of earlier runs is", "trials of earlier runs are")
        ),
    }
}

/// Steps from left to right.
fn path(steps: &[(f64, f64)], y: impl Fn(f64) -> f64) -> String {
    let step = |(ix, (x, best)): (usize, &(f64, f64))| match ix {
        0 => format!("M{x:.2} {:.2}", y(*best)),
        _ => format!("H{x:.2}V{:.2}", y(*best)),
    };
    steps.iter().enumerate().map(step).collect()
}
