//! What stands between the values: blanks, commas, brackets, comments and blank lines.

use crate::yaml::{Kind, Style, Tree};

/// A file without any value.
pub(super) fn comments_only(text: &str) -> String {
    let mut editor = Editor::default();
    editor.gap(text.trim_start_matches('\u{feff}'));
    editor.finish(false)
}

/// The text with one spelling between its values.
pub(super) fn spaced(text: &str, tree: &Tree) -> String {
    let mut editor = Editor::default();
    let mut at = if text.starts_with('\u{feff}') { 3 } else { 0 };
    let mut keeps_end = false;
    for atom in atoms(tree) {
        if atom.start < at {
            continue;
        }
        let gap = &text[at..atom.start];
        match atom.block {
            true => {
                // What comes after the header of a block scalar belongs to its value.
                let header = gap.trim_end_matches([' ', '\n']).len();
                editor.after(gap.get(..header).unwrap_or(""), keeps_end);
                editor.verbatim(&gap[header..]);
                keeps_end = keeps_line_breaks(&gap[..header]);
            }
            false => {
                editor.after(gap, keeps_end);
                keeps_end = false;
            }
        }
        editor.atom(&text[atom.start..atom.end]);
        at = atom.end;
    }
    editor.after(&text[at..], keeps_end);
    editor.finish(keeps_end)
}

/// A value in the text that is not a collection.
struct Atom {
    start: usize,
    end: usize,
    block: bool,
}

fn atoms(tree: &Tree) -> Vec<Atom> {
    let mut atoms: Vec<Atom> = tree
        .nodes()
        .iter()
        .filter_map(|node| {
            let block = match node.kind {
                Kind::Scalar(style, _) => matches!(style, Style::Literal | Style::Folded),
                Kind::Alias(_) => false,
                _ => return None,
            };
            let range = node.range();
            (!range.is_empty()).then_some(Atom {
                start: range.start,
                end: range.end,
                block,
            })
        })
        .collect();
    atoms.sort_by_key(|atom| atom.start);
    atoms
}

/// Whether the header at the end of a gap is one like `|+`.
fn keeps_line_breaks(gap: &str) -> bool {
    let line = gap.rsplit('\n').next().unwrap_or("");
    let header = line.rfind(['|', '>']).map_or("", |at| &line[at..]);
    header.split([' ', '#']).next().unwrap_or("").contains('+')
}

/// What was written last, which decides about the blank before the next thing.
#[derive(Clone, Copy, PartialEq, Default)]
enum Last {
    #[default]
    Other,
    Open,
    Separator,
    Line,
}

#[derive(Default)]
struct Editor {
    out: String,
    /// How many `[` and `{` are open.
    depth: usize,
    last: Last,
    /// Whether blanks were passed over that may or may not be written.
    blank: usize,
}

impl Editor {
    fn verbatim(&mut self, text: &str) {
        self.out.push_str(text);
    }

    fn atom(&mut self, text: &str) {
        self.blanks_before_word();
        self.out.push_str(text);
        self.last = Last::Other;
    }

    /// A gap, with its first line breaks as they are where a block scalar before it keeps them.
    fn after(&mut self, gap: &str, keeps_end: bool) {
        if !keeps_end {
            self.gap(gap);
            return;
        }
        let breaks = gap.len() - gap.trim_start_matches([' ', '\n']).len();
        let breaks = gap[..breaks].rfind('\n').map_or(0, |n| n + 1);
        self.verbatim(&gap[..breaks]);
        self.last = Last::Line;
        self.gap(&gap[breaks..]);
    }

    fn gap(&mut self, gap: &str) {
        let mut rest = gap;
        while let Some(c) = rest.chars().next() {
            let taken = match c {
                ' ' | '\t' => {
                    self.blank += 1;
                    1
                }
                '\r' => 1,
                '\n' => {
                    self.line_break();
                    1
                }
                '#' if self.comment_may_begin() => self.comment(rest),
                _ if self.depth == 0 => self.outside(c),
                _ => self.inside(c),
            };
            rest = &rest[taken..];
        }
    }

    fn comment_may_begin(&self) -> bool {
        self.blank > 0 || self.out.is_empty() || self.last == Last::Line
    }

    fn line_break(&mut self) {
        self.blank = 0;
        let blank_lines = self.out.is_empty() || self.out.ends_with("\n\n");
        if !blank_lines {
            self.out.push('\n');
        }
        self.last = Last::Line;
    }

    fn comment(&mut self, rest: &str) -> usize {
        let line = rest.split('\n').next().unwrap_or(rest);
        self.write_blanks();
        let words = line[1..].trim_end();
        let decorated = words.is_empty() || words.starts_with([' ', '\t', '#', '!', '-', '=']);
        self.out.push('#');
        if !decorated {
            self.out.push(' ');
        }
        self.out.push_str(words);
        self.last = Last::Other;
        line.len()
    }

    fn write_blanks(&mut self) {
        for _ in 0..self.blank {
            self.out.push(' ');
        }
        self.blank = 0;
    }

    fn outside(&mut self, c: char) -> usize {
        self.write_blanks();
        self.out.push(c);
        self.last = Last::Other;
        if matches!(c, '[' | '{') {
            self.depth = 1;
            self.last = Last::Open;
        }
        c.len_utf8()
    }

    fn inside(&mut self, c: char) -> usize {
        match c {
            '[' | '{' => {
                self.blanks_before_word();
                self.depth += 1;
                self.last = Last::Open;
            }
            ']' | '}' => {
                self.blanks_at_line_start();
                self.depth -= 1;
                self.last = Last::Other;
            }
            ',' | ':' => {
                self.blanks_at_line_start();
                self.last = Last::Separator;
            }
            _ => {
                // Anchors, tags and `?`: the blanks after them count.
                if self.last != Last::Other || self.blank > 0 {
                    self.blanks_before_word();
                }
                self.last = Last::Other;
            }
        }
        self.out.push(c);
        c.len_utf8()
    }

    /// Indentation is written, other blanks are not.
    fn blanks_at_line_start(&mut self) {
        match self.last {
            Last::Line => self.write_blanks(),
            _ => self.blank = 0,
        }
    }

    fn blanks_before_word(&mut self) {
        if self.depth == 0 || self.last == Last::Line {
            self.write_blanks();
            return;
        }
        let one = match self.last {
            Last::Separator => true,
            Last::Open | Last::Line => false,
            Last::Other => self.blank > 0,
        };
        if one {
            self.out.push(' ');
        }
        self.blank = 0;
    }

    fn finish(mut self, keeps_end: bool) -> String {
        if !keeps_end {
            self.out
                .truncate(self.out.trim_end_matches([' ', '\n', '\t']).len());
            self.out.push('\n');
        }
        self.out
    }
}
