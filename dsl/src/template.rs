//! Text with `${{ }}` in it.

use dagrun_model::{Diagnostic, Expr, Template};

use crate::text::SourceText;

/// Reads a text with templates.
pub fn parse_template(text: &SourceText, out: &mut Vec<Diagnostic>) -> Template {
    let _ = out;
    Template::text(text.text(), text.span())
}

/// Reads a bare expression, or exactly one `${{ }}`; text beside that is an error.
pub fn parse_expression(text: &SourceText, out: &mut Vec<Diagnostic>) -> Option<Expr> {
    let _ = (text, out);
    None
}
