//! The scheduler: events in, actions out.
//!
//! Owns: the state of every node, the ready queue, placement, retries, losses, speculation, cancellation and draining.
//! Knows nothing of time, files, processes, names or commands: time is an argument, what to do is a list of [`Action`]s
//! that the driver executes in order.
//!
//! A node waits on input sets. When they are closed it is looked up; a hit is done at once, a miss waits for an equal
//! action that is under way or becomes ready, gets a slot, runs, and is done when its result is durable. Only then do
//! its dependents go on.
//!
//! What is decided here, where the pipeline language leaves it open:
//! - A node that waits for an equal action which then fails tries itself, with its own retries.
//! - A gather whose members all drop out is satisfied, unless it has a `min`.
//! - A node skipped because the `if` of a need is false drops out of gathers, like that need would.
//! - A node with its own `if` on a need that failed is skipped, not false, when its `if` is false.
//! - An attempt that fails after a stop was asked for is not tried again: its node failed.

#![forbid(unsafe_code)]

mod adopt;
mod ahead;
mod attempts;
mod blame;
mod check;
mod chunks;
mod config;
mod crowd;
mod event;
mod explain;
mod flights;
mod graph;
mod lanes;
mod mutant;
mod needs;
mod place;
mod queue;
mod replicas;
mod roomless;
#[cfg(feature = "sim")]
pub mod sim;
mod stop;
mod straggle;
mod view;
mod workers;

use std::collections::VecDeque;

use dagrun_model::{AttemptId, NodeIx, Paged};
use rustc_hash::FxHashMap;

pub use config::*;
pub use event::*;
pub use mutant::*;
pub use view::*;

use adopt::Adopted;
use ahead::Recent;
use attempts::{Attempt, Timer};
use blame::Deaths;
use crowd::Crowd;
use flights::Flight;
use graph::Graph;
use lanes::Lanes;
use straggle::JobTimes;
use workers::{Hosts, Worker};

/// The scheduler of one run.
#[derive(Debug)]
pub struct Scheduler {
    config: Config,
    now: Time,
    /// The actions of the event that is being handled.
    out: Vec<Action>,
    graph: Graph,
    hosts: Hosts,
    lanes: Lanes,
    counts: StateCounts,
    /// Of `counts`, nodes that were retired.
    retired: StateCounts,
    /// First nodes of deltas that are to be retired once their last attempts have ended.
    retiring: Vec<NodeIx>,
    /// Workers that were lost lately.
    deaths: Deaths,
    /// By node: the action that it was a miss for, or 0.
    actions: Paged<u128>,
    /// Actions that are queued, run or are being committed. Only looked up, never walked.
    flights: FxHashMap<u64, Flight>,
    /// Live attempts. Only looked up, never walked.
    attempts: FxHashMap<u64, Attempt>,
    next_attempt: u64,
    /// Nodes that are not looked up yet and have attempts already. Only looked up, never walked.
    adopted: FxHashMap<NodeIx, Adopted>,
    /// Ends that were kept until their nodes were looked up, and that are due now.
    late_ends: VecDeque<(AttemptId, Attempt, AttemptEnd)>,
    /// Nodes that must not start before a time. Only looked up, never walked.
    resting: FxHashMap<NodeIx, Time>,
    timers: FxHashMap<u64, Timer>,
    next_timer: u64,
    next_seq: u64,
    /// The number of the dispatch.
    round: u64,
    /// Where the next look at some of many workers begins.
    cursor: usize,
    /// Nodes that became terminal, whose sets do not know it yet.
    ended: VecDeque<NodeIx>,
    to_look_up: Vec<NodeIx>,
    /// By job: how long its attempts take.
    times: Vec<JobTimes>,
    stragglers: Vec<AttemptId>,
    /// A second attempt may find room that it did not find before.
    seconds_due: bool,
    speculation: Speculation,
    /// A look at what runs on slow workers is due.
    rescue_due: bool,
    /// How long attempts of all jobs took.
    recent: Recent,
    /// Live attempts that were asked back.
    recalled: u32,
    crowd: Crowd,
    story: Vec<Entry>,
    story_len: u64,
    stop: Option<Stop>,
    fail_fast_tripped: bool,
    plan_complete: bool,
    finished: bool,
    stuck_told: bool,
    /// A worker was without room, or a host had none for a node.
    roomless: bool,
}

/// An entry of the common story: a ring in which each node's entries are chained backwards.
#[derive(Clone, Copy, Debug)]
struct Entry {
    node: u32,
    previous: u32,
    step: Step,
}

impl Scheduler {
    /// A scheduler without nodes and workers.
    pub fn new(config: Config) -> Self {
        Self {
            next_attempt: config.first_attempt,
            config,
            now: Time(0),
            out: Vec::new(),
            graph: Graph::default(),
            hosts: Hosts::default(),
            lanes: Lanes::default(),
            counts: StateCounts::default(),
            retired: StateCounts::default(),
            retiring: Vec::new(),
            deaths: Deaths::default(),
            actions: Paged::default(),
            flights: FxHashMap::default(),
            attempts: FxHashMap::default(),
            adopted: FxHashMap::default(),
            late_ends: VecDeque::new(),
            resting: FxHashMap::default(),
            timers: FxHashMap::default(),
            next_timer: 0,
            next_seq: 0,
            round: 0,
            cursor: 0,
            ended: VecDeque::new(),
            to_look_up: Vec::new(),
            times: Vec::new(),
            stragglers: Vec::new(),
            seconds_due: false,
            speculation: Speculation::default(),
            rescue_due: false,
            recent: Recent::default(),
            recalled: 0,
            crowd: Crowd::default(),
            story: Vec::new(),
            story_len: 0,
            stop: None,
            fail_fast_tripped: false,
            plan_complete: false,
            finished: false,
            stuck_told: false,
            roomless: false,
        }
    }

    /// Takes an event and appends what is to be done to `actions`.
    ///
    /// Events that are late, doubled or about things that are not there change nothing.
    ///
    /// # Panics
    /// When a [`Event::PlanExtended`] does not go on where the plan so far ends.
    pub fn handle(&mut self, now: Time, event: Event, actions: &mut Vec<Action>) {
        self.now = self.now.max(now);
        std::mem::swap(&mut self.out, actions);
        self.apply(event);
        self.settle();
        self.act_on_late_ends();
        if std::mem::take(&mut self.fail_fast_tripped) {
            self.request_stop(Stop::Drain);
            self.settle();
        }
        self.retire();
        self.flush_look_ups();
        self.dispatch();
        self.finish();
        std::mem::swap(&mut self.out, actions);
    }

    fn apply(&mut self, event: Event) {
        match event {
            Event::PlanExtended(delta) => self.extend(delta),
            Event::PlanComplete => self.plan_complete = true,
            Event::Retire(first) => self.retiring.push(first),
            Event::WorkerJoined {
                worker,
                host,
                capacity,
                profile,
                ahead,
                speed,
                held,
            } => {
                self.stuck_told = false;
                let joined = Worker::new(host, capacity, profile, ahead, speed);
                if self.hosts.join(worker, joined, &self.graph) {
                    for held in held {
                        self.adopt(worker, held);
                    }
                    self.rooms_changed();
                }
            }
            Event::TakenByOthers(taken) => self.taken_by_others(taken),
            Event::WorkerDraining(worker) => self.worker_draining(worker),
            Event::WorkerLost(worker) => self.worker_lost(worker),
            Event::WorkerHasRoom(worker, has) => self.worker_has_room(worker, has),
            Event::CacheAnswered(answers) => {
                for (node, answer) in answers {
                    self.cache_answered(node, answer);
                    // An attempt that has ended is in nobody's way: what is under way for the same work is not given up for it.
                    if !self.late_ends.is_empty() {
                        self.settle();
                        self.act_on_late_ends();
                    }
                }
            }
            Event::AttemptStarted(attempt) => self.attempt_started(attempt),
            Event::AttemptEnded { attempt, end, ran } => self.attempt_ended(attempt, end, ran),
            Event::Committed(node) => self.committed(node, true),
            Event::CommitFailed(node) => self.committed(node, false),
            Event::Restore {
                node,
                failures,
                losses,
            } => self.restore(node, failures, losses),
            Event::ReplicaAdded { node, host } => self.replica(node, host, true),
            Event::ReplicaDropped { node, host } => self.replica(node, host, false),
            Event::TimerFired(timer) => self.timer_fired(timer),
            Event::StopRequested(stop) => self.request_stop(stop),
        }
    }

    /// How many nodes are in each state.
    pub fn counts(&self) -> StateCounts {
        self.counts
    }

    /// What second attempts cost so far.
    pub fn speculation(&self) -> Speculation {
        self.speculation
    }

    /// Where a node is; nothing where there is no such node.
    pub fn state(&self, node: NodeIx) -> Option<NodeState> {
        self.graph.nodes.get(node.index()).map(|n| n.state)
    }

    /// How many attempts at a node failed, and how many were lost.
    pub fn charged(&self, node: NodeIx) -> (u32, u32) {
        let node = self.graph.node(node);
        (node.failures.into(), node.losses.into())
    }

    /// The last steps of a node, oldest first, at most 32; steps of long ago may be forgotten.
    pub fn story(&self, node: NodeIx) -> Vec<Step> {
        let Some(mut at) = self.graph.nodes.get(node.index()).map(|n| n.last_story) else {
            return Vec::new();
        };
        let mut steps = Vec::new();
        while at != 0 && steps.len() < 32 {
            if self.story_len - u64::from(at - 1) > self.config.story as u64 {
                break;
            }
            let entry = self.story[(at - 1) as usize % self.config.story];
            if entry.node != node.0 {
                break;
            }
            steps.push(entry.step);
            at = entry.previous;
        }
        steps.reverse();
        steps
    }

    fn mutant(&self, mutant: Mutant) -> bool {
        #[cfg(feature = "mutants")]
        return self.config.mutant == Some(mutant);
        #[cfg(not(feature = "mutants"))]
        {
            let _ = mutant;
            false
        }
    }

    /// The one place where a node changes its state; counts and queues follow here.
    fn set_state(&mut self, node: NodeIx, state: NodeState) {
        let old = std::mem::replace(&mut self.graph.nodes[node.index()].state, state);
        *self.counts.of(old) -= 1;
        *self.counts.of(state) += 1;
        if let NodeState::Ready { .. } = old {
            self.lanes.left(node);
        }
        if let NodeState::Ready { seq, .. } = state {
            self.push_ready(node, seq);
        }
        self.tell_story(node, state);
    }

    fn tell_story(&mut self, node: NodeIx, state: NodeState) {
        if self.config.story == 0 || self.story_len >= u64::from(u32::MAX) - 1 {
            return;
        }
        let last = &mut self.graph.nodes[node.index()].last_story;
        let step = Step {
            at: self.now,
            state,
        };
        let entry = Entry {
            node: node.0,
            previous: *last,
            step,
        };
        *last = self.story_len as u32 + 1;
        if self.story.len() < self.config.story {
            self.story.push(entry);
        } else {
            let at = self.story_len as usize % self.config.story;
            self.story[at] = entry;
        }
        self.story_len += 1;
    }

    fn emit(&mut self, notice: Notice) {
        self.out.push(Action::Emit(notice));
    }

    fn set_timer(&mut self, at: Time, timer: Timer) -> TimerId {
        let id = TimerId(self.next_timer);
        self.next_timer += 1;
        self.timers.insert(id.0, timer);
        self.out.push(Action::SetTimer { id, at });
        id
    }

    fn flush_look_ups(&mut self) {
        let mut nodes = std::mem::take(&mut self.to_look_up);
        nodes.retain(|node| self.may_be_asked(*node));
        if !nodes.is_empty() {
            self.out.push(Action::LookUp(nodes));
        }
    }

    /// Whether a node that is about to be looked up still may: one event may rewind needs of what another of its parts made ready.
    fn may_be_asked(&mut self, node: NodeIx) -> bool {
        if self.graph.node(node).state != NodeState::LookingUp {
            return false;
        }
        let n = &mut self.graph.nodes[node.index()];
        let asks = n.open == 0;
        n.ask_again = false;
        if !asks {
            self.set_state(node, NodeState::Waiting);
        }
        asks
    }

    fn finish(&mut self) {
        if self.finished {
            return;
        }
        let done = self.counts.done() == self.counts.total() && self.plan_complete;
        if done && (self.attempts.is_empty() || self.mutant(Mutant::FinishEarly)) {
            self.finished = true;
            self.out.push(Action::Finish);
        } else if self.is_stuck() && !self.stuck_told {
            self.stuck_told = true;
            let nodes = self.lanes.some_ready(16, |n| self.state(n));
            self.emit(Notice::Stuck { nodes });
        }
    }

    /// Whether workers come and go, and none is here that takes new nodes: what is ready waits for one.
    pub fn awaits_a_worker(&self) -> bool {
        self.config.awaits_workers && !self.has_a_worker()
    }

    /// Whether some worker takes new nodes: one that drains does not.
    pub fn has_a_worker(&self) -> bool {
        self.hosts.take_any()
    }

    fn is_stuck(&self) -> bool {
        let counts = &self.counts;
        let moving = counts.looking_up
            + counts.queued
            + counts.backing_off
            + counts.running
            + counts.committing;
        counts.ready > 0
            && moving == 0
            && self.stop.is_none()
            && self.attempts.is_empty()
            && self.hosts.joined >= self.config.expected_workers
            && !self.awaits_a_worker()
            && !self.lanes.any_held()
    }
}

/// A number that looks random and depends on nothing but its arguments.
fn mix(seed: u64, a: u64, b: u64) -> u64 {
    let mut z =
        seed ^ a.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ b.wrapping_mul(0xD1B5_4A32_D192_ED03);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}
