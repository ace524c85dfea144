//! Diagnostics as text for people, with excerpts and carets.

use std::{borrow::Cow, ops::Range};

use annotate_snippets::{AnnotationKind, Group, Level, Patch, Renderer, Snippet};
use dagrun_model::{Diagnostic, Severity, Source, Sources, Span};

/// How many diagnostics are shown in full.
const SHOWN: usize = 50;

/// How many bytes of a line before and after a place are shown.
const LINE_WINDOW: usize = 200;

/// Renders diagnostics in the order of their places, errors and warnings together.
///
/// Control characters in the excerpts are escaped, so that a file cannot write to a terminal. After 50 diagnostics
/// comes a count of the rest.
pub fn render(diagnostics: &[Diagnostic], sources: &Sources, color: bool) -> String {
    let renderer = match color {
        true => Renderer::styled(),
        false => Renderer::plain(),
    };
    let mut sorted: Vec<&Diagnostic> = diagnostics.iter().collect();
    sorted.sort_by_key(|d| (d.span.file, d.span.start, d.span.end));
    let mut text = String::new();
    for diagnostic in sorted.iter().take(SHOWN) {
        text.push_str(&one(diagnostic, sources, &renderer));
        text.push_str("\n\n");
    }
    let count = |severity| {
        diagnostics
            .iter()
            .filter(|d| d.severity == severity)
            .count()
    };
    let (errors, warnings) = (count(Severity::Error), count(Severity::Warning));
    if sorted.len() > SHOWN {
        text.push_str(&format!("and {} more\n", sorted.len() - SHOWN));
    }
    text.push_str(&tally(errors, warnings));
    text
}

/// `2 errors, 1 warning`, or nothing.
fn tally(errors: usize, warnings: usize) -> String {
    let plural = |n: usize, word: &str| match n {
        1 => format!("1 {word}"),
        n => format!("{n} {word}s"),
    };
    match (errors, warnings) {
        (0, 0) => String::new(),
        (0, w) => format!("{}\n", plural(w, "warning")),
        (e, 0) => format!("{}\n", plural(e, "error")),
        (e, w) => format!("{}, {}\n", plural(e, "error"), plural(w, "warning")),
    }
}

fn one(diagnostic: &Diagnostic, sources: &Sources, renderer: &Renderer) -> String {
    let level = match diagnostic.severity {
        Severity::Error => Level::ERROR,
        Severity::Warning => Level::WARNING,
    };
    let message = clean(&diagnostic.message);
    let mut group = level
        .primary_title(message)
        .id(diagnostic.code)
        .elements(Vec::<Snippet<'_, annotate_snippets::Annotation<'_>>>::new());
    for excerpt in excerpts(diagnostic, sources) {
        group = group.element(excerpt);
    }
    let patch = diagnostic
        .fix
        .as_ref()
        .and_then(|(span, replacement)| patch(*span, replacement, sources));
    // The last help is the title of the mend, where there is one.
    let (help, title) = match (diagnostic.help.split_last(), &patch) {
        (Some((last, others)), Some(_)) => (others, last.as_str()),
        _ => (diagnostic.help.as_slice(), "write it so"),
    };
    for help in help {
        group = group.element(Level::HELP.message(clean(help)));
    }
    let mut report: Vec<Group<'_>> = vec![group];
    report.extend(patch.map(|patch| Level::HELP.secondary_title(clean(title)).element(patch)));
    renderer.render(&report)
}

/// A part of a file that stands around some places, with control characters escaped.
struct Excerpt {
    text: String,
    first_line: usize,
    /// Where each byte of the source from `start` went.
    offsets: Vec<u32>,
    start: usize,
}

impl Excerpt {
    fn new(source: &Source, range: Range<usize>) -> Self {
        let text = &source.text;
        let start = text[..floor(text, range.start)]
            .rfind('\n')
            .map_or(0, |n| n + 1);
        // A line that is longer than anybody reads is cut around the place.
        let start = floor(text, start.max(range.start.saturating_sub(LINE_WINDOW)));
        let from = floor(text, range.end.max(start));
        let end = text[from..].find('\n').map_or(text.len(), |n| from + n);
        let end = floor(text, end.min(from + LINE_WINDOW));
        let first_line = text[..start].bytes().filter(|b| *b == b'\n').count() + 1;
        let (text, offsets) = escaped(&text[start..end]);
        Self {
            text,
            first_line,
            offsets,
            start,
        }
    }

    fn place(&self, range: Range<usize>) -> Range<usize> {
        let at = |offset: usize| {
            let ix = offset
                .saturating_sub(self.start)
                .min(self.offsets.len() - 1);
            self.offsets[ix] as usize
        };
        at(range.start)..at(range.end).max(at(range.start))
    }
}

/// A text with visible control characters, and for each byte (and the end) its new offset.
fn escaped(text: &str) -> (String, Vec<u32>) {
    let mut out = String::with_capacity(text.len());
    let mut offsets = Vec::with_capacity(text.len() + 1);
    for c in text.chars() {
        for _ in 0..c.len_utf8() {
            offsets.push(out.len() as u32);
        }
        match c {
            '\n' => out.push(c),
            '\r' => {}
            c if is_hostile(c) => out.extend(c.escape_default()),
            c => out.push(c),
        }
    }
    offsets.push(out.len() as u32);
    (out, offsets)
}

/// Characters that steer a terminal or reorder text.
fn is_hostile(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}')
}

fn clean(text: &str) -> Cow<'_, str> {
    match text.chars().any(is_hostile) {
        true => Cow::Owned(escaped(text).0),
        false => Cow::Borrowed(text),
    }
}

fn floor(text: &str, offset: usize) -> usize {
    let mut offset = offset.min(text.len());
    while !text.is_char_boundary(offset) {
        offset -= 1;
    }
    offset
}

type Annotated<'a> = Snippet<'a, annotate_snippets::Annotation<'a>>;

/// One excerpt for the place itself with its neighbours, and one for each place that is far from it.
fn excerpts<'a>(diagnostic: &'a Diagnostic, sources: &'a Sources) -> Vec<Annotated<'a>> {
    let mut snippets = Vec::new();
    let primary = (
        diagnostic.span,
        diagnostic.label.as_str(),
        AnnotationKind::Primary,
    );
    let related = diagnostic
        .related
        .iter()
        .map(|(span, label)| (*span, label.as_str(), AnnotationKind::Context));
    let mut near = vec![primary];
    let mut far = Vec::new();
    for place in related {
        match is_near(diagnostic.span, place.0, sources) {
            true => near.push(place),
            false => far.push(vec![place]),
        }
    }
    far.insert(0, near);
    for places in far {
        snippets.extend(excerpt(&places, sources));
    }
    snippets
}

/// Whether two places are few lines apart, so that one excerpt shows both.
fn is_near(a: Span, b: Span, sources: &Sources) -> bool {
    let Some(source) = sources.get(a.file).filter(|_| a.file == b.file) else {
        return false;
    };
    let (low, high) = (a.start.min(b.start) as usize, a.start.max(b.start) as usize);
    let between = &source.text[floor(&source.text, low)..floor(&source.text, high)];
    between.len() < 4000 && between.bytes().filter(|b| *b == b'\n').count() < 30
}

fn excerpt<'a>(
    places: &[(Span, &'a str, AnnotationKind)],
    sources: &'a Sources,
) -> Option<Annotated<'a>> {
    let file = places.first()?.0.file;
    let source = sources.get(file)?;
    let ranges: Vec<Range<usize>> = places
        .iter()
        .map(|(span, ..)| shown(&source.text, *span))
        .collect();
    let start = ranges.iter().map(|r| r.start).min()?;
    let end = ranges.iter().map(|r| r.end).max()?;
    let excerpt = Excerpt::new(source, start..end);
    let annotations: Vec<_> = places
        .iter()
        .zip(&ranges)
        .map(|((_, label, kind), range)| {
            let annotation = kind.span(excerpt.place(range.clone()));
            match label.is_empty() {
                true => annotation,
                false => annotation.label(clean(label)),
            }
        })
        .collect();
    let snippet = Snippet::source(excerpt.text)
        .line_start(excerpt.first_line)
        .path(clean(&source.path))
        .annotations(annotations);
    Some(snippet)
}

/// The bytes of a span on its first line: a caret under many lines helps nobody.
fn shown(text: &str, span: Span) -> Range<usize> {
    let start = floor(text, span.start as usize);
    let end = floor(text, (span.end as usize).max(start));
    let line_end = text[start..end].find('\n').map_or(end, |n| start + n);
    start..line_end
}

fn patch<'a>(
    span: Span,
    replacement: &'a str,
    sources: &'a Sources,
) -> Option<Snippet<'a, Patch<'a>>> {
    let source = sources.get(span.file)?;
    let range = floor(&source.text, span.start as usize)..floor(&source.text, span.end as usize);
    if source.text[range.clone()].contains('\n') || range.len() > LINE_WINDOW {
        return None;
    }
    let excerpt = Excerpt::new(source, range.clone());
    let place = excerpt.place(range);
    let snippet = Snippet::source(excerpt.text)
        .line_start(excerpt.first_line)
        .path(clean(&source.path))
        .patch(Patch::new(place, clean(replacement)));
    Some(snippet)
}
