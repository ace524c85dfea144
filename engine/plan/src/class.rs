//! Resources and limits of nodes: few distinct ones, shared by number.

use std::time::Duration;

use dagrun_expr::{Context, eval_template, eval_value};
use dagrun_model::{
    CachePolicy, Diagnostic, Job, NodeClass, Resources, Span, Template, Value, ValueTemplate,
    parse_bytes, parse_duration,
};
use rustc_hash::FxHashMap;

/// Distinct classes by number.
#[derive(Default)]
pub(crate) struct Classes {
    pub(crate) list: Vec<NodeClass>,
    known: FxHashMap<String, u32>,
    merged: FxHashMap<(u32, u32), u32>,
}

impl Classes {
    pub(crate) fn add(&mut self, class: NodeClass) -> u32 {
        let list = &mut self.list;
        *self.known.entry(format!("{class:?}")).or_insert_with(|| {
            list.push(class);
            list.len() as u32 - 1
        })
    }

    /// The class of a node that cells of two classes came down to: the larger of each limit.
    pub(crate) fn merge(&mut self, a: u32, b: u32) -> u32 {
        if a == b {
            return a;
        }
        if let Some(known) = self.merged.get(&(a, b)) {
            return *known;
        }
        let merged = larger(&self.list[a as usize], &self.list[b as usize]);
        let merged = self.add(merged);
        self.merged.insert((a, b), merged);
        merged
    }
}

fn larger(a: &NodeClass, b: &NodeClass) -> NodeClass {
    let more = if b.max_retries > a.max_retries { b } else { a };
    NodeClass {
        resources: Resources::max(&a.resources, &b.resources),
        // No limit is the largest one.
        timeout: a.timeout.zip(b.timeout).map(|(a, b)| a.max(b)),
        max_retries: more.max_retries,
        retry_when: more.retry_when.clone(),
        backoff: a.backoff.max(b.backoff),
        memory_percent: a.memory_percent.max(b.memory_percent),
        continue_on_error: a.continue_on_error && b.continue_on_error,
        speculate: a.speculate || b.speculate,
        never_cache: a.never_cache || b.never_cache,
        executor: a.executor.clone().or_else(|| b.executor.clone()),
    }
}

/// The class of a cell.
pub(crate) fn class_of(job: &Job, ctx: &dyn Context) -> Result<NodeClass, Diagnostic> {
    let mut resources = Resources::default();
    if let Some(cpus) = &job.resources.cpus {
        resources.cpu_milli = thousandths(cpus, "cpus", ctx)?;
    }
    if let Some(memory) = &job.resources.memory {
        resources.memory = bytes(memory, ctx)?;
    }
    for (name, amount) in &job.resources.named {
        resources
            .named
            .insert(name.clone(), thousandths(amount, name, ctx)?);
    }
    let retry = &job.retry;
    Ok(NodeClass {
        resources,
        timeout: job
            .timeout
            .as_ref()
            .map(|timeout| duration(timeout, ctx))
            .transpose()?,
        max_retries: retry.max,
        retry_when: retry.when.clone(),
        backoff: Duration::try_from_secs_f64(retry.backoff_s).unwrap_or(Duration::from_secs(1)),
        memory_percent: (retry.memory_factor * 100.0).round().clamp(100.0, 1e6) as u32,
        continue_on_error: job.continue_on_error,
        speculate: job.speculate && job.cache != CachePolicy::Never,
        never_cache: job.cache == CachePolicy::Never,
        executor: job.executor.as_ref().map(|executor| executor.value.clone()),
    })
}

fn evaluated(template: &ValueTemplate, ctx: &dyn Context) -> Result<Value, Diagnostic> {
    eval_value(template, ctx).map_err(|error| error.to_diagnostic(template.span()))
}

fn thousandths(template: &ValueTemplate, name: &str, ctx: &dyn Context) -> Result<u64, Diagnostic> {
    let value = evaluated(template, ctx)?;
    let number = value
        .as_f64()
        .or_else(|| value.as_str()?.trim().parse().ok());
    match number {
        Some(number) if (0.0..=1e12).contains(&number) => Ok((number * 1000.0).round() as u64),
        _ => Err(bad(
            template.span(),
            format!("`{name}` is `{value}` and must be a number, 0 or more"),
        )),
    }
}

fn bytes(template: &ValueTemplate, ctx: &dyn Context) -> Result<u64, Diagnostic> {
    let value = evaluated(template, ctx)?;
    parse_bytes(&value.to_text()).map_err(|problem| bad(template.span(), problem))
}

fn duration(template: &Template, ctx: &dyn Context) -> Result<Duration, Diagnostic> {
    let value = eval_template(template, ctx).map_err(|error| error.to_diagnostic(template.span))?;
    parse_duration(&value.to_text()).map_err(|problem| bad(template.span, problem))
}

fn bad(span: Span, message: String) -> Diagnostic {
    Diagnostic::error("bad-resource", span, message)
}
