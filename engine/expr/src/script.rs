//! Scripts: every value becomes a reference to an environment variable, never script text.

use std::fmt::Write as _;

use dagrun_model::{Expr, ExprKind, Quoting, Script, ScriptPart, Value};

use crate::{Context, EvalError, eval, template::words_of};

/// The most bytes that one value may have in the environment: Linux takes no longer string.
pub const VALUE_LIMIT: usize = 128 << 10;

/// The most bytes that all values of a script may have together.
pub const VALUES_LIMIT: usize = 1 << 20;

/// A script as it is handed to a shell, and the variables that it refers to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RenderedScript {
    /// The author's text with references such as `"${DAGRUN_V0}"` in place of templates.
    pub text: String,
    /// The variables `DAGRUN_V0`, `DAGRUN_V1`, ... in order, with their values.
    pub env: Vec<(String, String)>,
}

/// Renders a script for one point: quoting is done here and was classified when the script was read.
///
/// Equal expressions share a variable. A list gives one reference for each item where it stands bare, and is an error
/// between quotes or glued to other text, where only its first or last word would join that text.
pub fn render_script(script: &Script, ctx: &dyn Context) -> Result<RenderedScript, EvalError> {
    let mut renderer = Renderer {
        ctx,
        text: String::new(),
        env: Vec::new(),
        seen: Vec::new(),
        bytes: 0,
    };
    for (ix, part) in script.parts.iter().enumerate() {
        match part {
            ScriptPart::Text(text) => renderer.text.push_str(text),
            ScriptPart::Value { expr, place } => {
                let glued = glued(script.parts[..ix].last(), script.parts.get(ix + 1));
                renderer
                    .value(expr, *place, glued)
                    .map_err(|error| error.at(expr.span))?;
            }
        }
    }
    Ok(RenderedScript {
        text: renderer.text,
        env: renderer.env,
    })
}

struct Renderer<'a> {
    ctx: &'a dyn Context,
    text: String,
    env: Vec<(String, String)>,
    /// Expressions that have their variables: the first one and their number, and whether the value is a list.
    seen: Vec<(&'a Expr, Variables)>,
    bytes: usize,
}

#[derive(Clone, Copy)]
struct Variables {
    first: usize,
    count: usize,
    list: bool,
}

impl<'a> Renderer<'a> {
    fn value<'e: 'a>(
        &mut self,
        expr: &'e Expr,
        place: Quoting,
        glued: bool,
    ) -> Result<(), EvalError> {
        let variables = match self.seen.iter().find(|(seen, _)| same(seen, expr)) {
            Some((_, variables)) => *variables,
            None => {
                let variables = self.add(expr)?;
                self.seen.push((expr, variables));
                variables
            }
        };
        if variables.list && place != Quoting::Bare {
            return Err(EvalError::new("a list stands between quotes")
                .help("leave the quotes away: each item becomes a word of its own, whatever is in it; or write `join(list, ' ')`"));
        }
        if variables.list && glued && variables.count != 1 {
            return Err(EvalError::new(format!(
                "a list of {} items is glued to other text",
                variables.count
            ))
            .help("put spaces around it, so that each item is a word of its own, or write `join(list, ',')`"));
        }
        let last = variables.first + variables.count;
        for ix in variables.first..last {
            if ix > variables.first {
                self.text.push(' ');
            }
            let _ = match place {
                Quoting::Bare => write!(self.text, "\"${{DAGRUN_V{ix}}}\""),
                Quoting::Double => write!(self.text, "${{DAGRUN_V{ix}}}"),
                Quoting::Single => write!(self.text, "'\"${{DAGRUN_V{ix}}}\"'"),
            };
        }
        Ok(())
    }

    fn add(&mut self, expr: &Expr) -> Result<Variables, EvalError> {
        let value = eval(expr, self.ctx)?;
        let words = words_of(&value)?;
        let variables = Variables {
            first: self.env.len(),
            count: words.len(),
            list: matches!(value, Value::List(_)),
        };
        for word in words {
            let name = format!("DAGRUN_V{}", self.env.len());
            self.bytes += word.len();
            // The kernel counts `NAME=value` and the byte that ends it.
            let large = name.len() + word.len() + 2 > VALUE_LIMIT;
            if large || self.bytes > VALUES_LIMIT {
                return Err(too_large(expr, large.then_some(word.len())));
            }
            self.env.push((name, word));
        }
        Ok(variables)
    }
}

/// `bytes` is the size of one value that is too large; without it, all together are.
fn too_large(expr: &Expr, bytes: Option<usize>) -> EvalError {
    let error = match bytes {
        Some(bytes) => EvalError::new(format!(
            "the value has {bytes} bytes; an environment variable holds less than {} KiB",
            VALUE_LIMIT >> 10
        )),
        None => EvalError::new(format!(
            "the values of this script have more than {} MiB together",
            VALUES_LIMIT >> 20
        )),
    };
    match expr.as_path().as_deref() {
        Some(["inputs", name, ..]) => error.help(format!(
            "read the file `${{{{ inputs.{name}.list }}}}`: it has one path a line"
        )),
        _ => error.help(
            "declare the files as a named input `X` and read `${{ inputs.X.list }}`, a file with one path a line",
        ),
    }
}

/// Whether a bare value touches other text of its word.
fn glued(before: Option<&ScriptPart>, after: Option<&ScriptPart>) -> bool {
    let ends_word = |c: char| c.is_whitespace() || ";|&()<>`".contains(c);
    let touches = |part: Option<&ScriptPart>, last: bool| match part {
        None => false,
        Some(ScriptPart::Value { .. }) => true,
        Some(ScriptPart::Text(text)) => {
            let c = if last {
                text.chars().next_back()
            } else {
                text.chars().next()
            };
            c.is_some_and(|c| !ends_word(c))
        }
    };
    touches(before, true) || touches(after, false)
}

/// Equality of expressions wherever they stand.
fn same(a: &Expr, b: &Expr) -> bool {
    use ExprKind as Kind;
    let all =
        |a: &[Expr], b: &[Expr]| a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b));
    match (&a.kind, &b.kind) {
        (Kind::Literal(a), Kind::Literal(b)) => a == b && a.to_text() == b.to_text(),
        (Kind::Context(a), Kind::Context(b)) => a == b,
        (Kind::Member(a, x), Kind::Member(b, y)) => x == y && same(a, b),
        (Kind::Index(a, x), Kind::Index(b, y)) => same(a, b) && same(x, y),
        (Kind::Star(a), Kind::Star(b)) => same(a, b),
        (Kind::Unary(x, a), Kind::Unary(y, b)) => x == y && same(a, b),
        (Kind::Binary(x, a, c), Kind::Binary(y, b, d)) => x == y && same(a, b) && same(c, d),
        (Kind::Ternary(a, b, c), Kind::Ternary(x, y, z)) => same(a, x) && same(b, y) && same(c, z),
        (Kind::Call(f, a), Kind::Call(g, b)) => f == g && all(a, b),
        (Kind::List(a), Kind::List(b)) => all(a, b),
        _ => false,
    }
}
