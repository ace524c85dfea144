//! Places in source text, and what is to be said about them.

/// A source file of a pipeline, by its position in [`Sources`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct FileIx(pub u16);

/// A byte range in a source file. `start == end` points between two bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Span {
    /// The file.
    pub file: FileIx,
    /// The first byte.
    pub start: u32,
    /// One past the last byte.
    pub end: u32,
}

impl Span {
    /// No place in a file: what is wrong was typed on the command line.
    pub const COMMAND_LINE: Self = Self {
        file: FileIx(u16::MAX),
        start: 0,
        end: 0,
    };

    /// A span from bytes `start..end` of `file`.
    pub fn new(file: FileIx, start: usize, end: usize) -> Self {
        let clamp = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        Self {
            file,
            start: clamp(start),
            end: clamp(end),
        }
    }

    /// The span from the start of `self` to the end of `other`.
    pub fn to(self, other: Span) -> Self {
        Self {
            end: other.end.max(self.end),
            ..self
        }
    }
}

/// A value and the place where it stands.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Spanned<T> {
    /// The value.
    pub value: T,
    /// Where it stands.
    pub span: Span,
}

impl<T> Spanned<T> {
    /// A value at a place.
    pub fn new(value: T, span: Span) -> Self {
        Self { value, span }
    }
}

/// The source files that a pipeline was read from: spans point into them.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    files: Vec<Source>,
}

/// One source file.
#[derive(Clone, Debug)]
pub struct Source {
    /// The path as it is shown to people, relative to where the command was typed.
    pub path: String,
    /// The whole text.
    pub text: String,
}

impl Sources {
    /// Adds a file and returns its index.
    pub fn add(&mut self, path: impl Into<String>, text: impl Into<String>) -> FileIx {
        let ix = FileIx(
            u16::try_from(self.files.len()).expect("the include budget keeps files below 65,535"),
        );
        self.files.push(Source {
            path: path.into(),
            text: text.into(),
        });
        ix
    }

    /// The file of an index.
    pub fn get(&self, file: FileIx) -> Option<&Source> {
        self.files.get(usize::from(file.0))
    }

    /// All files, in the order in which they were read.
    pub fn iter(&self) -> impl Iterator<Item = &Source> {
        self.files.iter()
    }

    /// The line and column (both from 1, columns in characters) at which a span starts.
    pub fn line_column(&self, span: Span) -> (usize, usize) {
        let Some(source) = self.get(span.file) else {
            return (1, 1);
        };
        let mut start = (span.start as usize).min(source.text.len());
        while !source.text.is_char_boundary(start) {
            start -= 1;
        }
        let before = &source.text[..start];
        let line = before.bytes().filter(|b| *b == b'\n').count() + 1;
        let column = before.rsplit('\n').next().unwrap_or("").chars().count() + 1;
        (line, column)
    }

    /// `path:line:column` of a span, for one-line messages.
    pub fn locate(&self, span: Span) -> String {
        if span == Span::COMMAND_LINE {
            return "command line".into();
        }
        let path = self.get(span.file).map_or("<unknown>", |s| s.path.as_str());
        let (line, column) = self.line_column(span);
        format!("{path}:{line}:{column}")
    }
}

/// How bad a diagnostic is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Severity {
    /// The pipeline can run; something is worth a look.
    Warning,
    /// The pipeline cannot run.
    Error,
}

/// Something to say about a place in a pipeline, with what to write instead where that is known.
#[derive(Clone, Debug, PartialEq)]
pub struct Diagnostic {
    /// Error or warning.
    pub severity: Severity,
    /// A stable short name such as `unknown-key`, for tests and for people who search.
    pub code: &'static str,
    /// One lowercase sentence that names the thing.
    pub message: String,
    /// The place it is about.
    pub span: Span,
    /// What to say under the caret; may be empty.
    pub label: String,
    /// Other places that explain it, with their words.
    pub related: Vec<(Span, String)>,
    /// What to do about it.
    pub help: Vec<String>,
    /// A text to put in place of a span, where the mend is mechanical.
    pub fix: Option<(Span, String)>,
}

impl Diagnostic {
    /// An error at a place.
    pub fn error(code: &'static str, span: Span, message: impl Into<String>) -> Self {
        Self {
            severity: Severity::Error,
            code,
            message: message.into(),
            span,
            label: String::new(),
            related: Vec::new(),
            help: Vec::new(),
            fix: None,
        }
    }

    /// A warning at a place.
    pub fn warning(code: &'static str, span: Span, message: impl Into<String>) -> Self {
        Self {
            severity: Severity::Warning,
            ..Self::error(code, span, message)
        }
    }

    /// With words under the caret.
    pub fn label(mut self, label: impl Into<String>) -> Self {
        self.label = label.into();
        self
    }

    /// With a remedy.
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help.push(help.into());
        self
    }

    /// With another place.
    pub fn related(mut self, span: Span, label: impl Into<String>) -> Self {
        self.related.push((span, label.into()));
        self
    }

    /// With a mechanical mend.
    pub fn fix(mut self, span: Span, replacement: impl Into<String>) -> Self {
        self.fix = Some((span, replacement.into()));
        self
    }

    /// Whether it stops the pipeline.
    pub fn is_error(&self) -> bool {
        self.severity == Severity::Error
    }
}

/// Words longer than this are not guessed at.
const LONGEST_GUESS: usize = 100;
/// So many candidates are looked at: a file may have thousands of names and as many that are wrong.
const MOST_CANDIDATES: usize = 1000;

/// The candidate nearest to `word` (edit distance at most a third of its length, at least 1), for "did you mean".
pub fn did_you_mean<'a>(
    word: &str,
    candidates: impl IntoIterator<Item = &'a str>,
) -> Option<&'a str> {
    let word: Vec<char> = word
        .to_lowercase()
        .chars()
        .take(LONGEST_GUESS + 1)
        .collect();
    if word.len() > LONGEST_GUESS {
        return None;
    }
    let limit = (word.len() / 3).max(1);
    let mut rows = Rows::default();
    candidates
        .into_iter()
        .take(MOST_CANDIDATES)
        .filter_map(|candidate| Some((rows.edit_distance(&word, candidate, limit)?, candidate)))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// The rows of the table of distances that are still needed: memory that many comparisons share.
#[derive(Default)]
struct Rows {
    before: Vec<usize>,
    last: Vec<usize>,
    row: Vec<usize>,
    other: Vec<char>,
}

impl Rows {
    /// Optimal string alignment distance: insertions, deletions, substitutions and swaps of neighbours cost one. `None` beyond
    /// the limit.
    fn edit_distance(&mut self, a: &[char], b: &str, limit: usize) -> Option<usize> {
        let Self {
            before,
            last,
            row,
            other: b_chars,
        } = self;
        b_chars.clear();
        let lower = b.chars().flat_map(char::to_lowercase);
        b_chars.extend(lower.take(a.len() + limit + 1));
        let b = b_chars.as_slice();
        if a.len().abs_diff(b.len()) > limit {
            return None;
        }
        last.clear();
        last.extend(0..=b.len());
        for i in 1..=a.len() {
            row.clear();
            row.push(i);
            for j in 1..=b.len() {
                let substitution = last[j - 1] + usize::from(a[i - 1] != b[j - 1]);
                let mut best = substitution.min(last[j] + 1).min(row[j - 1] + 1);
                if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                    best = best.min(before[j - 2] + 1);
                }
                row.push(best);
            }
            // A row follows from the two before it.
            let near = |row: &[usize]| row.iter().any(|distance| *distance <= limit);
            if !near(row) && !near(last) {
                return None;
            }
            std::mem::swap(before, last);
            std::mem::swap(last, row);
        }
        last.last().copied().filter(|distance| *distance <= limit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suggestions_are_near() {
        assert_eq!(did_you_mean("neds", ["needs", "env"]), Some("needs"));
        assert_eq!(did_you_mean("input", ["inputs", "outputs"]), Some("inputs"));
        assert_eq!(did_you_mean("xyz", ["needs", "env"]), None);
        assert_eq!(did_you_mean("nedes", ["needs", "need"]), Some("needs"));
        assert_eq!(
            did_you_mean("Outptus", ["inputs", "outputs"]),
            Some("outputs")
        );
        assert_eq!(did_you_mean("a", ["abc", "b", "a"]), Some("a"));
    }

    #[test]
    fn guesses_are_bounded() {
        let names: Vec<String> = (0..2 * MOST_CANDIDATES)
            .map(|i| format!("job-{i}"))
            .collect();
        let names = || names.iter().map(String::as_str);
        assert_eq!(did_you_mean("jbo-17", names()), Some("job-17"));
        let last = names().next_back().unwrap();
        assert_eq!(did_you_mean("job-", [last]), None, "too far");
        assert_eq!(did_you_mean(last, names().skip(1)), Some("job-199"));
        let long = "x".repeat(LONGEST_GUESS + 1);
        assert_eq!(did_you_mean(&long, [&long[1..]]), None);
        assert_eq!(did_you_mean(&long[1..], [&*long]), Some(&*long));
    }

    #[test]
    fn columns_count_characters() {
        let mut sources = Sources::default();
        let file = sources.add("p.yaml", "a: ü\nb: x");
        assert_eq!(sources.line_column(Span::new(file, 5, 6)), (1, 5));
        assert_eq!(sources.locate(Span::new(file, 6, 7)), "p.yaml:2:1");
    }
}
