//! The curve of the best so far, drawn in text.

use std::fmt::Write;

use dagrun_model::Direction;
use dagrun_report::{Scale, mark_text, plural};
use dagrun_study::Study;

/// Rows of the drawing, and the most columns that it is wide.
const ROWS: usize = 9;
const COLUMNS: usize = 64;
/// Values that stand at the axis, and numbers of trials below it, each about so many.
const MARKS: usize = 4;

/// The curve of a study with one objective, for a terminal that is so many columns wide; none where there are fewer than two
/// values.
pub(super) fn of(study: &Study, columns: usize) -> Option<String> {
    let [goal] = study.definition().objectives.as_slice() else {
        return None;
    };
    let mut values: Vec<Option<f64>> = vec![None; study.counts().asked as usize];
    for row in study.rows() {
        if let Some([value]) = row.values.as_deref()
            && row.violation == 0.0
        {
            values[row.trial as usize - 1] = Some(*value);
        }
    }
    let maximize = goal.direction == Direction::Maximize;
    Some(format!(
        "{} of trials, and the best so far\n{}",
        goal.name,
        draw(&values, maximize, columns)?
    ))
}

/// Draws values by trial: a dot for each, a line for the best so far. Values far worse than most are arrows at the edge.
fn draw(values: &[Option<f64>], maximize: bool, columns: usize) -> Option<String> {
    let known = || values.iter().flatten().copied();
    if known().count() < 2 {
        return None;
    }
    let scale = Scale::of_best(known(), maximize)?;
    let row = |value: f64| ((1.0 - scale.place(value)) * (ROWS - 1) as f64).round() as usize;
    let mut labels = vec![String::new(); ROWS];
    for mark in scale.marks(MARKS) {
        labels[row(mark)] = mark_text(mark);
    }
    let margin = labels.iter().map(String::len).max().unwrap_or(0);
    let room = columns.saturating_sub(margin + 2).clamp(8, COLUMNS);
    // Few trials are as many columns wide as there is room for.
    let wide = (room / values.len()).max(1);
    let room = (values.len() * wide).min(room);
    let column = |trial: usize| trial * room / values.len();
    let arrow = if maximize { '↓' } else { '↑' };
    let mut beyond = 0;
    let mut grid = vec![vec![' '; room]; ROWS];
    for (trial, value) in values.iter().enumerate() {
        let Some(value) = *value else { continue };
        let is_on = scale.holds(value);
        beyond += u64::from(!is_on);
        grid[row(value)][column(trial)] = if is_on { '·' } else { arrow };
    }
    for (trial, value) in best_so_far(values, maximize).iter().enumerate() {
        if let Some(value) = value.filter(|value| scale.holds(*value)) {
            let at = column(trial);
            grid[row(value)][at..at + wide].fill('━');
        }
    }
    let mut text = String::new();
    for (label, cells) in labels.iter().zip(&grid) {
        let tick = if label.is_empty() { '│' } else { '┤' };
        let cells: String = cells.iter().collect();
        let _ = writeln!(text, "{label:>margin$} {tick}{}", cells.trim_end());
    }
    let _ = writeln!(
        text,
        "{:margin$}  {}",
        "",
        numbers(values.len(), room, column)
    );
    let mut notes = Vec::new();
    if scale.is_log() {
        notes.push("logarithmic scale".to_owned());
    }
    if beyond > 0 {
        notes.push(format!("{arrow} {} beyond it", plural(beyond, "trial")));
    }
    if !notes.is_empty() {
        let _ = writeln!(text, "{:margin$}  {}", "", notes.join(", "));
    }
    Some(text)
}

/// Round numbers of trials under their columns.
fn numbers(trials: usize, room: usize, column: impl Fn(usize) -> usize) -> String {
    let mut line = String::new();
    let last = Scale::of_best([0.0, trials as f64], false);
    let marks = last.map_or(Vec::new(), |scale| scale.marks(MARKS));
    for number in std::iter::once(1).chain(marks.into_iter().map(|mark| mark as usize)) {
        let text = number.to_string();
        // None stands out of the drawing, and between two there is a space.
        let at = column(number.saturating_sub(1)).min(room.saturating_sub(text.len()));
        if number > 0 && (line.is_empty() || at > line.len()) {
            line = format!("{line:at$}{text}");
        }
    }
    line
}

fn best_so_far(values: &[Option<f64>], maximize: bool) -> Vec<Option<f64>> {
    let mut best: Option<f64> = None;
    let mut curve = Vec::with_capacity(values.len());
    for value in values {
        best = match (best, *value) {
            (Some(best), Some(value)) if maximize => Some(best.max(value)),
            (Some(best), Some(value)) => Some(best.min(value)),
            (best, value) => best.or(value),
        };
        curve.push(best);
    }
    curve
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_curve_falls_and_bad_values_do_not_flatten_it() {
        let values = [Some(4.0), None, Some(8.0), Some(2.0), Some(1e9), Some(1.0)];
        let text = draw(&values, false, 80).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[0].starts_with("8 ┤"), "{text}");
        assert!(lines[0].contains('↑'), "{text}");
        assert!(lines[ROWS - 1].ends_with('━'), "{text}");
        assert_eq!(text.matches('━').count(), 60, "{text}");
        assert_eq!(
            lines[ROWS].split_whitespace().collect::<Vec<_>>(),
            ["1", "2", "4", "6"]
        );
        assert_eq!(lines[ROWS + 1].trim(), "↑ 1 trial beyond it");
    }

    #[test]
    fn losses_over_decades_and_narrow_terminals() {
        let values: Vec<Option<f64>> = (0..100)
            .map(|n| Some(1e5 / f64::from(1 << (n / 6))))
            .collect();
        for columns in [40, 80] {
            let text = draw(&values, false, columns).unwrap();
            let widest = text.lines().map(|line| line.chars().count()).max().unwrap();
            assert!(widest <= columns, "{columns}\n{text}");
            for label in ["100000 ┤", "  1000 ┤", "    10 ┤"] {
                assert!(text.contains(label), "{text}");
            }
        }
        let text = draw(&values, false, 40).unwrap();
        assert!(text.contains("logarithmic scale"), "{text}");
        assert!(
            text.lines().any(|line| line.trim().starts_with("1 ")),
            "{text}"
        );
    }

    #[test]
    fn the_curve_rises_where_more_is_better() {
        let best = best_so_far(&[None, Some(1.0), Some(0.5), Some(3.0)], true);
        assert_eq!(best, [None, Some(1.0), Some(1.0), Some(3.0)]);
    }

    #[test]
    fn one_value_and_equal_values() {
        assert_eq!(draw(&[Some(1.0), None], false, 80), None);
        assert!(draw(&[Some(1.0), Some(1.0)], false, 80).is_some());
    }
}
