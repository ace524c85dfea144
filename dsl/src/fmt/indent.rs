//! The first columns of lines: two for each level, lists under a key one level deeper than the key.

use rustc_hash::FxHashSet;

use crate::yaml::{Kind, Style, Tree};

/// What a line is to the indentation.
#[derive(Clone, Copy, PartialEq)]
enum Line {
    /// It begins a key, an item or a value.
    Content,
    Blank,
    Comment,
    /// It goes on with what began on the line of this index.
    Continues(usize),
    /// It is in a block scalar whose header stands on the line of this index; true: the header gives the indentation.
    Block(usize, bool),
}

#[derive(Clone, Copy, PartialEq)]
enum LevelKind {
    Map,
    List,
}

/// An open block collection: its column before and after.
#[derive(Clone, Copy)]
struct Level {
    kind: LevelKind,
    old: usize,
    new: usize,
}

/// Where a line went: how far its first value moved, and the innermost level there.
#[derive(Clone, Copy, Default)]
struct Moved {
    by: isize,
    level_old: usize,
    level_new: usize,
}

/// The text with one indentation. Text that says `? key` stays as it is.
pub(super) fn indented(text: &str, tree: &Tree) -> String {
    let lines: Vec<&str> = text.split('\n').collect();
    let starts = line_starts(text);
    let kinds = line_kinds(tree, &lines, &starts);
    let keys = block_keys(tree);
    let explicit = |(line, kind): (&&str, &Line)| {
        *kind == Line::Content && line.trim_start().starts_with("? ")
    };
    if lines.iter().zip(&kinds).any(explicit) {
        return text.to_owned();
    }
    let mut writer = Writer {
        lines: &lines,
        starts: &starts,
        keys: &keys,
        stack: Vec::new(),
        moved: vec![Moved::default(); lines.len()],
        out: vec![String::new(); lines.len()],
    };
    let mut comments = Vec::new();
    for (i, kind) in kinds.iter().enumerate() {
        match kind {
            Line::Blank => {}
            Line::Comment => comments.push(i),
            Line::Content => {
                let before = writer.stack.clone();
                writer.content(i);
                writer.comments(&comments, &before, Some(i));
                comments.clear();
            }
            Line::Continues(owner) => writer.continues(i, *owner),
            Line::Block(owner, given) => writer.block(i, *owner, *given, &kinds),
        }
    }
    let before = writer.stack.clone();
    writer.comments(&comments, &before, None);
    writer.out.join("\n")
}

fn line_starts(text: &str) -> Vec<usize> {
    let mut starts = vec![0];
    starts.extend(text.match_indices('\n').map(|(at, _)| at + 1));
    starts
}

fn line_of(starts: &[usize], offset: usize) -> usize {
    starts.partition_point(|start| *start <= offset) - 1
}

fn line_kinds(tree: &Tree, lines: &[&str], starts: &[usize]) -> Vec<Line> {
    let mut kinds: Vec<Line> = lines
        .iter()
        .map(|line| match line.trim_start().chars().next() {
            None => Line::Blank,
            Some('#') => Line::Comment,
            Some(_) => Line::Content,
        })
        .collect();
    for node in tree.nodes() {
        let range = node.range();
        if range.is_empty() {
            continue;
        }
        let (first, last) = (line_of(starts, range.start), line_of(starts, range.end - 1));
        match &node.kind {
            Kind::Scalar(Style::Literal | Style::Folded, _) => {
                let header = (0..first)
                    .rev()
                    .find(|i| kinds[*i] != Line::Blank)
                    .unwrap_or(0);
                let given = header_gives_indentation(lines[header]);
                kinds[header + 1..=last].fill(Line::Block(header, given));
            }
            Kind::Scalar(..) => mark(&mut kinds, first, last),
            Kind::List(_) | Kind::Map(_) if node.flow => mark(&mut kinds, first, last),
            _ => {}
        }
    }
    kinds
}

/// The lines after the first go on with it; what they are inside stays.
fn mark(kinds: &mut [Line], first: usize, last: usize) {
    let owner = match kinds[first] {
        Line::Continues(owner) => owner,
        _ => first,
    };
    kinds[first + 1..=last].fill(Line::Continues(owner));
}

fn header_gives_indentation(line: &str) -> bool {
    let header = line.rfind(['|', '>']).map_or("", |at| &line[at..]);
    let header = header.split([' ', '#']).next().unwrap_or("");
    header.contains(|c: char| c.is_ascii_digit())
}

/// The offsets of the keys of maps that are not in braces.
fn block_keys(tree: &Tree) -> FxHashSet<usize> {
    let mut keys = FxHashSet::default();
    for node in tree.nodes() {
        if let Kind::Map(entries) = &node.kind
            && !node.flow
        {
            keys.extend(entries.iter().map(|(key, _)| tree.node(*key).range().start));
        }
    }
    keys
}

struct Writer<'t> {
    lines: &'t [&'t str],
    starts: &'t [usize],
    keys: &'t FxHashSet<usize>,
    stack: Vec<Level>,
    moved: Vec<Moved>,
    out: Vec<String>,
}

impl Writer<'_> {
    fn content(&mut self, i: usize) {
        let line = self.lines[i];
        let mut column = indentation(line);
        let first = column;
        let mut new_first = None;
        let mut dashes = String::new();
        while is_dash(&line[column..]) {
            let new = self.enter(LevelKind::List, column);
            new_first.get_or_insert(new);
            let after = column + 1 + indentation(&line[column + 1..]);
            if line[after..].is_empty() || line[after..].starts_with('#') {
                // The item begins on a later line.
                dashes.push_str(&line[column..]);
                column = line.len();
                break;
            }
            dashes.push_str("- ");
            column = after;
        }
        let start = self.starts[i];
        let has_key = column < line.len()
            && (start + column..start + line.len()).any(|at| self.keys.contains(&at));
        let content_column = if has_key {
            let new = self.enter(LevelKind::Map, column);
            new_first.get_or_insert(new);
            new
        } else if let Some(new) = new_first {
            new + dashes.len()
        } else {
            self.leave(column);
            let new = self.stack.last().map_or(0, |level| level.new + 2);
            new_first = Some(new);
            new
        };
        let new_first = new_first.unwrap_or(first);
        self.out[i] = format!("{}{dashes}{}", " ".repeat(new_first), &line[column..]);
        let level = self.stack.last();
        self.moved[i] = Moved {
            by: content_column as isize - column as isize,
            level_old: level.map_or(0, |l| l.old),
            level_new: level.map_or(0, |l| l.new),
        };
    }

    /// Goes to the level that begins at a column, and gives its new column.
    fn enter(&mut self, kind: LevelKind, column: usize) -> usize {
        while let Some(top) = self.stack.last() {
            let list_ends =
                top.old == column && top.kind == LevelKind::List && kind == LevelKind::Map;
            if top.old > column || list_ends {
                self.stack.pop();
            } else {
                break;
            }
        }
        match self.stack.last() {
            Some(top) if top.old == column && top.kind == kind => top.new,
            top => {
                let new = top.map_or(0, |level| level.new + 2);
                self.stack.push(Level {
                    kind,
                    old: column,
                    new,
                });
                new
            }
        }
    }

    /// Goes to the level that a value at a column belongs to.
    fn leave(&mut self, column: usize) {
        while self
            .stack
            .last()
            .is_some_and(|top| top.old >= column && self.stack.len() > 1)
        {
            self.stack.pop();
        }
    }

    fn continues(&mut self, i: usize, owner: usize) {
        let line = self.lines[i];
        if line.trim().is_empty() {
            return;
        }
        let column = indentation(line) as isize + self.moved[owner].by;
        let column = usize::try_from(column).unwrap_or(0);
        self.out[i] = format!("{}{}", " ".repeat(column), line.trim_start_matches(' '));
    }

    fn block(&mut self, i: usize, owner: usize, given: bool, kinds: &[Line]) {
        let line = self.lines[i];
        let moved = self.moved[owner];
        let by = if given {
            moved.level_new as isize - moved.level_old as isize
        } else {
            let old = (owner + 1..kinds.len())
                .map(|l| self.lines[l])
                .find(|l| !l.trim_matches(' ').is_empty())
                .map_or(0, indentation);
            (moved.level_new + 2) as isize - old as isize
        };
        let column = usize::try_from(indentation(line) as isize + by).unwrap_or(0);
        let words = line.trim_start_matches(' ');
        self.out[i] = match words.is_empty() && column <= moved.level_new + 2 {
            true => String::new(),
            false => format!("{}{words}", " ".repeat(column)),
        };
    }

    /// Comments on lines of their own: with the line that they stand over, or else with the level they line up with.
    fn comments(&mut self, comments: &[usize], before: &[Level], next: Option<usize>) {
        for i in comments {
            let line = self.lines[*i];
            let column = indentation(line);
            let over = next.filter(|next| indentation(self.lines[*next]) == column);
            let level = before.iter().rev().find(|level| level.old == column);
            let new = match (over, level, next) {
                (Some(next), ..) => indentation(&self.out[next]),
                (None, Some(level), _) => level.new,
                (None, None, Some(next)) => indentation(&self.out[next]),
                (None, None, None) => before
                    .iter()
                    .rev()
                    .find(|level| level.old < column)
                    .map_or(0, |level| level.new),
            };
            self.out[*i] = format!("{}{}", " ".repeat(new), line.trim_start());
        }
    }
}

fn indentation(line: &str) -> usize {
    line.len() - line.trim_start_matches(' ').len()
}

fn is_dash(text: &str) -> bool {
    text == "-" || text.starts_with("- ")
}
