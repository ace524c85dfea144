//! Text to tokens.
//!
//! Strings may hold anything, also `}}`. What is no token becomes an error and is left out, so that the rest of the text
//! is still read.

use std::ops::Range;

use dagrun_model::Diagnostic;
use nom::{
    IResult, Parser,
    branch::alt,
    bytes::complete::{tag, tag_no_case, take_while, take_while1},
    character::complete::{char, digit1, hex_digit1, one_of},
    combinator::{map, opt, recognize, value},
    sequence::pair,
};

use crate::text::SourceText;

/// A token and its byte range in the text.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Token<'t> {
    pub(super) kind: TokenKind<'t>,
    pub(super) range: Range<usize>,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) enum TokenKind<'t> {
    /// The text of a number, not yet converted.
    Number(&'t str),
    /// A string with its quotes and escapes resolved.
    Str(String),
    Ident(&'t str),
    /// An operator or bracket.
    Symbol(&'static str),
}

/// What lexing gave.
pub(super) struct Lexed<'t> {
    pub(super) tokens: Vec<Token<'t>>,
    /// Where the tokens end: before `}}` or at the end of the text.
    pub(super) inner_end: usize,
    /// Where reading goes on: after `}}`.
    pub(super) end: usize,
    errors: Vec<LexError>,
}

struct LexError {
    range: Range<usize>,
    kind: ErrorKind,
}

enum ErrorKind {
    /// `${{` without `}}`.
    Unclosed,
    /// A string without its closing quote.
    OpenString,
    /// A number with letters behind it.
    NumberTail,
    /// A character or operator that the language does not have, and what to write.
    Unknown(Option<&'static str>),
}

/// Reads tokens from byte `start` of `text`, up to `}}` where `in_template` is set.
pub(super) fn lex(text: &str, start: usize, in_template: bool) -> Lexed<'_> {
    let mut lexed = Lexed {
        tokens: Vec::new(),
        inner_end: text.len(),
        end: text.len(),
        errors: Vec::new(),
    };
    let mut at = start.min(text.len());
    loop {
        let rest = text[at..].trim_start();
        at = text.len() - rest.len();
        if in_template && rest.starts_with("}}") {
            lexed.inner_end = at;
            lexed.end = at + 2;
            return lexed;
        }
        if rest.is_empty() {
            if in_template {
                lexed.error(
                    start.saturating_sub(3)..start.min(text.len()),
                    ErrorKind::Unclosed,
                );
            }
            return lexed;
        }
        at = match token(rest) {
            Ok((after, kind)) => {
                let end = text.len() - after.len();
                lexed.add(kind, at..end, after)
            }
            Err(_) => lexed.unknown(rest, at, in_template),
        };
    }
}

impl<'t> Lexed<'t> {
    fn add(&mut self, kind: TokenKind<'t>, range: Range<usize>, after: &str) -> usize {
        let mut end = range.end;
        if matches!(kind, TokenKind::Number(_)) {
            let tail = after.find(|c| !is_word(c)).unwrap_or(after.len());
            if tail > 0 {
                end += tail;
                self.error(range.start..end, ErrorKind::NumberTail);
            }
        }
        self.tokens.push(Token { kind, range });
        end
    }

    /// Reports what is no token, and gives the place to go on from.
    fn unknown(&mut self, rest: &str, at: usize, in_template: bool) -> usize {
        let first = rest.chars().next().expect("the rest is not empty");
        if first == '\'' || first == '"' {
            // The quote is likely the mistake: `}}` behind it is then the end that was meant.
            let close = in_template.then(|| rest.find("}}")).flatten();
            self.error(at..at + 1, ErrorKind::OpenString);
            return at + close.unwrap_or(rest.len());
        }
        let (length, help) = match first {
            '=' => (1, Some("write `==` to compare")),
            '&' => (1, Some("write `&&` for \"and\"")),
            '|' => (1, Some("write `||` for \"or\"")),
            '{' => (1, Some("a map is written as `fromJSON('{\"a\": 1}')`")),
            '`' => (1, Some("strings stand between `'` or `\"`")),
            '$' if rest.starts_with("${{") => {
                (3, Some("`${{ }}` does not nest: leave it away here"))
            }
            '$' => (1, Some("names are written without `$`")),
            other => (other.len_utf8(), None),
        };
        self.error(at..at + length, ErrorKind::Unknown(help));
        at + length
    }

    fn error(&mut self, range: Range<usize>, kind: ErrorKind) {
        self.errors.push(LexError { range, kind });
    }

    /// Makes diagnostics of the errors; `open` is where the expression starts, with its bracket.
    pub(super) fn report(&self, text: &SourceText, open: usize, out: &mut Vec<Diagnostic>) {
        let open_string = self
            .errors
            .iter()
            .any(|error| matches!(error.kind, ErrorKind::OpenString));
        for error in &self.errors {
            let span = text.span_of(error.range.clone());
            let found = &text.text()[error.range.clone()];
            out.push(match &error.kind {
                // An open string explains it already.
                ErrorKind::Unclosed if open_string => continue,
                ErrorKind::Unclosed => Diagnostic::error(
                    "unclosed-template",
                    text.span_of(open..open + 3),
                    "`${{` has no `}}`",
                )
                .label("opened here")
                .help("close it with `}}`; in YAML a ` #` begins a comment, also inside `${{ }}`: put quotes around the whole value if it has one"),
                ErrorKind::OpenString => Diagnostic::error(
                    "expression-syntax",
                    span,
                    format!("the string has no closing `{found}`"),
                )
                .label("opened here")
                .help("a quote inside a string is written `''` between `'`, and `\\\"` between `\"`"),
                ErrorKind::NumberTail => Diagnostic::error(
                    "expression-syntax",
                    span,
                    format!("`{found}` is neither a number nor a name"),
                )
                .help("names begin with a letter or `_`; text stands in quotes"),
                ErrorKind::Unknown(help) => {
                    let error = Diagnostic::error(
                        "expression-syntax",
                        span,
                        format!("`{}` is not part of the expression language", found.escape_debug()),
                    );
                    match help {
                        Some(help) => error.help(*help),
                        None => error,
                    }
                }
            });
        }
    }
}

fn token(input: &str) -> IResult<&str, TokenKind<'_>> {
    alt((
        map(number, TokenKind::Number),
        map(single_quoted, TokenKind::Str),
        map(double_quoted, TokenKind::Str),
        map(ident, TokenKind::Ident),
        map(symbol, TokenKind::Symbol),
    ))
    .parse(input)
}

fn number(input: &str) -> IResult<&str, &str> {
    let hex = recognize(pair(tag_no_case("0x"), hex_digit1));
    let exponent = (one_of("eE"), opt(one_of("+-")), digit1);
    let decimal = recognize((digit1, opt((char('.'), digit1)), opt(exponent)));
    alt((hex, decimal)).parse(input)
}

/// `'it''s'`
fn single_quoted(input: &str) -> IResult<&str, String> {
    let (mut rest, _) = char('\'').parse(input)?;
    let mut text = String::new();
    loop {
        let (after, part) = take_while(|c| c != '\'').parse(rest)?;
        text.push_str(part);
        let (after, _) = char('\'').parse(after)?;
        rest = after;
        match rest.strip_prefix('\'') {
            Some(after) => {
                text.push('\'');
                rest = after;
            }
            None => return Ok((rest, text)),
        }
    }
}

/// `"say \"hi\""`: a backslash escapes a quote or a backslash and is itself before anything else.
fn double_quoted(input: &str) -> IResult<&str, String> {
    let (mut rest, _) = char('"').parse(input)?;
    let mut text = String::new();
    loop {
        let (after, part) = take_while(|c| c != '"' && c != '\\').parse(rest)?;
        text.push_str(part);
        let (after, piece) = alt((
            value(None, char('"')),
            value(Some('"'), tag("\\\"")),
            value(Some('\\'), tag("\\\\")),
            value(Some('\\'), char('\\')),
        ))
        .parse(after)?;
        rest = after;
        match piece {
            Some(c) => text.push(c),
            None => return Ok((rest, text)),
        }
    }
}

/// A name; `-` belongs to it only before a letter or `_`, so that `a-1` subtracts.
fn ident(input: &str) -> IResult<&str, &str> {
    let (mut rest, _) = take_while1(|c: char| c.is_ascii_alphabetic() || c == '_').parse(input)?;
    loop {
        (rest, _) = take_while(is_word).parse(rest)?;
        let dashed = rest
            .strip_prefix('-')
            .filter(|after| after.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_'));
        match dashed {
            Some(after) => rest = after,
            None => return Ok((rest, &input[..input.len() - rest.len()])),
        }
    }
}

fn is_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_'
}

/// Operators and brackets, longer ones first.
const SYMBOLS: &[&str] = &[
    "||", "&&", "==", "!=", "<=", ">=", "<", ">", "+", "-", "*", "/", "%", "!", "?", ":", ".", ",",
    "(", ")", "[", "]",
];

fn symbol(input: &str) -> IResult<&str, &'static str> {
    for symbol in SYMBOLS {
        if let Ok((rest, _)) = tag::<_, _, nom::error::Error<&str>>(*symbol).parse(input) {
            return Ok((rest, symbol));
        }
    }
    nom::combinator::fail().parse(input)
}
