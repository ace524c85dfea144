//! The study on a page: figures, the curve of the best so far, failures of trials by reason.

use std::fmt::Write;

use dagrun_events::{RunState, StudyRow, TrialRow};
use dagrun_model::{float_text, short_float_text};

use super::{line, put, timeline::axis};
use crate::{
    Scale, mark_text, plural, plural_of,
    study::{figures, pace_text, params, saved, some_trials, trials_ended},
};

/// About so many values stand at the curve.
const MARKS: usize = 5;
/// Points of a page at the most: of longer studies some are left out, the curve has all its steps.
const POINTS: usize = 4_000;
/// Kinds of failure.
const KINDS: usize = 20;

pub(super) fn section(out: &mut String, state: &RunState) {
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
    curve(out, state, study);
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

/// Values of trials over time, and the best so far. Of studies with one objective.
fn curve(out: &mut String, state: &RunState, study: &StudyRow) {
    let told = told(study);
    let best = told.iter().rev().find_map(|(row, ..)| row.best);
    let (1, Some(best)) = (study.objectives.len(), best) else {
        return;
    };
    // Which way is better no event says, but the best value does.
    let worse = told.iter().filter(|(.., value)| *value > best).count();
    let maximize = worse * 2 < told.len().saturating_sub(1);
    let Some(scale) = Scale::of_best(told.iter().map(|(.., value)| *value), maximize) else {
        return;
    };
    let last = told.last().map_or(0.0, |(_, at, _)| *at);
    let span = (last - state.started_at).max(1e-3);
    let x = |at: f64| ((at - state.started_at) / span * 100.0).clamp(0.0, 100.0);
    let y = |value: f64| 100.0 * (1.0 - scale.place(value));
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
    let every = told.len().div_ceil(POINTS).max(1);
    for (row, at, value) in told.iter().step_by(every) {
        put!(
            out,
            "<circle class=\"{}\" cx=\"{:.2}%\" cy=\"{:.2}%\" r=\"3\"><title>trial {}: {}</title></circle>",
            if scale.holds(*value) {
                "trial"
            } else {
                "beyond"
            },
            x(*at),
            y(*value),
            row.trial,
            float_text(*value)
        );
    }
    // Shares of width and height are no units of a path: it has a drawing of its own, and lines of the same width.
    put!(
        out,
        "<svg viewBox=\"0 0 100 100\" preserveAspectRatio=\"none\"><path d=\"{}H100\"/></svg></svg>",
        steps(&told, x, y)
    );
    axis(out, span);
    let beyond = told.iter().filter(|(.., value)| !scale.holds(*value));
    put!(
        out,
        "<figcaption class=\"dim\">{} of trials over time, and the best so far{}{}{}</figcaption></figure>",
        line(name),
        if scale.is_log() {
            "; logarithmic scale"
        } else {
            ""
        },
        match beyond.count() as u64 {
            0 => String::new(),
            n => format!(
                "; <span class=\"warn\">{} beyond it</span>, at the edge",
                plural(n, "trial")
            ),
        },
        match study.told_before {
            0 => String::new(),
            n => format!(
                "; {} not drawn",
                plural_of(n, "trial of earlier runs is", "trials of earlier runs are")
            ),
        }
    );
}

/// The best so far, as steps.
fn steps(told: &[(&TrialRow, f64, f64)], x: impl Fn(f64) -> f64, y: impl Fn(f64) -> f64) -> String {
    let mut path = String::new();
    let mut former: Option<f64> = None;
    for (row, at, _) in told {
        let Some(best) = row.best.filter(|best| former != Some(*best)) else {
            continue;
        };
        let step = match former {
            None => format!("M{:.2} {:.2}", x(*at), y(best)),
            Some(_) => format!("H{:.2}V{:.2}", x(*at), y(best)),
        };
        path.push_str(&step);
        former = Some(best);
    }
    path
}
