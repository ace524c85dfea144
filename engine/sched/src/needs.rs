//! Nodes, their input sets and their ends: what one node's end means for those who need it.
//!
//! Knows nothing of the cache, of attempts or of workers.

use dagrun_model::{NodeIx, PlanDelta, SetIx, Trigger};

use crate::{
    Mutant, NodeEnd, NodeState, Notice, Scheduler,
    graph::{Fate, NONE, Status},
    straggle::JobTimes,
};

impl Scheduler {
    pub(crate) fn extend(&mut self, mut delta: PlanDelta) {
        if self.config.no_fuse {
            delta.nodes.iter_mut().for_each(|node| node.group = None);
        }
        let first = delta.first_node as usize;
        self.graph.extend(delta);
        self.lanes.add_classes(&self.graph.classes);
        self.hosts.sum_up_new(&self.graph);
        let nodes = self.graph.nodes.len();
        self.actions.grow(nodes, &0);
        self.counts.waiting += (nodes - first) as u64;
        let jobs = (first..nodes)
            .map(|node| self.graph.nodes[node].job.index() + 1)
            .max()
            .unwrap_or(0);
        if jobs > self.times.len() {
            self.times.resize_with(jobs, JobTimes::default);
        }
        for node in first..nodes {
            self.count_open(NodeIx::from_index(node));
        }
        for node in (first..nodes).map(NodeIx::from_index) {
            if self.graph.node(node).state != NodeState::Waiting {
                continue;
            }
            if self.stop.is_some() {
                self.end(node, NodeEnd::Cancelled);
            } else {
                self.go_on(node);
            }
        }
    }

    /// Forgets deltas whose nodes are all done and have no attempt that still ends.
    ///
    /// # Panics
    /// When a node of a delta that is to be retired is not done.
    pub(crate) fn retire(&mut self) {
        if self.retiring.is_empty() {
            return;
        }
        for first in std::mem::take(&mut self.retiring) {
            let Some(extent) = self.graph.extent(first) else {
                continue;
            };
            let (nodes, sets) = (extent.nodes.clone(), extent.sets.clone());
            let live = |node: u32| self.graph.nodes[node as usize].live > 0;
            if nodes.clone().any(live) {
                self.retiring.push(first);
                continue;
            }
            for node in nodes.clone() {
                let state = self.graph.nodes[node as usize].state;
                assert!(
                    matches!(state, NodeState::Done(_)),
                    "node {node} is retired and {state:?}"
                );
                *self.retired.of(state) += 1;
                self.resting.remove(&NodeIx(node));
            }
            let wide = nodes.start as usize..nodes.end as usize;
            self.actions.retire(wide.clone());
            self.lanes.retire(wide);
            self.hosts.retire(sets.start as usize..sets.end as usize);
            self.graph.retire(first);
        }
    }

    fn count_open(&mut self, node: NodeIx) {
        let trigger = self.graph.node(node).trigger;
        let sets = &self.graph.sets;
        let closed = |set: &SetIx| sets[set.index()].status.closed_for(trigger);
        let open = self
            .graph
            .sets_of(node)
            .iter()
            .filter(|set| !closed(set))
            .count();
        self.graph.nodes[node.index()].open = open as u32;
    }

    /// Looks up, skips or leaves a waiting node, whatever its sets say.
    pub(crate) fn go_on(&mut self, node: NodeIx) {
        let n = self.graph.node(node);
        if n.trigger == Trigger::Succeeded
            && let Some(set) = self.graph.broken_set(node)
        {
            self.skip(node, set);
        } else if self.graph.node(node).open == 0 {
            self.set_state(node, NodeState::LookingUp);
            self.to_look_up.push(node);
        }
    }

    pub(crate) fn skip(&mut self, node: NodeIx, set: SetIx) {
        let culprit = NodeIx(self.graph.sets[set.index()].culprit);
        self.end(node, NodeEnd::Skipped { because: culprit });
    }

    /// Makes a node terminal; its sets hear of it when the event's own work is done.
    pub(crate) fn end(&mut self, node: NodeIx, end: NodeEnd) {
        let was = self.graph.node(node).state;
        debug_assert!(
            !matches!(was, NodeState::Done(_)),
            "{node:?} ends twice: {:?}",
            self.story(node)
        );
        if was == NodeState::Sharing && self.actions[node.index()] != 0 {
            self.leave_waiters(node);
        }
        self.set_state(node, NodeState::Done(end));
        let fate = self.fate_of(node, end);
        self.graph.nodes[node.index()].fate = fate;
        self.ended.push_back(node);
        self.emit(Notice::NodeDone { node, end });
        self.forsake(node);
        self.land(node, end);
        if end == NodeEnd::Failed && fate == Fate::Bad && self.config.fail_fast {
            self.fail_fast_tripped = true;
        }
    }

    fn fate_of(&self, node: NodeIx, end: NodeEnd) -> Fate {
        match end {
            NodeEnd::Cached | NodeEnd::Succeeded => Fate::Good,
            NodeEnd::Failed
                if self.graph.class(node).continue_on_error
                    && !self.mutant(Mutant::ContinueIgnored) =>
            {
                Fate::Good
            }
            NodeEnd::ConditionFalse if self.mutant(Mutant::ConditionFails) => Fate::Bad,
            NodeEnd::ConditionFalse => Fate::Dropped,
            NodeEnd::Skipped { because } => match self.graph.node(because).fate {
                Fate::Dropped => Fate::Dropped,
                _ => Fate::Bad,
            },
            NodeEnd::Failed | NodeEnd::Cancelled => Fate::Bad,
        }
    }

    /// Tells sets of their members' ends, and their consumers, until nothing changes any more.
    pub(crate) fn settle(&mut self) {
        while let Some(node) = self.ended.pop_front() {
            let fate = self.graph.node(node).fate;
            let mut sets = self.graph.memberships(node);
            while let Some(set) = self.graph.next_membership(&mut sets) {
                self.member_ended(set, node, fate);
            }
        }
    }

    fn member_ended(&mut self, at: SetIx, member: NodeIx, fate: Fate) {
        self.hosts.count_bytes(at, self.graph.node(member), true);
        let bytes = self.graph.node(member).bytes;
        let set = &mut self.graph.sets[at.index()];
        set.pending -= 1;
        match fate {
            Fate::Good => {
                set.good += 1;
                set.bytes += bytes;
            }
            Fate::Dropped => set.dropped += 1,
            Fate::Bad | Fate::Pending => set.bad += 1,
        }
        let breaks =
            fate == Fate::Bad || fate == Fate::Dropped && (!set.gather || set.min.is_some());
        if breaks && set.culprit == NONE {
            set.culprit = member.0;
        }
        self.set_changed(at);
    }

    pub(crate) fn set_changed(&mut self, at: SetIx) {
        let min_ignored = self.mutant(Mutant::MinIgnored);
        let early = self.mutant(Mutant::GatherEarly);
        let set = &mut self.graph.sets[at.index()];
        let was = set.status;
        set.status = set.evaluate(min_ignored);
        if early && set.gather && set.pending == 1 && set.status == Status::Open {
            set.status = Status::Satisfied;
        }
        let is = set.status;
        if was == is {
            return;
        }
        let mut consumers = self.graph.consumers(at);
        while let Some(node) = self.graph.next_consumer(&mut consumers) {
            self.need_changed(node, at, was, is);
        }
    }

    fn need_changed(&mut self, node: NodeIx, set: SetIx, was: Status, is: Status) {
        let ignored = self.mutant(Mutant::TriggerIgnored);
        let n = &mut self.graph.nodes[node.index()];
        let trigger = if ignored {
            Trigger::Succeeded
        } else {
            n.trigger
        };
        match (was.closed_for(trigger), is.closed_for(trigger)) {
            (false, true) => n.open -= 1,
            (true, false) => n.open += 1,
            _ => {}
        }
        let (open, state) = (n.open, n.state);
        if trigger == Trigger::Succeeded && is.broken() {
            if matches!(state, NodeState::Waiting | NodeState::LookingUp)
                && !(self.mutant(Mutant::SkipForgets) && self.skipped_by(set))
            {
                self.skip(node, set);
            }
        } else if open == 0 {
            if state == NodeState::Waiting {
                self.go_on(node);
            }
        } else if !is.closed_for(trigger) {
            self.retract(node);
        }
    }

    fn skipped_by(&self, set: SetIx) -> bool {
        let culprit = NodeIx(self.graph.sets[set.index()].culprit);
        matches!(
            self.graph.node(culprit).state,
            NodeState::Done(NodeEnd::Skipped { .. })
        )
    }

    /// Takes a node back that has not started, because one of its sets was opened again.
    fn retract(&mut self, node: NodeIx) {
        match self.graph.node(node).state {
            NodeState::Queued { .. } | NodeState::Running { .. }
                if self.mutant(Mutant::OutOfDate) => {}
            NodeState::LookingUp | NodeState::Queued { .. } | NodeState::Running { .. } => {
                self.graph.nodes[node.index()].ask_again = true;
            }
            NodeState::Sharing => {
                self.leave_waiters(node);
                self.set_state(node, NodeState::Waiting);
            }
            state @ (NodeState::Ready { .. } | NodeState::BackingOff { .. }) => {
                if let NodeState::BackingOff { until, .. } = state
                    && !self.mutant(Mutant::RestForgotten)
                {
                    self.resting.insert(node, until);
                }
                self.set_state(node, NodeState::Waiting);
                self.hand_over(node);
            }
            _ => {}
        }
    }
}
