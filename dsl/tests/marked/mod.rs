//! Documents with one mistake each, whose place is marked by `‸` in the text.

use dagrun_dsl::{NoFiles, parse};

/// What is wrong with all documents of a table, so that one run shows every difference.
pub(crate) fn check_all<'a>(table: impl IntoIterator<Item = (&'a str, String)>) {
    let wrong: Vec<String> = table
        .into_iter()
        .filter_map(|(code, marked)| verdict(code, &marked).err())
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// What is wrong unless a document gives exactly one error, of this code and at the mark `‸`.
pub(crate) fn verdict(code: &str, marked: &str) -> Result<(), String> {
    let at = marked.find('‸').expect("the document has a mark");
    let text = marked.replace('‸', "");
    let before = &text[..at];
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().map_or(0, |l| l.chars().count()) + 1;
    let parsed = parse("p.yaml", &text, &NoFiles);
    let found: Vec<(String, usize, usize)> = parsed
        .diagnostics
        .iter()
        .map(|d| {
            let (line, column) = parsed.sources.line_column(d.span);
            (d.code.to_owned(), line, column)
        })
        .collect();
    let rendered = dagrun_dsl::render(&parsed.diagnostics, &parsed.sources, false);
    match found == [(code.to_owned(), line, column)] {
        true => Ok(()),
        false => Err(format!(
            "wanted {code} at {line}:{column} in\n{marked}\n{rendered}"
        )),
    }
}
