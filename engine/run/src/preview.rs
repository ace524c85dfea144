//! What a run would do, and why.

use std::collections::BTreeMap;

use dagrun_model::{
    Action, ActionDigest, FailureCause, NodeIx, Outputs, PlanDelta, Resources, SetSpec, Trigger,
};
use dagrun_plan::{Plan, UpstreamEnd};
use dagrun_store::{ActionEntry, Store, Tier};
use rustc_hash::FxHashSet;
use serde::Serialize;

use crate::{
    Force, History, KeyRow, PastEnd, PastRun, RunError, board::Board, history::nearest, view::View,
};

/// What would become of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum PreviewState {
    /// Its result is in the action cache.
    Hit,
    /// It would run.
    Run,
    /// What it reads is not made yet: the content decides.
    Unknown,
    /// It would be skipped.
    Skip,
}

/// A node of a preview.
#[derive(Clone, Debug, PartialEq)]
pub struct NodePreview {
    /// The node.
    pub node: NodeIx,
    /// What would become of it.
    pub state: PreviewState,
    /// Why; none for hits.
    pub cause: Option<Cause>,
}

/// Why a node would run, or cannot be said to.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case", tag = "cause")]
pub enum Cause {
    /// No former execution is known.
    NeverRan,
    /// Its key differs from that of its nearest former execution; the first difference is the most telling.
    Changed {
        /// What kind of part, such as `param` or `input`.
        kind: String,
        /// Which one.
        name: String,
        /// How many parts differ.
        parts: usize,
    },
    /// A node that it needs runs, or is not known itself.
    Upstream {
        /// The first such node.
        node: String,
        /// How many others there are.
        others: u64,
    },
    /// It says `cache: never`.
    NeverCache,
    /// The caller asks for it.
    Forced,
    /// It ran with this key, but the entry is no longer in the action cache.
    Evicted,
    /// Its last execution with this key failed.
    Failed {
        /// The run.
        run: String,
        /// How it ended.
        why: String,
    },
    /// Its last execution with this key was stopped or cut off.
    Interrupted {
        /// The run.
        run: String,
    },
    /// Its own `if` is false.
    ConditionFalse,
    /// A node that it needs is skipped.
    NeedSkipped {
        /// The node.
        node: String,
    },
    /// It cannot be made into an action.
    Unrunnable {
        /// Why.
        message: String,
    },
}

impl Cause {
    /// A stable short name, for JSON and scripts.
    pub fn code(&self) -> &str {
        match self {
            Self::NeverRan => "never_ran",
            Self::Changed { kind, .. } => kind,
            Self::Upstream { .. } => "upstream",
            Self::NeverCache => "never_cache",
            Self::Forced => "forced",
            Self::Evicted => "evicted",
            Self::Failed { .. } => "failed",
            Self::Interrupted { .. } => "interrupted",
            Self::ConditionFalse => "condition_false",
            Self::NeedSkipped { .. } => "need_skipped",
            Self::Unrunnable { .. } => "unrunnable",
        }
    }

    /// In words, for people.
    pub fn describe(&self) -> String {
        match self {
            Self::NeverRan => "never ran here".into(),
            Self::Changed { kind, name, parts } => {
                let kind = kind.replace('_', " ");
                let what = if name.is_empty() {
                    format!("{kind} changed")
                } else {
                    format!("{kind} `{name}` changed")
                };
                match parts {
                    0 | 1 => what,
                    n => format!("{what}, and {} more", n - 1),
                }
            }
            Self::Upstream { node, others: 0 } => format!("waits for `{node}`"),
            Self::Upstream { node, others: 1 } => format!("waits for `{node}` and another"),
            Self::Upstream { node, others } => format!("waits for `{node}` and {others} others"),
            Self::NeverCache => "says `cache: never`".into(),
            Self::Forced => "forced".into(),
            Self::Evicted => {
                "it ran before, but its result is no longer in the cache: it was collected, or made in another cache"
                    .into()
            }
            Self::Failed { run, why } => format!("failed in run {run}: {why}"),
            Self::Interrupted { run } => format!("was interrupted in run {run}"),
            Self::ConditionFalse => "its `if` is false".into(),
            Self::NeedSkipped { node } => format!("needs `{node}`, which is skipped"),
            Self::Unrunnable { message } => message.clone(),
        }
    }
}

/// A part of a key, then and now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// What it is, such as `param` or `input`.
    pub kind: String,
    /// Which one.
    pub name: String,
    /// Its value at the former execution; none where it is new.
    pub former: Option<String>,
    /// Its value now; none where it is gone.
    pub now: Option<String>,
}

/// Why a node runs or does not.
#[derive(Clone, Debug, PartialEq)]
pub struct Explanation {
    /// The node.
    pub node: NodeIx,
    /// What would become of it.
    pub state: PreviewState,
    /// Why; none for hits.
    pub cause: Option<Cause>,
    /// Its action digest, where it is known.
    pub action: Option<ActionDigest>,
    /// All parts of its key now; empty while upstream content decides.
    pub parts: Vec<KeyRow>,
    /// The nearest former execution.
    pub former: Option<PastRun>,
    /// What differs from that.
    pub differences: Vec<Difference>,
    /// Who made the result, where it is a hit: run, node, host.
    pub made_by: Option<(String, String, String)>,
}

/// What a run of the plan would do, for each node in plan order. Reads the action cache and nothing else.
///
/// # Errors
/// When the action cache does not answer.
pub fn preview(
    plan: &Plan,
    store: &Store,
    history: &History,
    force: &Force,
) -> Result<Vec<NodePreview>, RunError> {
    Ok(Walk::run(plan, store, history, &|node| is_forced(plan, force, node))?.rows)
}

/// What a run of the plan elsewhere would do, by the results that there are: `find` is asked for those of some actions, in their order.
///
/// # Errors
/// Those of `find`.
pub fn preview_elsewhere<E: From<RunError>>(
    plan: &Plan,
    history: &History,
    force: &Force,
    mut find: impl FnMut(&[ActionDigest]) -> Result<Vec<Option<ActionEntry>>, E>,
) -> Result<Vec<NodePreview>, E> {
    let mut there = BTreeMap::new();
    let mut asked = FxHashSet::default();
    loop {
        let walk = Walk::run(plan, &there, history, &|node| is_forced(plan, force, node))?;
        let missed = walk.missed.iter().copied();
        let new: Vec<ActionDigest> = missed.filter(|it| asked.insert(*it)).collect();
        if new.is_empty() {
            return Ok(walk.rows);
        }
        let found = new.iter().copied().zip(find(&new)?);
        let found: Vec<_> = found.filter_map(|(it, entry)| Some((it, entry?))).collect();
        there.extend(found);
    }
}

fn is_forced(plan: &Plan, force: &Force, node: NodeIx) -> bool {
    match force {
        Force::None => false,
        Force::All => true,
        Force::Only(names) => {
            let job = View::job_name(plan, node);
            let is_it = |name: &String| name == job || plan.find(name) == Some(node);
            names.iter().any(is_it)
        }
    }
}

/// Brings entries that a plan's nodes need from the tier into the store, as far as hits lead: what a run would find.
///
/// # Errors
/// When the action cache does not answer.
pub fn bring_entries(plan: &Plan, store: &Store, tier: &dyn Tier) -> Result<(), RunError> {
    let history = History::default();
    let mut asked = FxHashSet::default();
    loop {
        let missed = Walk::run(plan, store, &history, &|_| false)?.missed;
        let new: Vec<ActionDigest> = missed.into_iter().filter(|d| asked.insert(*d)).collect();
        if new.is_empty() {
            return Ok(());
        }
        tier.find_now(new);
    }
}

/// Why a node runs, does not run or cannot be known to: the difference of its key to the nearest former one.
///
/// # Errors
/// When there is no such node, or the action cache does not answer.
pub fn explain(
    plan: &Plan,
    store: &Store,
    history: &History,
    id: &str,
) -> Result<Explanation, RunError> {
    let node = plan.find(id).ok_or_else(|| unknown_node(plan, id))?;
    let walk = Walk::run(plan, store, history, &|_| false)?;
    Ok(walk.explain(node))
}

pub(crate) fn unknown_node(plan: &dyn View, id: &str) -> RunError {
    let ids: Vec<String> = (0..plan.len().min(10_000))
        .map(|ix| plan.id(NodeIx::from_index(ix)))
        .collect();
    let suggestion = dagrun_model::did_you_mean(id, ids.iter().map(String::as_str));
    RunError::UnknownNode {
        id: id.into(),
        suggestion: suggestion.map(Into::into),
    }
}

/// Where results are looked up.
#[derive(Clone, Copy)]
pub(crate) enum Results<'a> {
    Here(&'a Store),
    There(&'a BTreeMap<ActionDigest, ActionEntry>),
}

impl<'a> From<&'a Store> for Results<'a> {
    fn from(store: &'a Store) -> Self {
        Self::Here(store)
    }
}

impl<'a> From<&'a BTreeMap<ActionDigest, ActionEntry>> for Results<'a> {
    fn from(there: &'a BTreeMap<ActionDigest, ActionEntry>) -> Self {
        Self::There(there)
    }
}

impl Results<'_> {
    fn of(self, action: ActionDigest) -> Result<Option<ActionEntry>, RunError> {
        match self {
            Self::There(there) => Ok(there.get(&action).cloned()),
            Self::Here(store) => {
                let found = store.lookup(&[action]);
                let found = found.map_err(|error| RunError::Store(error.to_string()))?;
                Ok(found.into_iter().flatten().next())
            }
        }
    }
}

/// A walk over a plan in plan order that follows hits as a run would.
pub(crate) struct Walk<'a> {
    plan: &'a dyn View,
    results: Results<'a>,
    history: &'a History,
    delta: PlanDelta,
    pub(crate) board: Board,
    pub(crate) rows: Vec<NodePreview>,
    /// Actions that were looked for in vain.
    missed: Vec<ActionDigest>,
}

impl<'a> Walk<'a> {
    pub(crate) fn run(
        plan: &'a dyn View,
        results: impl Into<Results<'a>>,
        history: &'a History,
        forced: &dyn Fn(NodeIx) -> bool,
    ) -> Result<Self, RunError> {
        let mut board = Board::new("preview");
        board.grow(plan.len());
        let mut walk = Self {
            plan,
            results: results.into(),
            history,
            delta: plan.again().unwrap_or_default(),
            board,
            rows: Vec::with_capacity(plan.len()),
            missed: Vec::new(),
        };
        for node in (0..plan.len()).map(NodeIx::from_index) {
            let (state, cause) = walk.step(node, forced(node))?;
            walk.rows.push(NodePreview { node, state, cause });
        }
        Ok(walk)
    }

    fn step(
        &mut self,
        node: NodeIx,
        forced: bool,
    ) -> Result<(PreviewState, Option<Cause>), RunError> {
        if let Some(decided) = self.by_needs(node) {
            return Ok(decided);
        }
        let digest = match self.plan.condition(node, &self.board) {
            Ok(true) => self.plan.action_digest(node, &self.board),
            Ok(false) => {
                self.board.set_end(node, Some(UpstreamEnd::ConditionFalse));
                return Ok((PreviewState::Skip, Some(Cause::ConditionFalse)));
            }
            Err(cause) => Err(cause),
        };
        match digest {
            Ok(Some(digest)) if !forced => self.ask(node, digest),
            Ok(Some(_)) => Ok((PreviewState::Run, Some(Cause::Forced))),
            Ok(None) => Ok((PreviewState::Run, Some(Cause::NeverCache))),
            Err(cause) => Ok((PreviewState::Run, Some(unrunnable(&cause)))),
        }
    }

    fn ask(
        &mut self,
        node: NodeIx,
        digest: ActionDigest,
    ) -> Result<(PreviewState, Option<Cause>), RunError> {
        if let Some(entry) = self.results.of(digest)? {
            self.board.set_outputs(node, entry.outputs.into());
            self.board.set_end(node, Some(UpstreamEnd::Succeeded));
            return Ok((PreviewState::Hit, None));
        }
        self.missed.push(digest);
        Ok((PreviewState::Run, Some(self.cause_of_miss(node, digest))))
    }

    fn cause_of_miss(&self, node: NodeIx, digest: ActionDigest) -> Cause {
        let (pipeline, id) = (self.plan.pipeline_name(), self.plan.id(node));
        let kept = self.history.of(pipeline, &id);
        if let Some(past) = kept.iter().rfind(|past| past.action == Some(digest)) {
            return cause_of_same(past);
        }
        if kept.is_empty() {
            return Cause::NeverRan;
        }
        let now = self.plan.manifest(node, &self.board);
        let past = nearest(kept.iter().rev(), &now).expect("some are kept");
        let differences = differences(&past.parts, &now);
        match differences.first() {
            Some(first) => Cause::Changed {
                kind: first.kind.clone(),
                name: first.name.clone(),
                parts: differences.len(),
            },
            None => cause_of_same(past),
        }
    }

    /// What follows from the needs alone, where that decides.
    fn by_needs(&mut self, node: NodeIx) -> Option<(PreviewState, Option<Cause>)> {
        let spec = &self.delta.nodes[node.index()];
        let sets = slice(&self.delta.node_sets, spec.sets);
        let terminal = spec.trigger == Trigger::Terminal;
        let mut skipped = None;
        let mut open = Vec::new();
        for set in sets {
            let set = &self.delta.sets[set.index()];
            for member in slice(&self.delta.set_members, set.members) {
                match self.rows[member.index()].state {
                    PreviewState::Hit => {}
                    PreviewState::Skip => {
                        if !terminal && !drops_out(set, self.board.end_of(*member)) {
                            skipped.get_or_insert(*member);
                        }
                    }
                    PreviewState::Run | PreviewState::Unknown => {
                        open.push(*member);
                    }
                }
            }
        }
        if let Some(first) = open.first().copied() {
            if sets.len() > 1 {
                open.sort_unstable();
                open.dedup();
            }
            let (node, others) = (self.plan.id(first), open.len() as u64 - 1);
            return Some((
                PreviewState::Unknown,
                Some(Cause::Upstream { node, others }),
            ));
        }
        let because = skipped?;
        self.board.set_end(node, Some(UpstreamEnd::Skipped));
        let need = self.plan.id(because);
        Some((PreviewState::Skip, Some(Cause::NeedSkipped { node: need })))
    }

    pub(crate) fn id(&self, node: NodeIx) -> String {
        self.plan.id(node)
    }

    pub(crate) fn cached(&self, node: NodeIx) -> Option<Outputs> {
        self.board.outputs_of(node).map(|o| (**o).clone())
    }

    pub(crate) fn action(&self, node: NodeIx) -> Result<Action, FailureCause> {
        self.plan.action(node, &self.board)
    }

    pub(crate) fn resources(&self, node: NodeIx) -> Resources {
        let class = self.delta.nodes[node.index()].class as usize;
        self.delta.classes[class].resources.clone()
    }

    fn explain(&self, node: NodeIx) -> Explanation {
        let row = &self.rows[node.index()];
        let known = matches!(row.state, PreviewState::Hit | PreviewState::Run);
        let action = known
            .then(|| self.plan.action_digest(node, &self.board).ok().flatten())
            .flatten();
        let parts = if known {
            self.plan.manifest(node, &self.board)
        } else {
            Vec::new()
        };
        let (pipeline, id) = (self.plan.pipeline_name(), self.plan.id(node));
        let job = self.plan.job_name(node);
        let former = self.history.nearest(pipeline, &id, job, &parts).cloned();
        let differences = match &former {
            Some(past) if known => differences(&past.parts, &parts),
            _ => Vec::new(),
        };
        let entry = action.and_then(|action| self.results.of(action).ok()?);
        Explanation {
            node,
            state: row.state,
            cause: row.cause.clone(),
            action,
            parts,
            former,
            differences,
            made_by: entry.map(|e| (e.made_by.run, e.made_by.node, e.made_by.host)),
        }
    }
}

/// Why an execution with the same key left no result.
fn cause_of_same(past: &PastRun) -> Cause {
    let run = past.run.clone();
    match &past.end {
        Some(PastEnd::Failed(why)) => Cause::Failed {
            run,
            why: why.clone(),
        },
        Some(PastEnd::Interrupted) => Cause::Interrupted { run },
        // A line of an older version does not say how it ended.
        None if !past.pipeline.is_empty() => Cause::Interrupted { run },
        Some(PastEnd::Succeeded) | None => Cause::Evicted,
    }
}

fn unrunnable(cause: &FailureCause) -> Cause {
    Cause::Unrunnable {
        message: cause.to_string(),
    }
}

/// A member that is skipped by its own `if`, or for such a one, leaves a gather; a plain need is skipped with it.
fn drops_out(set: &SetSpec, end: Option<UpstreamEnd>) -> bool {
    set.gather
        && matches!(
            end,
            Some(UpstreamEnd::ConditionFalse | UpstreamEnd::Skipped)
        )
}

fn slice<T>(all: &[T], (start, len): (u32, u32)) -> &[T] {
    &all[start as usize..(start + len) as usize]
}

/// The kinds of parts in the order in which they tell most: a changed command explains more than the inputs that it reads.
const TELLING: [&str; 6] = ["command", "param", "axis", "seed", "input", "env"];

fn by_name(rows: &[KeyRow]) -> BTreeMap<(&str, &str), &str> {
    rows.iter()
        .map(|row| ((&*row.kind, &*row.name), &*row.value))
        .collect()
}

/// What differs between two keys, the most telling first.
pub(crate) fn differences(former: &[KeyRow], now: &[KeyRow]) -> Vec<Difference> {
    let (former, now) = (by_name(former), by_name(now));
    let mut found = Vec::new();
    let mut tell = |(kind, name): (&str, &str), former: Option<&str>, now: Option<&str>| {
        found.push(Difference {
            kind: kind.into(),
            name: name.into(),
            former: former.map(Into::into),
            now: now.map(Into::into),
        });
    };
    for (part, value) in &now {
        let before = former.get(part).copied();
        if before != Some(value) {
            tell(*part, before, Some(value));
        }
    }
    for (part, value) in &former {
        if !now.contains_key(part) {
            tell(*part, Some(value), None);
        }
    }
    let rank = |kind: &str| {
        TELLING
            .iter()
            .position(|k| *k == kind)
            .unwrap_or(TELLING.len())
    };
    found.sort_by(|a, b| (rank(&a.kind), &a.kind, &a.name).cmp(&(rank(&b.kind), &b.kind, &b.name)));
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::driver::tests::kit::{Bench, TestPlan};

    /// a -> b -> c, and d alone.
    fn plan() -> TestPlan {
        let mut plan = TestPlan::new();
        let a = plan.node("a", "make a", &[]);
        let b = plan.node("b", "make b", &[a]);
        plan.node("c", "make c", &[b]);
        plan.node("d", "make d", &[]);
        plan
    }

    fn check(bench: &Bench, plan: &TestPlan, forced: &[u32], expected: [&str; 4]) {
        let history = History::load(&bench.workspace);
        let forced = |node: NodeIx| forced.contains(&node.0);
        let walk = Walk::run(plan, bench.store(), &history, &forced).unwrap();
        let told: Vec<String> = walk
            .rows
            .iter()
            .map(|row| match &row.cause {
                Some(cause) => format!("{:?}: {}", row.state, cause.describe()),
                None => format!("{:?}", row.state),
            })
            .collect();
        assert_eq!(told, expected);
    }

    #[test]
    fn states_and_causes_follow_what_a_run_would_do() {
        let bench = Bench::new();
        let never = "Run: never ran here";
        let waits = |id: &str| format!("Unknown: waits for `{id}`");
        check(
            &bench,
            &plan(),
            &[],
            [never, &waits("a"), &waits("b"), never],
        );
        bench.run(&plan());
        check(&bench, &plan(), &[], ["Hit", "Hit", "Hit", "Hit"]);
        check(&bench, &plan(), &[3], ["Hit", "Hit", "Hit", "Run: forced"]);

        let mut changed = plan();
        changed.nodes[1].recipe = "make b, differently".into();
        changed.nodes[3].condition = Some(false);
        check(
            &bench,
            &changed,
            &[],
            [
                "Hit",
                "Run: command changed",
                &waits("b"),
                "Skip: its `if` is false",
            ],
        );
        // Of several needs the first is named, and each is counted once.
        for (needs, words) in [
            (&[0, 3][..], "Unknown: waits for `a` and another"),
            (&[0, 1, 3], "Unknown: waits for `a` and 2 others"),
        ] {
            let mut many = TestPlan::new();
            let a = many.node("a", "make a2", &[]);
            let b = many.node("b", "make b2", &[a]);
            let d = many.node("d", "make d2", &[]);
            let all = [a, b, a, d];
            let needs: Vec<_> = needs.iter().map(|at| all[*at]).collect();
            many.node("e", "gather", &needs);
            let changed = "Run: command changed";
            check(&bench, &many, &[], [changed, &waits("a"), changed, words]);
        }
        let mut skipped = plan();
        skipped.nodes[0].condition = Some(false);
        check(
            &bench,
            &skipped,
            &[],
            [
                "Skip: its `if` is false",
                "Skip: needs `a`, which is skipped",
                "Skip: needs `b`, which is skipped",
                "Hit",
            ],
        );
        let mut never_cached = plan();
        never_cached.never_cache("d");
        check(
            &bench,
            &never_cached,
            &[],
            ["Hit", "Hit", "Hit", "Run: says `cache: never`"],
        );
    }

    #[test]
    fn an_explanation_compares_with_the_nearest_former_execution() {
        let bench = Bench::new();
        let first = bench.run(&plan());
        let mut changed = plan();
        changed.nodes[1].recipe = "make b, differently".into();
        let history = History::load(&bench.workspace);
        let walk = Walk::run(&changed, bench.store(), &history, &|_| false).unwrap();
        let told = walk.explain(NodeIx(1));
        assert_eq!(told.former.unwrap().run, first.run.0);
        let [difference] = &told.differences[..] else {
            panic!("{:?}", told.differences);
        };
        assert_eq!(difference.former.as_deref(), Some("make b"));
        assert_eq!(difference.now.as_deref(), Some("make b, differently"));
        let hit = walk.explain(NodeIx(0));
        assert_eq!(hit.made_by.unwrap().1, "a");
        assert!(hit.differences.is_empty());
    }

    fn row(kind: &str, name: &str, value: &str) -> KeyRow {
        KeyRow {
            kind: kind.into(),
            name: name.into(),
            value: value.into(),
        }
    }

    #[test]
    fn differences_are_told_with_the_most_telling_first() {
        let former = [
            row("input", "a", "1"),
            row("env", "X", "1"),
            row("threads", "", "2"),
        ];
        let now = [
            row("command", "", "x"),
            row("input", "a", "2"),
            row("threads", "", "2"),
        ];
        let found: Vec<String> = differences(&former, &now)
            .iter()
            .map(|d| format!("{} {} {:?} {:?}", d.kind, d.name, d.former, d.now))
            .collect();
        assert_eq!(
            found,
            [
                r#"command  None Some("x")"#,
                r#"input a Some("1") Some("2")"#,
                r#"env X Some("1") None"#,
            ]
        );
    }
}
