//! The study on a page: figures, the curve of the best so far, failures of trials by reason.

use std::fmt::Write;

use dagrun_events::{RunState, StudyRow};
use dagrun_model::{float_text, format_seconds};

use super::{line, put};
use crate::{
    plural,
    study::{figures, params, saved, some, trials_ended},
};

/// Width and height of the curve, in units of its own.
const WIDTH: f64 = 1000.0;
const HEIGHT: f64 = 240.0;
/// Points of a page at the most: of longer studies some are left out, the curve has all its steps.
const POINTS: usize = 4_000;
/// Kinds of failure.
const KINDS: usize = 20;
/// Beyond this ratio of the greatest to the least value the scale is that of logarithms.
const WIDE: f64 = 100.0;

pub(super) fn section(out: &mut String, state: &RunState) {
    let Some(study) = &state.study else {
        return;
    };
    let found = figures(state, study);
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
            float_text(value),
            line(&params(study.best_params.as_ref()))
        );
    }
    let pace = found.pace.map(|pace| {
        format!(
            "{pace:.1} trials a minute in {}",
            format_seconds(state.wall)
        )
    });
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
            some(trials)
        );
    }
    put!(out, "</tbody></table></div>");
    if failures.len() > KINDS {
        let more = plural((failures.len() - KINDS) as u64, "more kind of failure");
        put!(out, "<p>and {more}</p>");
    }
}

/// From values and times to places in the drawing.
struct Scale {
    begin: f64,
    span: f64,
    low: f64,
    high: f64,
    log: bool,
}

impl Scale {
    /// Values far worse than most are left out; the curve of the best is not.
    fn new(state: &RunState, study: &StudyRow) -> Option<Self> {
        let values = study.rows.iter().filter_map(|row| row.values.first());
        let mut sorted: Vec<f64> = values.copied().filter(|value| value.is_finite()).collect();
        let best = || study.rows.iter().filter_map(|row| row.best);
        sorted.sort_by(f64::total_cmp);
        best().next()?;
        let at = |share: f64| sorted.get(((sorted.len() - 1) as f64 * share).round() as usize);
        let (low, high) = (*at(0.1)?, *at(0.9)?);
        let (low, high) = best().fold((low, high), |(low, high), value| {
            (low.min(value), high.max(value))
        });
        let log = low > 0.0 && high / low > WIDE;
        let ends = study.rows.iter().filter_map(|row| row.ended);
        let last = ends.fold(state.started_at, f64::max);
        Some(Self {
            begin: state.started_at,
            span: (last - state.started_at).max(1e-3),
            low,
            high,
            log,
        })
    }

    fn x(&self, at: f64) -> f64 {
        ((at - self.begin) / self.span * WIDTH).clamp(0.0, WIDTH)
    }

    fn y(&self, value: f64) -> f64 {
        let scaled = |value: f64| if self.log { value.ln() } else { value };
        let span = scaled(self.high) - scaled(self.low);
        let share = match span > 0.0 {
            true => (scaled(self.high) - scaled(value)) / span,
            false => 0.5,
        };
        // A margin, so that no point is cut.
        5.0 + (HEIGHT - 10.0) * share.clamp(0.0, 1.0)
    }
}

/// Values of trials over time, and the best so far. Of studies with one objective.
fn curve(out: &mut String, state: &RunState, study: &StudyRow) {
    if study.objectives.len() > 1 {
        return;
    }
    let Some(scale) = Scale::new(state, study) else {
        return;
    };
    let name = study.objectives.first().map_or("value", String::as_str);
    put!(
        out,
        "<div class=\"curve\"><span>{}</span><svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" preserveAspectRatio=\"none\" role=\"img\" \
         aria-label=\"best {} so far\">",
        float_text(scale.high),
        line(name)
    );
    let told: Vec<_> = {
        let rows = study.rows.iter().filter(|row| row.ended.is_some());
        let mut rows: Vec<_> = rows.collect();
        rows.sort_by(|a, b| a.ended.unwrap_or(0.0).total_cmp(&b.ended.unwrap_or(0.0)));
        rows
    };
    let every = told.len().div_ceil(POINTS).max(1);
    for row in told.iter().step_by(every) {
        let (Some(value), Some(at)) = (row.values.first(), row.ended) else {
            continue;
        };
        if (scale.low..=scale.high).contains(value) {
            put!(
                out,
                "<rect class=\"trial\" x=\"{:.1}\" y=\"{:.1}\" width=\"3\" height=\"3\"><title>trial {}: {}</title></rect>",
                scale.x(at),
                scale.y(*value) - 1.5,
                row.trial,
                float_text(*value)
            );
        }
    }
    let mut path = String::new();
    let mut former: Option<f64> = None;
    for row in &told {
        let (Some(best), Some(at)) = (row.best, row.ended) else {
            continue;
        };
        if former != Some(best) {
            let (x, y) = (scale.x(at), scale.y(best));
            let step = match former {
                None => format!("M{x:.1} {y:.1}"),
                Some(_) => format!("H{x:.1}V{y:.1}"),
            };
            path.push_str(&step);
            former = Some(best);
        }
    }
    put!(out, "<path d=\"{path}H{WIDTH}\"/></svg>");
    put!(
        out,
        "<span>{}{}</span><p class=\"dim\">{} of trials over {}, and the best so far</p></div>",
        float_text(scale.low),
        if scale.log { " (logarithmic)" } else { "" },
        line(name),
        format_seconds(scale.span)
    );
}
