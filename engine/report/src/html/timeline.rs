//! The time line of a page: a row for each slot, a bar for each attempt, coloured by its phases.

use std::{collections::BTreeSet, fmt::Write};

use dagrun_events::{AttemptOutcome, RunState};
use dagrun_model::{Phases, format_seconds};
use rustc_hash::FxHashSet;

use super::{line, put};
use crate::{
    Statistics, job_of, plural,
    statistics::{add, steps},
    timeline::{Bar, Lane, lanes},
};

/// Rows that are drawn.
const LANES: usize = 64;
/// The width of a row, in units of its own.
const WIDTH: f64 = 10_000.0;
/// Bars of a page at the most: in long runs, short ones beside each other become one.
const BARS: usize = 30_000;
/// Bars of a row at the most.
const BARS_OF_LANE: usize = 1_500;

/// Where the units of a row are.
struct Scale {
    begin: f64,
    span: f64,
    /// Seconds below which bars are too short to be told apart.
    least: f64,
}

/// Bars that are drawn as one.
struct Block {
    start: f64,
    end: f64,
    attempts: Vec<usize>,
}

pub(super) fn section(out: &mut String, state: &RunState, found: &Statistics) {
    let lanes = lanes(state);
    if lanes.is_empty() {
        return;
    }
    let ends = lanes.iter().flat_map(|lane| &lane.bars).map(|bar| bar.end);
    let span = ends
        .fold(state.wall, |span, end| span.max(end - state.started_at))
        .max(1e-3);
    let shown = lanes.len().min(LANES);
    let scale = Scale {
        begin: state.started_at,
        span,
        least: span / BARS_OF_LANE.min(BARS / shown) as f64,
    };
    let critical: FxHashSet<&str> = (found.critical_path.iter())
        .map(|(id, _)| id.as_str())
        .collect();
    put!(
        out,
        "<section id=\"timeline\"><h2>Time line</h2><p class=\"legend\">"
    );
    for (name, seconds) in steps(&found.phases) {
        if seconds > 0.0 {
            put!(out, "<span><i class=\"{name}\"></i>{name}</span>");
        }
    }
    put!(
        out,
        "<span><i class=\"critical\"></i>on the critical path</span><span><i class=\"failed\"></i>did not succeed</span></p><div class=\"lanes\">"
    );
    for lane in &lanes[..shown] {
        row(out, state, lane, &scale, &critical);
    }
    axis(out, span);
    put!(out, "</div>");
    if lanes.len() > shown {
        let more = plural((lanes.len() - shown) as u64, "more slot");
        put!(out, "<p class=\"dim\">and {more}</p>");
    }
    put!(out, "</section>");
}

fn row(out: &mut String, state: &RunState, lane: &Lane, scale: &Scale, critical: &FxHashSet<&str>) {
    let host = state.workers.get(&lane.worker);
    let host = host.map_or_else(|| format!("worker {}", lane.worker), |row| row.host.clone());
    let name = format!("{} · {}", line(&host), lane.slot);
    put!(
        out,
        "<div class=\"lane\"><span title=\"{name}\">{name}</span><svg viewBox=\"0 0 {WIDTH} 20\" preserveAspectRatio=\"none\" role=\"img\" \
         aria-label=\"{name}: {}\">",
        plural(lane.bars.len() as u64, "attempt")
    );
    for block in blocks(&lane.bars, scale.least) {
        draw(out, state, &block, scale, critical);
    }
    put!(out, "</svg></div>");
}

/// Joins bars that are too short to be told apart.
fn blocks(bars: &[Bar], least: f64) -> Vec<Block> {
    let mut blocks: Vec<Block> = Vec::new();
    for bar in bars {
        let is_short = |start: f64, end: f64| end - start < least;
        match blocks.last_mut() {
            Some(block)
                if bar.start - block.end < least
                    && is_short(block.start, block.end)
                    && is_short(bar.start, bar.end) =>
            {
                block.end = block.end.max(bar.end);
                block.attempts.push(bar.attempt);
            }
            _ => blocks.push(Block {
                start: bar.start,
                end: bar.end,
                attempts: vec![bar.attempt],
            }),
        }
    }
    blocks
}

fn draw(
    out: &mut String,
    state: &RunState,
    block: &Block,
    scale: &Scale,
    critical: &FxHashSet<&str>,
) {
    let x = |at: f64| ((at - scale.begin) / scale.span * WIDTH).clamp(0.0, WIDTH);
    let mut rect = |class: &str, from: f64, to: f64, y: u32, height: u32| {
        let width = (x(to) - x(from)).max(1.0);
        put!(
            out,
            "<rect class=\"{class}\" x=\"{:.1}\" y=\"{y}\" width=\"{width:.1}\" height=\"{height}\"/>",
            x(from)
        );
    };
    let mut phases = Phases::default();
    let mut mark = "";
    for attempt in &block.attempts {
        let row = &state.attempts[*attempt];
        match &row.result {
            Some(result) => {
                add(&mut phases, &result.phases);
                if result.outcome != AttemptOutcome::Succeeded {
                    mark = "failed";
                }
            }
            None => mark = "failed",
        }
        if mark.is_empty() && critical.contains(state.nodes[row.node].id.as_str()) {
            mark = "critical";
        }
    }
    let told = title(state, block);
    rect("rest", block.start, block.end, 2, 12);
    let all: f64 = steps(&phases).iter().map(|(_, seconds)| seconds).sum();
    // Of joined bars the phases are drawn as their sums, in proportion.
    let stretch = if all > 0.0 {
        (block.end - block.start) / all
    } else {
        0.0
    };
    let mut at = block.start;
    for (name, seconds) in steps(&phases) {
        let width = seconds * stretch;
        if width / scale.span * WIDTH > 0.5 {
            rect(name, at, at + width, 2, 12);
        }
        at += width;
    }
    if !mark.is_empty() {
        rect(mark, block.start, block.end, 15, 4);
    }
    // The title is that of a rectangle above all parts.
    let width = (x(block.end) - x(block.start)).max(1.0);
    put!(
        out,
        "<rect class=\"over\" x=\"{:.1}\" y=\"0\" width=\"{width:.1}\" height=\"20\"><title>{told}</title></rect>",
        x(block.start)
    );
}

fn title(state: &RunState, block: &Block) -> String {
    let took = format_seconds(block.end - block.start);
    let after = format_seconds((block.start - state.started_at).max(0.0));
    let id = |attempt: usize| state.nodes[state.attempts[attempt].node].id.as_str();
    let [attempt] = block.attempts[..] else {
        let jobs: BTreeSet<&str> = block.attempts.iter().map(|a| job_of(id(*a))).collect();
        let jobs: Vec<&str> = jobs.into_iter().take(5).collect();
        return format!(
            "{} of {}, {took} from {after}",
            plural(block.attempts.len() as u64, "attempt"),
            line(&jobs.join(", "))
        );
    };
    let row = &state.attempts[attempt];
    let how = match &row.result {
        Some(result) if result.outcome == AttemptOutcome::Succeeded => String::new(),
        Some(result) => format!(": {}", line(&result.describe())),
        None => ": under way".into(),
    };
    let mut text = format!("{}{how}\n{took} from {after}", line(id(attempt)));
    if let Some(result) = &row.result {
        for (name, seconds) in steps(&result.phases) {
            if seconds > 0.0 {
                write!(text, "\n{name} {}", format_seconds(seconds)).expect("a string takes all");
            }
        }
    }
    text
}

/// Marks at round times, five or fewer.
pub(super) fn axis(out: &mut String, span: f64) {
    put!(out, "<div class=\"axis\" aria-hidden=\"true\">");
    let step = round_step(span / 4.0);
    let mut at = 0.0;
    while at <= span * 0.97 {
        let share = at / span * 100.0;
        put!(
            out,
            "<span{} style=\"left:{share:.2}%\">{}</span>",
            // To the right of a late mark there is no room on a narrow screen.
            if share > 80.0 { " class=\"late\"" } else { "" },
            format_seconds(at)
        );
        at += step;
    }
    put!(out, "</div>");
}

/// The next greater of 1, 2, 5, 10, 20 ... seconds or 1, 2, 5, 10, 30 minutes or hours.
fn round_step(least: f64) -> f64 {
    let minutes = [60.0, 120.0, 300.0, 600.0, 1800.0];
    let hours = [3600.0, 7200.0, 18_000.0, 36_000.0, 86_400.0];
    let small = (-3..=1).flat_map(|e| [1.0, 2.0, 5.0].map(|n| n * 10f64.powi(e)));
    small
        .filter(|step| *step < 60.0)
        .chain(minutes)
        .chain(hours)
        .find(|step| *step >= least)
        .unwrap_or_else(|| (least / 86_400.0).ceil() * 86_400.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_stand_at_round_times() {
        for (least, step) in [
            (0.0004, 0.001),
            (0.3, 0.5),
            (15.0, 20.0),
            (55.0, 60.0),
            (90_000.0, 172_800.0),
        ] {
            assert_eq!(round_step(least), step, "{least}");
        }
    }

    #[test]
    fn short_bars_become_one_and_long_ones_stay() {
        let bar = |attempt, start, end| Bar {
            attempt,
            start,
            end,
        };
        let bars = [
            bar(0, 0.0, 0.1),
            bar(1, 0.1, 0.2),
            bar(2, 0.3, 5.0),
            bar(3, 5.0, 9.0),
            bar(4, 9.1, 9.2),
        ];
        let joined: Vec<Vec<usize>> = blocks(&bars, 1.0).into_iter().map(|b| b.attempts).collect();
        assert_eq!(joined, [vec![0, 1], vec![2], vec![3], vec![4]]);
    }
}
