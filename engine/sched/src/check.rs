//! The scheduler's own oracle: every count made anew from scratch.

use std::collections::BTreeMap;

use dagrun_model::{HostIx, NodeIx, SetIx};

use crate::{
    NodeState, Scheduler,
    graph::{Fate, NONE},
    queue::Entry,
};

macro_rules! ensure {
    ($holds:expr, $($text:tt)+) => {
        if !$holds {
            return Err(format!($($text)+));
        }
    };
}

impl Scheduler {
    /// Checks everything that must hold between two events, in time proportional to the size of the plan.
    ///
    /// # Errors
    /// The first thing that does not hold, in words.
    pub fn check_invariants(&self) -> Result<(), String> {
        self.check_sets()?;
        self.check_nodes()?;
        self.check_lanes()?;
        self.check_workers()
    }

    fn check_sets(&self) -> Result<(), String> {
        for ix in self.graph.live_sets() {
            let set = &self.graph.sets[ix];
            let mut members = self.graph.members(SetIx::from_index(ix)).iter();
            // What a set gathers may go before it, while an attempt at one of its readers still ends.
            if members.any(|member| !self.graph.is_live(*member)) {
                continue;
            }
            let (mut pending, mut good, mut dropped, mut bad, mut bytes) = (0, 0, 0, 0, 0);
            for member in self.graph.members(SetIx::from_index(ix)) {
                let member = self.graph.node(*member);
                match member.fate {
                    Fate::Pending => pending += 1,
                    Fate::Good => {
                        good += 1;
                        bytes += member.bytes;
                    }
                    Fate::Dropped => dropped += 1,
                    Fate::Bad => bad += 1,
                }
            }
            ensure!(
                (pending, good, dropped, bad, bytes)
                    == (set.pending, set.good, set.dropped, set.bad, set.bytes),
                "counts of set {ix} are {set:?}"
            );
            for host in (0..self.hosts.count).map(HostIx::from_index) {
                let members = self.graph.members(SetIx::from_index(ix)).iter();
                let here = members
                    .map(|m| self.graph.node(*m))
                    .filter(|m| m.fate == Fate::Good && m.replicas.has(host));
                let here: u64 = here.map(|m| m.bytes).sum();
                let known = match self.hosts.many() {
                    true => self.hosts.bytes_at(SetIx::from_index(ix), host),
                    false => here,
                };
                ensure!(
                    here == known,
                    "set {ix} has {here} bytes on {host:?}, not {known}"
                );
            }
            ensure!(
                set.status == set.evaluate(false),
                "set {ix} is not {:?}",
                set.status
            );
        }
        Ok(())
    }

    fn check_nodes(&self) -> Result<(), String> {
        let mut counts = self.retired;
        for ix in self.graph.live_nodes() {
            let node = NodeIx::from_index(ix);
            let n = self.graph.node(node);
            *counts.of(n.state) += 1;
            let closed = |set: &&SetIx| self.graph.sets[set.index()].status.closed_for(n.trigger);
            let sets = self.graph.sets_of(node);
            let open = sets.len() - sets.iter().filter(closed).count();
            ensure!(
                open == n.open as usize,
                "{node:?} has {open} open sets, not {}",
                n.open
            );
            let done = matches!(n.state, NodeState::Done(_));
            ensure!(
                done != (n.fate == Fate::Pending),
                "{node:?} is {:?} and {:?}",
                n.state,
                n.fate
            );
            let started = !matches!(n.state, NodeState::Waiting | NodeState::LookingUp);
            ensure!(
                open == 0 || !started || done || self.runs(n.state),
                "{node:?} is {:?} with open sets",
                n.state
            );
            ensure!(
                n.state != NodeState::Waiting || open > 0,
                "{node:?} waits for nothing: {:?}",
                self.story(node)
            );
            if let NodeState::Running { attempt, second } = n.state {
                for id in [Some(attempt), second].into_iter().flatten() {
                    let known = self.attempts.get(&id.0).is_some_and(|a| a.node == node);
                    ensure!(known, "{node:?} runs as {id}, which is not live");
                }
            }
            if let NodeState::Queued { attempt } = n.state {
                let known = self.attempts.get(&attempt.0);
                ensure!(
                    known.is_some_and(|a| a.node == node && a.queued && !a.started),
                    "{node:?} is queued as {attempt}, which is not"
                );
            }
            self.check_adopted(node)?;
            if n.state == NodeState::Sharing {
                let leader = self.leader(node);
                ensure!(
                    leader.is_some_and(|l| l != node),
                    "{node:?} shares with {leader:?}"
                );
            }
        }
        ensure!(
            counts == self.counts,
            "counts are {counts:?}, not {:?}",
            self.counts
        );
        Ok(())
    }

    fn check_adopted(&self, node: NodeIx) -> Result<(), String> {
        let Some(adopted) = self.adopted.get(&node) else {
            return Ok(());
        };
        let state = self.graph.node(node).state;
        ensure!(
            matches!(state, NodeState::Waiting | NodeState::LookingUp),
            "{node:?} is {state:?} and has an attempt that it does not use"
        );
        let live = self.attempts.contains_key(&adopted.attempt.0);
        ensure!(
            live != adopted.end.is_some(),
            "{node:?} keeps {adopted:?}, live: {live}"
        );
        Ok(())
    }

    fn runs(&self, state: NodeState) -> bool {
        matches!(
            state,
            NodeState::Queued { .. } | NodeState::Running { .. } | NodeState::Committing { .. }
        )
    }

    fn check_lanes(&self) -> Result<(), String> {
        let mut live = 0;
        for (ix, lane) in self.lanes.lanes.iter().enumerate() {
            let ix = ix as u32;
            let counted = |entry: &Entry| self.lanes.counts(ix, *entry, self.state(entry.node));
            let entries = lane.queue.iter().filter(counted).count();
            ensure!(
                entries == lane.live as usize,
                "lane {ix} has {entries} nodes, not {}",
                lane.live
            );
            live += u64::from(lane.live);
            let offered = lane.live > 0 && lane.held.is_none() && !self.stopped();
            let taker = self.hosts.live().find(|(_, worker)| self.takes(worker, ix));
            if let (true, Some((worker, _))) = (offered, taker) {
                let movable = lane
                    .queue
                    .iter()
                    .filter(counted)
                    .any(|entry| self.bound_host(entry.node) == lane.host);
                ensure!(!movable, "{worker:?} could take a node of lane {ix}");
            }
        }
        ensure!(
            live == self.counts.ready,
            "{live} nodes are in lanes, {} ready",
            self.counts.ready
        );
        Ok(())
    }

    fn check_workers(&self) -> Result<(), String> {
        let mut live = 0;
        for (ix, worker) in self.hosts.live() {
            let mut free = worker.capacity.clone();
            for id in &worker.attempts {
                let attempt = self.attempts.get(&id.0);
                ensure!(
                    attempt.is_some_and(|a| a.worker == ix),
                    "{id} is not live on {ix:?}"
                );
                let demand = attempt.map(|a| self.lanes.demand(a.shape));
                ensure!(
                    demand.is_some_and(|d| d.fits(&free)),
                    "{ix:?} has more than it can take"
                );
                free.take(demand.unwrap_or(&dagrun_model::Resources::none()));
                live += 1;
            }
            let alone = worker
                .attempts
                .iter()
                .filter_map(|id| self.attempts.get(&id.0));
            let alone = alone.filter(|a| a.alone).count();
            let others = worker.attempts.len() + worker.queue.len() - alone;
            ensure!(
                worker.alone == (alone > 0) && (alone == 0 || alone == 1 && others == 0),
                "{ix:?} has {alone} attempts that run alone, and {others} others"
            );
            let mut micros = 0;
            for id in &worker.queue {
                let attempt = self.attempts.get(&id.0);
                ensure!(
                    attempt.is_some_and(|a| a.worker == ix && a.queued),
                    "{id} does not wait at {ix:?}"
                );
                micros += attempt.map_or(0, |a| a.expected);
                live += 1;
            }
            ensure!(
                micros == worker.queue_micros && worker.queue.len() <= worker.ahead as usize,
                "{ix:?} holds {:?}, {micros} µs",
                worker.queue
            );
            let head = worker.queue.front().and_then(|id| self.attempts.get(&id.0));
            ensure!(
                head.is_none_or(|a| !self.lanes.demand(a.shape).fits(&worker.free)),
                "{ix:?} has room for what it holds"
            );
            free.named.retain(|_, amount| *amount > 0);
            let mut known = worker.free.clone();
            known.named.retain(|_, amount| *amount > 0);
            ensure!(free == known, "{ix:?} has {free:?} free, not {known:?}");
        }
        ensure!(
            live == self.attempts.len(),
            "{} attempts are live on {live} slots",
            self.attempts.len()
        );
        let mut by_node: BTreeMap<NodeIx, u32> = BTreeMap::new();
        for attempt in self.attempts.values() {
            *by_node.entry(attempt.node).or_default() += 1;
        }
        for node in self.graph.live_nodes().map(NodeIx::from_index) {
            let known = by_node.get(&node).copied().unwrap_or(0);
            let live = self.graph.node(node).live;
            ensure!(
                known == live,
                "{node:?} has {known} live attempts, not {live}"
            );
        }
        let recalled = self.attempts.values().filter(|a| a.recalled).count();
        ensure!(
            recalled == self.recalled as usize,
            "{recalled} attempts are asked back, not {}",
            self.recalled
        );
        for id in self.graph.live_nodes() {
            let next = self.graph.nodes[id].next_waiter;
            ensure!(
                next == NONE || self.actions[next as usize] == self.actions[id],
                "node {id} is followed by {next}, which waits for another action"
            );
        }
        Ok(())
    }
}
