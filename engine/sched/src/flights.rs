//! What the cache says, and equal actions: one flies, the others wait for it.
//!
//! Waiters of an action are a list through the nodes, from the one that does it. If it succeeds they are cached; if it
//! fails or must wait for its inputs again, the first waiter does it.

use dagrun_model::NodeIx;

use crate::{
    CacheAnswer, Mutant, NodeEnd, NodeState, Scheduler, Time, attempts::Timer, graph::NONE,
};

/// An action that is under way: who does it, and the end of the list of those who wait for it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Flight {
    pub(crate) leader: NodeIx,
    tail: NodeIx,
}

impl Scheduler {
    pub(crate) fn cache_answered(&mut self, node: NodeIx, answer: CacheAnswer) {
        if self.state(node) != Some(NodeState::LookingUp) {
            return;
        }
        if std::mem::take(&mut self.graph.nodes[node.index()].ask_again) {
            self.set_state(node, NodeState::Waiting);
            self.go_on(node);
            return;
        }
        match answer {
            CacheAnswer::Hit { bytes } => {
                self.graph.nodes[node.index()].bytes = bytes;
                self.end(node, NodeEnd::Cached);
            }
            CacheAnswer::Miss { action } => self.missed(node, action.map(|digest| digest.0)),
            CacheAnswer::ConditionFalse => match self.graph.broken_set(node) {
                Some(set) => self.skip(node, set),
                None => self.end(node, NodeEnd::ConditionFalse),
            },
            CacheAnswer::Unrunnable => self.end(node, NodeEnd::Failed),
        }
    }

    fn missed(&mut self, node: NodeIx, action: Option<[u8; 32]>) {
        let (failures, losses) = self.charged(node);
        if failures > self.graph.class(node).max_retries || losses >= self.config.max_losses {
            self.end(node, NodeEnd::Failed);
            return;
        }
        let Some(digest) = action.filter(|_| !self.mutant(Mutant::SingleFlightLost)) else {
            self.actions[node.index()] = 0;
            self.begin(node, 0);
            return;
        };
        let full = short(digest);
        let flight = self.flights.get(&(full as u64)).copied();
        match flight {
            None => {
                self.actions[node.index()] = full;
                self.flights.insert(
                    full as u64,
                    Flight {
                        leader: node,
                        tail: node,
                    },
                );
                self.begin(node, full);
            }
            Some(flight) if self.actions[flight.leader.index()] == full => {
                self.actions[node.index()] = full;
                self.graph.nodes[flight.tail.index()].next_waiter = node.0;
                self.flights.insert(
                    full as u64,
                    Flight {
                        tail: node,
                        ..flight
                    },
                );
                self.set_state(node, NodeState::Sharing);
                self.share_adopted(node, flight.leader);
            }
            // Two actions share 64 bits of their digests: this one runs for itself.
            Some(_) => {
                self.actions[node.index()] = 0;
                self.begin(node, full);
            }
        }
    }

    /// Runs a node that was a miss as the attempt that it has already, or makes it ready.
    fn begin(&mut self, node: NodeIx, action: u128) {
        if !self.run_adopted(node, action) {
            self.enqueue(node, self.now);
        }
    }

    /// Puts a waiter before its leader, which has not begun: now that one waits.
    pub(crate) fn take_over(&mut self, node: NodeIx, leader: NodeIx) {
        if let NodeState::BackingOff { until, .. } = self.graph.node(leader).state {
            self.resting.insert(leader, until);
        }
        self.leave_waiters(node);
        let full = self.actions[leader.index()];
        self.actions[node.index()] = full;
        self.graph.nodes[node.index()].next_waiter = leader.0;
        if let Some(flight) = self.flights.get_mut(&(full as u64)) {
            flight.leader = node;
        }
        self.set_state(leader, NodeState::Sharing);
    }

    fn flight_led_by(&self, node: NodeIx) -> Option<Flight> {
        let key = self.actions[node.index()];
        let flight = self.flights.get(&(key as u64)).copied();
        flight.filter(|flight| key != 0 && flight.leader == node)
    }

    pub(crate) fn leader(&self, node: NodeIx) -> Option<NodeIx> {
        let key = self.actions[node.index()];
        self.flights.get(&(key as u64)).map(|flight| flight.leader)
    }

    /// Ends the flight that a terminal node led: its waiters have the same result, or the first of them tries.
    pub(crate) fn land(&mut self, node: NodeIx, end: NodeEnd) {
        if self.flight_led_by(node).is_none() {
            return;
        }
        if end != NodeEnd::Succeeded && end != NodeEnd::Cached {
            self.hand_over(node);
            return;
        }
        self.flights.remove(&(self.actions[node.index()] as u64));
        let bytes = self.graph.node(node).bytes;
        let replicas = self.graph.node(node).replicas.clone();
        let mut next = std::mem::replace(&mut self.graph.nodes[node.index()].next_waiter, NONE);
        while next != NONE {
            let waiter = &mut self.graph.nodes[next as usize];
            let after = std::mem::replace(&mut waiter.next_waiter, NONE);
            waiter.bytes = bytes;
            waiter.replicas.clone_from(&replicas);
            self.actions[next as usize] = 0;
            self.end(NodeIx(next), NodeEnd::Cached);
            next = after;
        }
    }

    /// The first waiter takes over from a leader that will not do the action now.
    pub(crate) fn hand_over(&mut self, node: NodeIx) {
        let Some(flight) = self.flight_led_by(node) else {
            return;
        };
        let key = self.actions[node.index()] as u64;
        self.actions[node.index()] = 0;
        let first = std::mem::replace(&mut self.graph.nodes[node.index()].next_waiter, NONE);
        if first == NONE || self.mutant(Mutant::WaitersForgotten) {
            self.flights.remove(&key);
            return;
        }
        self.flights.insert(
            key,
            Flight {
                leader: NodeIx(first),
                ..flight
            },
        );
        self.enqueue(NodeIx(first), self.now);
    }

    pub(crate) fn leave_waiters(&mut self, node: NodeIx) {
        let key = self.actions[node.index()] as u64;
        let after = std::mem::replace(&mut self.graph.nodes[node.index()].next_waiter, NONE);
        self.actions[node.index()] = 0;
        let Some(flight) = self.flights.get_mut(&key) else {
            return;
        };
        let mut at = flight.leader.0;
        while at != NONE && self.graph.nodes[at as usize].next_waiter != node.0 {
            at = self.graph.nodes[at as usize].next_waiter;
        }
        if at != NONE {
            self.graph.nodes[at as usize].next_waiter = after;
            if flight.tail == node {
                flight.tail = NodeIx(at);
            }
        }
    }

    /// Makes a node ready, as it was since a time, or lets it rest first where its last failure was too short ago.
    pub(crate) fn enqueue(&mut self, node: NodeIx, since: Time) {
        if let Some(until) = self.resting.remove(&node)
            && until > self.now
        {
            self.rest(node, until);
            return;
        }
        let seq = self.next_seq;
        self.next_seq += 1;
        self.set_state(node, NodeState::Ready { since, seq });
    }

    fn rest(&mut self, node: NodeIx, until: Time) {
        let timer = self.set_timer(until, Timer::Retry(node));
        self.set_state(node, NodeState::BackingOff { timer, until });
    }
}

/// What the table of actions keeps of a digest.
pub(crate) fn short(digest: [u8; 32]) -> u128 {
    u128::from_le_bytes(digest[..16].try_into().expect("a digest has 32 bytes"))
}
