//! What templates depend on: axes, facts, upstream results.

use std::cell::RefCell;

use dagrun_expr::{ReferenceKind, references};
use dagrun_model::{
    Command, Diagnostic, Expr, ExprKind, Function, Job, Recipe, ScriptPart, Span, Template,
    ValueTemplate,
};

use crate::{
    axes::{ATTRIBUTES, JobPoints, REPLICATE},
    phase::TRIAL,
};

/// What the value of something depends on.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Uses {
    /// Axes by position, and [`ATTRIBUTES`].
    pub(crate) axes: u64,
    /// On git, `hashFiles` or what a glob finds: known once facts are there.
    pub(crate) facts: bool,
    /// On what upstream nodes make: known when they have run.
    pub(crate) upstream: bool,
    /// On the attempt or the run.
    pub(crate) volatile: bool,
}

impl Uses {
    pub(crate) fn join(self, other: Uses) -> Uses {
        Uses {
            axes: self.axes | other.axes,
            facts: self.facts || other.facts,
            upstream: self.upstream || other.upstream,
            volatile: self.volatile || other.volatile,
        }
    }
}

/// Answers what expressions of one job depend on.
pub(crate) struct Scope<'a> {
    job: &'a Job,
    points: &'a JobPoints,
    /// Seeds differ from point to point.
    seed_per_point: bool,
    env: RefCell<Vec<Option<Uses>>>,
    inputs: RefCell<Vec<Option<Uses>>>,
    outputs: RefCell<Vec<Option<Uses>>>,
}

impl<'a> Scope<'a> {
    pub(crate) fn new(job: &'a Job, points: &'a JobPoints, seed_per_point: bool) -> Self {
        Self {
            job,
            points,
            seed_per_point,
            env: RefCell::new(vec![None; job.env.len()]),
            inputs: RefCell::new(vec![None; job.inputs.len()]),
            outputs: RefCell::new(vec![None; job.outputs.len()]),
        }
    }

    pub(crate) fn template(&self, template: &Template) -> Uses {
        self.exprs(template.exprs())
    }

    pub(crate) fn value(&self, template: &ValueTemplate) -> Uses {
        let mut uses = Uses::default();
        template.walk_exprs(&mut |expr| uses = uses.join(self.expr(expr)));
        uses
    }

    pub(crate) fn exprs<'e>(&self, exprs: impl Iterator<Item = &'e Expr>) -> Uses {
        exprs.fold(Uses::default(), |uses, expr| uses.join(self.expr(expr)))
    }

    pub(crate) fn expr(&self, expr: &Expr) -> Uses {
        references(expr).fold(Uses::default(), |uses, reference| {
            uses.join(self.reference(&reference.kind))
        })
    }

    fn reference(&self, kind: &ReferenceKind<'_>) -> Uses {
        use ReferenceKind as Kind;
        let axes = |axes| Uses {
            axes,
            ..Uses::default()
        };
        let all = self.points.all_axes();
        match kind {
            Kind::Param(_) | Kind::Secret(_) | Kind::Unknown(_) | Kind::Study(_) => Uses::default(),
            Kind::Trial(_) => axes(self.axis_bit(TRIAL)),
            Kind::Matrix(Some(name)) => match self.points.axis(name) {
                Some(ix) => axes(1 << ix),
                None => axes(ATTRIBUTES),
            },
            Kind::Matrix(None) => axes((all & !self.axis_bit(TRIAL)) | ATTRIBUTES),
            Kind::Replicate(Some("index")) => axes(self.axis_bit(REPLICATE)),
            Kind::Replicate(_) if self.seed_per_point => axes(all),
            Kind::Replicate(_) => axes(self.axis_bit(REPLICATE)),
            Kind::Env(name) => self.named(
                &self.env,
                *name,
                |ix| self.job.env.get_index(ix),
                |(_, t)| self.template(t),
            ),
            Kind::Output(name) => self.named(
                &self.outputs,
                *name,
                |ix| self.job.outputs.get_index(ix),
                |(_, o)| self.template(&o.path),
            ),
            Kind::Input(name) => self.input(*name),
            Kind::InputList(name) => self.input(Some(name)),
            Kind::Need(_)
            | Kind::NeedOutput(..)
            | Kind::NeedPoints(_)
            | Kind::NeedResult(_)
            | Kind::JobOutput(..)
            | Kind::Status(_) => Uses {
                upstream: true,
                ..Uses::default()
            },
            Kind::Attempt | Kind::Run(_) => Uses {
                volatile: true,
                ..Uses::default()
            },
            Kind::Git(_) | Kind::HashFiles => Uses {
                facts: true,
                ..Uses::default()
            },
        }
    }

    fn axis_bit(&self, name: &str) -> u64 {
        self.points.axis(name).map_or(0, |ix| 1 << ix)
    }

    fn input(&self, name: Option<&str>) -> Uses {
        let inputs = self.job.inputs.iter().enumerate();
        let wanted = inputs.filter(|(_, input)| match (name, &input.name) {
            (Some(name), Some(mine)) => mine.value == name,
            (None, Some(_)) => true,
            (_, None) => false,
        });
        let paths = Uses {
            facts: true,
            ..Uses::default()
        };
        wanted.fold(paths, |uses, (ix, input)| {
            uses.join(self.remembered(&self.inputs, ix, || self.value(&input.value)))
        })
    }

    fn named<'s, K: AsRef<str> + 's, V: 's>(
        &'s self,
        known: &RefCell<Vec<Option<Uses>>>,
        name: Option<&str>,
        entry: impl Fn(usize) -> Option<(&'s K, &'s V)>,
        uses: impl Fn((&'s K, &'s V)) -> Uses,
    ) -> Uses {
        let count = known.borrow().len();
        let wanted = (0..count).filter_map(|ix| entry(ix).map(|entry| (ix, entry)));
        wanted
            .filter(|(_, (key, _))| name.is_none_or(|name| key.as_ref() == name))
            .fold(Uses::default(), |all, (ix, entry)| {
                all.join(self.remembered(known, ix, || uses(entry)))
            })
    }

    /// A value that refers to itself counts as depending on nothing more; evaluating it reports the error.
    fn remembered(
        &self,
        known: &RefCell<Vec<Option<Uses>>>,
        ix: usize,
        make: impl Fn() -> Uses,
    ) -> Uses {
        if let Some(uses) = known.borrow()[ix] {
            return uses;
        }
        known.borrow_mut()[ix] = Some(Uses::default());
        let uses = make();
        known.borrow_mut()[ix] = Some(uses);
        uses
    }
}

/// Calls `visit` for every expression that the recipe of a job consists of, in a fixed order: what they refer to is read by
/// the node itself.
pub(crate) fn recipe_exprs<'a>(job: &'a Job, visit: &mut dyn FnMut(&'a Expr)) {
    match &job.recipe {
        Recipe::Run(command) => command_exprs(command, visit),
        Recipe::Steps(steps) => {
            for step in steps {
                step.condition.iter().for_each(&mut *visit);
                step.env
                    .values()
                    .flat_map(Template::exprs)
                    .for_each(&mut *visit);
                command_exprs(&step.command, visit);
            }
        }
    }
    job.env
        .values()
        .flat_map(Template::exprs)
        .for_each(&mut *visit);
    job.threads
        .iter()
        .flat_map(Template::exprs)
        .for_each(&mut *visit);
    job.outputs
        .values()
        .flat_map(|output| output.path.exprs())
        .for_each(&mut *visit);
}

fn command_exprs<'a>(command: &'a Command, visit: &mut dyn FnMut(&'a Expr)) {
    match command {
        Command::Argv(words, _) => words.iter().flat_map(Template::exprs).for_each(visit),
        Command::Script(script) => script.parts.iter().for_each(|part| {
            if let ScriptPart::Value { expr, .. } = part {
                visit(expr);
            }
        }),
    }
}

/// Calls `visit` for every expression of a job that is evaluated for its nodes.
pub(crate) fn job_exprs<'a>(job: &'a Job, visit: &mut dyn FnMut(&'a Expr)) {
    recipe_exprs(job, visit);
    job.condition.iter().for_each(&mut *visit);
    job.inputs
        .iter()
        .for_each(|input| input.value.walk_exprs(visit));
    class_exprs(job, visit);
}

/// Calls `visit` for the expressions of resources and limits.
pub(crate) fn class_exprs<'a>(job: &'a Job, visit: &mut dyn FnMut(&'a Expr)) {
    let resources = &job.resources;
    let amounts = [&resources.cpus, &resources.memory].into_iter().flatten();
    for amount in amounts.chain(resources.named.values()) {
        amount.walk_exprs(visit);
    }
    job.timeout
        .iter()
        .flat_map(Template::exprs)
        .for_each(&mut *visit);
}

/// The calls of `hashFiles` below an expression.
pub(crate) fn hash_files_calls<'a>(expr: &'a Expr, visit: &mut dyn FnMut(&'a [Expr], Span)) {
    expr.walk(&mut |expr| {
        if let ExprKind::Call(Function::HashFiles, arguments) = &expr.kind {
            visit(arguments, expr.span);
        }
    });
}

/// An error where something must be known when the plan is made and is not.
pub(crate) fn must_be_known(uses: Uses, what: &str, span: Span) -> Option<Diagnostic> {
    let on = match uses {
        Uses { upstream: true, .. } => "what other jobs make",
        Uses { volatile: true, .. } => "the attempt or the run",
        _ => return None,
    };
    Some(
        Diagnostic::error(
            "not-known-yet",
            span,
            format!("{what} cannot depend on {on}"),
        )
        .help("it must be known when the plan is made: use `params`, `matrix` or `replicate`"),
    )
}
