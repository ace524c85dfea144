//! The terminal: colours, escaping, sizes. Data goes to standard output, talk to standard error.

mod progress;

use std::{borrow::Cow, io::IsTerminal};

pub(crate) use progress::{Progress, job_of, shell_word};

use crate::args::When;

/// How to talk.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Style {
    /// Whether standard error takes colours.
    pub(crate) color: bool,
    /// Whether standard output takes colours.
    pub(crate) out_color: bool,
    /// Whether a progress line can be drawn over.
    pub(crate) live: bool,
    pub(crate) quiet: bool,
    pub(crate) verbose: u8,
}

impl Style {
    pub(crate) fn new(global: &crate::args::Global) -> Self {
        let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        let wanted = |terminal: bool| match global.color {
            When::Always => true,
            When::Never => false,
            When::Auto => {
                terminal
                    && !dumb
                    && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
            }
        };
        let terminal = std::io::stderr().is_terminal();
        Self {
            color: wanted(terminal),
            out_color: wanted(std::io::stdout().is_terminal()),
            live: terminal && !dumb && !global.quiet,
            quiet: global.quiet,
            verbose: global.verbose,
        }
    }

    pub(crate) fn paint(self, ink: Ink, text: &str) -> Cow<'_, str> {
        paint(self.color, ink, text)
    }

    pub(crate) fn paint_out(self, ink: Ink, text: &str) -> Cow<'_, str> {
        paint(self.out_color, ink, text)
    }
}

/// The few colours that carry a meaning; every one also has a word.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Ink {
    Bold,
    Dim,
    Good,
    Bad,
    Warn,
    Info,
}

fn paint(color: bool, ink: Ink, text: &str) -> Cow<'_, str> {
    if !color {
        return Cow::Borrowed(text);
    }
    let code = match ink {
        Ink::Bold => "1",
        Ink::Dim => "2",
        Ink::Good => "32",
        Ink::Bad => "31;1",
        Ink::Warn => "33",
        Ink::Info => "36",
    };
    Cow::Owned(format!("\u{1b}[{code}m{text}\u{1b}[0m"))
}

/// Text of a node made safe for a terminal: control characters and bidirectional controls are shown, not obeyed.
pub(crate) fn escape(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\n' | '\t' => safe.push(c),
            '\r' => {}
            c if c.is_control()
                || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{200e}' | '\u{200f}') =>
            {
                safe.push_str(&format!("\\u{{{:x}}}", u32::from(c)));
            }
            c => safe.push(c),
        }
    }
    safe
}

/// Prints to standard error.
#[macro_export]
macro_rules! say {
    ($($arg:tt)*) => {{
        use std::io::Write as _;
        // A closed standard error must not end a run.
        let _ = writeln!(std::io::stderr(), $($arg)*);
    }};
}

/// Ends the program: quietly where the reader went away, else with the code for trouble of the machine, so that a script never
/// takes half an answer for a whole one.
pub(crate) fn stdout_failed(error: &std::io::Error) -> ! {
    if error.kind() == std::io::ErrorKind::BrokenPipe {
        std::process::exit(0);
    }
    say!("error: cannot write to standard output: {error}");
    std::process::exit(3);
}

/// Prints to standard output; a reader that went away ends the program quietly.
#[macro_export]
macro_rules! put {
    ($($arg:tt)*) => {{
        use std::io::Write as _;
        if let Err(error) = writeln!(std::io::stdout(), $($arg)*) {
            $crate::term::stdout_failed(&error);
        }
    }};
}

/// A table with columns as wide as they need to be; numbers may be given right-aligned by a leading `>` in the header.
pub(crate) fn table(header: &[&str], rows: &[Vec<String>]) -> String {
    let width = |text: &str| text.chars().count();
    let widths: Vec<usize> = header
        .iter()
        .enumerate()
        .map(|(column, name)| {
            let cells = rows
                .iter()
                .filter_map(|row| row.get(column))
                .map(|cell| width(cell));
            cells
                .chain([width(name.trim_start_matches('>'))])
                .max()
                .unwrap_or(0)
        })
        .collect();
    let mut text = String::new();
    let names = header
        .iter()
        .map(|name| name.trim_start_matches('>').to_string())
        .collect();
    for row in std::iter::once(&names).chain(rows) {
        let mut line = String::new();
        for (column, cell) in row.iter().enumerate() {
            let pad = " ".repeat(widths[column].saturating_sub(width(cell)));
            if header[column].starts_with('>') {
                line.push_str(&pad);
                line.push_str(cell);
            } else {
                line.push_str(cell);
                line.push_str(&pad);
            }
            line.push_str("  ");
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// A number of things.
pub(crate) fn plural(n: u64, word: &str) -> String {
    format!("{n} {word}{}", if n == 1 { "" } else { "s" })
}

/// A number of things whose plural is irregular.
pub(crate) fn plural_of(n: u64, one: &str, many: &str) -> String {
    format!("{n} {}", if n == 1 { one } else { many })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_are_shown() {
        assert_eq!(
            escape("a\u{1b}[31mb\r\n\u{202e}"),
            "a\\u{1b}[31mb\n\\u{202e}"
        );
    }

    #[test]
    fn tables_align() {
        let text = table(
            &["name", ">n"],
            &[
                vec!["ab".into(), "1".into()],
                vec!["c".into(), "100".into()],
            ],
        );
        assert_eq!(text, "name    n\nab      1\nc     100\n");
    }
}
