//! Collects what a plan has to know of the outside.

use std::sync::Arc;

use dagrun_expr::{Context, ReferenceKind, eval, references};
use dagrun_model::{CachePolicy, Diagnostic, Expr, Job, Span, Toolchain, Value};

use crate::{
    context::{CellContext, clean, flat},
    facts::{FactIndex, Patterns},
    input::{InputPlan, Item},
    join::NONE,
    layout::Core,
    memo::Memo,
    phase::TRIAL,
    seeds::SeedPlan,
    uses::{Scope, hash_files_calls, job_exprs},
};

/// Collects what has to be known of the outside.
pub(crate) fn questions(core: &mut Core) -> Result<FactIndex, Vec<Diagnostic>> {
    let mut index = FactIndex::default();
    let mut patterns = Patterns::default();
    let mut errors = Vec::new();
    let mut asked: Vec<(usize, Vec<Vec<u32>>)> = Vec::new();
    for ix in &core.order {
        let (plan, job) = (&core.jobs[*ix], &core.pipeline.jobs[*ix]);
        let selected = |row: usize| core.is_selected(plan.first_cell + row);
        if !(0..plan.points.len).any(selected) {
            continue;
        }
        index.of_job(job);
        let trial = plan.points.axis(TRIAL).map_or(0, |axis| 1 << axis);
        let of_trial = |axes: u64| axes & trial != 0;
        let rows = || (0..plan.points.len).filter(|row| selected(*row));
        let mut by_input = Vec::with_capacity(plan.inputs.len());
        for input in plan.inputs.iter() {
            index.of_trial |= of_trial(input.uses.axes);
            let mut memo = Memo::new(input.uses.axes, &plan.points);
            let mut by_row = Vec::new();
            for row in rows() {
                let made = memo.get(&plan.points, row, || {
                    let ctx = CellContext::new(core, *ix, row, None);
                    ask_input(input, &ctx, &mut patterns, &mut errors)
                });
                match made {
                    Asked::Failed => break,
                    Asked::One(pattern) => {
                        by_row.resize(row, NONE);
                        by_row.push(pattern);
                    }
                    Asked::Others => {}
                }
            }
            by_input.push(by_row);
        }
        asked.push((*ix, by_input));
        let scope = Scope::new(
            job,
            &plan.points,
            plan.seeds.as_ref().is_some_and(SeedPlan::per_point),
        );
        let mut calls = Vec::new();
        job_exprs(job, &mut |expr| {
            hash_files_calls(expr, &mut |arguments, span| calls.push((arguments, span)))
        });
        for (arguments, span) in calls {
            let axes = scope.exprs(arguments.iter()).axes;
            index.of_trial |= of_trial(axes);
            let mut memo = Memo::new(axes, &plan.points);
            for row in rows() {
                let failed = memo.get(&plan.points, row, || {
                    let ctx = CellContext::new(core, *ix, row, None);
                    ask_hash(arguments, span, &ctx, &mut patterns, &mut errors)
                });
                if failed {
                    break;
                }
            }
        }
    }
    core.patterns = Arc::new(patterns);
    for (ix, by_input) in asked {
        core.jobs[ix].asked = by_input.into();
    }
    if errors.is_empty() {
        Ok(index)
    } else {
        Err(errors)
    }
}

impl FactIndex {
    fn of_job(&mut self, job: &Job) {
        for toolchain in &job.toolchain {
            match toolchain {
                Toolchain::Command(command) => {
                    self.commands.insert(command.value.clone());
                }
                Toolchain::File(file) => {
                    self.files.insert(file.value.clone());
                }
            }
        }
        if let CachePolicy::Env(names) = &job.cache {
            self.env.extend(names.iter().cloned());
        }
        job_exprs(job, &mut |expr| {
            self.git |=
                references(expr).any(|reference| matches!(reference.kind, ReferenceKind::Git(_)));
        });
    }
}

/// What was asked for an input at a row.
#[derive(Clone, Copy)]
enum Asked {
    /// One pattern that is not in a list.
    One(u32),
    /// None, or several.
    Others,
    Failed,
}

/// Asks for the patterns of an input.
fn ask_input(
    input: &InputPlan,
    ctx: &dyn Context,
    patterns: &mut Patterns,
    errors: &mut Vec<Diagnostic>,
) -> Asked {
    match input.resolve(ctx, &|_| false) {
        Ok(resolved) => {
            let one = !resolved.list && resolved.items.len() == 1;
            let mut asked = Asked::Others;
            for item in resolved.items {
                if let Item::Pattern(pattern) = item {
                    let ix = patterns.add(pattern, input.external, input.span);
                    if one {
                        asked = Asked::One(ix as u32);
                    }
                }
            }
            asked
        }
        Err(error) => {
            errors.push(error);
            Asked::Failed
        }
    }
}

fn ask_hash(
    arguments: &[Expr],
    span: Span,
    ctx: &dyn Context,
    patterns: &mut Patterns,
    errors: &mut Vec<Diagnostic>,
) -> bool {
    let values: Result<Vec<Value>, _> = arguments
        .iter()
        .map(|argument| eval(argument, ctx))
        .collect();
    match values {
        Ok(values) => {
            for value in flat(&values) {
                let pattern = clean(&value.to_text());
                let inside =
                    !pattern.starts_with('/') && !pattern.split('/').any(|name| name == "..");
                if inside && !pattern.is_empty() {
                    patterns.add(pattern, false, span);
                } else {
                    errors.push(Diagnostic::error(
                        "external-path",
                        span,
                        format!(
                            "`hashFiles` of `{pattern}`, which is outside of the project folder"
                        ),
                    ));
                    return true;
                }
            }
            false
        }
        Err(error) => {
            errors.push(error.to_diagnostic(span));
            true
        }
    }
}
