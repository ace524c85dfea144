//! What an expression refers to.

use dagrun_model::{Expr, ExprKind, Function, Span};

/// A name outside the expression that its value depends on.
#[derive(Clone, Debug, PartialEq)]
pub struct Reference<'a> {
    /// What it is.
    pub kind: ReferenceKind<'a>,
    /// The whole reference, such as `needs.simulate.outputs.series`.
    pub span: Span,
}

/// What a [`Reference`] names. `None` stands for all of them: `matrix` alone, `needs.*.result`, `params[matrix.name]`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ReferenceKind<'a> {
    /// `params.NAME`
    Param(Option<&'a str>),
    /// `env.NAME`
    Env(Option<&'a str>),
    /// `secrets.NAME`
    Secret(Option<&'a str>),
    /// `matrix.AXIS`, which may also be an attribute that `include` adds.
    Matrix(Option<&'a str>),
    /// `replicate.index` or `replicate.seed`
    Replicate(Option<&'a str>),
    /// `trial.NAME`
    Trial(Option<&'a str>),
    /// `study.NAME`
    Study(Option<&'a str>),
    /// `inputs.NAME`
    Input(Option<&'a str>),
    /// `inputs.NAME.list`: the path of a file that lists the paths.
    InputList(&'a str),
    /// `outputs.NAME`
    Output(Option<&'a str>),
    /// `needs.JOB` as a whole.
    Need(Option<&'a str>),
    /// `needs.JOB.outputs.NAME`
    NeedOutput(Option<&'a str>, Option<&'a str>),
    /// `needs.JOB.points`
    NeedPoints(Option<&'a str>),
    /// `needs.JOB.result`
    NeedResult(Option<&'a str>),
    /// `jobs.JOB.outputs.NAME`
    JobOutput(Option<&'a str>, Option<&'a str>),
    /// `attempt`
    Attempt,
    /// `run` or a member of it
    Run(Option<&'a str>),
    /// `git.NAME`
    Git(Option<&'a str>),
    /// `success()`, `failure()`, `always()` or `cancelled()`
    Status(Function),
    /// `hashFiles(...)`
    HashFiles,
    /// A context that the language does not have; `dsl` refuses it.
    Unknown(&'a str),
}

/// Everything that `expr` refers to, in the order in which it stands there; a name that is used twice comes twice.
pub fn references(expr: &Expr) -> impl Iterator<Item = Reference<'_>> {
    let mut found = Vec::new();
    collect(expr, &mut found);
    found.into_iter()
}

fn collect<'a>(expr: &'a Expr, found: &mut Vec<Reference<'a>>) {
    match &expr.kind {
        ExprKind::Literal(_) => {}
        ExprKind::Context(_) | ExprKind::Member(..) | ExprKind::Index(..) | ExprKind::Star(_) => {
            collect_chain(expr, found);
        }
        ExprKind::Unary(_, operand) => collect(operand, found),
        ExprKind::Binary(_, a, b) => {
            collect(a, found);
            collect(b, found);
        }
        ExprKind::Ternary(a, b, c) => {
            collect(a, found);
            collect(b, found);
            collect(c, found);
        }
        ExprKind::Call(function, arguments) => {
            let kind = match function {
                Function::HashFiles => Some(ReferenceKind::HashFiles),
                f if f.is_status() => Some(ReferenceKind::Status(*f)),
                _ => None,
            };
            found.extend(kind.map(|kind| Reference {
                kind,
                span: expr.span,
            }));
            arguments.iter().for_each(|item| collect(item, found));
        }
        ExprKind::List(items) => items.iter().for_each(|item| collect(item, found)),
    }
}

/// A chain of members is one reference; the indices in it may have their own.
fn collect_chain<'a>(expr: &'a Expr, found: &mut Vec<Reference<'a>>) {
    let mut names = Vec::new();
    let mut indices = Vec::new();
    let mut root = expr;
    loop {
        root = match &root.kind {
            ExprKind::Member(base, name) => {
                names.push((Some(&**name), root.span));
                base
            }
            ExprKind::Index(base, index) => {
                names.push((None, root.span));
                indices.push(&**index);
                base
            }
            ExprKind::Star(base) => {
                names.push((None, root.span));
                base
            }
            _ => break,
        };
    }
    names.reverse();
    match &root.kind {
        ExprKind::Context(context) => found.push(classify(context, root.span, &names)),
        _ => collect(root, found),
    }
    indices.iter().rev().for_each(|index| collect(index, found));
}

fn classify<'a>(context: &'a str, span: Span, names: &[(Option<&'a str>, Span)]) -> Reference<'a> {
    use ReferenceKind as Kind;
    let name = |at: usize| names.get(at).and_then(|(name, _)| *name);
    let (kind, length) = match context {
        "params" => (Kind::Param(name(0)), 1),
        "env" => (Kind::Env(name(0)), 1),
        "secrets" => (Kind::Secret(name(0)), 1),
        "matrix" => (Kind::Matrix(name(0)), 1),
        "replicate" => (Kind::Replicate(name(0)), 1),
        "trial" => (Kind::Trial(name(0)), 1),
        "study" => (Kind::Study(name(0)), 1),
        "outputs" => (Kind::Output(name(0)), 1),
        "run" => (Kind::Run(name(0)), 1),
        "git" => (Kind::Git(name(0)), 1),
        "attempt" => (Kind::Attempt, 0),
        "inputs" => match (name(0), name(1)) {
            (Some(input), Some("list")) => (Kind::InputList(input), 2),
            (input, _) => (Kind::Input(input), 1),
        },
        "needs" => match name(1) {
            Some("outputs") => (Kind::NeedOutput(name(0), name(2)), 3),
            Some("points") => (Kind::NeedPoints(name(0)), 2),
            Some("result") => (Kind::NeedResult(name(0)), 2),
            _ => (Kind::Need(name(0)), 1),
        },
        "jobs" => (Kind::JobOutput(name(0), name(2)), 3),
        other => (Kind::Unknown(other), 0),
    };
    let last = length.min(names.len());
    let end = last.checked_sub(1).map(|ix| names[ix].1);
    Reference {
        kind,
        span: end.map_or(span, |end| span.to(end)),
    }
}
