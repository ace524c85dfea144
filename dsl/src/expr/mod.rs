//! Reads expressions.
//!
//! `lexer` makes tokens (nom), `parser` makes trees from them with a precedence loop. Both report several errors at once
//! and neither recurses deeper than [`MAX_NESTING`] brackets, whatever the input. Names are not looked up here: that is
//! the checker's part, except for functions, whose set is closed.

mod lexer;
mod parser;
#[cfg(test)]
mod tests;

use std::ops::Range;

use dagrun_model::{Diagnostic, Expr};

use crate::text::SourceText;

/// How deep brackets, operators before operands and `? :` may nest.
pub(crate) const MAX_NESTING: usize = 64;

/// How high the tree of an expression may grow: chains such as `a + b + c` make it high without nesting.
pub(crate) const MAX_HEIGHT: usize = 256;

/// An expression between `${{` and `}}`.
pub(crate) struct Embedded {
    /// The expression, unless it has errors.
    pub(crate) expr: Option<Expr>,
    /// The range in the text, with both brackets.
    pub(crate) range: Range<usize>,
}

/// Reads the expression whose `${{` stands at `at`; its end is found by lexing, so that `}}` in a string does not end it.
pub(crate) fn embedded(text: &SourceText, at: usize, out: &mut Vec<Diagnostic>) -> Embedded {
    let lexed = lexer::lex(text.text(), at + 3, true);
    let range = at..lexed.end;
    let before = out.len();
    lexed.report(text, at, out);
    let expr = (out.len() == before)
        .then(|| parser::parse(text, lexed.tokens, lexed.inner_end, out))
        .flatten();
    Embedded { expr, range }
}

/// Reads a bare expression: the bytes `range` of the text.
pub(crate) fn bare(
    text: &SourceText,
    range: Range<usize>,
    out: &mut Vec<Diagnostic>,
) -> Option<Expr> {
    let lexed = lexer::lex(&text.text()[..range.end], range.start, false);
    let before = out.len();
    lexed.report(text, range.start, out);
    if out.len() > before {
        return None;
    }
    parser::parse(text, lexed.tokens, lexed.inner_end, out)
}
