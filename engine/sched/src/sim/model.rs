//! The simulator's own idea of a run: what the scheduler may do, judged from the events it was told.
//!
//! It shares no code with the scheduler: sets are counted anew from their members each time.

use dagrun_model::{AttemptId, HostIx, NodeIx, Resources, RetryCause, SetIx, Trigger, WorkerIx};
use rustc_hash::{FxHashMap, FxHashSet};

use super::{
    rng::hash2,
    scene::{Condition, Fault, Scene},
};
use crate::{AttemptEnd, Config, Held, NodeEnd, Stop};

mod judge;

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
    /// Its worker had no room for it so far.
    queued: bool,
    started: bool,
    recalled: bool,
    withdrawn: bool,
    /// Since when it waits for others while another worker idles, as far as the scheduler was told.
    waits_in_vain: Option<u64>,
    cancelled: bool,
    /// Nothing else may be where it is.
    alone: bool,
}

#[derive(Clone, Debug)]
pub(crate) struct KnownWorker {
    pub(crate) host: HostIx,
    pub(crate) capacity: Resources,
    pub(crate) free: Resources,
    pub(crate) profile: Option<String>,
    pub(crate) others: Resources,
    pub(crate) draining: bool,
    /// How many attempts it may hold beyond its room.
    pub(crate) ahead: u32,
    /// Its disk has no room, as it says.
    pub(crate) full: bool,
}

impl KnownWorker {
    fn is_able(&self, resources: &Resources, profile: Option<&str>) -> bool {
        let serves = profile.is_none() || self.profile.as_deref() == profile;
        !self.draining && serves && resources.fits(&self.capacity)
    }

    fn may_have_room(&self, shuns: &[HostIx]) -> bool {
        !self.full && !shuns.contains(&self.host)
    }
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
    /// How many workers it killed.
    kills: u32,
    /// Losses that were charged to nobody.
    excused: u32,
    /// Of them, those that this coordinator let pass since they said little of the node.
    passed: u32,
    /// Hosts that had no room for it.
    shuns: Vec<HostIx>,
    /// An attempt that its worker had when it joined.
    adopted: Option<Adopted>,
}

/// An attempt that a node had before it was looked up.
#[derive(Clone, Debug)]
struct Adopted {
    attempt: AttemptId,
    action: u64,
    /// How it ended, where it has.
    end: Option<(Live, AttemptEnd)>,
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
    /// Also of those that are gone.
    host_of: FxHashMap<WorkerIx, HostIx>,
    groups: Vec<Option<HostIx>>,
    host_count: usize,
    /// Actions whose results are durable, with whether their blobs are there.
    pub(crate) results: FxHashMap<u64, bool>,
    /// Those of them that attempts made.
    committed: FxHashSet<u64>,
    /// Actions that run or are being committed, and for which node.
    flights: FxHashMap<u64, NodeIx>,
    pub(crate) stop: Option<Stop>,
    pub(crate) plan_complete: bool,
    pub(crate) finished: bool,
    last_attempt: u64,
    /// Held attempts that no node can use.
    strangers: FxHashSet<u64>,
    /// When workers died that did not leave, and what they had.
    deaths: Vec<(u64, Vec<NodeIx>)>,
    /// Nodes that the scheduler has forgotten, by their first and the one after the last.
    retired: Vec<(u32, u32)>,
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
            host_of: FxHashMap::default(),
            groups,
            host_count: 0,
            results: FxHashMap::default(),
            committed: FxHashSet::default(),
            flights: FxHashMap::default(),
            stop: None,
            plan_complete: false,
            finished: false,
            last_attempt: 0,
            strangers: FxHashSet::default(),
            deaths: Vec::new(),
            retired: Vec::new(),
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
                kills: node.kills,
                excused: node.excused,
                ..NodeFacts::default()
            };
        }
        self.known = 0;
        self.attempts.clear();
        self.workers.clear();
        self.host_count = 0;
        self.groups.fill(None);
        self.flights.clear();
        self.retired.clear();
        self.deaths.clear();
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

    /// A node killed its worker.
    pub(crate) fn killed(&mut self, node: NodeIx) {
        let facts = &mut self.nodes[node.index()];
        facts.kills += 1;
        let (kills, most) = (facts.kills, self.config.max_losses + facts.excused);
        // Attempts that are adopted may have company on their last try.
        let bounded =
            kills <= most || self.scene.has(Fault::Crash) || self.scene.has(Fault::Zombie);
        self.check(bounded, "F14", || {
            format!("{node:?} kills its worker number {kills}")
        });
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

    pub(crate) fn never_cached(&self, node: NodeIx) -> bool {
        self.class(node).never_cache
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
        self.host_of.insert(worker, known.host);
        self.workers[worker.index()] = Some(known);
    }

    /// A worker that joins has an attempt.
    pub(crate) fn told_held(&mut self, worker: WorkerIx, held: &Held, action: u64) {
        let id = held.attempt;
        if self.attempts.contains_key(&id.0) {
            return;
        }
        self.last_attempt = self.last_attempt.max(id.0);
        let is_forgotten = self.is_forgotten(held.node);
        let known = self.workers[worker.index()].as_mut();
        let free = &mut known.expect("it was told of just now").free;
        if is_forgotten || held.node.index() >= self.known || !held.resources.fits(free) {
            self.strangers.insert(id.0);
            return;
        }
        free.take(&held.resources);
        let facts = &mut self.nodes[held.node.index()];
        facts.attempts = facts.attempts.max(held.number);
        let other = facts.running.iter().any(|other| {
            let live = self.attempts.get(&other.0);
            live.is_some_and(|live| !live.moot)
        });
        let useless = facts.end.is_some()
            || facts.committing.is_some()
            || other
            || facts.adopted.as_ref().is_some_and(|it| it.attempt != id)
            || held.action.is_none();
        if !useless {
            facts.adopted = Some(Adopted {
                attempt: id,
                action,
                end: None,
            });
        }
        let live = Live {
            node: held.node,
            worker,
            resources: held.resources.clone(),
            moot: useless,
            queued: false,
            started: true,
            recalled: false,
            withdrawn: false,
            waits_in_vain: None,
            cancelled: false,
            alone: false,
        };
        self.attempts.insert(id.0, live);
    }

    pub(crate) fn told_others(&mut self, worker: WorkerIx, others: Resources) {
        if let Some(Some(known)) = self.workers.get_mut(worker.index()) {
            known.others = others;
        }
    }

    /// Whether a node is there no more: a delta that is to be forgotten stays until the last attempt at one of its nodes has ended.
    fn is_forgotten(&self, node: NodeIx) -> bool {
        let mut retired = self.retired.iter();
        let range = retired.find(|(first, end)| (*first..*end).contains(&node.0));
        range.is_some_and(|(first, end)| {
            let mut live = self.attempts.values();
            !live.any(|live| (*first..*end).contains(&live.node.0))
        })
    }

    /// A delta is to be forgotten.
    pub(crate) fn told_retired(&mut self, first: u32, end: u32) {
        self.retired.push((first, end));
    }

    pub(crate) fn told_draining(&mut self, worker: WorkerIx) {
        if let Some(Some(known)) = self.workers.get_mut(worker.index())
            && !std::mem::replace(&mut known.draining, true)
        {
            let host = known.host;
            self.weakened(host);
            self.rooms_changed();
        }
    }

    /// The disk of a worker has room, or none.
    pub(crate) fn told_room(&mut self, worker: WorkerIx, has: bool) {
        if let Some(Some(known)) = self.workers.get_mut(worker.index())
            && known.full == has
        {
            known.full = !has;
            self.rooms_changed();
        }
    }

    /// Hosts with workers that are passed over may have become too weak for their groups.
    pub(crate) fn rooms_changed(&mut self) {
        let workers = self.workers.iter().flatten();
        let full: Vec<HostIx> = workers.filter(|it| it.full).map(|it| it.host).collect();
        for host in full {
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
        if !known.draining || !lost.is_empty() {
            let nodes = lost.iter().map(|id| self.attempts[id].node).collect();
            self.deaths.push((self.now, nodes));
        }
        for id in lost {
            self.told_end(AttemptId(id), &AttemptEnd::Lost);
        }
        self.weakened(known.host);
        self.rooms_changed();
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
            self.could_take(host, &class.resources, class.executor.as_deref(), &[])
        })
    }

    fn could_take(
        &self,
        host: HostIx,
        resources: &Resources,
        profile: Option<&str>,
        shuns: &[HostIx],
    ) -> bool {
        let somewhere = self.is_room_for(resources, profile, shuns);
        self.workers.iter().flatten().any(|worker| {
            worker.host == host
                && worker.is_able(resources, profile)
                && (worker.may_have_room(shuns) || !somewhere)
        })
    }

    /// Whether some worker could take this, and has room on its disk as far as is known.
    fn is_room_for(&self, resources: &Resources, profile: Option<&str>, shuns: &[HostIx]) -> bool {
        let mut workers = self.workers.iter().flatten();
        workers.any(|worker| worker.is_able(resources, profile) && worker.may_have_room(shuns))
    }

    /// Whether the scheduler has reason to act on the end of this attempt.
    pub(crate) fn told_end(&mut self, id: AttemptId, end: &AttemptEnd) {
        let Some(live) = self.attempts.remove(&id.0) else {
            return;
        };
        if let Some(Some(worker)) = self.workers.get_mut(live.worker.index())
            && !live.queued
        {
            worker.free.give(&live.resources);
        }
        self.begin_what_fits(live.worker);
        let node = live.node;
        self.nodes[node.index()]
            .running
            .retain(|other| *other != id);
        if live.moot {
            return;
        }
        let adopted = self.nodes[node.index()].adopted.as_mut();
        if let Some(adopted) = adopted.filter(|adopted| adopted.attempt == id) {
            // What follows is decided when the node is known to run.
            adopted.end = Some((live, end.clone()));
            return;
        }
        self.follow(id, &live, end);
    }

    /// What follows from the end of an attempt that its node ran as.
    fn follow(&mut self, id: AttemptId, live: &Live, end: &AttemptEnd) {
        let node = live.node;
        let back = !live.cancelled && (live.recalled || *end == AttemptEnd::Cancelled);
        let never_began = !live.started && (live.queued || back);
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
            AttemptEnd::NoRoom => {
                let host = self.host_of[&live.worker];
                let profile = self.class(node).executor.clone();
                let facts = &mut self.nodes[node.index()];
                facts.shuns.push(host);
                let (shuns, beside) = (facts.shuns.clone(), !facts.running.is_empty());
                let elsewhere =
                    beside || self.is_room_for(&live.resources, profile.as_deref(), &shuns);
                if stopped || !elsewhere || shuns.len() > self.config.max_full_disks {
                    let facts = &mut self.nodes[node.index()];
                    facts.failures += 1;
                    facts.hopeless = true;
                } else {
                    self.rooms_changed();
                }
            }
            AttemptEnd::Lost | AttemptEnd::Cancelled if never_began => {
                self.nodes[node.index()].excused += 1;
            }
            AttemptEnd::Cancelled if stopped => {}
            AttemptEnd::Lost | AttemptEnd::Cancelled => self.lose(live),
            AttemptEnd::InputsMissing(producers) => {
                let good = |p: &NodeIx| {
                    p.index() < self.known
                        && !is_in(&self.retired, *p)
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

    /// An attempt that may have begun was lost.
    fn lose(&mut self, live: &Live) {
        let node = live.node;
        if self.has_to_be_alone(node) && !live.alone {
            return;
        }
        let gone = !matches!(self.workers.get(live.worker.index()), Some(Some(_)));
        let since = self
            .now
            .saturating_sub(self.config.burst.as_micros() as u64);
        let elsewhere = |(at, had): &(u64, Vec<NodeIx>)| *at >= since && !had.contains(&node);
        let weak = gone && self.deaths.iter().any(elsewhere);
        let facts = &mut self.nodes[node.index()];
        if weak && facts.passed < self.config.max_losses {
            facts.passed += 1;
            facts.excused += 1;
        } else {
            facts.losses += 1;
        }
    }

    /// Whether a node was near so many losses that it runs alone.
    fn has_to_be_alone(&self, node: NodeIx) -> bool {
        let NodeFacts { losses, passed, .. } = self.nodes[node.index()];
        losses > 0 && losses + 1 >= self.config.max_losses || passed >= self.config.max_losses
    }

    /// A worker begins by itself what it was given ahead, in order.
    fn begin_what_fits(&mut self, worker: WorkerIx) {
        while let Some(Some(known)) = self.workers.get_mut(worker.index()) {
            let waiting = self.attempts.iter_mut();
            let next = waiting
                .filter(|(_, live)| live.worker == worker && live.queued)
                .min_by_key(|(id, _)| **id);
            match next {
                Some((_, live)) if live.resources.fits(&known.free) => {
                    known.free.take(&live.resources);
                    live.queued = false;
                }
                _ => return,
            }
        }
    }

    pub(crate) fn told_started(&mut self, id: AttemptId) {
        if let Some(live) = self.attempts.get_mut(&id.0) {
            live.started = true;
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

    /// A result goes to disk: none goes there again while it is there.
    pub(crate) fn kept(&mut self, node: NodeIx, blobs: bool) {
        let value = self.value(node);
        let before = self.results.insert(value, blobs);
        let new = self.committed.insert(value);
        let again = !new && before == Some(true) && !self.never_cached(node);
        self.check(!again, "I11", || {
            format!("the result of {node:?} is committed again")
        });
    }

    /// The result of an attempt is durable; the scheduler is about to be told.
    pub(crate) fn durable(&mut self, node: NodeIx) {
        self.nodes[node.index()].durable = true;
    }

    pub(crate) fn commit_failed(&mut self, node: NodeIx) {
        self.nodes[node.index()].commit_failed = true;
    }
}

fn is_in(ranges: &[(u32, u32)], node: NodeIx) -> bool {
    let mut ranges = ranges.iter();
    ranges.any(|(first, end)| (*first..*end).contains(&node.0))
}
