//! The terminal: colours, what is live, printing. Data goes to standard output, talk to standard error.

mod progress;
mod study;
mod thinned;

use std::{
    borrow::Cow,
    cell::RefCell,
    fmt::{self, Write},
    io::{self, IsTerminal},
};

use dagrun_model::Value;
pub(crate) use dagrun_report::{
    escape_line, escape_text as escape, first_of, job_of, plural, plural_of, shell_word,
    some_trials, table,
};
pub(crate) use progress::{Progress, columns};

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

/// A value for people: floats have six digits.
pub(crate) fn short_text(value: &Value) -> String {
    match value.typed() {
        Value::Float(x) => dagrun_model::short_float_text(*x),
        _ => value.to_text(),
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

/// Says a line with the time, in UTC: for commands that run for days.
pub(crate) fn log(line: impl fmt::Display) {
    let now = humantime::format_rfc3339_seconds(std::time::SystemTime::now());
    talk(format_args!("{now} {line}"));
}

/// Prints to standard error, or to whoever listens to this thread: see [`captured`].
#[macro_export]
macro_rules! say {
    ($($arg:tt)*) => {
        $crate::term::talk(format_args!($($arg)*))
    };
}

thread_local! {
    /// What this thread has said, where somebody listens.
    static SAID: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Says a line: the work of [`say!`].
pub(crate) fn talk(line: fmt::Arguments<'_>) {
    let kept = SAID.with_borrow_mut(|said| {
        said.as_mut()
            .is_some_and(|said| writeln!(said, "{line}").is_ok())
    });
    if !kept {
        // A closed standard error must not end a run.
        let _ = io::Write::write_fmt(&mut io::stderr(), format_args!("{line}\n"));
    }
}

/// Does something, and gives what this thread would have said meanwhile.
pub(crate) fn captured<T>(work: impl FnOnce() -> T) -> (T, String) {
    let before = SAID.replace(Some(String::new()));
    let result = work();
    let said = SAID.replace(before).unwrap_or_default();
    (result, said)
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
