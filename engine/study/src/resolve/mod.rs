//! From the section as it is written to a definition with all its numbers: all mistakes at once, each with its place and a
//! remedy.

mod definition;
mod options;
mod space;

use dagrun_expr::{Context, eval_value};
use dagrun_model::{Diagnostic, Expr, ExprKind, Span, Value, ValueTemplate};

/// The mistakes that were found so far, and what evaluates templates.
struct Resolver<'a> {
    ctx: &'a dyn Context,
    out: Vec<Diagnostic>,
}

impl<'a> Resolver<'a> {
    fn new(ctx: &'a dyn Context) -> Self {
        Self {
            ctx,
            out: Vec::new(),
        }
    }

    /// What was resolved, where nothing is wrong.
    fn finish<T>(self, value: Option<T>) -> Result<T, Vec<Diagnostic>> {
        match value {
            Some(value) if self.out.is_empty() => Ok(value),
            _ => Err(self.out),
        }
    }

    fn error(
        &mut self,
        code: &'static str,
        span: Span,
        message: impl Into<String>,
        help: impl Into<String>,
    ) {
        self.out
            .push(Diagnostic::error(code, span, message).help(help));
    }

    /// The value of a template.
    fn value(&mut self, template: &ValueTemplate) -> Option<Value> {
        eval_value(template, self.ctx)
            .map_err(|error| self.out.push(error.to_diagnostic(template.span())))
            .ok()
    }

    /// A whole number from `least` to `most`.
    fn count(
        &mut self,
        code: &'static str,
        what: &str,
        template: &ValueTemplate,
        least: u64,
        most: u64,
    ) -> Option<u64> {
        let value = self.value(template)?;
        let count = value.as_i64().and_then(|count| u64::try_from(count).ok());
        if let Some(count) = count.filter(|count| (least..=most).contains(count)) {
            return Some(count);
        }
        self.error(
            code,
            template.span(),
            format!("`{what}` is {}", value.to_text()),
            format!("write a whole number from {least} to {most}"),
        );
        None
    }
}

/// The seconds that an option says: a number, or text such as `5m`.
pub fn seconds(value: &Value) -> Option<f64> {
    let time = match value.as_str() {
        Some(text) => dagrun_model::parse_duration(text).ok()?.as_secs_f64(),
        None => value.as_f64()?,
    };
    time.is_finite().then_some(time)
}

/// Puts values in place of `params`, so that an expression needs nothing but `trial` later.
fn without_params(expr: &Expr, ctx: &dyn Context) -> Result<Expr, dagrun_expr::EvalError> {
    if expr
        .as_path()
        .is_some_and(|path| path.first() == Some(&"params"))
    {
        let value = dagrun_expr::eval(expr, ctx)?;
        return Ok(Expr::new(ExprKind::Literal(value), expr.span));
    }
    let each = |it: &Expr| without_params(it, ctx);
    let boxed = |it: &Expr| each(it).map(Box::new);
    let all = |items: &[Expr]| items.iter().map(each).collect::<Result<Vec<_>, _>>();
    let kind = match &expr.kind {
        ExprKind::Literal(_) | ExprKind::Context(_) => expr.kind.clone(),
        ExprKind::Member(base, name) => ExprKind::Member(boxed(base)?, name.clone()),
        ExprKind::Index(base, index) => ExprKind::Index(boxed(base)?, boxed(index)?),
        ExprKind::Star(base) => ExprKind::Star(boxed(base)?),
        ExprKind::Unary(op, x) => ExprKind::Unary(*op, boxed(x)?),
        ExprKind::Binary(op, a, b) => ExprKind::Binary(*op, boxed(a)?, boxed(b)?),
        ExprKind::Ternary(a, b, c) => ExprKind::Ternary(boxed(a)?, boxed(b)?, boxed(c)?),
        ExprKind::Call(function, items) => ExprKind::Call(*function, all(items)?),
        ExprKind::List(items) => ExprKind::List(all(items)?),
    };
    Ok(Expr::new(kind, expr.span))
}
