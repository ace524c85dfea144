//! Reads pipelines: YAML text to a typed [`Pipeline`], or to a list of [`Diagnostic`]s with spans.
//!
//! Owns: the YAML reader and its limits, the keys of the language and their JSON Schema, expressions and scripts as
//! trees, modules, the checks that need no evaluation, the rendering of diagnostics, and the formatter.
//!
//! Knows nothing of files, which come in as text and by a [`Loader`], nor of what a pipeline becomes: `plan` evaluates.
#![forbid(unsafe_code)]

mod check;
mod decode;
mod expr;
mod fmt;
mod modules;
mod render;
mod rewrite;
mod schema;
mod script;
mod template;
mod text;
mod values;
mod yaml;

use dagrun_model::{Diagnostic, Pipeline, RelPath, Sources, Span};

pub use decode::check_param;
pub use fmt::fmt;
pub use modules::name_of_file;
pub use render::render;
pub use schema::json_schema;
pub use values::{parse_scalar, parse_value};
pub use yaml::{MAX_BYTES, MAX_DEPTH, MAX_NODES};

/// Gives the text of the files that a pipeline uses.
pub trait Loader {
    /// The text of a file below the project folder.
    ///
    /// # Errors
    /// Why it cannot be read, as a fragment for people. It refuses what is not inside the folder (links included), what
    /// is larger than [`MAX_BYTES`], and what is not UTF-8.
    fn load(&self, path: &RelPath) -> Result<String, String>;
}

/// A loader for pipelines that use no other files.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoFiles;

impl Loader for NoFiles {
    fn load(&self, _path: &RelPath) -> Result<String, String> {
        Err("no other files can be used here".into())
    }
}

/// What reading a pipeline gives.
#[derive(Clone, Debug)]
pub struct Parsed {
    /// The pipeline, where there is no error.
    pub pipeline: Option<Pipeline>,
    /// Errors and warnings in the order of their places.
    pub diagnostics: Vec<Diagnostic>,
    /// The texts that the diagnostics point into.
    pub sources: Sources,
}

/// Reads a pipeline. `path` is how the file is called in messages; modules are looked for from its folder.
pub fn parse(path: &str, text: &str, loader: &dyn Loader) -> Parsed {
    let mut assembler = modules::Assembler::new(loader);
    let pipeline = assembler.pipeline(path, text);
    let mut diagnostics = std::mem::take(&mut assembler.shared.out);
    if let Some(pipeline) = &pipeline {
        check::check(pipeline, &mut diagnostics);
    }
    tidy(&mut diagnostics);
    let failed = diagnostics.iter().any(Diagnostic::is_error);
    Parsed {
        pipeline: pipeline.filter(|_| !failed),
        diagnostics,
        sources: assembler.sources,
    }
}

/// The text of a file, or what is wrong with its bytes.
///
/// # Errors
/// When it is too big or not UTF-8, with the sources that the diagnostic points into.
pub fn decode_utf8(path: &str, bytes: Vec<u8>) -> Result<String, (Box<Diagnostic>, Sources)> {
    let error = match String::from_utf8(bytes) {
        Ok(text) => return Ok(text),
        Err(error) => error,
    };
    let at = error.utf8_error().valid_up_to();
    let mut sources = Sources::default();
    // What comes after the bad byte is of no use, and a lossy text keeps the offsets before it.
    let valid = String::from_utf8_lossy(&error.as_bytes()[..at]).into_owned();
    let file = sources.add(path, format!("{valid}\u{fffd}"));
    let words = if error.as_bytes().starts_with(&[0xff, 0xfe])
        || error.as_bytes().starts_with(&[0xfe, 0xff])
    {
        "the file is UTF-16"
    } else {
        "the file is not UTF-8"
    };
    let diagnostic =
        Diagnostic::error("not-utf8", Span::new(file, at, at + 3), words).help("save it as UTF-8");
    Err((Box::new(diagnostic), sources))
}

/// Sorts by place, and says once what several uses of an alias would say.
fn tidy(diagnostics: &mut Vec<Diagnostic>) {
    diagnostics.sort_by(|a, b| {
        let key = |d: &Diagnostic| (d.span.file, d.span.start, d.span.end, d.code);
        key(a).cmp(&key(b)).then_with(|| a.message.cmp(&b.message))
    });
    diagnostics.dedup_by(|b, a| a.span == b.span && a.code == b.code && a.message == b.message);
}
