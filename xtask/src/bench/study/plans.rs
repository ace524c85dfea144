//! The pipelines of the study benches, and their trials as the real planner makes them.

use std::sync::Arc;

use dagrun_model::{Digest, Map, NodeIx, PlanDelta};
use dagrun_plan::{Counts, Facts, Plan, PlanOptions, StudyPlanner, TrialPoint};
use dagrun_study::Definition;

/// A study, ready to be asked and planned.
pub(super) struct Planned {
    pub(super) planner: StudyPlanner,
    pub(super) definition: Definition,
}

impl Planned {
    /// From the text of a pipeline that reads no files.
    pub(super) fn new(text: &str) -> Result<Self, String> {
        let parsed = dagrun_dsl::parse("pipeline.yaml", text, &dagrun_dsl::NoFiles);
        let pipeline = parsed
            .pipeline
            .ok_or_else(|| dagrun_dsl::render(&parsed.diagnostics, &parsed.sources, false))?;
        let pipeline = Arc::new(pipeline);
        let words = |errors: Vec<dagrun_model::Diagnostic>| {
            dagrun_dsl::render(&errors, &pipeline.sources, false)
        };
        let planner = StudyPlanner::new(Arc::clone(&pipeline), PlanOptions::default());
        let (before, _) = planner
            .before()
            .and_then(|it| it.finish(Facts::default()))
            .map_err(words)?;
        let study = pipeline.study.as_ref().ok_or("the pipeline has no study")?;
        let definition = before
            .with_params(|params| Definition::resolve(study, params))
            .map_err(words)?;
        Ok(Self {
            planner,
            definition,
        })
    }

    /// The plan of a trial.
    pub(super) fn trial(&self, number: u64, values: Arc<Map>) -> Plan {
        let point = TrialPoint {
            number,
            values,
            replicates: None,
        };
        let expansion = self.planner.trial(point);
        let plan = expansion.and_then(|it| it.finish(Facts::default()));
        plan.map(|(plan, _)| plan)
            .unwrap_or_else(|errors| panic!("a trial of a bench cannot be planned: {errors:?}"))
    }

    /// What one trial comes to in the three ways of counting.
    pub(super) fn counts(&self) -> Counts {
        self.trial(1, self.values(0.5)).counts()
    }

    /// A point whose coordinates are all the same number.
    pub(super) fn values(&self, at: f64) -> Arc<Map> {
        let space = &self.definition.space;
        Arc::new(space.values(&vec![at; space.parameters.len()]))
    }
}

/// What the scheduler and the bench need of the plan of a trial.
pub(super) struct Shape {
    pub(super) delta: PlanDelta,
    /// By node: its job, and its place among the job's nodes.
    pub(super) places: Vec<(u32, u32)>,
    pub(super) keys: Vec<Digest>,
    /// The nodes that the objective reads.
    pub(super) scores: Vec<NodeIx>,
    /// How many of its nodes run at once where there are most.
    pub(super) width: u32,
}

impl Shape {
    pub(super) fn of(plan: &Plan, fused: bool) -> Self {
        let mut delta = plan.delta();
        if !fused {
            delta.groups.clear();
            delta.nodes.iter_mut().for_each(|node| node.group = None);
        }
        let mut counts: Vec<u32> = Vec::new();
        let places = delta.nodes.iter().map(|node| {
            let job = node.job.index();
            counts.resize(counts.len().max(job + 1), 0);
            counts[job] += 1;
            (node.job.0, counts[job] - 1)
        });
        Self {
            places: places.collect(),
            keys: plan.nodes().map(|node| plan.key(node)).collect(),
            scores: plan.objective_nodes(),
            width: counts.iter().copied().max().unwrap_or(1),
            delta,
        }
    }

    /// The nodes that a node of this plan reads.
    pub(super) fn inputs(&self, node: usize) -> impl Iterator<Item = NodeIx> {
        let (start, len) = self.delta.nodes[node].sets;
        let sets = &self.delta.node_sets[start as usize..(start + len) as usize];
        sets.iter().flat_map(|set| {
            let (start, len) = self.delta.sets[set.index()].members;
            let members = start as usize..(start + len) as usize;
            self.delta.set_members[members].iter().copied()
        })
    }

    /// The delta of another trial of the same shape, behind what the scheduler has.
    pub(super) fn shifted(&self, nodes: u32, sets: u32, groups: u32) -> PlanDelta {
        let mut delta = self.delta.clone();
        (delta.first_node, delta.first_set, delta.first_group) = (nodes, sets, groups);
        delta.node_sets.iter_mut().for_each(|set| set.0 += sets);
        delta.set_members.iter_mut().for_each(|it| it.0 += nodes);
        for node in &mut delta.nodes {
            node.group.iter_mut().for_each(|group| group.0 += groups);
        }
        for group in &mut delta.groups {
            group.members.iter_mut().for_each(|it| it.0 += nodes);
        }
        delta
    }
}

/// A study of a stochastic model: `replicates` simulations a trial, which each of `targets` scores.
pub(super) fn calibration(study: &str, replicates: u32, targets: u32) -> String {
    calibration_of(study, replicates, targets, true)
}

/// The same with simulations of its own for each target: what runs without deduplication.
pub(super) fn without_sharing(study: &str, replicates: u32, targets: u32) -> String {
    calibration_of(study, replicates, targets, false)
}

fn calibration_of(study: &str, replicates: u32, targets: u32, shared: bool) -> String {
    let targets: Vec<String> = (1..=targets).map(|it| format!("t{it}")).collect();
    let matrix = format!("matrix: {{target: [{}]}}", targets.join(", "));
    let (own_axis, own_word) = match shared {
        true => (String::new(), ""),
        false => (format!("{matrix}\n    "), ", \"${{ matrix.target }}\""),
    };
    let text = r#"dagrun: 1
name: bench
study:
  space: {beta: {uniform: [0, 1]}, gamma: {uniform: [0, 1]}}
STUDY
  minimize: ${{ sum(jobs.score.outputs.loss) }}
jobs:
  simulate:
    AXISrun: [model, "${{ trial.beta }}", "${{ trial.gamma }}", "${{ replicate.seed }}"WORD]
    replicates: REPLICATES
    outputs: {series: series.csv}
  score:
    needs: simulate
    SCORE
    inputs: {series: "${{ needs.simulate.outputs.series }}"}
    run: [score, "${{ matrix.target }}", "${{ inputs.series }}"]
    outputs: {loss: {json: loss.json}}
"#;
    text.replace("STUDY", &indented(study))
        .replace("AXIS", &own_axis)
        .replace("WORD", own_word)
        .replace("SCORE", &matrix)
        .replace("REPLICATES", &replicates.to_string())
}

/// A study whose trials are a node each.
pub(super) fn single(study: &str) -> String {
    let text = r#"dagrun: 1
name: bench
study:
  space: {beta: {uniform: [0, 1]}, gamma: {uniform: [0, 1]}}
STUDY
  minimize: ${{ jobs.model.outputs.loss }}
jobs:
  model:
    run: [model, "${{ trial.beta }}", "${{ trial.gamma }}"]
    outputs: {loss: {json: loss.json}}
"#;
    text.replace("STUDY", &indented(study))
}

/// Lines of the section `study`, separated by `;` for short.
fn indented(study: &str) -> String {
    let lines: Vec<String> = study
        .split(';')
        .map(|line| format!("  {}", line.trim()))
        .collect();
    lines.join("\n")
}
