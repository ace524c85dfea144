//! What the expressions of each job may name: its axes, inputs, outputs and needs, with their types.

use std::rc::Rc;

use dagrun_model::{Input, Job, Matrix, Need, Output, Pipeline, Value, ValueTemplate};
use indexmap::{IndexMap, IndexSet};

use super::types::{Members, Type};

/// The name of the axis that `replicates` gives.
pub(super) const REPLICATE: &str = "replicate";

/// Gives the type of an expression where axes are made, without reporting errors in it.
pub(super) type Infer<'i> = dyn FnMut(&dagrun_model::Expr) -> Type + 'i;

/// What is known of a job before its expressions are checked.
#[derive(Debug)]
pub(super) struct JobInfo {
    /// All its axes: of its matrix, `for_each` and replicates.
    pub(super) axes: IndexSet<String>,
    /// The axes of its own matrix.
    own: IndexMap<String, Type>,
    /// What `include` adds to points.
    attributes: Members,
    /// The outputs as a needing job sees them: of one node, and gathered.
    outputs: [Type; 2],
}

impl JobInfo {
    pub(super) fn new(job: &Job, infer: &mut Infer<'_>) -> Self {
        let mut own: IndexMap<String, Type> = job
            .matrix
            .axes
            .iter()
            .map(|(name, values)| (name.clone(), item_type(values, infer)))
            .collect();
        let mut axes: IndexSet<String> = own.keys().cloned().collect();
        axes.extend(job.for_each.iter().map(|axis| axis.value.clone()));
        if job.replicates.is_some() {
            axes.insert(REPLICATE.into());
        }
        let attributes = attributes(&job.matrix, &axes, &mut own, infer);
        let outputs = [false, true].map(|gathered| {
            let outputs = job.outputs.iter();
            Type::map(outputs.map(|(name, output)| (name.as_str(), output_type(output, gathered))))
        });
        Self {
            axes,
            own,
            attributes,
            outputs,
        }
    }

    /// The outputs as another job sees them: of one node, or gathered.
    pub(super) fn outputs(&self, gathered: bool) -> Type {
        self.outputs[usize::from(gathered)].clone()
    }
}

/// The types of the contexts of one job.
pub(super) struct JobTypes {
    pub(super) matrix: Type,
    pub(super) env: Type,
    pub(super) inputs: Type,
    pub(super) outputs: Type,
    pub(super) needs: Type,
}

impl JobTypes {
    /// `infer` gives the type of an expression in `inputs`, for which `needs` is known.
    pub(super) fn new(pipeline: &Pipeline, infos: &[JobInfo], ix: usize) -> Self {
        let job = &pipeline.jobs[ix];
        let outputs = job.outputs.keys();
        let needs = job.needs.iter().map(|need| {
            let name = pipeline.job(need.job).name.value.as_str();
            (name, need_type(infos, ix, need))
        });
        let needs = Type::map(needs);
        Self {
            matrix: matrix_type(pipeline, infos, ix),
            env: Type::map(job.env.keys().map(|name| (name.as_str(), Type::String))),
            inputs: Type::map(job.inputs.iter().filter_map(|input| {
                let name = input.name.as_ref()?;
                Some((name.value.as_str(), input_type(input, &needs)))
            })),
            outputs: Type::map(outputs.map(|name| (name.as_str(), Type::String))),
            needs,
        }
    }
}

/// Whether a need gives a list: the needed job has an axis that the job has not.
fn gathers(infos: &[JobInfo], job: usize, need: &Need) -> bool {
    let mine = &infos[job].axes;
    infos[need.job.index()]
        .axes
        .iter()
        .any(|axis| !mine.contains(axis))
}

fn need_type(infos: &[JobInfo], job: usize, need: &Need) -> Type {
    let gathered = gathers(infos, job, need);
    let outputs = if need.missing_drop && !gathered {
        // At some points there may be nothing.
        match &infos[need.job.index()].outputs[0] {
            Type::Map(members) => Type::map(members.known.keys().map(|n| (n.clone(), Type::Any))),
            other => other.clone(),
        }
    } else {
        infos[need.job.index()].outputs(gathered)
    };
    Type::map([
        ("outputs", outputs),
        ("points", Type::list(Type::Any)),
        ("result", Type::String),
    ])
}

fn output_type(output: &Output, gathered: bool) -> Type {
    let one = match &output.json {
        _ if output.optional => Type::Any,
        Some(json) => Type::of_param(json.ty),
        None => Type::String,
    };
    if gathered { Type::list(one) } else { one }
}

/// A path is a string; a list, a glob and gathered outputs are lists.
fn input_type(input: &Input, needs: &Type) -> Type {
    match &input.value {
        ValueTemplate::List(..) => Type::list(Type::String),
        ValueTemplate::Value(value) => match &value.value {
            Value::List(_) => Type::list(Type::String),
            _ => Type::Any,
        },
        ValueTemplate::Template(template) => {
            let path = template.as_expr().and_then(|expr| expr.as_path());
            match path.as_deref() {
                Some(["needs", job, "outputs", output]) => {
                    member(&member(&member(needs, job), "outputs"), output)
                }
                _ => Type::Any,
            }
        }
        ValueTemplate::Map(..) => Type::Any,
    }
}

fn member(ty: &Type, name: &str) -> Type {
    ty.member(name).cloned().unwrap_or(Type::Any)
}

fn matrix_type(pipeline: &Pipeline, infos: &[JobInfo], ix: usize) -> Type {
    let info = &infos[ix];
    let mut members = info.attributes.clone();
    for (name, ty) in &info.own {
        members.known.insert(name.as_str().into(), ty.clone());
    }
    for axis in &pipeline.jobs[ix].for_each {
        let ty = taken_over(pipeline, infos, ix, &axis.value);
        members.known.insert(axis.value.as_str().into(), ty);
    }
    Type::Map(Rc::new(members))
}

/// The type of an axis that `for_each` takes over: of the job in whose matrix it stands.
fn taken_over(pipeline: &Pipeline, infos: &[JobInfo], ix: usize, axis: &str) -> Type {
    if axis == REPLICATE {
        return Type::Number;
    }
    let mut seen = IndexSet::from([ix]);
    let mut at = 0;
    while let Some(job) = seen.get_index(at).copied() {
        for need in &pipeline.jobs[job].needs {
            let needed = need.job.index();
            if let Some(ty) = infos[needed].own.get(axis) {
                return ty.clone();
            }
            if infos[needed].axes.contains(axis) {
                seen.insert(needed);
            }
        }
        at += 1;
    }
    Type::Any
}

/// The type of the values of an axis.
fn item_type(values: &ValueTemplate, infer: &mut Infer<'_>) -> Type {
    match values {
        ValueTemplate::List(items, _) => {
            Type::join_all(items.iter().map(|item| value_type(item, infer)))
        }
        other => match value_type(other, infer) {
            Type::List(item) => (*item).clone(),
            _ => Type::Any,
        },
    }
}

pub(super) fn value_type(value: &ValueTemplate, infer: &mut Infer<'_>) -> Type {
    match value {
        ValueTemplate::Value(value) => Type::of_value(&value.value),
        ValueTemplate::Template(template) => match template.as_expr() {
            Some(expr) => infer(expr),
            None => Type::String,
        },
        ValueTemplate::List(..) => Type::list(item_type(value, infer)),
        ValueTemplate::Map(entries, _) => Type::map(
            entries
                .iter()
                .map(|(name, item)| (&**name, value_type(item, infer))),
        ),
    }
}

/// What `include` adds that is no axis; values that it adds to axes join the types of those.
fn attributes(
    matrix: &Matrix,
    axes: &IndexSet<String>,
    own: &mut IndexMap<String, Type>,
    infer: &mut Infer<'_>,
) -> Members {
    let mut attributes = Members::default();
    for point in &matrix.include {
        let Type::Map(point) = value_type(point, infer) else {
            attributes.open = true;
            continue;
        };
        for (name, ty) in &point.known {
            if let Some(axis) = own.get_mut(&**name) {
                *axis = axis.clone().join(ty.clone());
            } else if !axes.contains(&**name) {
                // Other points have null there.
                attributes.known.insert(name.clone(), Type::Any);
            }
        }
    }
    attributes
}
