//! A gate against slower builds: ratios of this run beside those on record.

use serde_json::{Map, Value};

use super::Table;

/// How much worse a ratio may be: machines that are shared are not steadier.
const SLACK: f64 = 1.1;

/// Ratios that are worse than those on record by more than a tenth, each in words. Rows of another size, and rows that are not on
/// record, are passed over.
pub(crate) fn worse(tables: &[Table], record: &Map<String, Value>) -> Vec<String> {
    let rows = tables
        .iter()
        .flat_map(|table| table.rows.iter().map(move |row| (table.name, row)));
    rows.filter_map(|(name, row)| {
        let recorded = record.get(name)?["rows"].as_array()?;
        let same = |old: &&Value| old["side"] == row.side.as_str() && old["size"] == row.size;
        let before = recorded.iter().find(same)?["ratio"].as_f64()?;
        let now = row.ratio?;
        (now > before * SLACK)
            .then(|| format!("{name}: {now:.2} of {}, on record {before:.2}", row.side))
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::bench::Row;

    fn table(ratio: f64) -> Table {
        let row = |side: &str, ratio| Row {
            side: side.into(),
            size: 100,
            figures: None,
            ratio,
            note: String::new(),
        };
        Table {
            name: "noop",
            what: "",
            goal: "",
            rows: vec![row("dagrun", None), row("ninja", Some(ratio))],
        }
    }

    #[test]
    fn a_doctored_record_stops_a_build_that_is_no_slower() {
        let record = |ratio: f64, size: u64| {
            let record =
                json!({"noop": {"rows": [{"side": "ninja", "size": size, "ratio": ratio}]}});
            record.as_object().unwrap().clone()
        };
        assert!(worse(&[table(0.84)], &record(0.84, 100)).is_empty());
        assert!(worse(&[table(0.92)], &record(0.84, 100)).is_empty());
        assert_eq!(
            worse(&[table(0.84)], &record(0.70, 100)),
            ["noop: 0.84 of ninja, on record 0.70"]
        );
        // A quick run says nothing of a full one.
        assert!(worse(&[table(0.84)], &record(0.70, 1000)).is_empty());
    }
}
