//! Jobs of a module as the file that uses it sees them: longer names, and values for parameters.

use std::sync::Arc;

use dagrun_model::{
    BinaryOp, Command, Diagnostic, Expr, ExprKind, Job, JobIx, Recipe, Script, ScriptPart, Seeds,
    Template, TemplatePart, Value, ValueTemplate,
};
use indexmap::IndexMap;

use crate::decode::Symbols;

/// What becomes of the names in a module.
pub(crate) struct Rewrite<'r> {
    /// The name of the job that uses the module.
    pub(crate) prefix: &'r str,
    /// The jobs of the module.
    pub(crate) jobs: &'r [String],
    /// What its parameters stand for.
    pub(crate) params: &'r IndexMap<String, Expr>,
    pub(crate) out: Vec<Diagnostic>,
}

impl Rewrite<'_> {
    /// Renames a job, what it needs and what its expressions name.
    pub(crate) fn job(&mut self, job: &mut Job, symbols: &mut Symbols) {
        job.name.value = format!("{}/{}", self.prefix, job.name.value);
        for need in &mut job.needs {
            let name = format!("{}/{}", self.prefix, symbols[need.job.index()]);
            need.job = JobIx::from_index(symbols.insert_full(name).0);
        }
        each_expr(job, &mut |expr| self.expr(expr));
    }

    fn expr(&mut self, expr: &mut Expr) {
        if let ExprKind::Member(base, name) = &mut expr.kind
            && let ExprKind::Context(context) = &base.kind
        {
            match &**context {
                "needs" | "jobs" if self.jobs.iter().any(|job| **job == **name) => {
                    *name = Arc::from(format!("{}/{name}", self.prefix));
                    return;
                }
                "params" => {
                    match self.params.get(&**name) {
                        Some(value) => *expr = value.clone(),
                        None => {
                            let words = format!("this file has no parameter `{name}`");
                            let help = format!(
                                "declare it at the top of the file: `params: {{{name}: ...}}`"
                            );
                            self.out.push(
                                Diagnostic::error("unknown-param", expr.span, words).help(help),
                            );
                            expr.kind = ExprKind::Literal(Value::Null);
                        }
                    }
                    return;
                }
                _ => {}
            }
        }
        match &mut expr.kind {
            ExprKind::Context(context) if &**context == "params" => self.out.push(
                Diagnostic::error(
                    "unknown-param",
                    expr.span,
                    "a file that is used by another names its parameters one by one",
                )
                .help("write `params.NAME`"),
            ),
            ExprKind::Literal(_) | ExprKind::Context(_) => {}
            ExprKind::Member(a, _) | ExprKind::Star(a) | ExprKind::Unary(_, a) => self.expr(a),
            ExprKind::Index(a, b) | ExprKind::Binary(_, a, b) => {
                self.expr(a);
                self.expr(b);
            }
            ExprKind::Ternary(a, b, c) => {
                self.expr(a);
                self.expr(b);
                self.expr(c);
            }
            ExprKind::Call(_, items) | ExprKind::List(items) => {
                items.iter_mut().for_each(|item| self.expr(item))
            }
        }
    }
}

/// Lets a job run only where another condition holds too.
pub(crate) fn add_condition(job: &mut Job, condition: Option<&Expr>) {
    let Some(outer) = condition else {
        return;
    };
    job.condition = Some(match job.condition.take() {
        None => outer.clone(),
        Some(own) => {
            let span = own.span;
            Expr::new(
                ExprKind::Binary(BinaryOp::And, Box::new(outer.clone()), Box::new(own)),
                span,
            )
        }
    });
}

type Visit<'v> = &'v mut dyn FnMut(&mut Expr);

fn each_expr(job: &mut Job, visit: Visit<'_>) {
    job.matrix.axes.values_mut().for_each(|v| value(v, visit));
    job.matrix.include.iter_mut().for_each(|v| value(v, visit));
    job.matrix.exclude.iter_mut().for_each(|v| value(v, visit));
    if let Some(replicates) = &mut job.replicates {
        value(&mut replicates.n, visit);
        match &mut replicates.seeds {
            Seeds::Common { base } | Seeds::PerTrial { base } => value(base, visit),
            Seeds::List { values } => value(values, visit),
        }
        replicates.min.iter_mut().for_each(|v| value(v, visit));
        if let Some(grow) = &mut replicates.grow {
            value(&mut grow.to, visit);
            visit(&mut grow.when);
        }
    }
    job.condition.iter_mut().for_each(&mut *visit);
    job.inputs
        .iter_mut()
        .for_each(|input| value(&mut input.value, visit));
    job.outputs
        .values_mut()
        .for_each(|output| template(&mut output.path, visit));
    job.env.values_mut().for_each(|t| template(t, visit));
    let resources = &mut job.resources;
    resources.cpus.iter_mut().for_each(|v| value(v, visit));
    resources.memory.iter_mut().for_each(|v| value(v, visit));
    resources.named.values_mut().for_each(|v| value(v, visit));
    job.threads.iter_mut().for_each(|t| template(t, visit));
    job.timeout.iter_mut().for_each(|t| template(t, visit));
    match &mut job.recipe {
        Recipe::Run(run) => command(run, visit),
        Recipe::Steps(steps) => {
            for step in steps {
                command(&mut step.command, visit);
                step.env.values_mut().for_each(|t| template(t, visit));
                step.condition.iter_mut().for_each(&mut *visit);
            }
        }
    }
}

fn command(run: &mut Command, visit: Visit<'_>) {
    match run {
        Command::Argv(words, _) => words.iter_mut().for_each(|t| template(t, visit)),
        Command::Script(Script { parts, .. }) => {
            for part in parts {
                if let ScriptPart::Value { expr, .. } = part {
                    visit(expr);
                }
            }
        }
    }
}

fn template(template: &mut Template, visit: Visit<'_>) {
    for part in &mut template.parts {
        if let TemplatePart::Expr(expr) = part {
            visit(expr);
        }
    }
}

fn value(of: &mut ValueTemplate, visit: Visit<'_>) {
    match of {
        ValueTemplate::Value(_) => {}
        ValueTemplate::Template(t) => template(t, visit),
        ValueTemplate::List(items, _) => items.iter_mut().for_each(|v| value(v, visit)),
        ValueTemplate::Map(entries, _) => entries.iter_mut().for_each(|(_, v)| value(v, visit)),
    }
}
