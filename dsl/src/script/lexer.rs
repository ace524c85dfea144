//! Follows the quoting of a shell script, character by character.

use std::{mem, ops::Range, sync::Arc};

use dagrun_model::{Diagnostic, Expr, Quoting, ScriptPart};

use super::{
    place::{Forbidden, refused},
    words::Words,
};
use crate::{expr, template::OPEN, text::SourceText};

/// Brackets and quotes may nest this deep; what is deeper is read as plain words.
const MAX_DEPTH: usize = 200;

pub(super) struct Lexer<'a> {
    text: &'a SourceText,
    source: &'a str,
    at: usize,
    /// What is open, innermost last; never empty.
    stack: Vec<Frame>,
    /// Heredocs whose bodies begin at the next line end.
    heredocs: Vec<Heredoc>,
    parts: Vec<ScriptPart>,
    /// Where the text begins that is not yet in `parts`.
    pending: usize,
    /// All templates by position and expression, for errors that come later.
    templates: Vec<(Range<usize>, Expr)>,
    out: &'a mut Vec<Diagnostic>,
}

struct Frame {
    kind: Kind,
    /// Where it was opened.
    open: usize,
}

enum Kind {
    /// Commands: the script, or what stands between brackets.
    Commands { words: Words, bracket: bool },
    /// `"..."`
    Double,
    /// `${...}`, and whether it stands between double quotes, where `'` means itself.
    Expansion { quoted: bool },
    /// `$((...))` and `((...))`; with the number of brackets that are open inside.
    Arithmetic { depth: usize },
    /// `$[...]`, the old form.
    OldArithmetic { depth: usize },
}

struct Heredoc {
    delimiter: String,
    strip_tabs: bool,
    quoted: bool,
}

impl<'a> Lexer<'a> {
    pub(super) fn new(text: &'a SourceText, out: &'a mut Vec<Diagnostic>) -> Self {
        Self {
            text,
            source: text.text(),
            at: 0,
            stack: vec![Frame {
                kind: commands(false),
                open: 0,
            }],
            heredocs: Vec::new(),
            parts: Vec::new(),
            pending: 0,
            templates: Vec::new(),
            out,
        }
    }

    /// Reads the whole script.
    pub(super) fn run(mut self) -> Vec<ScriptPart> {
        while self.at < self.source.len() {
            match self.top() {
                Kind::Commands { .. } => self.in_commands(),
                Kind::Double => self.in_double(),
                Kind::Expansion { quoted } => {
                    let quoted = *quoted;
                    self.in_expansion(quoted);
                }
                Kind::Arithmetic { .. } | Kind::OldArithmetic { .. } => self.in_arithmetic(),
            }
        }
        self.end_command();
        self.warn_about_open_quotes();
        self.flush(self.source.len());
        self.parts
    }

    fn in_commands(&mut self) {
        let rest = self.rest();
        let c = self.peek();
        if self.opens_template(Quoting::Bare) || self.expansion(false) {
            return;
        }
        match c {
            '\\' => self.escape(),
            '\'' => {
                self.words().push_quoted();
                self.single_quotes();
            }
            '"' => self.open(Kind::Double, 1),
            '`' => {
                self.words().push_quoted();
                self.backticks();
            }
            '#' if self.words().between_words() => self.skip_line(),
            '\n' => {
                self.end_command();
                self.at += 1;
                self.heredoc_bodies();
            }
            c if c.is_whitespace() => {
                let found = self.words().end_word();
                self.refuse_later(found);
                self.at += c.len_utf8();
            }
            '<' if rest.starts_with("<<<") => self.operator(3),
            '<' if rest.starts_with("<<") => self.heredoc(),
            '(' | ')' if self.words().in_test() => self.operator(1),
            // Process substitution is part of the command around it.
            '(' if self.source[..self.at].ends_with(['<', '>']) => self.open(commands(true), 1),
            '(' => {
                self.end_command();
                let (kind, length) = if rest.starts_with("((") {
                    (Kind::Arithmetic { depth: 0 }, 2)
                } else {
                    (commands(true), 1)
                };
                self.push(kind, length);
            }
            ')' => self.close_bracket(),
            ';' | '&' | '|' => {
                // `&` of `2>&1` and `&>` does not end a command.
                if c == '&'
                    && (self.source[..self.at].ends_with(['>', '<']) || rest.starts_with("&>"))
                {
                    self.operator(1);
                } else {
                    self.end_command();
                    self.at += 1;
                }
            }
            '<' | '>' => self.operator(1),
            c => {
                self.words().push(c);
                self.at += c.len_utf8();
            }
        }
    }

    fn in_double(&mut self) {
        let c = self.peek();
        if self.opens_template(Quoting::Double) || self.expansion(true) {
            return;
        }
        match c {
            '\\' => self.escape(),
            '"' => self.close(1),
            '`' => self.backticks(),
            c => self.at += c.len_utf8(),
        }
    }

    fn in_expansion(&mut self, quoted: bool) {
        let c = self.peek();
        if self.refuses_template(Forbidden::Expansion) || self.expansion(quoted) {
            return;
        }
        match c {
            '\\' => self.escape(),
            '"' => self.open(Kind::Double, 1),
            '\'' if !quoted => self.single_quotes(),
            '`' => self.backticks(),
            '}' => self.close(1),
            c => self.at += c.len_utf8(),
        }
    }

    fn in_arithmetic(&mut self) {
        if self.refuses_template(Forbidden::Arithmetic) || self.expansion(false) {
            return;
        }
        let c = self.peek();
        let close_two = self.rest().starts_with("))");
        let closed = match (&mut self.stack.last_mut().expect("never empty").kind, c) {
            (Kind::Arithmetic { depth }, '(') => {
                *depth += 1;
                0
            }
            (Kind::Arithmetic { depth: 0 }, ')') => 1 + usize::from(close_two),
            (Kind::Arithmetic { depth }, ')') => {
                *depth -= 1;
                0
            }
            (Kind::OldArithmetic { depth }, '[') => {
                *depth += 1;
                0
            }
            (Kind::OldArithmetic { depth: 0 }, ']') => 1,
            (Kind::OldArithmetic { depth }, ']') => {
                *depth -= 1;
                0
            }
            _ => 0,
        };
        match c {
            _ if closed > 0 => self.close(closed),
            '\\' => self.escape(),
            '"' => self.open(Kind::Double, 1),
            '\'' => self.single_quotes(),
            '`' => self.backticks(),
            c => self.at += c.len_utf8(),
        }
    }

    /// Opens what begins with `$`. `quoted`: between double quotes, where `$'` and `$"` have no meaning.
    fn expansion(&mut self, quoted: bool) -> bool {
        let rest = self.rest();
        if !rest.starts_with('$') {
            return false;
        }
        if rest[1..].starts_with(OPEN) {
            self.at += 1;
            self.refuses_template(Forbidden::Escaped);
        } else if rest.starts_with("$((") {
            self.open(Kind::Arithmetic { depth: 0 }, 3);
        } else if rest.starts_with("$(") {
            self.open(commands(true), 2);
        } else if rest.starts_with("${") {
            self.open(Kind::Expansion { quoted }, 2);
        } else if rest.starts_with("$[") {
            self.open(Kind::OldArithmetic { depth: 0 }, 2);
        } else if rest.starts_with("$'") && !quoted {
            self.note_quoted();
            self.ansi_quotes();
        } else {
            // `$"` opens plain double quotes, which the next step finds.
            self.note_quoted();
            self.at += 1;
            if self.rest().starts_with('$') && !self.rest().starts_with(OPEN) {
                self.at += 1;
            }
        }
        true
    }

    /// Takes a template as a value of the script, or refuses it for what its command does with words.
    fn opens_template(&mut self, place: Quoting) -> bool {
        if !self.rest().starts_with(OPEN) {
            return false;
        }
        let open = self.at;
        let embedded = expr::embedded(self.text, open, self.out);
        self.at = embedded.range.end;
        let ix = self.templates.len();
        let forbidden = self.words().template(ix);
        let forbidden = self.enclosing().or(forbidden);
        self.words().push_quoted();
        let Some(expr) = embedded.expr else {
            self.templates
                .push((embedded.range.clone(), null(self.text, embedded.range)));
            return true;
        };
        if let Some(place) = forbidden {
            self.out
                .push(refused(self.text, embedded.range.clone(), &expr, place));
        }
        self.templates.push((embedded.range, expr.clone()));
        self.flush(open);
        self.pending = self.at;
        self.parts.push(ScriptPart::Value { expr, place });
        true
    }

    /// Reports a template in a place that no value may enter, and steps over it.
    fn refuses_template(&mut self, place: Forbidden) -> bool {
        if !self.rest().starts_with(OPEN) {
            return false;
        }
        let embedded = expr::embedded(self.text, self.at, self.out);
        self.at = embedded.range.end;
        if let Some(expr) = embedded.expr {
            self.out
                .push(refused(self.text, embedded.range, &expr, place));
        }
        true
    }

    /// What forbids values between here and the commands around it: `${a["${{ x }}"]}`.
    fn enclosing(&self) -> Option<Forbidden> {
        self.stack
            .iter()
            .rev()
            .map_while(|frame| match frame.kind {
                Kind::Commands { .. } => None,
                Kind::Double => Some(None),
                Kind::Expansion { .. } => Some(Some(Forbidden::Expansion)),
                Kind::Arithmetic { .. } | Kind::OldArithmetic { .. } => {
                    Some(Some(Forbidden::Arithmetic))
                }
            })
            .flatten()
            .next()
    }

    fn escape(&mut self) {
        // A backslash at a line end joins two lines and is no part of a word.
        if !self.rest().starts_with("\\\n") {
            self.note_quoted();
        }
        self.at += 1;
        if self.refuses_template(Forbidden::Escaped) {
            return;
        }
        if self.at < self.source.len() {
            self.at += self.peek().len_utf8();
        }
    }

    /// `'...'`, in which nothing has a meaning but templates.
    fn single_quotes(&mut self) {
        let open = self.at;
        self.at += 1;
        while self.at < self.source.len() {
            // In commands the words decide, elsewhere the place around the quotes.
            let taken = match self.top() {
                Kind::Commands { .. } | Kind::Double => self.opens_template(Quoting::Single),
                Kind::Expansion { .. } => self.refuses_template(Forbidden::Expansion),
                _ => self.refuses_template(Forbidden::Arithmetic),
            };
            if taken {
                continue;
            }
            let c = self.peek();
            self.at += c.len_utf8();
            if c == '\'' {
                return;
            }
        }
        self.warn_open(open, "'");
    }

    /// `$'...'`, in which a backslash escapes.
    fn ansi_quotes(&mut self) {
        let open = self.at;
        self.at += 2;
        while self.at < self.source.len() {
            if self.refuses_template(Forbidden::AnsiQuotes) {
                continue;
            }
            let c = self.peek();
            self.at += c.len_utf8();
            match c {
                '\\' if self.at < self.source.len() => self.at += self.peek().len_utf8(),
                '\'' => return,
                _ => {}
            }
        }
        self.warn_open(open, "'");
    }

    fn backticks(&mut self) {
        let open = self.at;
        self.at += 1;
        while self.at < self.source.len() {
            if self.refuses_template(Forbidden::Backticks) {
                continue;
            }
            let c = self.peek();
            self.at += c.len_utf8();
            match c {
                '\\' if self.at < self.source.len() => self.at += self.peek().len_utf8(),
                '`' => return,
                _ => {}
            }
        }
        self.warn_open(open, "`");
    }

    /// A comment: the shell ignores it, and so its templates stay as they are.
    fn skip_line(&mut self) {
        self.at += self.rest().find('\n').unwrap_or(self.rest().len());
    }

    /// `<<WORD`: its body begins at the next line end.
    fn heredoc(&mut self) {
        self.operator(2);
        let strip_tabs = self.rest().starts_with('-');
        if strip_tabs {
            self.at += 1;
        }
        let skipped = self.rest().trim_start_matches([' ', '\t']);
        self.at = self.source.len() - skipped.len();
        let mut delimiter = String::new();
        let mut quoted = false;
        let mut quote = None;
        while self.at < self.source.len() {
            let c = self.peek();
            match (quote, c) {
                (Some(q), c) if c == q => quote = None,
                (Some(_), c) => delimiter.push(c),
                (None, '\'' | '"') => {
                    quoted = true;
                    quote = Some(c);
                }
                (None, '\\') => quoted = true,
                (None, c) if c.is_whitespace() || ";|&()<>".contains(c) => break,
                (None, c) => delimiter.push(c),
            }
            self.at += c.len_utf8();
        }
        self.heredocs.push(Heredoc {
            delimiter,
            strip_tabs,
            quoted,
        });
    }

    fn heredoc_bodies(&mut self) {
        for heredoc in mem::take(&mut self.heredocs) {
            while self.at < self.source.len() {
                let line = self.rest().split('\n').next().unwrap_or("");
                let end = self.at + line.len();
                let content = if heredoc.strip_tabs {
                    line.trim_start_matches('\t')
                } else {
                    line
                };
                if content == heredoc.delimiter {
                    self.at = (end + 1).min(self.source.len());
                    break;
                }
                while let Some(found) = self.source[self.at..end.max(self.at)].find(OPEN) {
                    self.at += found;
                    self.refuses_template(Forbidden::Heredoc {
                        quoted: heredoc.quoted,
                    });
                }
                let after = self
                    .rest()
                    .find('\n')
                    .map_or(self.rest().len(), |nl| nl + 1);
                self.at += after;
            }
        }
    }

    fn close_bracket(&mut self) {
        self.end_command();
        let in_case = self.words().in_case();
        if !in_case && matches!(self.top(), Kind::Commands { bracket: true, .. }) {
            self.close(1);
        } else {
            self.at += 1;
        }
    }

    /// An operator of `length` bytes that ends a word but no command.
    fn operator(&mut self, length: usize) {
        let found = self.words().end_word();
        self.refuse_later(found);
        self.at += length;
    }

    fn end_command(&mut self) {
        let found = self.words().end_command();
        self.refuse_later(found);
    }

    fn refuse_later(&mut self, templates: Vec<usize>) {
        for ix in templates {
            let (range, expr) = &self.templates[ix];
            self.out.push(refused(
                self.text,
                range.clone(),
                expr,
                Forbidden::Arithmetic,
            ));
        }
    }

    /// Opens what is part of a word.
    fn open(&mut self, kind: Kind, length: usize) {
        self.note_quoted();
        self.push(kind, length);
    }

    fn push(&mut self, kind: Kind, length: usize) {
        if self.stack.len() < MAX_DEPTH {
            self.stack.push(Frame {
                kind,
                open: self.at,
            });
        }
        self.at += length;
    }

    fn close(&mut self, length: usize) {
        if self.stack.len() > 1 {
            self.stack.pop();
        }
        self.at += length;
    }

    fn warn_about_open_quotes(&mut self) {
        let open = self
            .stack
            .iter()
            .find(|frame| matches!(frame.kind, Kind::Double))
            .map(|frame| frame.open);
        if let Some(open) = open {
            self.warn_open(open, "\"");
        }
    }

    fn warn_open(&mut self, open: usize, quote: &str) {
        let span = self.text.span_of(open..open + 1);
        self.out.push(
            Diagnostic::warning(
                "open-quote",
                span,
                format!("this `{quote}` has no closing one in the script"),
            )
            .help("an apostrophe in a text is written `\"it's\"` or `it\\'s`"),
        );
    }

    fn flush(&mut self, end: usize) {
        if self.pending < end {
            let text = &self.source[self.pending..end];
            self.parts.push(ScriptPart::Text(Arc::from(text)));
            self.pending = end;
        }
    }

    fn note_quoted(&mut self) {
        if let Some(Frame {
            kind: Kind::Commands { words, .. },
            ..
        }) = self.stack.last_mut()
        {
            words.push_quoted();
        }
    }

    /// The words of the innermost commands.
    fn words(&mut self) -> &mut Words {
        self.stack
            .iter_mut()
            .rev()
            .find_map(|frame| match &mut frame.kind {
                Kind::Commands { words, .. } => Some(words),
                _ => None,
            })
            .expect("the script itself is a list of commands")
    }

    fn top(&self) -> &Kind {
        &self
            .stack
            .last()
            .expect("the script itself is never closed")
            .kind
    }

    fn rest(&self) -> &'a str {
        &self.source[self.at..]
    }

    fn peek(&self) -> char {
        self.rest().chars().next().expect("not at the end")
    }
}

fn commands(bracket: bool) -> Kind {
    Kind::Commands {
        words: Words::default(),
        bracket,
    }
}

fn null(text: &SourceText, range: Range<usize>) -> Expr {
    use dagrun_model::{ExprKind, Value};
    Expr::new(ExprKind::Literal(Value::Null), text.span_of(range))
}
