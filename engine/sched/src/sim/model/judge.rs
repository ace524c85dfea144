//! Each action of the scheduler against what it was told.

use dagrun_model::{AttemptId, GroupIx, HostIx, NodeIx, Resources, Trigger, WorkerIx};

use super::{Adopted, Answered, Fate, KnownWorker, Live, Model};
use crate::{Action, NodeEnd, Notice, Stop, sim::scene::Fault};

impl Model {
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
                ahead,
            } => {
                self.judge_worker(*node, *worker, resources, *ahead);
                self.judge_crowd(*node, *worker, resources, *ahead);
                self.judge_start(*attempt, *node, *worker, resources, *group, *number);
                self.take(*attempt, *worker, *ahead);
            }
            Action::Cancel { attempt, .. } => {
                let live = self.attempts.get(&attempt.0);
                let why = live.is_some_and(|live| live.moot || self.useless(live.node, *attempt))
                    || self.stop.is_some()
                    || self.strangers.remove(&attempt.0);
                self.check(why, "cancel", || {
                    format!("{attempt} is cancelled without a reason")
                });
                if let Some(live) = self.attempts.get_mut(&attempt.0) {
                    live.cancelled = true;
                    let facts = &mut self.nodes[live.node.index()];
                    if facts.adopted.take_if(|it| it.attempt == *attempt).is_some() {
                        live.moot = true;
                    }
                }
            }
            Action::Recall { attempt } => {
                let live = self.attempts.get_mut(&attempt.0);
                let waits = live.is_some_and(|live| {
                    let once = !live.recalled;
                    live.recalled = true;
                    once && !live.started && live.queued
                });
                self.check(waits, "recall", || {
                    format!("{attempt} is asked back, but was not given ahead")
                });
            }
            Action::Withdraw { attempt } => self.judge_withdrawal(*attempt),
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

    /// Whether a node has an attempt that it cannot use: it does something else, or an equal action is under way.
    fn useless(&self, node: NodeIx, id: AttemptId) -> bool {
        let facts = &self.nodes[node.index()];
        let adopted = facts.adopted.as_ref().filter(|it| it.attempt == id);
        adopted.is_some_and(|adopted| {
            let flies = |leader: &NodeIx| *leader != node && !self.leads_idly(*leader);
            adopted.action != facts.asked_action
                || self.flights.get(&adopted.action).is_some_and(flies)
        })
    }

    /// The attempt of a node that ended before the node was looked up.
    pub(crate) fn ended_early(&self, node: NodeIx) -> Option<AttemptId> {
        let adopted = self.nodes[node.index()].adopted.as_ref();
        adopted.filter(|it| it.end.is_some()).map(|it| it.attempt)
    }

    /// Such an attempt is forgotten where it was of no use then.
    pub(crate) fn drop_useless(&mut self, node: NodeIx) {
        if self
            .ended_early(node)
            .is_some_and(|id| self.useless(node, id))
        {
            self.nodes[node.index()].adopted = None;
        }
    }

    /// Whether a node that leads an action has no attempt at it.
    fn leads_idly(&self, node: NodeIx) -> bool {
        let facts = &self.nodes[node.index()];
        facts.running.is_empty() && facts.committing.is_none()
    }

    /// A node that was a miss runs as the attempt that it had.
    fn judge_adopted(&mut self, node: NodeIx, id: AttemptId) {
        let facts = &mut self.nodes[node.index()];
        let adopted = facts.adopted.take_if(|it| it.attempt == id);
        let Some(Adopted { action, end, .. }) = adopted else {
            return self.fail("adopt", format!("{node:?} runs as {id}, which it has not"));
        };
        let alone = facts.running.is_empty() && facts.committing.is_none();
        let pending = facts.end.is_none() && facts.answered == Some(Answered::Miss);
        facts.value = action;
        facts.action = Some(action);
        facts.not_before = 0;
        if end.is_none() {
            facts.running.push(id);
        }
        let same = facts.asked_action == action;
        self.check(alone && pending && same, "adopt", || {
            format!("{node:?} runs as {id}, which it cannot use")
        });
        let met = self.needs_met(node);
        self.check(met, "I2", || {
            format!("{node:?} is adopted before its needs are met")
        });
        self.judge_flight(node, action);
        if let Some((live, end)) = end {
            self.follow(id, &live, &end);
        }
    }

    fn judge_flight(&mut self, node: NodeIx, action: u64) {
        let flying = self.flights.insert(action, node);
        let alone = flying.is_none_or(|other| other == node);
        self.check(alone, "I11", || {
            format!("{node:?} starts beside {flying:?}, an equal action")
        });
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
        self.judge_readiness(node, resources);
        let alone = self.has_to_be_alone(node);
        let mut beside = self.attempts.values().filter(|live| live.worker == worker);
        let fits = beside.all(|other| !alone && !other.alone);
        self.check(fits, "F14", || {
            format!("{node:?} starts on {worker:?} beside one that has to be alone")
        });
        self.judge_pair(node, worker, number);
        self.judge_group(node, worker, resources, group);
        self.drop_useless(node);
        let value = self.action(node);
        let action = (!self.class(node).never_cache).then_some(value);
        if let Some(action) = action {
            self.judge_flight(node, action);
        }
        let waits = self.nodes[node.index()].adopted.is_none();
        self.check(waits, "I11", || {
            format!("{node:?} starts beside an attempt that it has already")
        });
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
                queued: false,
                started: false,
                recalled: false,
                withdrawn: false,
                waits_in_vain: None,
                cancelled: false,
                alone,
            },
        );
    }

    /// An attempt that was not given ahead takes its room now.
    fn take(&mut self, id: AttemptId, worker: WorkerIx, ahead: bool) {
        let Some(live) = self.attempts.get_mut(&id.0) else {
            return;
        };
        live.queued = ahead;
        if let Some(Some(known)) = self.workers.get_mut(worker.index())
            && !ahead
            && live.resources.fits(&known.free)
        {
            known.free.take(&live.resources);
        }
    }

    fn judge_withdrawal(&mut self, id: AttemptId) {
        let live = self.attempts.get_mut(&id.0);
        let crowded = live.is_some_and(|live| {
            let once = !std::mem::replace(&mut live.withdrawn, true);
            let known = self.workers[live.worker.index()].as_ref();
            let crowded = known.is_some_and(|known| !known.others.fits(&known.free));
            once && crowded && !(live.started || live.queued || live.cancelled)
        });
        self.check(crowded, "crowd", || {
            format!("{id} is asked back, and does not wait for others")
        });
    }

    /// A worker that has nothing to do, for anybody, and could run a node.
    fn idle_for(&self, node: NodeIx, resources: &Resources) -> Option<WorkerIx> {
        let class = self.class(node);
        let idle = |known: &KnownWorker| {
            !known.draining
                && known.free == known.capacity
                && known.others == Resources::none()
                && known.may_have_room(&self.nodes[node.index()].shuns)
                && (class.executor.is_none() || known.profile == class.executor)
                && resources.fits(&known.capacity)
        };
        let workers = (0..self.workers.len()).map(WorkerIx::from_index);
        let mut idle = workers.filter(|ix| self.workers[ix.index()].as_ref().is_some_and(idle));
        idle.find(|ix| self.attempts.values().all(|live| live.worker != *ix))
    }

    /// A node is not given to a worker that others fill while another one idles.
    fn judge_crowd(&mut self, node: NodeIx, worker: WorkerIx, resources: &Resources, ahead: bool) {
        let Some(known) = self.workers[worker.index()].as_ref() else {
            return;
        };
        let mut both = known.others.clone();
        both.give(resources);
        let is_crowded = known.others != Resources::none() && !both.fits(&known.free);
        let grouped = self.scene.nodes[node.index()].group.is_some();
        if !is_crowded || ahead || grouped {
            return;
        }
        let idle = self.idle_for(node, resources);
        self.check(idle.is_none(), "crowd", || {
            format!("{node:?} starts on {worker:?}, which others have, and {idle:?} idles")
        });
    }

    /// Whether others leave room on its worker for an attempt and those before it.
    fn is_left_for(&self, id: AttemptId, known: &KnownWorker) -> bool {
        let worker = self.attempts[&id.0].worker;
        let mut all = known.others.clone();
        for (other, live) in &self.attempts {
            if live.worker == worker && !live.queued && (live.started || *other <= id.0) {
                all.give(&live.resources);
            }
        }
        all.fits(&known.capacity)
    }

    /// What waits for others does not do so for long while another worker idles.
    pub(crate) fn look_at_the_crowd(&mut self) {
        let mut ids: Vec<u64> = self.attempts.keys().copied().collect();
        ids.sort_unstable();
        for id in ids {
            let live = &self.attempts[&id];
            let known = self.workers[live.worker.index()].as_ref();
            let waits = known.is_some_and(|known| !self.is_left_for(AttemptId(id), known))
                && !(live.started || live.queued || live.withdrawn || live.cancelled || live.moot)
                && self.scene.nodes[live.node.index()].group.is_none()
                && self.nodes[live.node.index()].running.len() == 1
                && self.stop.is_none();
            let idle = match waits {
                true => self.idle_for(live.node, &live.resources),
                false => None,
            };
            let since = idle.map(|_| live.waits_in_vain.unwrap_or(self.now));
            let late = since.is_some_and(|since| self.now - since > 500_000);
            if let Some(live) = self.attempts.get_mut(&id) {
                live.waits_in_vain = since;
            }
            self.check(!late, "crowd", || {
                format!("attempt {id} waits for others, and {idle:?} idles")
            });
        }
    }

    /// What has not begun may not begin after a stop, nor on a worker that drains.
    pub(crate) fn judge_what_waits(&mut self) {
        let draining = |live: &Live| {
            let known = self.workers.get(live.worker.index());
            known.is_some_and(|known| known.as_ref().is_some_and(|known| known.draining))
        };
        let waits = self.attempts.iter().find(|(_, live)| {
            live.queued
                && !(live.started || live.recalled || live.cancelled)
                && (self.stop.is_some() || draining(live))
        });
        if let Some((id, _)) = waits {
            self.fail("I7", format!("attempt {id} waits to begin after a stop"));
        }
    }

    fn judge_worker(&mut self, node: NodeIx, worker: WorkerIx, resources: &Resources, ahead: bool) {
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
        let holds = self.attempts.values();
        let holds = holds.filter(|live| live.worker == worker && live.queued);
        let room = if ahead {
            holds.count() < known.ahead as usize && resources.fits(&known.capacity)
        } else {
            resources.fits(&known.free)
        };
        self.check(room, "I4", || {
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
        let shuns = self.nodes[node.index()].shuns.clone();
        let wise =
            known.may_have_room(&shuns) || !self.is_room_for(resources, profile.as_deref(), &shuns);
        self.check(wise, "room", || {
            format!("{node:?} starts on {worker:?}, which has no room on its disk; another has")
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
    pub(super) fn could_grow(&self, node: NodeIx, memory: u64) -> bool {
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
            let shuns = &self.nodes[node.index()].shuns;
            let must = self.could_take(bound, resources, profile.as_deref(), shuns);
            let together = bound == host || !must;
            self.check(together, "group", || {
                format!("{node:?} of {group:?} starts on {host:?}, not {bound:?}")
            });
        } else if resources.memory <= self.class(node).resources.memory
            && self.nodes[node.index()].shuns.is_empty()
        {
            // A member that has outgrown the others, or found no room, may go where they cannot.
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
            Notice::Adopted { node, attempt } => self.judge_adopted(*node, *attempt),
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
        let facts = &mut self.nodes[node.index()];
        let adopted = facts.adopted.as_ref().map(|it| it.attempt);
        for id in std::mem::take(&mut facts.running)
            .into_iter()
            .chain(adopted)
        {
            if let Some(live) = self.attempts.get_mut(&id.0) {
                live.moot = true;
            }
        }
        if matches!(end, NodeEnd::Cached) {
            self.nodes[node.index()].value = self.action(node);
        }
        self.land(node);
        let facts = &mut self.nodes[node.index()];
        facts.adopted = None;
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
                self.judge_blame(node);
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

    /// Where workers die of nodes alone, no other node is blamed for it.
    fn judge_blame(&mut self, node: NodeIx) {
        let others = [
            Fault::Loss,
            Fault::Drain,
            Fault::Crash,
            Fault::Zombie,
            Fault::Burst,
        ];
        let innocent = self.nodes[node.index()].kills == 0
            && self.nodes[node.index()].losses >= self.config.max_losses
            && !others.into_iter().any(|fault| self.scene.has(fault));
        self.check(!innocent, "F14", || {
            format!("{node:?} is blamed for what another node did")
        });
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
