//! The JSON Schema of the pipeline language, generated from the decoder's own table.

use crate::tools::root;

const PATH: &str = "docs/reference/schema.json";

fn text() -> String {
    let mut text = serde_json::to_string_pretty(&dagrun_dsl::json_schema())
        .expect("a JSON value can be written");
    text.push('\n');
    text
}

/// Writes the schema.
pub(crate) fn write() -> Result<(), String> {
    std::fs::write(root().join(PATH), text())
        .map_err(|error| format!("cannot write {PATH}: {error}"))
}

/// Whether the schema in the repository is what the code generates.
pub(crate) fn check() -> Result<(), String> {
    match std::fs::read_to_string(root().join(PATH)) {
        Ok(found) if found == text() => Ok(()),
        Ok(_) => Err(format!(
            "{PATH} is not what the code generates; run `cargo xtask schema`"
        )),
        Err(error) => Err(format!("cannot read {PATH}: {error}")),
    }
}
