//! The curve of the best so far, drawn in text.

use std::fmt::Write;

use dagrun_model::Direction;
use dagrun_study::Study;

/// Rows and columns of the drawing.
const ROWS: usize = 8;
const COLUMNS: usize = 64;
/// Beyond this ratio of the greatest to the least value the scale is that of logarithms.
const WIDE: f64 = 100.0;

/// The curve of a study with one objective; none where there are fewer than two values.
pub(super) fn of(study: &Study) -> Option<String> {
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
        "best {} so far\n{}",
        goal.name,
        draw(&values, maximize)?
    ))
}

/// Draws values by trial: a dot for each, a line for the best so far. Values far worse than most are left out.
fn draw(values: &[Option<f64>], maximize: bool) -> Option<String> {
    let mut sorted: Vec<f64> = values.iter().flatten().copied().collect();
    if sorted.len() < 2 {
        return None;
    }
    sorted.sort_by(f64::total_cmp);
    let last = sorted.len() - 1;
    let (low, high) = match maximize {
        true => (sorted[last.div_ceil(10)], sorted[last]),
        false => (sorted[0], sorted[last * 9 / 10]),
    };
    // The first best stands on the curve, however bad it is.
    let best = best_so_far(values, maximize);
    let begin = best.iter().flatten().next().copied()?;
    let (low, high) = (low.min(begin), high.max(begin));
    let log = low > 0.0 && high / low > WIDE;
    let scale = |value: f64| if log { value.ln() } else { value };
    let span = scale(high) - scale(low);
    let row = |value: f64| {
        let share = if span > 0.0 {
            (scale(high) - scale(value)) / span
        } else {
            0.5
        };
        (share * (ROWS - 1) as f64)
            .round()
            .clamp(0.0, (ROWS - 1) as f64) as usize
    };
    // Few trials are as many columns wide as there is room for.
    let wide = (COLUMNS / values.len()).max(1);
    let columns = (values.len() * wide).min(COLUMNS);
    let column = |trial: usize| trial * columns / values.len();
    let mut grid = vec![vec![' '; columns]; ROWS];
    for (trial, value) in values.iter().enumerate() {
        if let Some(value) = value.filter(|value| (low..=high).contains(value)) {
            grid[row(value)][column(trial)] = '·';
        }
    }
    for (trial, value) in best.iter().enumerate() {
        if let Some(value) = value {
            let at = column(trial);
            grid[row(*value)][at..at + wide].fill('━');
        }
    }
    let label = |line: usize| match line {
        0 => short(high),
        line if line == ROWS - 1 => short(low),
        _ => String::new(),
    };
    let width = label(0).len().max(label(ROWS - 1).len());
    let mut text = String::new();
    for (line, cells) in grid.iter().enumerate() {
        let cells: String = cells.iter().collect();
        let _ = writeln!(text, "{:>width$} ┤{}", label(line), cells.trim_end());
    }
    let last = values.len().to_string();
    let gap = columns.saturating_sub(1 + last.len());
    let _ = writeln!(text, "{:width$}  1{:gap$}{last}", "", "");
    if log {
        let _ = writeln!(text, "{:width$}  (the scale is that of logarithms)", "");
    }
    Some(text)
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

/// Four digits are enough for an axis.
fn short(value: f64) -> String {
    match value.abs() {
        x if x != 0.0 && !(1e-3..1e6).contains(&x) => format!("{value:.3e}"),
        x if x >= 100.0 => format!("{value:.1}"),
        _ => format!("{value:.4}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_curve_falls_and_bad_values_do_not_flatten_it() {
        let values = [Some(4.0), None, Some(8.0), Some(2.0), Some(1e9), Some(1.0)];
        let text = draw(&values, false).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), ROWS + 1, "{text}");
        assert!(lines[0].starts_with("8.0000 ┤"), "{text}");
        assert!(
            lines[ROWS - 1].ends_with("━") && lines[ROWS - 1].starts_with("1.0000"),
            "{text}"
        );
        assert_eq!(text.matches('━').count(), 60, "{text}");
        assert!(lines[ROWS].trim_end().ends_with('6'), "{text}");
    }

    #[test]
    fn the_curve_rises_where_more_is_better() {
        let best = best_so_far(&[None, Some(1.0), Some(0.5), Some(3.0)], true);
        assert_eq!(best, [None, Some(1.0), Some(1.0), Some(3.0)]);
    }

    #[test]
    fn one_value_and_equal_values() {
        assert_eq!(draw(&[Some(1.0), None], false), None);
        assert!(draw(&[Some(1.0), Some(1.0)], false).is_some());
    }
}
