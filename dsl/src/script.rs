//! Shell scripts with `${{ }}` in them.

use std::sync::Arc;

use dagrun_model::{Diagnostic, Script, ScriptPart, Shell};

use crate::text::SourceText;

/// Reads a script and finds where in the shell's syntax each template stands.
pub(crate) fn parse_script(text: &SourceText, shell: Shell, out: &mut Vec<Diagnostic>) -> Script {
    let _ = out;
    Script {
        shell,
        parts: vec![ScriptPart::Text(Arc::from(text.text()))],
        span: text.span(),
    }
}
