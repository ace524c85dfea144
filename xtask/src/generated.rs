//! Files in the repository that the code generates: written by `cargo xtask docs`, compared by `tidy`.

use crate::{docs, protocol, tools::root};

/// A file as it has to be.
pub(crate) struct File {
    /// Relative to the top.
    pub(crate) path: &'static str,
    pub(crate) text: String,
}

fn all() -> Result<Vec<File>, String> {
    Ok(vec![schema(), docs::cli()?, protocol::page()?])
}

/// The JSON Schema of the pipeline language, from the decoder's own table.
fn schema() -> File {
    let mut text = serde_json::to_string_pretty(&dagrun_dsl::json_schema())
        .expect("a JSON value can be written");
    text.push('\n');
    File {
        path: "docs/reference/schema.json",
        text,
    }
}

/// Writes all of them.
pub(crate) fn write() -> Result<(), String> {
    for file in all()? {
        std::fs::write(root().join(file.path), file.text)
            .map_err(|error| format!("cannot write {}: {error}", file.path))?;
    }
    Ok(())
}

/// Names those that are not what the code generates.
pub(crate) fn check(breaches: &mut Vec<String>) {
    let files = match all() {
        Ok(files) => files,
        Err(error) => return breaches.push(error),
    };
    for File { path, text } in files {
        match std::fs::read_to_string(root().join(path)) {
            Ok(found) if found == text => {}
            Ok(_) => breaches.push(format!(
                "{path} is not what the code generates; run `cargo xtask docs`"
            )),
            Err(error) => breaches.push(format!("cannot read {path}: {error}")),
        }
    }
}
