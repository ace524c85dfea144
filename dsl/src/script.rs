//! Shell scripts with `${{ }}` in them.
//!
//! Owns: where in the shell's syntax each template stands, and which places no value may enter. A value later becomes a
//! reference to an environment variable, quoted for its place, so it never becomes script text. That promise needs
//! places in which the shell does not read the value as code again: heredocs, arithmetic, backticks, `${...}`, programs
//! such as `bash -c '...'` and the like are refused, with the `env:` form to write instead.
//!
//! The lexer is small and knows quoting, not grammar. Where it is wrong about a script, a value may get one quote too
//! many or too few; it is still only the expansion of a variable.

mod lexer;
mod place;
mod words;

use std::sync::Arc;

use dagrun_model::{Diagnostic, Script, ScriptPart, Shell};

use crate::{expr, template::OPEN, text::SourceText};

/// Reads a script and finds where in the shell's syntax each template stands.
pub(crate) fn parse_script(text: &SourceText, shell: Shell, out: &mut Vec<Diagnostic>) -> Script {
    let parts = match &shell {
        Shell::Bash | Shell::Sh => lexer::Lexer::new(text, out).run(),
        Shell::Other(command) => {
            refuse_all(text, command, out);
            vec![ScriptPart::Text(Arc::from(text.text()))]
        }
    };
    Script {
        shell,
        parts,
        span: text.span(),
    }
}

/// In a language whose quoting is unknown here no value can be placed safely.
fn refuse_all(text: &SourceText, command: &[String], out: &mut Vec<Diagnostic>) {
    let program = command.first().map_or("", String::as_str);
    let mut at = 0;
    while let Some(open) = text.text()[at..].find(OPEN).map(|found| at + found) {
        let embedded = expr::embedded(text, open, out);
        at = embedded.range.end;
        if let Some(expr) = &embedded.expr {
            out.push(place::refused_in_program(
                text,
                embedded.range,
                expr,
                program,
            ));
        }
    }
}

#[cfg(test)]
mod tests;
