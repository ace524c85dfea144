//! Inputs of a job: patterns in the project, and outputs of needed jobs.

use std::sync::Arc;

use dagrun_expr::{Context, ReferenceKind, eval, eval_template, references};
use dagrun_model::{
    Diagnostic, Expr, ExprKind, Input, Job, Pipeline, Span, Template, Value, ValueTemplate,
};

use crate::{
    layout::NeedPlan,
    uses::{Scope, Uses, recipe_exprs},
};

/// A declared input, ready to be resolved at a point.
#[derive(Clone, Debug)]
pub(crate) struct InputPlan {
    pub(crate) name: Option<Arc<str>>,
    pub(crate) external: bool,
    pub(crate) span: Span,
    pub(crate) node: InputNode,
    pub(crate) uses: Uses,
    /// The recipe reads `inputs.NAME.list`.
    pub(crate) list_file: bool,
    /// Its place among the inputs cannot be seen: it has a name, and reads nothing of other jobs.
    pub(crate) unordered: bool,
}

/// The value of an input with references to outputs found.
#[derive(Clone, Debug)]
pub(crate) enum InputNode {
    Value(Value, Span),
    Template(Template),
    Expr(Expr),
    /// A [`DataInput`] by position.
    Upstream(usize),
    List(Vec<InputNode>),
}

/// An output of a needed job that a node reads.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct DataInput {
    /// The need, by position in the job's `needs`.
    pub(crate) need: usize,
    /// The output, by position in the needed job's `outputs`.
    pub(crate) output: usize,
    pub(crate) stage: Stage,
}

/// How a node gets an output.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Stage {
    /// As a value in expressions: a JSON output.
    Value,
    /// As files below `in/NAME`; the declared input by position, unless it is an implicit one.
    Files {
        name: Arc<str>,
        input: Option<usize>,
    },
}

/// An input at a point.
#[derive(Clone, Debug, Default)]
pub(crate) struct Resolved {
    pub(crate) list: bool,
    pub(crate) items: Vec<Item>,
}

#[derive(Clone, Debug)]
pub(crate) enum Item {
    Pattern(String),
    Upstream(usize),
}

/// The inputs of a job and the upstream outputs that it reads.
#[derive(Default)]
pub(crate) struct Inputs {
    pub(crate) inputs: Vec<InputPlan>,
    pub(crate) data: Vec<DataInput>,
}

/// Finds everything that the nodes of a job read; sets what is used of each need.
pub(crate) fn compile(
    pipeline: &Pipeline,
    job: &Job,
    scope: &Scope<'_>,
    needs: &mut [NeedPlan],
    errors: &mut Vec<Diagnostic>,
) -> Inputs {
    let mut compiler = Compiler {
        pipeline,
        job,
        needs,
        errors,
        data: Vec::new(),
    };
    let (order, by_name) = input_order(job);
    let mut inputs: Vec<InputPlan> = order
        .into_iter()
        .map(|ix| compiler.declared(ix, scope))
        .collect();
    for input in &mut inputs {
        input.unordered = by_name && input.name.is_some() && !input.has_upstream();
    }
    recipe_exprs(job, &mut |expr| compiler.implicit(expr));
    recipe_exprs(job, &mut |expr| mark_lists(expr, &mut inputs));
    Inputs {
        inputs,
        data: compiler.data,
    }
}

/// The order in which inputs are taken, and whether only their names can be seen. Named ones that read outputs come first,
/// by name: in which order they are declared must not be in a key, unless the recipe reads `inputs` as a whole.
fn input_order(job: &Job) -> (Vec<usize>, bool) {
    let mut order: Vec<usize> = (0..job.inputs.len()).collect();
    let mut whole = false;
    recipe_exprs(job, &mut |expr| {
        whole |= references(expr).any(|reference| reference.kind == ReferenceKind::Input(None));
    });
    if whole {
        return (order, false);
    }
    order.sort_by_key(|ix| {
        let input = &job.inputs[*ix];
        let mut upstream = false;
        input.value.walk_exprs(&mut |expr| {
            upstream |= references(expr)
                .any(|reference| matches!(reference.kind, ReferenceKind::NeedOutput(..)));
        });
        match &input.name {
            Some(name) if upstream => (0, name.value.as_str()),
            _ => (1, ""),
        }
    });
    (order, true)
}

fn mark_lists(expr: &Expr, inputs: &mut [InputPlan]) {
    for reference in references(expr) {
        for input in inputs.iter_mut() {
            input.list_file |= match reference.kind {
                ReferenceKind::InputList(name) => input.name.as_deref() == Some(name),
                _ => false,
            };
        }
    }
}

struct Compiler<'a> {
    pipeline: &'a Pipeline,
    job: &'a Job,
    needs: &'a mut [NeedPlan],
    errors: &'a mut Vec<Diagnostic>,
    data: Vec<DataInput>,
}

impl Compiler<'_> {
    fn declared(&mut self, ix: usize, scope: &Scope<'_>) -> InputPlan {
        let input: &Input = &self.job.inputs[ix];
        let node = self.node(&input.value, ix);
        let mut uses = scope.value(&input.value);
        uses.upstream = false;
        if uses.facts || uses.volatile {
            self.errors.push(
                Diagnostic::error(
                    "not-known-yet",
                    input.span,
                    "the path of an input cannot depend on git, other inputs, the attempt or the run",
                )
                .help("it must be known before any file is looked at: use `params`, `matrix` or `replicate`"),
            );
        }
        InputPlan {
            name: input.name.as_ref().map(|name| name.value.as_str().into()),
            external: input.external,
            span: input.span,
            node,
            uses,
            list_file: false,
            unordered: false,
        }
    }

    fn node(&mut self, template: &ValueTemplate, input: usize) -> InputNode {
        match template {
            ValueTemplate::Value(value) => InputNode::Value(value.value.clone(), value.span),
            ValueTemplate::List(items, _) => {
                InputNode::List(items.iter().map(|item| self.node(item, input)).collect())
            }
            ValueTemplate::Template(template) => match template.as_expr() {
                Some(expr) => self.expr(expr, input),
                None => {
                    template.exprs().for_each(|expr| self.refuse(expr));
                    InputNode::Template(template.clone())
                }
            },
            ValueTemplate::Map(_, span) => {
                self.errors.push(Diagnostic::error(
                    "bad-input",
                    *span,
                    "an input is a path or a list of paths, not a map",
                ));
                InputNode::List(Vec::new())
            }
        }
    }

    fn expr(&mut self, expr: &Expr, input: usize) -> InputNode {
        if let ExprKind::List(items) = &expr.kind {
            return InputNode::List(items.iter().map(|item| self.expr(item, input)).collect());
        }
        if let Some(["needs", job, "outputs", output]) = expr.as_path().as_deref() {
            let Some((need, output)) = self.output(job, output, expr.span) else {
                return InputNode::List(Vec::new());
            };
            return InputNode::Upstream(self.files(need, output, Some(input)));
        }
        self.refuse(expr);
        InputNode::Expr(expr.clone())
    }

    /// Anything but a plain reference to an output would hide what is read.
    fn refuse(&mut self, expr: &Expr) {
        for reference in references(expr) {
            if let ReferenceKind::NeedOutput(..) | ReferenceKind::Need(_) = reference.kind {
                self.errors.push(
                    Diagnostic::error(
                        "bad-input",
                        reference.span,
                        "an output stands in an input together with other things",
                    )
                    .help(
                        "write `${{ needs.JOB.outputs.NAME }}` alone, or a list of such references",
                    ),
                );
            }
        }
    }

    /// The need and output of a reference; sets that the need is read.
    fn output(&mut self, job: &str, output: &str, span: Span) -> Option<(usize, usize)> {
        let need = self.need(job, span)?;
        let needed = &self.pipeline.jobs[self.needs[need].job];
        let Some(output) = needed.outputs.get_index_of(output) else {
            self.errors.push(Diagnostic::error(
                "unknown-output",
                span,
                format!("job `{job}` has no output `{output}`"),
            ));
            return None;
        };
        self.needs[need].data = true;
        Some((need, output))
    }

    fn need(&mut self, job: &str, span: Span) -> Option<usize> {
        let wanted = self.pipeline.jobs.get_index_of(job);
        let need = self.needs.iter().position(|need| Some(need.job) == wanted);
        if need.is_none() {
            self.errors.push(
                Diagnostic::error(
                    "not-needed",
                    span,
                    format!("`{job}` is not among the `needs` of this job"),
                )
                .help(format!("add `needs: {job}`")),
            );
        }
        need
    }

    fn add(&mut self, data: DataInput) -> usize {
        match self.data.iter().position(|known| *known == data) {
            Some(ix) => ix,
            None => {
                self.data.push(data);
                self.data.len() - 1
            }
        }
    }

    fn files(&mut self, need: usize, output: usize, input: Option<usize>) -> usize {
        let declared = input.and_then(|ix| self.job.inputs[ix].name.as_ref());
        let name = match declared {
            Some(name) => name.value.as_str().into(),
            None => {
                let (job, def) = self
                    .pipeline
                    .jobs
                    .get_index(self.needs[need].job)
                    .expect("a need names a job of the pipeline");
                let output = def.outputs.get_index(output).map_or("", |(name, _)| name);
                format!("{job}.{output}").into()
            }
        };
        self.add(DataInput {
            need,
            output,
            stage: Stage::Files { name, input },
        })
    }

    /// References in the recipe make inputs by themselves.
    fn implicit(&mut self, expr: &Expr) {
        use ReferenceKind as Kind;
        for reference in references(expr) {
            match reference.kind {
                Kind::NeedOutput(Some(job), Some(output)) => {
                    self.reference(job, output, reference.span)
                }
                Kind::NeedOutput(Some(job), None) => self.whole(job, reference.span, false),
                Kind::Need(Some(job)) => self.whole(job, reference.span, true),
                Kind::NeedPoints(Some(job)) => {
                    if let Some(need) = self.need(job, reference.span) {
                        self.needs[need].points = true;
                    }
                }
                Kind::NeedResult(Some(job)) => {
                    if let Some(need) = self.need(job, reference.span) {
                        self.needs[need].result = true;
                    }
                }
                Kind::Need(None)
                | Kind::NeedOutput(None, _)
                | Kind::NeedPoints(None)
                | Kind::NeedResult(None) => {
                    let jobs: Vec<usize> = self.needs.iter().map(|need| need.job).collect();
                    for job in jobs {
                        let (name, _) = self
                            .pipeline
                            .jobs
                            .get_index(job)
                            .expect("a need names a job");
                        self.whole(name, reference.span, true);
                    }
                }
                _ => {}
            }
        }
    }

    fn whole(&mut self, job: &str, span: Span, everything: bool) {
        let Some(need) = self.need(job, span) else {
            return;
        };
        let pipeline = self.pipeline;
        for output in pipeline.jobs[self.needs[need].job].outputs.keys() {
            self.reference(job, output, span);
        }
        self.needs[need].points |= everything;
        self.needs[need].result |= everything;
    }

    fn reference(&mut self, job: &str, output: &str, span: Span) {
        let Some((need, output)) = self.output(job, output, span) else {
            return;
        };
        let def = &self.pipeline.jobs[self.needs[need].job].outputs[output];
        if def.json.is_some() {
            self.add(DataInput {
                need,
                output,
                stage: Stage::Value,
            });
        } else if find_files(&self.data, need, output).is_none() {
            self.files(need, output, None);
        }
    }
}

/// The first way in which an output is staged as files.
pub(crate) fn find_files(data: &[DataInput], need: usize, output: usize) -> Option<usize> {
    data.iter().position(|data| {
        data.need == need && data.output == output && matches!(data.stage, Stage::Files { .. })
    })
}

impl InputPlan {
    /// Whether it reads outputs of other jobs.
    pub(crate) fn has_upstream(&self) -> bool {
        fn any(node: &InputNode) -> bool {
            match node {
                InputNode::Upstream(_) => true,
                InputNode::List(items) => items.iter().any(any),
                _ => false,
            }
        }
        any(&self.node)
    }

    /// Its items at a point; `gathered` says whether a data input is a list.
    ///
    /// # Errors
    /// A value that is no path, or a path that leaves the project without `external: true`.
    pub(crate) fn resolve(
        &self,
        ctx: &dyn Context,
        gathered: &dyn Fn(usize) -> bool,
    ) -> Result<Resolved, Diagnostic> {
        let mut resolved = Resolved::default();
        self.resolve_node(&self.node, ctx, gathered, &mut resolved)?;
        Ok(resolved)
    }

    fn resolve_node(
        &self,
        node: &InputNode,
        ctx: &dyn Context,
        gathered: &dyn Fn(usize) -> bool,
        out: &mut Resolved,
    ) -> Result<(), Diagnostic> {
        let (value, span) = match node {
            InputNode::List(items) => {
                out.list = true;
                return items
                    .iter()
                    .try_for_each(|item| self.resolve_node(item, ctx, gathered, out));
            }
            InputNode::Upstream(data) => {
                out.list |= gathered(*data);
                out.items.push(Item::Upstream(*data));
                return Ok(());
            }
            InputNode::Value(value, span) => (value.clone(), *span),
            InputNode::Template(template) => (
                eval_template(template, ctx).map_err(|error| error.to_diagnostic(template.span))?,
                template.span,
            ),
            InputNode::Expr(expr) => (
                eval(expr, ctx).map_err(|error| error.to_diagnostic(expr.span))?,
                expr.span,
            ),
        };
        self.paths(&value, span, out)
    }

    fn paths(&self, value: &Value, span: Span, out: &mut Resolved) -> Result<(), Diagnostic> {
        match value {
            Value::List(items) => {
                out.list = true;
                items
                    .iter()
                    .try_for_each(|item| self.paths(item, span, out))
            }
            Value::Map(_) | Value::Null => Err(Diagnostic::error(
                "bad-input",
                span,
                format!("an input is a path and not {}", value.type_name()),
            )),
            scalar => {
                let path = match scalar.as_str() {
                    Some(text) => self.path(text, span),
                    None => self.path(&scalar.to_text(), span),
                };
                out.items.push(Item::Pattern(path?));
                Ok(())
            }
        }
    }

    /// The pattern as it is asked for: without `.`, doubled and trailing slashes.
    fn path(&self, text: &str, span: Span) -> Result<String, Diagnostic> {
        let plain = |name: &str| !matches!(name, "" | "." | "..");
        let common = |b: u8| matches!(b, b'!'..=b'9' | b';'..=b'~');
        if text.bytes().all(common) && text.split('/').all(plain) {
            return Ok(text.into());
        }
        if text.is_empty() || text.chars().any(char::is_control) {
            return Err(Diagnostic::error(
                "bad-path",
                span,
                format!("{text:?} cannot be a path"),
            ));
        }
        if self.external {
            return Ok(text.into());
        }
        let leaves = text.starts_with('/')
            || text.contains("://")
            || text.split('/').any(|name| name == "..");
        if leaves {
            return Err(Diagnostic::error(
                "external-path",
                span,
                format!("`{text}` is outside of the project folder"),
            )
            .help(format!(
                "write `{{path: {text:?}, external: true}}` if that is meant"
            )));
        }
        let names: Vec<&str> = text
            .split('/')
            .filter(|name| !matches!(*name, "" | "."))
            .collect();
        if names.is_empty() {
            return Err(Diagnostic::error(
                "bad-path",
                span,
                format!("`{text}` is the project folder itself"),
            )
            .help("name the folders and files that the job reads, such as `src/**`"));
        }
        Ok(names.join("/"))
    }
}
