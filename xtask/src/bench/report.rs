//! Tables and a chart of what was measured, for `docs/benchmarks/`.

use std::fmt::Write as _;

use super::{Row, Table};
use crate::tools::{output, root};

/// A table as Markdown.
pub(crate) fn markdown(table: &Table) -> String {
    let mut text = format!(
        "\n### {}\n\n{} Goal: {}.\n\n| side | size | wall s | range | CPU s | dagrun / side | note |\n|---|---:|---:|---|---:|---:|---|\n",
        table.name, table.what, table.goal
    );
    for row in &table.rows {
        let _ = match &row.figures {
            Some(f) => writeln!(
                text,
                "| {} | {} | {:.3} | {:.3}-{:.3} ({} runs) | {:.2} | {} | {} |",
                row.side,
                row.size,
                f.wall,
                f.range.0,
                f.range.1,
                f.runs,
                f.cpu,
                row.ratio
                    .map_or(String::new(), |ratio| format!("{ratio:.2}")),
                row.note
            ),
            None => writeln!(
                text,
                "| {} | {} | missing | | | | {} |",
                row.side, row.size, row.note
            ),
        };
    }
    text
}

/// Writes tables and chart; tables that were not measured this time are kept from the last.
pub(crate) fn write(tables: &[Table]) -> Result<(), String> {
    let folder = root().join("docs/benchmarks");
    std::fs::create_dir_all(&folder).map_err(|error| error.to_string())?;
    let mut data = recorded();
    for table in tables {
        data.insert(table.name.into(), json(table));
    }
    let mut text = String::from(
        "# Benchmarks\n\nWritten by `cargo xtask bench --peers`. Each table is one run in which the sides took turns; figures are medians of \
         whole processes. Quote ratios, not seconds: the seconds are those of a shared machine.\n\n![dagrun / side](ratios.svg)\n",
    );
    let commit = output("git", &["rev-parse", "--short", "HEAD"]).unwrap_or_default();
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    let _ = writeln!(
        text,
        "\nLast written at commit {}, on {cpus} CPUs.",
        commit.trim()
    );
    for table in data.values() {
        text.push_str(table["markdown"].as_str().unwrap_or_default());
    }
    let put = |name: &str, text: &str| {
        std::fs::write(folder.join(name), text)
            .map_err(|error| format!("cannot write docs/benchmarks/{name}: {error}"))
    };
    put("README.md", &text)?;
    put("ratios.svg", &chart(&data))?;
    put(
        "results.json",
        &format!(
            "{}\n",
            serde_json::to_string_pretty(&data).map_err(|error| error.to_string())?
        ),
    )
}

/// What is on record; nothing where it cannot be read.
pub(crate) fn recorded() -> serde_json::Map<String, serde_json::Value> {
    let path = root().join("docs/benchmarks/results.json");
    let text = std::fs::read_to_string(path).ok();
    text.and_then(|text| serde_json::from_str(&text).ok())
        .unwrap_or_default()
}

fn json(table: &Table) -> serde_json::Value {
    let rows: Vec<_> = table.rows.iter().map(row_json).collect();
    serde_json::json!({"goal": table.goal, "rows": rows, "markdown": markdown(table)})
}

fn row_json(row: &Row) -> serde_json::Value {
    serde_json::json!({
        "side": row.side,
        "size": row.size,
        "wall": row.figures.map(|f| f.wall),
        "cpu": row.figures.map(|f| f.cpu),
        "ratio": row.ratio,
        "note": row.note,
    })
}

/// Horizontal bars of the ratios on a logarithmic axis: to the left of 1, dagrun is faster.
fn chart(data: &serde_json::Map<String, serde_json::Value>) -> String {
    let mut bars: Vec<(String, f64)> = Vec::new();
    for (name, table) in data {
        for row in table["rows"].as_array().into_iter().flatten() {
            if let (Some(side), Some(ratio)) = (row["side"].as_str(), row["ratio"].as_f64()) {
                bars.push((format!("{name} / {side}"), ratio));
            }
        }
    }
    let (left, width, row_height, top) = (250.0, 420.0, 22.0, 46.0);
    let height = top + bars.len() as f64 * row_height + 36.0;
    let lowest = bars
        .iter()
        .map(|bar| bar.1)
        .fold(0.1, f64::min)
        .log10()
        .floor();
    let highest = bars
        .iter()
        .map(|bar| bar.1)
        .fold(10.0, f64::max)
        .log10()
        .ceil();
    let x = |ratio: f64| left + (ratio.log10() - lowest) / (highest - lowest) * width;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 740 {height:.0}\" width=\"740\" height=\"{height:.0}\" \
         font-family=\"system-ui, sans-serif\" font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n\
         <text x=\"{left}\" y=\"18\" font-size=\"14\" font-weight=\"600\" fill=\"#16202e\">dagrun's time / the other's: left of 1, dagrun is faster</text>\n"
    );
    let mut power = lowest;
    while power <= highest {
        let at = x(10_f64.powf(power));
        let stroke = if power == 0.0 { "#16202e" } else { "#d5dae2" };
        let _ = writeln!(
            svg,
            "<line x1=\"{at:.1}\" x2=\"{at:.1}\" y1=\"{top}\" y2=\"{:.1}\" stroke=\"{stroke}\"/><text x=\"{at:.1}\" y=\"38\" \
             text-anchor=\"middle\" fill=\"#5b6472\">{}</text>",
            height - 24.0,
            10_f64.powf(power)
        );
        power += 1.0;
    }
    for (row, (label, ratio)) in bars.iter().enumerate() {
        let y = top + row as f64 * row_height + 4.0;
        let (from, to) = (x(1.0).min(x(*ratio)), x(1.0).max(x(*ratio)));
        let fill = if *ratio <= 1.0 { "#2f855a" } else { "#b7791f" };
        let _ = writeln!(
            svg,
            "<text x=\"{:.0}\" y=\"{:.1}\" text-anchor=\"end\" fill=\"#16202e\">{label}</text><rect x=\"{from:.1}\" y=\"{y:.1}\" \
             width=\"{:.1}\" height=\"14\" fill=\"{fill}\"/><text x=\"{:.1}\" y=\"{:.1}\" fill=\"#5b6472\">{ratio:.3}</text>",
            left - 8.0,
            y + 11.0,
            (to - from).max(1.0),
            to + 5.0,
            y + 11.0
        );
    }
    svg.push_str("</svg>\n");
    svg
}
