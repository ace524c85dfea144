//! The words of the command that is being read: which of them make a value dangerous.
//!
//! Knows a few commands that read their arguments as code or as names of variables, and `case`, whose patterns end with
//! a bracket that closes nothing.

use super::place::Forbidden;

/// Programs that take a program as a word, and the letters of the options before it.
const INTERPRETERS: &[(&str, &[char])] = &[
    ("bash", &['c']),
    ("sh", &['c']),
    ("dash", &['c']),
    ("zsh", &['c']),
    ("ksh", &['c']),
    ("su", &['c']),
    ("python", &['c']),
    ("pypy", &['c']),
    ("perl", &['e', 'E']),
    ("ruby", &['e']),
    ("node", &['e', 'p']),
    ("bun", &['e', 'p']),
    ("Rscript", &['e']),
    ("R", &['e']),
    ("julia", &['e', 'E']),
    ("php", &['r']),
    ("lua", &['e']),
];

/// Words after which a command still begins.
const RESERVED: &[&str] = &[
    "if", "then", "else", "elif", "while", "until", "do", "{", "!", "time", "builtin", "command",
    "exec",
];

/// Commands whose words are assignments.
const DECLARATIONS: &[&str] = &["declare", "typeset", "local", "readonly", "export"];

/// The state of one list of commands: a script, or what stands between `$(` and `)`.
#[derive(Debug)]
pub(super) struct Words {
    /// The bare characters of the current word; `None` between words.
    word: Option<String>,
    /// The next word may be a command.
    start: bool,
    /// The command of the current list of words.
    command: String,
    /// Behind an interpreter and only options so far: the letters that announce a program.
    options: Option<&'static [char]>,
    /// The current word is a program for an interpreter.
    program: bool,
    /// A flag among the words so far makes the command read numbers or names: `declare -i`, `test -v`.
    evaluating_flag: bool,
    /// How many `case` are open.
    cases: usize,
    /// Inside `[[ ]]`.
    test: Option<Test>,
    /// Behind `name[` in the current word.
    subscript: bool,
}

/// What was seen in `[[ ]]` so far.
#[derive(Debug, Default)]
struct Test {
    /// Templates, by their position in the lexer's list.
    templates: Vec<usize>,
    /// A number comparison, which evaluates its operands.
    arithmetic: bool,
}

impl Default for Words {
    fn default() -> Self {
        Self {
            word: None,
            start: true,
            command: String::new(),
            options: None,
            program: false,
            evaluating_flag: false,
            cases: 0,
            test: None,
            subscript: false,
        }
    }
}

impl Words {
    /// A bare character of a word.
    pub(super) fn push(&mut self, c: char) {
        let evaluates = self.evaluates_indices();
        let word = self.word.get_or_insert_default();
        match c {
            '[' if (evaluates || word.starts_with('{'))
                && (word.is_empty()
                    || word.ends_with(|c: char| c.is_ascii_alphanumeric() || c == '_')) =>
            {
                self.subscript = true;
            }
            ']' => self.subscript = false,
            _ => {}
        }
        word.push(c);
    }

    /// Whether `name[` is an index here, which the shell evaluates: in assignments, tests and declarations, and behind a
    /// command that is not known. In the words of other commands a bracket is a character.
    fn evaluates_indices(&self) -> bool {
        self.start
            || self.test.is_some()
            || DECLARATIONS.contains(&self.command.as_str())
            || self.command.contains('\u{fffd}')
    }

    /// Something quoted or expanded, of which the characters do not matter.
    pub(super) fn push_quoted(&mut self) {
        self.word.get_or_insert_default().push('\u{fffd}');
    }

    /// Whether a `#` here begins a comment.
    pub(super) fn between_words(&self) -> bool {
        self.word.is_none()
    }

    /// Whether a `)` here ends a pattern of `case`.
    pub(super) fn in_case(&self) -> bool {
        self.cases > 0
    }

    /// Whether it stands in `[[ ]]`, where brackets group conditions.
    pub(super) fn in_test(&self) -> bool {
        self.test.is_some()
    }

    /// The end of a word. Gives the templates of a `[[ ]]` that ends here and compares numbers.
    pub(super) fn end_word(&mut self) -> Vec<usize> {
        let Some(word) = self.word.take() else {
            return Vec::new();
        };
        if word == "[" || word == "[[" {
            self.subscript = false;
        }
        self.program = false;
        if self.test.is_some() {
            return self.test_word(&word);
        }
        if self.start {
            self.first_word(word);
        } else {
            self.argument(&word);
        }
        Vec::new()
    }

    /// The end of a command: `;`, `&`, `|`, a bracket or a line end.
    pub(super) fn end_command(&mut self) -> Vec<usize> {
        let templates = self.end_word();
        if self.test.is_none() {
            self.start = true;
            self.command.clear();
            self.options = None;
            self.program = false;
            self.evaluating_flag = false;
            self.subscript = false;
        }
        templates
    }

    /// What forbids a value at this point, if anything does. `template` is remembered for the end of a `[[ ]]`.
    pub(super) fn template(&mut self, template: usize) -> Option<Forbidden> {
        if let Some(test) = &mut self.test {
            test.templates.push(template);
        }
        let word = self.word.as_deref().unwrap_or("");
        if self.subscript {
            return Some(Forbidden::Arithmetic);
        }
        if self.program {
            return Some(Forbidden::Program);
        }
        if self.start {
            return None;
        }
        match self.command.as_str() {
            "eval" | "trap" => Some(Forbidden::Program),
            "let" => Some(Forbidden::Arithmetic),
            "unset" | "read" | "mapfile" | "readarray" | "getopts" => Some(Forbidden::VariableName),
            command if DECLARATIONS.contains(&command) => {
                if self.evaluating_flag {
                    Some(Forbidden::Arithmetic)
                } else {
                    (!word.contains('=')).then_some(Forbidden::VariableName)
                }
            }
            "test" | "[" | "printf" if self.evaluating_flag => Some(Forbidden::VariableName),
            _ => None,
        }
    }

    fn first_word(&mut self, word: String) {
        match word.as_str() {
            "case" => {
                self.cases += 1;
                self.start = false;
            }
            "esac" => self.cases = self.cases.saturating_sub(1),
            "[[" => self.test = Some(Test::default()),
            word if RESERVED.contains(&word) => {}
            word if is_assignment(word) => {}
            _ => {
                self.start = false;
                self.options = interpreter(&word);
                self.command = word;
            }
        }
    }

    fn argument(&mut self, word: &str) {
        let flag = word.starts_with('-') && word.len() > 1 && !word.starts_with("--");
        if let Some(letters) = self.options {
            self.program = (flag && word.contains(letters))
                || matches!(word, "--eval" | "--command" | "--print");
            if self.program || !word.starts_with('-') {
                self.options = None;
            }
        } else {
            // `find -exec sh -c`, `env bash -c`.
            self.options = interpreter(word);
        }
        self.evaluating_flag |= match self.command.as_str() {
            command if DECLARATIONS.contains(&command) => flag && word.contains(['i', 'n']),
            "test" | "[" => matches!(word, "-v" | "-R"),
            // Only the word right behind `-v` is a name.
            "printf" => {
                self.evaluating_flag = false;
                word == "-v"
            }
            _ => false,
        };
    }

    fn test_word(&mut self, word: &str) -> Vec<usize> {
        if word == "]]" {
            self.start = false;
            return match self.test.take() {
                Some(test) if test.arithmetic => test.templates,
                _ => Vec::new(),
            };
        }
        if let Some(test) = &mut self.test {
            test.arithmetic |= matches!(
                word,
                "-eq" | "-ne" | "-lt" | "-le" | "-gt" | "-ge" | "-v" | "-R"
            );
        }
        Vec::new()
    }
}

fn interpreter(word: &str) -> Option<&'static [char]> {
    let base = word.rsplit('/').next().unwrap_or(word);
    let base = base.trim_end_matches(|c: char| c.is_ascii_digit() || c == '.');
    INTERPRETERS
        .iter()
        .find(|(name, _)| *name == base)
        .map(|(_, letters)| *letters)
}

fn is_assignment(word: &str) -> bool {
    word.split_once('=').is_some_and(|(name, _)| {
        let name = name.strip_suffix('+').unwrap_or(name);
        !name.is_empty()
            && name
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '[' || c == ']')
    })
}
