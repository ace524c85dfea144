//! A pipeline as text, a project as a map of files, and upstream results as a table.

use std::{collections::BTreeMap, sync::Arc};

use dagrun_dsl::NoFiles;
use dagrun_model::{
    Action, Artifact, BlobRef, Diagnostic, Digest, FailureCause, InputSource, NodeIx, Outputs,
    Value,
};
use dagrun_plan::{
    Expansion, FactRequest, Facts, FoundFile, GitFacts, Origin, Plan, PlanOptions, Upstream,
    UpstreamEnd, expand,
};

/// A project and how it is planned.
#[derive(Clone, Default)]
pub(crate) struct World {
    pub(crate) text: String,
    pub(crate) files: BTreeMap<String, String>,
    pub(crate) tools: BTreeMap<String, String>,
    pub(crate) env: BTreeMap<String, String>,
    pub(crate) git: Option<GitFacts>,
    pub(crate) options: PlanOptions,
}

impl World {
    /// A pipeline of these jobs.
    pub(crate) fn jobs(jobs: &str) -> Self {
        Self::text(&format!("dagrun: 1\nname: test\njobs:\n{}", indented(jobs)))
    }

    /// A whole pipeline.
    pub(crate) fn text(text: &str) -> Self {
        Self {
            text: text.into(),
            ..Self::default()
        }
    }

    pub(crate) fn file(mut self, path: &str, content: &str) -> Self {
        self.files.insert(path.into(), content.into());
        self
    }

    pub(crate) fn param(mut self, name: &str, value: &str) -> Self {
        self.options
            .params
            .push((name.into(), Value::str(value), Origin::CommandLine));
        self
    }

    pub(crate) fn with(mut self, change: impl FnOnce(&mut PlanOptions)) -> Self {
        change(&mut self.options);
        self
    }

    pub(crate) fn expansion(&self) -> Result<Expansion, Vec<Diagnostic>> {
        let parsed = dagrun_dsl::parse("pipeline.yaml", &self.text, &NoFiles);
        let errors: Vec<_> = parsed.diagnostics.iter().filter(|d| d.is_error()).collect();
        assert!(
            errors.is_empty(),
            "the pipeline does not parse: {errors:#?}"
        );
        expand(
            Arc::new(parsed.pipeline.expect("a pipeline without errors")),
            self.options.clone(),
        )
    }

    pub(crate) fn facts(&self, request: &FactRequest) -> Facts {
        let found = |glob: &dagrun_plan::GlobRequest| {
            let files = self
                .files
                .iter()
                .filter(|(path, _)| matches(&glob.pattern, path));
            files
                .map(|(path, content)| FoundFile {
                    path: path.clone(),
                    blob: blob(content),
                })
                .collect()
        };
        Facts {
            alike: Default::default(),
            globs: request.globs.iter().map(found).collect(),
            commands: request
                .commands
                .iter()
                .map(|argv| {
                    self.tools
                        .get(&argv.join(" "))
                        .cloned()
                        .ok_or("not found".into())
                })
                .collect(),
            files: request
                .files
                .iter()
                .map(|file| {
                    self.files
                        .get(file)
                        .map(|text| Digest::of(text.as_bytes()))
                        .ok_or("not found".into())
                })
                .collect(),
            env: request
                .env
                .iter()
                .map(|name| self.env.get(name).cloned())
                .collect(),
            git: self.git.clone(),
        }
    }

    pub(crate) fn try_plan(&self) -> Result<(Plan, Vec<Diagnostic>), Vec<Diagnostic>> {
        let expansion = self.expansion()?;
        let facts = self.facts(&expansion.facts_needed());
        expansion.finish(facts)
    }

    pub(crate) fn plan(&self) -> Plan {
        match self.try_plan() {
            Ok((plan, _)) => plan,
            Err(errors) => panic!("no plan: {errors:#?}"),
        }
    }

    pub(crate) fn warnings(&self) -> Vec<String> {
        let (_, warnings) = self.try_plan().expect("a plan");
        warnings
            .iter()
            .map(|warning| format!("{}: {}", warning.code, warning.message))
            .collect()
    }

    /// What is wrong, each as `line: code: message`.
    pub(crate) fn errors(&self) -> Vec<String> {
        let errors = self.try_plan().map(|_| ()).expect_err("errors");
        let parsed = dagrun_dsl::parse("pipeline.yaml", &self.text, &NoFiles);
        errors
            .iter()
            .map(|error| {
                let (line, _) = parsed.sources.line_column(error.span);
                format!("{line}: {}: {}", error.code, error.message)
            })
            .collect()
    }
}

/// Patterns as far as tests need them: `*` inside a name, `**` at the end, `{a,b}`, and folders.
fn matches(pattern: &str, path: &str) -> bool {
    if let Some((head, rest)) = pattern.split_once('{') {
        let (choices, tail) = rest.split_once('}').expect("a closed brace");
        return choices
            .split(',')
            .any(|choice| matches(&format!("{head}{choice}{tail}"), path));
    }
    if let Some(folder) = pattern.strip_suffix("/**") {
        return pieces(folder, path).is_some_and(|rest| rest.starts_with('/'));
    }
    pieces(pattern, path).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// What is left of a path after a pattern.
fn pieces<'a>(pattern: &str, path: &'a str) -> Option<&'a str> {
    match pattern.split_once('*') {
        None => path.strip_prefix(pattern),
        Some((head, tail)) => {
            let rest = path.strip_prefix(head)?;
            let name = rest.split('/').next().unwrap_or(rest);
            (0..=name.len())
                .rev()
                .find_map(|at| pieces(tail, &rest[at..]))
        }
    }
}

fn indented(text: &str) -> String {
    text.lines().map(|line| format!("  {line}\n")).collect()
}

pub(crate) fn blob(content: &str) -> BlobRef {
    BlobRef {
        digest: Digest::of(content.as_bytes()),
        size: content.len() as u64,
        executable: false,
    }
}

pub(crate) fn file(content: &str) -> Artifact {
    Artifact::File(blob(content))
}

pub(crate) fn value(value: serde_json::Value) -> Artifact {
    Artifact::Value {
        file: blob(&value.to_string()),
        value,
    }
}

/// Results of nodes.
#[derive(Default)]
pub(crate) struct Results {
    pub(crate) outputs: BTreeMap<NodeIx, Outputs>,
    pub(crate) ends: BTreeMap<NodeIx, UpstreamEnd>,
}

impl Results {
    pub(crate) fn succeed(
        &mut self,
        node: NodeIx,
        outputs: impl IntoIterator<Item = (&'static str, Artifact)>,
    ) {
        let outputs = outputs
            .into_iter()
            .map(|(name, artifact)| (name.to_owned(), artifact));
        self.outputs.insert(node, outputs.collect());
        self.ends.insert(node, UpstreamEnd::Succeeded);
    }

    pub(crate) fn end(&mut self, node: NodeIx, end: UpstreamEnd) {
        self.outputs.remove(&node);
        self.ends.insert(node, end);
    }
}

impl Upstream for Results {
    fn outputs(&self, node: NodeIx) -> Option<&Outputs> {
        self.outputs.get(&node)
    }

    fn end(&self, node: NodeIx) -> Option<UpstreamEnd> {
        self.ends.get(&node).copied()
    }

    fn run_id(&self) -> &str {
        "run-1"
    }
}

/// Every node succeeds and its outputs are made of its first id.
pub(crate) fn all_succeed(plan: &Plan) -> Results {
    let mut results = Results::default();
    for node in plan.nodes() {
        let job = plan.pipeline().job(plan.job(node));
        let outputs = job.outputs.iter().map(|(name, output)| {
            let text = format!("{} {name}", plan.id(node));
            let artifact = match output.json {
                Some(_) => value(serde_json::json!(text.len())),
                None => file(&text),
            };
            (name.clone(), artifact)
        });
        results.outputs.insert(node, outputs.collect());
        results.ends.insert(node, UpstreamEnd::Succeeded);
    }
    results
}

pub(crate) fn node(plan: &Plan, id: &str) -> NodeIx {
    plan.find(id).unwrap_or_else(|| panic!("no node {id}"))
}

pub(crate) fn ids(plan: &Plan) -> Vec<String> {
    plan.nodes().map(|node| plan.id(node)).collect()
}

pub(crate) fn action(plan: &Plan, id: &str, results: &Results) -> Action {
    plan.action(node(plan, id), results)
        .unwrap_or_else(|cause| panic!("{id}: {cause}"))
}

pub(crate) fn failure(plan: &Plan, id: &str, results: &Results) -> FailureCause {
    plan.action(node(plan, id), results).expect_err("no action")
}

pub(crate) fn staged(action: &Action) -> Vec<String> {
    let shown = action.inputs.iter().map(|input| match &input.source {
        InputSource::Workspace { path, .. } => format!("{} <- {path}", input.path),
        InputSource::Stored(artifact) => match artifact {
            Artifact::File(_) => format!("{} <- file", input.path),
            other => format!("{} <- {other:?}", input.path),
        },
        InputSource::Text(text) => format!("{} <- {text:?}", input.path),
    });
    shown.collect()
}
