//! Why a node does not start.

use dagrun_model::{NodeIx, Resources};

use crate::{NodeState, Obstacle, OpenSet, Scheduler, Unfit, WhyWaiting, workers::Worker};

impl Scheduler {
    /// Why a node does not run, for `dagrun explain` and for messages.
    pub fn explain(&self, node: NodeIx) -> WhyWaiting {
        match self.state(node) {
            None => WhyWaiting::Unknown,
            Some(NodeState::Waiting) => WhyWaiting::Needs(self.open_sets(node)),
            Some(NodeState::LookingUp) => WhyWaiting::LookingUp,
            Some(NodeState::Sharing) => WhyWaiting::SharesWith(self.leader(node).unwrap_or(node)),
            Some(NodeState::BackingOff { until, .. }) => WhyWaiting::BackingOff { until },
            Some(NodeState::Ready { .. }) => WhyWaiting::NoWorker(self.obstacles(node)),
            Some(state) => match self.waits_for_others(node) {
                Some(worker) => WhyWaiting::Crowded(worker),
                None => WhyWaiting::NotWaiting(state),
            },
        }
    }

    fn open_sets(&self, node: NodeIx) -> Vec<OpenSet> {
        let trigger = self.graph.node(node).trigger;
        let sets = self.graph.sets_of(node).iter().copied();
        let open = sets.filter(|set| !self.graph.sets[set.index()].status.closed_for(trigger));
        open.map(|set| {
            let members = self.graph.members(set);
            let counts = &self.graph.sets[set.index()];
            let pending = |n: &NodeIx| !matches!(self.graph.node(*n).state, NodeState::Done(_));
            OpenSet {
                set,
                members: members.len() as u32,
                pending: counts.pending,
                bad: counts.bad,
                first: members.iter().copied().filter(pending).take(8).collect(),
            }
        })
        .collect()
    }

    fn obstacles(&self, node: NodeIx) -> Vec<Unfit> {
        let workers = self.hosts.live();
        workers
            .map(|(ix, worker)| Unfit {
                worker: ix,
                obstacle: self.obstacle(node, worker),
            })
            .collect()
    }

    fn obstacle(&self, node: NodeIx, worker: &Worker) -> Obstacle {
        let demand = self.demand_of(node);
        let profile = self.graph.class(node).executor.as_deref();
        if worker.draining {
            return Obstacle::Draining;
        }
        if !worker.serves(profile) {
            return Obstacle::Profile;
        }
        if let Some(host) = self.bound_host(node).filter(|host| *host != worker.host) {
            return Obstacle::Group(host);
        }
        if let Some((resource, needed, has)) = short(demand, &worker.capacity) {
            return Obstacle::TooSmall {
                resource,
                needed,
                has,
            };
        }
        if let Some((resource, needed, free)) = short(demand, &worker.free) {
            return Obstacle::Busy {
                resource,
                needed,
                free,
            };
        }
        if let Some((resource, needed, free)) = short(demand, &worker.clear_room()) {
            return Obstacle::Taken {
                resource,
                needed,
                free,
            };
        }
        if worker.alone || self.runs_alone(node) && !worker.is_idle() {
            return Obstacle::Alone;
        }
        let shape = &self.lanes.shapes[self.shape_of(node) as usize];
        if self.hosts.passes_over(worker, shape) {
            return Obstacle::DiskFull;
        }
        match worker.reserved {
            Some(_) => Obstacle::Reserved,
            None => Obstacle::Elsewhere,
        }
    }
}

/// The first resource of which there is too little: its name, what is asked for and what there is.
fn short(demand: &Resources, there: &Resources) -> Option<(String, u64, u64)> {
    let named = demand.named.iter().map(|(name, amount)| {
        (
            name.as_str(),
            *amount,
            there.named.get(name).copied().unwrap_or(0),
        )
    });
    [
        ("cpu", demand.cpu_milli, there.cpu_milli),
        ("memory", demand.memory, there.memory),
    ]
    .into_iter()
    .chain(named)
    .find(|(_, needed, has)| needed > has)
    .map(|(name, needed, has)| (name.to_owned(), needed, has))
}
