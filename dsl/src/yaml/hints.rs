//! What to say about text that is not the YAML its author meant.

use dagrun_model::{Diagnostic, FileIx, Span};

/// A class of syntax errors.
pub(super) enum Syntax {
    TooDeep,
    Tab,
    Colon,
    ListSeparator,
    MapSeparator,
    Unclosed(char),
    UnclosedQuote,
    QuoteRunsOn,
    Character(char),
    AfterQuote,
    Escape,
    DashOnKeyLine,
    Indentation,
    MissingColon,
    Other(String),
}

/// The line that an offset stands in.
struct Line<'t> {
    text: &'t str,
    start: usize,
}

fn line_at(text: &str, at: usize) -> Line<'_> {
    let start = text[..at].rfind('\n').map_or(0, |n| n + 1);
    let end = text[at..].find('\n').map_or(text.len(), |n| at + n);
    Line {
        text: text[start..end].trim_end_matches('\r'),
        start,
    }
}

/// A syntax error at an offset of the text.
pub(super) fn syntax(syntax: Syntax, text: &str, at: usize, file: FileIx) -> Diagnostic {
    let mut at = at.min(text.len());
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    let line = line_at(text, at);
    let width = text[at..]
        .chars()
        .next()
        .filter(|c| *c != '\n')
        .map_or(0, char::len_utf8);
    let span = Span::new(file, at, at + width);
    match syntax {
        Syntax::TooDeep => too_deep(span),
        Syntax::Tab => tab(&line, span),
        Syntax::Colon => colon(&line, text, span),
        Syntax::ListSeparator => flow_separator(&line, span, ']'),
        Syntax::MapSeparator => flow_separator(&line, span, '}'),
        Syntax::Unclosed(open) => unclosed(open, span),
        Syntax::UnclosedQuote => unclosed_quote(span),
        Syntax::QuoteRunsOn => {
            // The opening quote is the last one before the line that ends it.
            let before = &text[..line.start];
            let quote = before.rfind(['"', '\'']).unwrap_or(at);
            unclosed_quote(Span::new(file, quote, quote + 1))
        }
        Syntax::Character(c) => reserved_character(c, &line, span),
        Syntax::AfterQuote => after_quote(span),
        Syntax::Escape => Diagnostic::error(
            "unknown-escape",
            bad_escape(text, at, file),
            "there is no such escape in double quotes",
        )
        .help("use single quotes, in which a backslash is itself, or write `\\\\`"),
        Syntax::DashOnKeyLine => Diagnostic::error(
            "yaml-syntax",
            span,
            "a list cannot begin on the line of its key",
        )
        .help("put `- ` on the next line, indented, or write the list as `[a, b]`"),
        Syntax::Indentation => indentation(&line, text, span),
        Syntax::MissingColon => {
            Diagnostic::error("yaml-syntax", span, "a key is not followed by `:`")
                .help("write `key: value`, with a space after the colon")
        }
        Syntax::Other(words) => Diagnostic::error("yaml-syntax", span, lowercase_start(&words)),
    }
}

fn lowercase_start(words: &str) -> String {
    words.replace("unexpected eof", "the file ends too early")
}

fn tab(line: &Line<'_>, span: Span) -> Diagnostic {
    let span = match line.text.find('\t') {
        Some(at) => Span::new(span.file, line.start + at, line.start + at + 1),
        None => span,
    };
    Diagnostic::error("tab", span, "a tab stands where YAML wants spaces")
        .label("a tab")
        .help("indent with spaces, two for each level")
}

/// `: ` where no key may stand: in a plain value, or on a line that is indented too far.
fn colon(line: &Line<'_>, text: &str, span: Span) -> Diagnostic {
    let base = Diagnostic::error(
        "colon-in-value",
        span,
        "`: ` inside a value begins a new key",
    );
    let before = &line.text[..(span.start as usize - line.start).min(line.text.len())];
    let Some((indent_key, value_at)) = first_key(line.text) else {
        return base.help("put the value in quotes");
    };
    if value_at > before.len() {
        return continued_line(line, text, span);
    }
    let value = line.text[value_at..].trim_end();
    let value_span = Span::new(
        span.file,
        line.start + value_at,
        line.start + value_at + value.len(),
    );
    let key = indent_key.trim_start_matches("- ").trim();
    if key == "run" {
        return base
            .help("put the script on the next line after `run: |`, or in quotes")
            .fix(value_span, quoted(value));
    }
    if value.contains("${{") {
        return base
            .help("put the whole value in quotes, because of the `: ` in its expression")
            .fix(value_span, quoted(value));
    }
    base.help("put the value in quotes, or begin a new line for a new key")
        .fix(value_span, quoted(value))
}

fn continued_line(line: &Line<'_>, text: &str, span: Span) -> Diagnostic {
    let diagnostic = Diagnostic::error(
        "indentation",
        span,
        "this key is indented deeper than the value before it allows",
    );
    match text[..line.start].trim_end().rfind('\n') {
        Some(_) | None if line.start > 0 => diagnostic
            .help("align it with the keys it belongs to, or end the line before it with `:`"),
        _ => diagnostic.help("put the value in quotes"),
    }
}

/// The first `key: ` of a line and where its value begins.
fn first_key(line: &str) -> Option<(&str, usize)> {
    let colon = line.find(": ")?;
    let value = colon + 1 + (line[colon + 1..].len() - line[colon + 1..].trim_start().len());
    Some((line[..colon].trim_start(), value))
}

/// A value in double quotes, or in single quotes where it has double ones or backslashes.
pub(crate) fn quoted(value: &str) -> String {
    if value.contains(['"', '\\']) {
        format!("'{}'", value.replace('\'', "''"))
    } else {
        format!("\"{value}\"")
    }
}

fn flow_separator(line: &Line<'_>, span: Span, close: char) -> Diagnostic {
    let at = span.start as usize - line.start;
    let before = line.text.get(..at).unwrap_or("");
    if before.ends_with('$') && line.text[at..].starts_with("{{") {
        let start = before.rfind(['[', ',', '{', ':']).map_or(0, |n| n + 1);
        let start = start + (before[start..].len() - before[start..].trim_start().len());
        let end = line.text[at..]
            .find("}}")
            .map_or(line.text.len(), |n| at + n + 2);
        let rest = line.text[end..]
            .find([',', ']', '}'])
            .unwrap_or(line.text.len() - end);
        let end = end + line.text[end..end + rest].trim_end().len();
        let value = &line.text[start..end];
        let whole = Span::new(span.file, line.start + start, line.start + end);
        return Diagnostic::error(
            "template-in-flow",
            whole,
            "a template inside `[ ]` or `{ }` needs quotes, because `{` begins a map there",
        )
        .help(format!("write `{}`", quoted(value)))
        .fix(whole, quoted(value));
    }
    Diagnostic::error("yaml-syntax", span, format!("expected `,` or `{close}`"))
        .help("put a value that has `,`, `[`, `]`, `{` or `}` in it in quotes")
}

fn unclosed_quote(span: Span) -> Diagnostic {
    Diagnostic::error("unclosed-quote", span, "the quote is never closed")
        .label("it opens here")
        .help("close it; inside single quotes a quote is written twice, inside double quotes it is `\\\"`")
}

/// The escape that YAML does not know, in the double-quoted text that begins at an offset.
fn bad_escape(text: &str, at: usize, file: FileIx) -> Span {
    let mut rest = at;
    while let Some(found) = text[rest..].find('\\') {
        let escape = rest + found;
        let next = text[escape + 1..].chars().next();
        let width = 1 + next.map_or(0, char::len_utf8);
        let hex = |n: usize| {
            text.get(escape + 2..escape + 2 + n)
                .is_some_and(|h| h.bytes().all(|b| b.is_ascii_hexdigit()))
        };
        let known = match next {
            Some('x') => hex(2),
            Some('u') => hex(4),
            Some('U') => hex(8),
            Some(c) => "0abtnvfre \"/\\N_LP\t\n\r".contains(c),
            None => false,
        };
        if !known {
            return Span::new(file, escape, escape + width);
        }
        rest = escape + width;
    }
    Span::new(file, at, at)
}

fn unclosed(open: char, span: Span) -> Diagnostic {
    let close = if open == '[' { ']' } else { '}' };
    Diagnostic::error(
        "unclosed-bracket",
        span,
        format!("`{open}` is never closed"),
    )
    .label("it opens here")
    .help(format!("add `{close}`"))
}

fn reserved_character(c: char, line: &Line<'_>, span: Span) -> Diagnostic {
    if c == '\t' {
        return tab(line, span);
    }
    let at = span.start as usize - line.start;
    let value = line.text.get(at..).unwrap_or("").trim_end();
    let diagnostic = Diagnostic::error(
        "reserved-character",
        span,
        format!("a plain value cannot begin with {c:?}"),
    );
    let whole = Span::new(
        span.file,
        span.start as usize,
        span.start as usize + value.len(),
    );
    if value.is_empty() || value.contains([',', ']', '}', '#']) {
        diagnostic.help("put the value in quotes")
    } else {
        diagnostic
            .help("put the value in quotes")
            .fix(whole, quoted(value))
    }
}

fn after_quote(span: Span) -> Diagnostic {
    Diagnostic::error(
        "text-after-quote",
        span,
        "there is text after the closing quote",
    )
    .help("put the whole value in quotes, for example in single quotes around the double ones")
}

fn indentation(line: &Line<'_>, text: &str, span: Span) -> Diagnostic {
    let at = span.start as usize - line.start;
    if line.text.trim_start().starts_with('\t') || line.text.starts_with('\t') {
        return tab(line, span);
    }
    let before = line.text.get(..at).unwrap_or("");
    let rest = &text[span.start as usize..];
    if before.trim().is_empty() {
        let words = if rest.starts_with("- ") {
            "this list item does not line up with the items before it"
        } else {
            "this line does not line up with the lines before it"
        };
        return Diagnostic::error("indentation", span, words)
            .help("give all keys of a map, and all items of a list, the same indentation");
    }
    Diagnostic::error("yaml-syntax", span, "this text belongs to no key or value")
        .help("put the whole value in quotes")
}

/// A NUL byte.
pub(super) fn nul(span: Span) -> Diagnostic {
    Diagnostic::error("nul", span, "the file has a NUL byte in it")
        .help("is this a text file? pipelines are UTF-8 text")
}

/// More than one document.
pub(super) fn several_documents(span: Span) -> Diagnostic {
    Diagnostic::error("several-documents", span, "a second document begins here")
        .help("a pipeline is one document; put the other one in a file of its own")
}

/// Nesting beyond the limit.
pub(super) fn too_deep(span: Span) -> Diagnostic {
    Diagnostic::error(
        "too-deep",
        span,
        format!(
            "more than {} lists and maps stand inside one another",
            super::MAX_DEPTH
        ),
    )
    .help("no pipeline needs that; is a bracket missing?")
}

/// An alias whose anchor does not come before it.
pub(super) fn unknown_anchor(name: &str, span: Span) -> Diagnostic {
    let diagnostic = Diagnostic::error(
        "unknown-anchor",
        span,
        format!("`*{name}` is an alias, and no anchor `&{name}` comes before it"),
    );
    if name.is_empty() || name.contains(['.', '/', '*', '?']) {
        return diagnostic
            .help(format!(
                "write `\"*{name}\"` if it is a glob: a value that begins with `*` needs quotes"
            ))
            .fix(span, format!("\"*{name}\""));
    }
    diagnostic.help(format!(
        "put `&{name}` before the value that it stands for, or quote it"
    ))
}

/// An alias inside its own anchor.
pub(super) fn recursive_alias(span: Span) -> Diagnostic {
    Diagnostic::error(
        "recursive-alias",
        span,
        "this alias stands inside what it stands for",
    )
    .help("a value cannot hold itself")
}

/// A key that is a list, a map or an alias.
pub(super) fn key_is_no_text(source: &str, text: &str, span: Span) -> Diagnostic {
    let braces = source.starts_with('{') && text[..span.start as usize].ends_with('{');
    if braces {
        let start = span.start as usize - 1;
        let end = text[span.end as usize..]
            .find('}')
            .map_or(span.end as usize, |n| span.end as usize + n + 1);
        let whole = Span::new(span.file, start, end);
        let inner = &text[start..end];
        let inner = inner.trim_start_matches('{').trim_end_matches('}').trim();
        return Diagnostic::error(
            "braces-without-dollar",
            whole,
            "`{{ }}` without `$` is a YAML map, not a template",
        )
        .help(format!("write `${{{{ {inner} }}}}`"))
        .fix(whole, format!("${{{{ {inner} }}}}"));
    }
    Diagnostic::error("key-is-no-text", span, "a key must be text").help("put the key in quotes")
}

/// A key that stands twice in one map.
pub(super) fn duplicate_key(key: &str, span: Span, first: Span) -> Diagnostic {
    let diagnostic = Diagnostic::error(
        "duplicate-key",
        span,
        format!("`{key}` stands twice in this map"),
    )
    .label("again here")
    .related(first, "first here");
    if key == "<<" {
        diagnostic.help("merge several maps with one key: `<<: [*a, *b]`")
    } else {
        diagnostic.help("remove one of them")
    }
}
