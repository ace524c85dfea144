//! The simulator's own idea of a run: what the scheduler may do, judged from the events it was told.
//!
//! It shares no code with the scheduler: sets are counted anew from their members each time.

use dagrun_model::{
    AttemptId, GroupIx, HostIx, NodeIx, Resources, RetryCause, SetIx, Trigger, WorkerIx,
};
use rustc_hash::{FxHashMap, FxHashSet};

use super::{
    rng::hash2,
    scene::{Condition, Scene},
};
use crate::{Action, AttemptEnd, Config, NodeEnd, Notice, Stop};

/// A broken promise: the invariant's number in the reliability notes, and what happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Which invariant.
    pub invariant: &'static str,
    /// What happened.
    pub text: String,
}

/// What a terminal node means to a set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Pending,
    Good,
    Dropped,
    Bad,
}

#[derive(Clone, Debug)]
pub(crate) struct Live {
    pub(crate) node: NodeIx,
    pub(crate) worker: WorkerIx,
    resources: Resources,
    /// Its end does not matter any more: another attempt was faster, or its node ended.
    moot: bool,
}

#[derive(Clone, Debug)]
pub(crate) struct KnownWorker {
    pub(crate) host: HostIx,
    pub(crate) capacity: Resources,
    pub(crate) free: Resources,
    pub(crate) profile: Option<String>,
    pub(crate) draining: bool,
}

#[derive(Clone, Debug, Default)]
struct NodeFacts {
    end: Option<NodeEnd>,
    fate: Option<Fate>,
    asked: bool,
    answered: Option<Answered>,
    /// The action that the last answer was about.
    asked_action: u64,
    running: Vec<AttemptId>,
    committing: Option<AttemptId>,
    durable: bool,
    commit_failed: bool,
    failures: u32,
    losses: u32,
    rewinds: u32,
    stalls: u32,
    /// It gave up over missing inputs, or over a cause that is not tried again.
    hopeless: bool,
    not_before: u64,
    memory: u64,
    speculated: bool,
    action: Option<u64>,
    attempts: u32,
    value: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answered {
    Hit,
    Miss,
    ConditionFalse,
    Unrunnable,
}

/// What the scheduler was told and did so far.
#[derive(Debug)]
pub(crate) struct Model {
    scene: Scene,
    config: Config,
    nodes: Vec<NodeFacts>,
    /// Nodes that the scheduler knows.
    pub(crate) known: usize,
    pub(crate) attempts: FxHashMap<u64, Live>,
    pub(crate) workers: Vec<Option<KnownWorker>>,
    groups: Vec<Option<HostIx>>,
    host_count: usize,
    /// Actions whose results are durable, with whether their blobs are there.
    pub(crate) results: FxHashMap<u64, bool>,
    /// Actions that run or are being committed, and for which node.
    flights: FxHashMap<u64, NodeIx>,
    pub(crate) stop: Option<Stop>,
    pub(crate) plan_complete: bool,
    pub(crate) finished: bool,
    last_attempt: u64,
    pub(crate) now: u64,
    pub(crate) rewound: bool,
    seen: FxHashSet<u64>,
    pub(crate) violation: Option<Violation>,
}

impl Model {
    pub(crate) fn new(scene: Scene, config: Config) -> Self {
        let nodes = vec![NodeFacts::default(); scene.nodes.len()];
        let groups = vec![None; scene.groups.len()];
        Self {
            scene,
            config,
            nodes,
            known: 0,
            attempts: FxHashMap::default(),
            workers: Vec::new(),
            groups,
            host_count: 0,
            results: FxHashMap::default(),
            flights: FxHashMap::default(),
            stop: None,
            plan_complete: false,
            finished: false,
            last_attempt: 0,
            now: 0,
            rewound: false,
            seen: FxHashSet::default(),
            violation: None,
        }
    }

    /// The coordinator died: what is durable and what was charged stays.
    pub(crate) fn crash(&mut self) {
        for node in &mut self.nodes {
            *node = NodeFacts {
                failures: node.failures,
                losses: node.losses,
                attempts: node.failures + node.losses,
                ..NodeFacts::default()
            };
        }
        self.known = 0;
        self.attempts.clear();
        self.workers.clear();
        self.host_count = 0;
        self.groups.fill(None);
        self.flights.clear();
        self.stop = None;
        self.plan_complete = false;
    }

    pub(crate) fn last_attempt(&self) -> u64 {
        self.last_attempt
    }

    pub(crate) fn charges(&self, node: NodeIx) -> (u32, u32) {
        let facts = &self.nodes[node.index()];
        (facts.failures, facts.losses)
    }

    pub(crate) fn ended(&self, node: NodeIx) -> Option<NodeEnd> {
        self.nodes[node.index()].end
    }

    pub(crate) fn fail(&mut self, invariant: &'static str, text: String) {
        self.violation.get_or_insert(Violation { invariant, text });
    }

    fn check(&mut self, holds: bool, invariant: &'static str, text: impl FnOnce() -> String) {
        if !holds && self.violation.is_none() {
            self.fail(invariant, text());
        }
    }

    // --- sets and values -----------------------------------------------------------------------

    fn fate(&self, node: NodeIx) -> Fate {
        self.nodes[node.index()].fate.unwrap_or(Fate::Pending)
    }

    fn count(&self, set: SetIx, fate: Fate) -> u32 {
        let members = &self.scene.sets[set.index()].members;
        members.iter().filter(|m| self.fate(**m) == fate).count() as u32
    }

    fn satisfied(&self, set: SetIx) -> bool {
        let spec = &self.scene.sets[set.index()];
        let whole = || {
            self.count(set, Fate::Bad) == 0 && (spec.gather || self.count(set, Fate::Dropped) == 0)
        };
        self.count(set, Fate::Pending) == 0
            && spec
                .min
                .map_or_else(whole, |min| self.count(set, Fate::Good) >= min)
    }

    fn broken(&self, set: SetIx) -> bool {
        let spec = &self.scene.sets[set.index()];
        match spec.min {
            Some(min) => self.count(set, Fate::Good) + self.count(set, Fate::Pending) < min,
            None => {
                self.count(set, Fate::Bad) > 0 || !spec.gather && self.count(set, Fate::Dropped) > 0
            }
        }
    }

    fn trigger(&self, node: NodeIx) -> Trigger {
        match self.scene.nodes[node.index()].condition {
            Condition::True | Condition::False => Trigger::Succeeded,
            _ => Trigger::Terminal,
        }
    }

    /// Whether a node may be looked up or started.
    pub(crate) fn needs_met(&self, node: NodeIx) -> bool {
        let terminal = self.trigger(node) == Trigger::Terminal;
        self.scene.nodes[node.index()]
            .sets
            .iter()
            .all(|set| match terminal {
                true => self.count(*set, Fate::Pending) == 0,
                false => self.satisfied(*set),
            })
    }

    /// The action of a node: its recipe and what its inputs are now.
    pub(crate) fn action(&self, node: NodeIx) -> u64 {
        let spec = &self.scene.nodes[node.index()];
        let mut action = hash2(spec.recipe, 1);
        for set in &spec.sets {
            for member in &self.scene.sets[set.index()].members {
                let value = match self.fate(*member) {
                    Fate::Good => self.nodes[member.index()].value,
                    fate => fate as u64,
                };
                action = hash2(action, value);
            }
        }
        action
    }

    fn class(&self, node: NodeIx) -> &dagrun_model::NodeClass {
        &self.scene.classes[self.scene.nodes[node.index()].class as usize]
    }

    /// What an honest driver answers now.
    pub(crate) fn answer(&mut self, node: NodeIx) -> (Answered, Option<u64>) {
        let broken = self.scene.nodes[node.index()]
            .sets
            .iter()
            .any(|set| self.broken(*set));
        let spec = &self.scene.nodes[node.index()];
        let holds = match spec.condition {
            Condition::True | Condition::Always => true,
            Condition::False => false,
            Condition::Failure => broken,
            Condition::Success => !broken,
        };
        let action = self.action(node);
        let never = self.class(node).never_cache;
        let hit = !never
            && self
                .results
                .get(&action)
                .is_some_and(|blobs| *blobs || !self.rewound);
        let first = !never && self.scene.nodes[node.index()].cached && self.seen.insert(action);
        if first && !self.results.contains_key(&action) && self.needs_met(node) {
            self.results.insert(action, true);
        }
        let answered = match () {
            () if !holds => Answered::ConditionFalse,
            () if self.scene.nodes[node.index()].unrunnable => Answered::Unrunnable,
            () if hit || first && self.results.get(&action) == Some(&true) => Answered::Hit,
            () => Answered::Miss,
        };
        let facts = &mut self.nodes[node.index()];
        facts.asked = false;
        facts.answered = Some(answered);
        facts.asked_action = action;
        (answered, (!never).then_some(action))
    }

    /// Producers of a node whose blobs are gone.
    pub(crate) fn missing_inputs(&self, node: NodeIx) -> Vec<NodeIx> {
        let mut missing = Vec::new();
        for set in &self.scene.nodes[node.index()].sets {
            for member in &self.scene.sets[set.index()].members {
                let facts = &self.nodes[member.index()];
                let made = matches!(facts.end, Some(NodeEnd::Succeeded | NodeEnd::Cached));
                if made && self.results.get(&facts.value) != Some(&true) {
                    missing.push(*member);
                }
            }
        }
        missing.sort();
        missing.dedup();
        missing
    }

    pub(crate) fn value(&self, node: NodeIx) -> u64 {
        self.nodes[node.index()].value
    }

    // --- what the scheduler is told -------------------------------------------------------------

    pub(crate) fn told_worker(&mut self, worker: WorkerIx, known: KnownWorker) {
        if self.workers.len() <= worker.index() {
            self.workers.resize(worker.index() + 1, None);
        }
        self.host_count = self.host_count.max(known.host.index() + 1);
        self.workers[worker.index()] = Some(known);
    }

    pub(crate) fn told_draining(&mut self, worker: WorkerIx) {
        if let Some(Some(known)) = self.workers.get_mut(worker.index()) {
            known.draining = true;
            let host = known.host;
            self.weakened(host);
        }
    }

    pub(crate) fn told_lost(&mut self, worker: WorkerIx) {
        let Some(known) = self.workers.get_mut(worker.index()).and_then(Option::take) else {
            return;
        };
        let mut lost: Vec<u64> = self
            .attempts
            .iter()
            .filter(|(_, a)| a.worker == worker)
            .map(|(id, _)| *id)
            .collect();
        lost.sort_unstable();
        for id in lost {
            self.told_end(AttemptId(id), &AttemptEnd::Lost);
        }
        self.weakened(known.host);
    }

    fn weakened(&mut self, host: HostIx) {
        for ix in 0..self.groups.len() {
            if self.groups[ix] == Some(host) && !self.group_fits(ix, host) {
                self.groups[ix] = None;
            }
        }
    }

    fn group_fits(&self, group: usize, host: HostIx) -> bool {
        self.scene.groups[group].iter().all(|member| {
            let class = self.class(*member);
            self.could_take(host, &class.resources, class.executor.as_deref())
        })
    }

    fn could_take(&self, host: HostIx, resources: &Resources, profile: Option<&str>) -> bool {
        self.workers.iter().flatten().any(|worker| {
            worker.host == host
                && !worker.draining
                && (profile.is_none() || worker.profile.as_deref() == profile)
                && resources.fits(&worker.capacity)
        })
    }

    /// Whether the scheduler has reason to act on the end of this attempt.
    pub(crate) fn told_end(&mut self, id: AttemptId, end: &AttemptEnd) {
        let Some(live) = self.attempts.remove(&id.0) else {
            return;
        };
        if let Some(Some(worker)) = self.workers.get_mut(live.worker.index()) {
            worker.free.give(&live.resources);
        }
        let node = live.node;
        self.nodes[node.index()]
            .running
            .retain(|other| *other != id);
        if live.moot {
            return;
        }
        let stopped = self.stop.is_some();
        match end {
            AttemptEnd::Succeeded { .. } => self.expect_commit(node, id),
            AttemptEnd::Failed(cause) => {
                let hopeless = !self.retryable(node, *cause);
                let oom = *cause == Some(RetryCause::OutOfMemory);
                let grow = oom && self.could_grow(node, live.resources.memory);
                let facts = &mut self.nodes[node.index()];
                facts.failures += 1;
                facts.hopeless |= hopeless || stopped;
                if grow {
                    facts.memory = live.resources.memory;
                }
            }
            AttemptEnd::Lost => self.nodes[node.index()].losses += 1,
            AttemptEnd::Cancelled if stopped => {}
            AttemptEnd::Cancelled => self.nodes[node.index()].losses += 1,
            AttemptEnd::InputsMissing(producers) => {
                let good = |p: &NodeIx| {
                    p.index() < self.known
                        && matches!(self.ended(*p), Some(NodeEnd::Succeeded | NodeEnd::Cached))
                };
                let worn = producers.iter().any(|p| {
                    good(p) && self.nodes[p.index()].rewinds >= u32::from(self.config.max_rewinds)
                });
                let none = !producers.iter().any(good);
                let stalls = none && self.needs_met(node);
                let facts = &mut self.nodes[node.index()];
                facts.stalls += u32::from(stalls);
                facts.hopeless |= worn || facts.stalls > u32::from(self.config.max_rewinds);
            }
        }
        if self.nodes[node.index()].running.is_empty()
            && self.nodes[node.index()].committing.is_none()
        {
            self.land(node);
        }
    }

    fn retryable(&self, node: NodeIx, cause: Option<RetryCause>) -> bool {
        let class = self.class(node);
        cause.is_some_and(|c| class.retry_when.is_empty() || class.retry_when.contains(&c))
    }

    fn expect_commit(&mut self, node: NodeIx, id: AttemptId) {
        let others = self.nodes[node.index()].running.clone();
        for other in others {
            if let Some(live) = self.attempts.get_mut(&other.0) {
                live.moot = true;
            }
        }
        self.nodes[node.index()].committing = Some(id);
    }

    fn land(&mut self, node: NodeIx) {
        if let Some(action) = self.nodes[node.index()].action
            && self.flights.get(&action) == Some(&node)
        {
            self.flights.remove(&action);
        }
    }

    /// The result of an attempt is durable; the scheduler is about to be told.
    pub(crate) fn durable(&mut self, node: NodeIx) {
        self.nodes[node.index()].durable = true;
    }

    pub(crate) fn commit_failed(&mut self, node: NodeIx) {
        self.nodes[node.index()].commit_failed = true;
    }

    // --- what the scheduler does ----------------------------------------------------------------

    pub(crate) fn judge(&mut self, action: &Action) {
        match action {
            Action::LookUp(nodes) => {
                for node in nodes {
                    self.judge_look_up(*node);
                }
            }
            Action::Start {
                attempt,
                node,
                worker,
                resources,
                group,
                number,
            } => {
                self.judge_start(*attempt, *node, *worker, resources, *group, *number);
            }
            Action::Cancel { attempt, .. } => {
                let live = self.attempts.get(&attempt.0);
                let why = live.is_some_and(|live| live.moot) || self.stop.is_some();
                self.check(why, "cancel", || {
                    format!("{attempt} is cancelled without a reason")
                });
            }
            Action::Commit { node, attempt } => {
                let expected = self.nodes[node.index()].committing == Some(*attempt);
                self.check(expected, "I16", || {
                    format!("{attempt} of {node:?} is committed")
                });
            }
            Action::SetTimer { at, .. } => {
                let now = self.now;
                self.check(at.0 >= now, "timer", || {
                    format!("a timer in the past, at {}", at.0)
                });
            }
            Action::Emit(notice) => self.judge_notice(notice),
            Action::Finish => self.judge_finish(),
        }
    }

    fn judge_look_up(&mut self, node: NodeIx) {
        let met = self.needs_met(node);
        self.check(met, "I12", || {
            format!("{node:?} is looked up before its needs are met")
        });
        let facts = &self.nodes[node.index()];
        let fresh = !facts.asked && facts.end.is_none();
        self.check(fresh, "look-up", || format!("{node:?} is looked up twice"));
        self.nodes[node.index()].asked = true;
    }

    fn judge_start(
        &mut self,
        id: AttemptId,
        node: NodeIx,
        worker: WorkerIx,
        resources: &Resources,
        group: Option<GroupIx>,
        number: u32,
    ) {
        self.check(self.stop.is_none(), "I7", || {
            format!("{node:?} starts after a stop")
        });
        self.check(id.0 > self.last_attempt, "ids", || {
            format!("{id} is used again")
        });
        self.last_attempt = self.last_attempt.max(id.0);
        self.judge_worker(node, worker, resources);
        self.judge_readiness(node, resources);
        self.judge_pair(node, worker, number);
        self.judge_group(node, worker, resources, group);
        let action = (!self.class(node).never_cache).then(|| self.action(node));
        if let Some(action) = action {
            let flying = self.flights.insert(action, node);
            let alone = flying.is_none_or(|other| other == node);
            self.check(alone, "I11", || {
                format!("{node:?} starts beside {flying:?}, an equal action")
            });
        }
        if let Some(Some(known)) = self.workers.get_mut(worker.index())
            && resources.fits(&known.free)
        {
            known.free.take(resources);
        }
        let value = self.action(node);
        let asked = self.nodes[node.index()].asked_action == value;
        self.check(asked, "look-up", || {
            format!("{node:?} starts as another action than it was looked up as")
        });
        let facts = &mut self.nodes[node.index()];
        facts.action = action;
        facts.value = value;
        facts.running.push(id);
        facts.attempts += 1;
        self.attempts.insert(
            id.0,
            Live {
                node,
                worker,
                resources: resources.clone(),
                moot: false,
            },
        );
    }

    fn judge_worker(&mut self, node: NodeIx, worker: WorkerIx, resources: &Resources) {
        let known = self.workers.get(worker.index()).cloned().flatten();
        let Some(known) = known else {
            return self.fail(
                "I4",
                format!("{node:?} starts on {worker:?}, which is not there"),
            );
        };
        self.check(!known.draining, "I4", || {
            format!("{node:?} starts on {worker:?}, which drains")
        });
        self.check(resources.fits(&known.free), "I4", || {
            format!(
                "{node:?} asks for {resources:?}, {worker:?} has {:?}",
                known.free
            )
        });
        let profile = self.class(node).executor.clone();
        let serves = profile.is_none() || profile == known.profile;
        self.check(serves, "profile", || {
            format!("{node:?} starts on {worker:?}")
        });
    }

    fn judge_readiness(&mut self, node: NodeIx, resources: &Resources) {
        let met = self.needs_met(node);
        let second = self.nodes[node.index()].speculated;
        self.check(met, "I2", || {
            format!("{node:?} starts before its needs are met")
        });
        let class = self.class(node).clone();
        let facts = &self.nodes[node.index()];
        let (failures, losses) = (facts.failures, facts.losses);
        let (pending, due) = (
            facts.end.is_none() && facts.answered == Some(Answered::Miss),
            facts.not_before,
        );
        let (hopeless, memory) = (facts.hopeless, facts.memory);
        let now = self.now;
        self.check(pending, "start", || {
            format!("{node:?} starts although it is not a miss")
        });
        self.check(failures <= class.max_retries, "I6", || {
            format!("{node:?} failed {failures} times")
        });
        self.check(losses < self.config.max_losses, "I6", || {
            format!("{node:?} was lost {losses} times")
        });
        self.check(!hopeless, "I6", || {
            format!("{node:?} is tried again in vain")
        });
        self.check(now >= due, "backoff", || {
            format!("{node:?} starts at {now}, not at {due}")
        });
        let declared = &class.resources;
        let enough = resources.cpu_milli == declared.cpu_milli
            && resources.memory >= declared.memory
            && resources.named == declared.named;
        self.check(enough, "demand", || format!("{node:?} gets {resources:?}"));
        let grown = memory == 0 || second || resources.memory > memory;
        self.check(grown, "growth", || {
            format!("{node:?} gets {} after {memory}", resources.memory)
        });
    }

    /// Whether every worker that could run a node has more memory than so much.
    fn could_grow(&self, node: NodeIx, memory: u64) -> bool {
        let class = self.class(node);
        let able = self.workers.iter().flatten().filter(|worker| {
            !worker.draining
                && (class.executor.is_none() || worker.profile == class.executor)
                && Resources {
                    memory: 0,
                    ..class.resources.clone()
                }
                .fits(&worker.capacity)
        });
        let mut capacities = able.map(|worker| worker.capacity.memory);
        let grows = class.memory_percent > 100 && memory > 0;
        let least = capacities
            .next()
            .map(|first| capacities.fold(first, u64::min));
        grows && least.is_some_and(|least| least > memory)
    }

    fn judge_pair(&mut self, node: NodeIx, worker: WorkerIx, number: u32) {
        let facts = &self.nodes[node.index()];
        let (speculated, attempts) = (facts.speculated, facts.attempts);
        let others: Vec<AttemptId> = facts.running.clone();
        let live: Vec<&Live> = others
            .iter()
            .filter_map(|id| self.attempts.get(&id.0))
            .filter(|l| !l.moot)
            .collect();
        let fits = match live[..] {
            [] => !speculated,
            [other] => speculated && other.worker != worker,
            _ => false,
        };
        let text = format!("{node:?} starts beside {}", live.len());
        self.check(fits, "I16", || text);
        self.check(number == attempts + 1, "numbers", || {
            format!("{node:?} starts as number {number}")
        });
        self.nodes[node.index()].speculated = false;
    }

    fn judge_group(
        &mut self,
        node: NodeIx,
        worker: WorkerIx,
        resources: &Resources,
        group: Option<GroupIx>,
    ) {
        let Some(group) = group else { return };
        let own = self.scene.nodes[node.index()].group == Some(group.0);
        self.check(own, "group", || format!("{node:?} starts for {group:?}"));
        let Some(Some(host)) = self
            .workers
            .get(worker.index())
            .map(|w| w.as_ref().map(|w| w.host))
        else {
            return;
        };
        if let Some(bound) = self.groups[group.index()] {
            let profile = self.class(node).executor.clone();
            let must = self.could_take(bound, resources, profile.as_deref());
            let together = bound == host || !must;
            self.check(together, "group", || {
                format!("{node:?} of {group:?} starts on {host:?}, not {bound:?}")
            });
        } else if resources.memory <= self.class(node).resources.memory {
            // A member that has outgrown the others may go where they cannot.
            let wise = self.host_count < 2
                || self.group_fits(group.index(), host)
                || (0..self.host_count)
                    .all(|h| !self.group_fits(group.index(), HostIx::from_index(h)));
            self.check(wise, "group", || {
                format!("{group:?} is bound to {host:?}, which cannot run all of it")
            });
            self.groups[group.index()] = Some(host);
        }
    }

    fn judge_notice(&mut self, notice: &Notice) {
        match notice {
            Notice::NodeDone { node, end } => self.judge_end(*node, *end),
            Notice::WillRetry { node, at, lost } => {
                let facts = &mut self.nodes[node.index()];
                facts.not_before = at.0;
                let class = self.class(*node);
                let failures = self.nodes[node.index()].failures;
                let least = if *lost || failures == 0 {
                    0
                } else {
                    class.backoff.as_micros() as u64 * (1 << (failures - 1))
                };
                let now = self.now;
                self.check(at.0 >= now + least, "backoff", || {
                    format!("{node:?} waits too little")
                });
            }
            Notice::Speculated { node } => {
                let one = self.nodes[node.index()].running.len() == 1;
                let allowed = self.class(*node).speculate && !self.class(*node).never_cache;
                self.check(one && allowed, "I16", || {
                    format!("{node:?} gets a second attempt")
                });
                self.nodes[node.index()].speculated = true;
            }
            Notice::Rewound { node } => self.judge_rewind(*node),
            Notice::Stuck { nodes } => {
                let idle = self.attempts.is_empty() && self.stop.is_none() && !nodes.is_empty();
                self.check(idle, "stuck", || format!("{nodes:?} are called stuck"));
            }
        }
    }

    fn judge_rewind(&mut self, node: NodeIx) {
        let max = u32::from(self.config.max_rewinds);
        let facts = &mut self.nodes[node.index()];
        let made = matches!(facts.end, Some(NodeEnd::Succeeded | NodeEnd::Cached));
        facts.rewinds += 1;
        facts.end = None;
        facts.fate = None;
        facts.durable = false;
        facts.answered = None;
        let rewinds = facts.rewinds;
        self.rewound = true;
        self.check(made, "rewind", || {
            format!("{node:?} is rewound, but had no outputs")
        });
        self.check(rewinds <= max, "rewind", || {
            format!("{node:?} is rewound {rewinds} times")
        });
    }

    fn judge_end(&mut self, node: NodeIx, end: NodeEnd) {
        let once = self.nodes[node.index()].end.is_none();
        self.check(once, "I1", || format!("{node:?} ends twice"));
        let fate = self.judge_fate(node, end);
        for id in std::mem::take(&mut self.nodes[node.index()].running) {
            if let Some(live) = self.attempts.get_mut(&id.0) {
                live.moot = true;
            }
        }
        if matches!(end, NodeEnd::Cached) {
            self.nodes[node.index()].value = self.action(node);
        }
        self.land(node);
        let facts = &mut self.nodes[node.index()];
        facts.end = Some(end);
        facts.fate = Some(fate);
        facts.committing = None;
        if end == NodeEnd::Failed && fate == Fate::Bad && self.config.fail_fast {
            self.stop.get_or_insert(Stop::Drain);
        }
    }

    fn judge_fate(&mut self, node: NodeIx, end: NodeEnd) -> Fate {
        let facts = self.nodes[node.index()].clone();
        let class = self.class(node).clone();
        match end {
            NodeEnd::Succeeded => {
                self.check(facts.durable, "I1", || {
                    format!("{node:?} succeeds before it is durable")
                });
                let value = self.action(node);
                let same = self.rewound || facts.value == value;
                self.check(same, "I1", || {
                    format!("{node:?} is committed with another value")
                });
                Fate::Good
            }
            NodeEnd::Cached => {
                let there = !class.never_cache && self.results.contains_key(&self.action(node));
                self.check(there, "I11", || {
                    format!("{node:?} is cached, but there is no result")
                });
                Fate::Good
            }
            NodeEnd::ConditionFalse => {
                let said = facts.answered == Some(Answered::ConditionFalse);
                self.check(said, "if", || format!("the `if` of {node:?} is not false"));
                Fate::Dropped
            }
            NodeEnd::Skipped { because } => {
                let sets = self.scene.nodes[node.index()].sets.clone();
                let broken = sets.iter().any(|set| {
                    self.broken(*set) && self.scene.sets[set.index()].members.contains(&because)
                });
                let blamed = matches!(self.fate(because), Fate::Bad | Fate::Dropped);
                self.check(broken && blamed, "skip", || {
                    format!("{node:?} is skipped because of {because:?}")
                });
                if self.fate(because) == Fate::Dropped {
                    Fate::Dropped
                } else {
                    Fate::Bad
                }
            }
            NodeEnd::Failed => {
                let why = facts.answered == Some(Answered::Unrunnable)
                    || facts.commit_failed
                    || facts.hopeless
                    || facts.failures > class.max_retries
                    || facts.losses >= self.config.max_losses;
                self.check(why, "fail", || {
                    format!("{node:?} fails without a reason: {facts:?}")
                });
                if class.continue_on_error {
                    Fate::Good
                } else {
                    Fate::Bad
                }
            }
            NodeEnd::Cancelled => {
                let stopped = self.stop.is_some();
                self.check(stopped, "I7", || {
                    format!("{node:?} is cancelled without a stop")
                });
                Fate::Bad
            }
        }
    }

    fn judge_finish(&mut self) {
        let open = self.nodes[..self.known]
            .iter()
            .position(|node| node.end.is_none());
        let live = self.attempts.len();
        let whole = self.plan_complete && self.known == self.nodes.len();
        self.check(open.is_none() && live == 0 && whole, "finish", || {
            format!("finished with node {open:?} open and {live} attempts live")
        });
        self.check(!self.finished, "finish", || "finished twice".into());
        self.finished = true;
        self.judge_ends();
    }

    /// At the end every end follows from the ends of the needs.
    fn judge_ends(&mut self) {
        if self.stop.is_some() {
            return;
        }
        for node in (0..self.nodes.len()).map(NodeIx::from_index) {
            let sets = &self.scene.nodes[node.index()].sets;
            let broken = sets.iter().any(|set| self.broken(*set));
            let skipped = matches!(self.ended(node), Some(NodeEnd::Skipped { .. }));
            let must = broken && self.trigger(node) == Trigger::Succeeded;
            let fits = if self.rewound {
                !skipped || broken
            } else {
                !must || skipped
            };
            self.check(fits, "I12", || {
                format!("{node:?} ended although a need is not met")
            });
            let good = matches!(self.ended(node), Some(NodeEnd::Succeeded | NodeEnd::Cached));
            if good && !self.rewound {
                let right = self.value(node) == self.action(node);
                self.check(right, "I1", || {
                    format!("{node:?} has another value than its inputs give")
                });
            }
        }
    }
}
