//! Hashes expressions whose values are not known when the plan is made.

use dagrun_expr::{ErrorKind, eval};
use dagrun_model::{
    ContentHash, ContentHasher, Diagnostic, Expr, ExprKind, Template, TemplatePart,
};

use crate::{
    context::CellContext,
    input::{Stage, find_files},
    layout::NeedPlan,
    recipe::RecipeHasher,
};

impl RecipeHasher<'_> {
    pub(crate) fn deferred_template(
        &self,
        template: &Template,
        ctx: &CellContext<'_>,
        hasher: &mut ContentHasher,
    ) -> Result<(), Diagnostic> {
        (template.parts.len() as u64).content_hash(hasher);
        for part in &template.parts {
            match part {
                TemplatePart::Text(text) => ("text", &**text).content_hash(hasher),
                TemplatePart::Expr(expr) => {
                    hasher.update(b"x");
                    self.deferred(expr, ctx, hasher)?;
                }
            }
        }
        Ok(())
    }

    /// An expression whose value is not known yet: what is known of it by value, references to upstream results by the
    /// number of the input that they are, all else by its shape. No name of a job is in it.
    pub(crate) fn deferred(
        &self,
        expr: &Expr,
        ctx: &CellContext<'_>,
        hasher: &mut ContentHasher,
    ) -> Result<(), Diagnostic> {
        let uses = self.scope.expr(expr);
        if !uses.upstream && !uses.volatile {
            match eval(expr, ctx) {
                Ok(value) => ("value", value).content_hash(hasher),
                // It may stand in a branch that is never taken.
                Err(error) if error.kind == ErrorKind::Missing => {
                    ("missing", error.message).content_hash(hasher)
                }
                Err(error) => return Err(error.to_diagnostic(expr.span)),
            }
            return Ok(());
        }
        if let Some(path) = expr.as_path()
            && self.deferred_path(&path, ctx, hasher)?
        {
            return Ok(());
        }
        hash_shape(expr, hasher, &mut |part, hasher| {
            self.deferred(part, ctx, hasher)
        })
    }
    /// A plain reference; says whether it was one that is known here.
    fn deferred_path(
        &self,
        path: &[&str],
        ctx: &CellContext<'_>,
        hasher: &mut ContentHasher,
    ) -> Result<bool, Diagnostic> {
        match path {
            ["env", name] => match self.job.env.get(*name) {
                Some(template) => {
                    self.deferred_template(template, ctx, hasher)?;
                    Ok(true)
                }
                None => Ok(false),
            },
            ["inputs", name, rest @ ..] if rest.is_empty() || *rest == ["list"] => {
                let inputs = &self.plan.inputs;
                let Some(ix) = inputs
                    .iter()
                    .position(|input| input.name.as_deref() == Some(*name))
                else {
                    return Ok(false);
                };
                let kind = if rest.is_empty() {
                    "input"
                } else {
                    "input list"
                };
                (kind, ix as u64).content_hash(hasher);
                Ok(true)
            }
            ["needs", job, rest @ ..] => {
                let wanted = self.core.pipeline.jobs.get_index_of(*job);
                let needs = &self.plan.needs;
                let Some(need) = needs.iter().position(|need| Some(need.job) == wanted) else {
                    return Ok(false);
                };
                let rank = |used: fn(&NeedPlan) -> bool| {
                    needs[..need].iter().filter(|need| used(need)).count() as u64
                };
                match rest {
                    ["outputs", output] => match self.data_ix(need, output) {
                        Some(data) => ("output", data as u64).content_hash(hasher),
                        None => return Ok(false),
                    },
                    ["points"] => ("points", rank(|need| need.points)).content_hash(hasher),
                    ["result"] => ("result", rank(|need| need.result)).content_hash(hasher),
                    _ => return Ok(false),
                }
                Ok(true)
            }
            _ => Ok(false),
        }
    }

    fn data_ix(&self, need: usize, output: &str) -> Option<usize> {
        let needed = &self.core.pipeline.jobs[self.plan.needs[need].job];
        let output = needed.outputs.get_index_of(output)?;
        let data = &self.plan.data;
        let value = data.iter().position(|data| {
            data.need == need && data.output == output && data.stage == Stage::Value
        });
        value.or_else(|| find_files(data, need, output))
    }
}

/// Hashes the form of an expression; `part` hashes what stands in it.
pub(crate) fn hash_shape(
    expr: &Expr,
    hasher: &mut ContentHasher,
    part: &mut dyn FnMut(&Expr, &mut ContentHasher) -> Result<(), Diagnostic>,
) -> Result<(), Diagnostic> {
    match &expr.kind {
        ExprKind::Literal(value) => ("value", value).content_hash(hasher),
        ExprKind::Context(name) => ("context", &**name).content_hash(hasher),
        ExprKind::Member(base, name) => {
            ("member", &**name).content_hash(hasher);
            part(base, hasher)?;
        }
        ExprKind::Index(base, index) => {
            "index".content_hash(hasher);
            part(base, hasher)?;
            part(index, hasher)?;
        }
        ExprKind::Star(base) => {
            "star".content_hash(hasher);
            part(base, hasher)?;
        }
        ExprKind::Unary(op, operand) => {
            ("unary", format!("{op:?}")).content_hash(hasher);
            part(operand, hasher)?;
        }
        ExprKind::Binary(op, a, b) => {
            ("binary", format!("{op:?}")).content_hash(hasher);
            part(a, hasher)?;
            part(b, hasher)?;
        }
        ExprKind::Ternary(a, b, c) => {
            "ternary".content_hash(hasher);
            for one in [a, b, c] {
                part(one, hasher)?;
            }
        }
        ExprKind::Call(function, arguments) => {
            (function.name(), arguments.len() as u64).content_hash(hasher);
            for argument in arguments {
                part(argument, hasher)?;
            }
        }
        ExprKind::List(items) => {
            ("list", items.len() as u64).content_hash(hasher);
            for item in items {
                part(item, hasher)?;
            }
        }
    }
    Ok(())
}
