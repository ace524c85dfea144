//! Text with `${{ }}` in it, and conditions.
//!
//! Templates act on the text of one scalar, never on the file: the YAML around them is already a tree.

use std::sync::Arc;

use dagrun_model::{Diagnostic, Expr, ExprKind, Template, TemplatePart, Value};

use crate::{expr, text::SourceText};

/// What opens an expression in a text.
pub(crate) const OPEN: &str = "${{";

/// Reads a text with templates.
///
/// An expression with errors, which are appended to `out`, becomes a null, so that the text keeps its shape.
pub(crate) fn parse_template(text: &SourceText, out: &mut Vec<Diagnostic>) -> Template {
    let mut parts = Vec::new();
    let mut at = 0;
    while let Some(open) = text.text()[at..].find(OPEN).map(|found| at + found) {
        push_text(&mut parts, &text.text()[at..open]);
        let embedded = expr::embedded(text, open, out);
        at = embedded.range.end;
        let span = text.span_of(embedded.range);
        let expr = embedded
            .expr
            .unwrap_or_else(|| Expr::new(ExprKind::Literal(Value::Null), span));
        parts.push(TemplatePart::Expr(expr));
    }
    push_text(&mut parts, &text.text()[at..]);
    Template {
        parts,
        span: text.span(),
    }
}

fn push_text(parts: &mut Vec<TemplatePart>, text: &str) {
    if !text.is_empty() {
        parts.push(TemplatePart::Text(Arc::from(text)));
    }
}

/// Reads a bare expression, or exactly one `${{ }}`; text beside that is an error.
pub(crate) fn parse_expression(text: &SourceText, out: &mut Vec<Diagnostic>) -> Option<Expr> {
    let whole = text.text();
    let start = whole.len() - whole.trim_start().len();
    if !whole[start..].starts_with(OPEN) {
        return bare_expression(text, start, out);
    }
    let embedded = expr::embedded(text, start, out);
    let rest = &whole[embedded.range.end..];
    if rest.trim().is_empty() {
        return embedded.expr;
    }
    let from = whole.len() - rest.trim_start().len();
    let to = whole.trim_end().len();
    out.push(beside(text, from..to));
    None
}

/// A condition without brackets. One that has them in the middle is most likely meant as one condition.
fn bare_expression(text: &SourceText, start: usize, out: &mut Vec<Diagnostic>) -> Option<Expr> {
    let end = text.text().trim_end().len().max(start);
    let mut errors = Vec::new();
    let expr = expr::bare(text, start..end, &mut errors);
    match text.text()[start..].find(OPEN) {
        Some(open) if !errors.is_empty() => {
            out.push(beside(text, start..start + open));
            None
        }
        _ => {
            out.append(&mut errors);
            expr
        }
    }
}

fn beside(text: &SourceText, range: std::ops::Range<usize>) -> Diagnostic {
    let joined = text.text().replace(OPEN, "").replace("}}", "");
    let joined = joined.split_whitespace().collect::<Vec<_>>().join(" ");
    Diagnostic::error(
        "text-beside-expression",
        text.span_of(range),
        "text stands beside `${{ }}`, where a single expression is wanted",
    )
    .help(format!("write it as one expression: `${{{{ {joined} }}}}`"))
}
