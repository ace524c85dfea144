//! A study on a simulated clock: the real state machine of studies and the real scheduler, fed with durations of a table.
//!
//! The driver does what the driver of a run does, without processes, files or time: an attempt ends when its duration is over,
//! a result is durable at once, no node is in the cache.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap, VecDeque},
    rc::Rc,
    sync::Arc,
};

use dagrun_model::{
    Artifact, AttemptId, BlobRef, Digest, HostIx, Map, NodeIx, Outputs, Resources, WorkerIx,
};
use dagrun_plan::{Plan, Upstream, UpstreamEnd};
use dagrun_sched::{
    Action, AttemptEnd, CacheAnswer, Config, Event, NodeEnd, Notice, Scheduler, Time, TimerId,
};
use dagrun_study::{Scores, Study, StudyAction, StudyEnd, StudyEvent, StudyRecord, TrialEnd};

use super::plans::{Planned, Shape};

/// A node as tables of durations know it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    /// From 1.
    pub(super) trial: u64,
    /// The job's number in the file.
    pub(super) job: u32,
    /// Its place among the trial's nodes of that job.
    pub(super) at: u32,
}

/// Where a study runs, and how long what takes.
pub(super) struct Site<'a> {
    /// Slots of each host; more than one host: each is a worker of its own.
    pub(super) hosts: &'a [u32],
    /// Whether scores of the same inputs are one unit of work.
    pub(super) fused: bool,
    /// Place nodes where there is room, whatever they read, and members of fused groups like others.
    pub(super) plain: bool,
    /// Plan every trial anew instead of shifting the plan of the first.
    pub(super) plan_each: bool,
    /// Bytes of the outputs of a node.
    pub(super) bytes: u64,
    /// How long a node runs.
    pub(super) seconds: &'a dyn Fn(Place) -> f64,
    /// The loss of a trial.
    pub(super) loss: &'a dyn Fn(u64, &Map) -> f64,
    /// Told before and after the handling of each end of an attempt: the moment its slot is free, each start, the end.
    pub(super) watch: Option<&'a dyn Fn(Watched)>,
}

/// A moment in the handling of an attempt's end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Watched {
    Freed,
    Started,
    Handled,
}

impl<'a> Site<'a> {
    /// Slots of one host, and a table of durations.
    pub(super) fn new(hosts: &'a [u32], seconds: &'a dyn Fn(Place) -> f64) -> Self {
        Self {
            hosts,
            fused: true,
            plain: false,
            plan_each: false,
            bytes: 1 << 20,
            seconds,
            loss: &bowl,
            watch: None,
        }
    }

    fn slots(&self) -> u32 {
        self.hosts.iter().sum()
    }
}

/// A smooth loss with its least value at (0.3, 0.7).
pub(super) fn bowl(_trial: u64, values: &Map) -> f64 {
    let at = |name: &str| values.get(name).and_then(|it| it.as_f64()).unwrap_or(0.0);
    (at("beta") - 0.3).powi(2) + (at("gamma") - 0.7).powi(2)
}

/// What came of a study.
pub(super) struct Outcome {
    pub(super) end: StudyEnd,
    /// Whether the scheduler said that everything is done.
    pub(super) finished: bool,
    /// When each trial was told, in seconds, in the order of time.
    pub(super) told: Vec<f64>,
    /// What was asked, bit by bit, by number of trial.
    pub(super) points: Vec<Vec<u64>>,
    /// When attempts began and ended.
    pub(super) spans: Vec<(f64, f64)>,
    /// When the last trial had been asked for.
    pub(super) drained: f64,
    /// Outputs that had to go to another host.
    pub(super) moves: u64,
    /// Trials whose scores ran on several hosts.
    pub(super) split: u64,
    /// Simulations that were run: nodes of the first job.
    pub(super) simulations: u64,
    /// What the study holds for its trials, in bytes.
    pub(super) study_bytes: usize,
    pub(super) slots: u32,
}

impl Outcome {
    /// Seconds until the last trial was told.
    pub(super) fn seconds(&self) -> f64 {
        self.told.last().copied().unwrap_or(0.0)
    }

    /// Trials a minute between the first tenth and the last tenth of the told ones: without warm-up and without the end.
    pub(super) fn rate(&self) -> f64 {
        let (from, to) = (self.told.len() / 10, self.told.len() * 9 / 10);
        (to - from) as f64 / (self.told[to] - self.told[from]) * 60.0
    }

    /// The part of all slots that was busy from the first told trial until no more were asked for.
    pub(super) fn busy(&self) -> f64 {
        let (from, to) = (self.told[0], self.drained);
        let inside = |(begin, end): &(f64, f64)| (end.min(to) - begin.max(from)).max(0.0);
        let busy: f64 = self.spans.iter().map(inside).sum();
        busy / ((to - from) * f64::from(self.slots))
    }
}

struct Trial {
    number: u64,
    values: Arc<Map>,
    shape: Rc<Shape>,
    /// Where each trial has a plan of its own.
    plan: Option<Plan>,
    open: u32,
    awaited: u32,
    failed: bool,
    /// Hosts on which scores ran, a bit each.
    score_hosts: u64,
    began: u64,
}

enum Due {
    Ended(AttemptId),
    Timer(TimerId),
}

struct World<'a> {
    site: &'a Site<'a>,
    planned: &'a Planned,
    study: Study,
    scheduler: Scheduler,
    template: Option<Rc<Shape>>,
    now: u64,
    due: BinaryHeap<Reverse<(u64, u64)>>,
    what: BTreeMap<u64, Due>,
    next_due: u64,
    queue: VecDeque<Event>,
    told: Vec<StudyEvent>,
    /// By first node.
    trials: BTreeMap<u32, Trial>,
    tables: (u32, u32, u32),
    started: BTreeMap<u64, u64>,
    /// By node: the hosts that have its outputs.
    held: BTreeMap<u32, u64>,
    width: u32,
    out: Outcome,
    ended: Option<StudyEnd>,
}

/// Runs a study to its end.
pub(super) fn simulate(planned: &Planned, site: &Site<'_>) -> Result<Outcome, String> {
    let nothing = StudyEnd {
        reason: dagrun_study::EndReason::Stopped,
        best: None,
        counts: dagrun_study::Counts::default(),
        new_told: 0..0,
    };
    let mut world = World {
        site,
        planned,
        study: Study::new(planned.definition.clone()),
        scheduler: Scheduler::new(Config {
            no_locality: site.plain,
            no_fuse: site.plain,
            ..Config::default()
        }),
        template: None,
        now: 0,
        due: BinaryHeap::new(),
        what: BTreeMap::new(),
        next_due: 0,
        queue: VecDeque::new(),
        told: Vec::new(),
        trials: BTreeMap::new(),
        tables: (0, 0, 0),
        started: BTreeMap::new(),
        held: BTreeMap::new(),
        width: 0,
        out: Outcome {
            end: nothing,
            finished: false,
            told: Vec::new(),
            points: Vec::new(),
            spans: Vec::new(),
            drained: 0.0,
            moves: 0,
            split: 0,
            simulations: 0,
            study_bytes: 0,
            slots: site.slots(),
        },
        ended: None,
    };
    world.run();
    world.out.study_bytes = world.study.bytes();
    world.out.end = world.ended.ok_or("the study did not end")?;
    match world.out.finished {
        true => Ok(world.out),
        false => Err("the scheduler did not finish".into()),
    }
}

impl World<'_> {
    fn run(&mut self) {
        for (ix, slots) in self.site.hosts.iter().enumerate() {
            self.queue.push_back(Event::WorkerJoined {
                worker: WorkerIx::from_index(ix),
                host: HostIx::from_index(ix),
                capacity: Resources {
                    cpu_milli: u64::from(*slots) * 1000,
                    ..Resources::none()
                },
                profile: None,
                ahead: 0,
                speed: 1000,
                held: Vec::new(),
            });
        }
        self.say_slots();
        self.settle();
        while let Some(Reverse((at, id))) = self.due.pop() {
            self.now = self.now.max(at);
            match self.what.remove(&id) {
                Some(Due::Ended(attempt)) => self.attempt_ended(attempt),
                Some(Due::Timer(timer)) => {
                    self.queue.push_back(Event::TimerFired(timer));
                    self.settle();
                }
                None => {}
            }
        }
    }

    fn watch(&self, moment: Watched) {
        if let Some(watch) = self.site.watch {
            watch(moment);
        }
    }

    fn attempt_ended(&mut self, attempt: AttemptId) {
        let began = self.started.remove(&attempt.0).unwrap_or(self.now);
        if self.site.watch.is_none() {
            self.out.spans.push((seconds(began), seconds(self.now)));
        }
        self.queue.push_back(Event::AttemptEnded {
            attempt,
            end: AttemptEnd::Succeeded {
                bytes: self.site.bytes,
            },
            ran: self.now - began,
        });
        self.watch(Watched::Freed);
        self.settle();
        self.watch(Watched::Handled);
    }

    /// Handles all that is due now: words of the study go before the next event of the scheduler, as in a run.
    fn settle(&mut self) {
        let mut actions = Vec::new();
        loop {
            self.run_study();
            let Some(event) = self.queue.pop_front() else {
                return;
            };
            self.scheduler.handle(Time(self.now), event, &mut actions);
            for action in actions.drain(..) {
                self.act(action);
            }
        }
    }

    fn say_slots(&mut self) {
        // As a run does: nobody knows how wide a trial is before one was planned.
        let (slots, nodes_per_trial) = match self.width {
            0 => (1, u32::MAX),
            width => (self.site.slots(), width),
        };
        self.told.push(StudyEvent::Slots {
            slots,
            nodes_per_trial,
        });
    }

    fn run_study(&mut self) {
        let mut actions = Vec::new();
        while !self.told.is_empty() {
            for event in std::mem::take(&mut self.told) {
                self.study.handle(event, &mut actions);
                for action in actions.drain(..) {
                    self.act_for_study(action);
                }
            }
        }
    }

    fn act_for_study(&mut self, action: StudyAction) {
        match action {
            StudyAction::Append(StudyRecord::Asked { point, .. }) => {
                self.out.drained = seconds(self.now);
                if self.site.watch.is_none() {
                    let bits = point.iter().map(|it| it.to_bits()).collect();
                    self.out.points.push(bits);
                }
            }
            StudyAction::Append(StudyRecord::Told { .. }) if self.site.watch.is_none() => {
                self.out.told.push(seconds(self.now));
            }
            StudyAction::Append(_) | StudyAction::Drain => {}
            StudyAction::Ask { .. } => panic!("samplers of benches are dagrun's own"),
            StudyAction::Start { trial, values } => self.start(trial, values),
            StudyAction::Finish(end) => {
                self.ended = Some(end);
                self.queue.push_back(Event::PlanComplete);
            }
        }
    }

    /// Plans a trial and hands its nodes to the scheduler.
    fn start(&mut self, number: u64, values: Arc<Map>) {
        let plan = (self.site.plan_each || self.template.is_none())
            .then(|| self.planned.trial(number, Arc::clone(&values)));
        let shape = match &plan {
            Some(plan) => Rc::new(Shape::of(plan, self.site.fused)),
            None => Rc::clone(self.template.as_ref().expect("the first was planned")),
        };
        if !self.site.plan_each {
            self.template = Some(Rc::clone(&shape));
        }
        if self.width == 0 {
            self.width = shape.width;
            self.say_slots();
        }
        let (nodes, sets, groups) = self.tables;
        let delta = shape.shifted(nodes, sets, groups);
        self.tables = (
            nodes + delta.nodes.len() as u32,
            sets + delta.sets.len() as u32,
            groups + delta.groups.len() as u32,
        );
        let trial = Trial {
            number,
            values,
            plan: plan.filter(|_| self.site.plan_each),
            open: delta.nodes.len() as u32,
            awaited: shape.scores.len() as u32,
            failed: false,
            score_hosts: 0,
            began: self.now,
            shape,
        };
        self.trials.insert(nodes, trial);
        self.queue.push_back(Event::PlanExtended(delta));
    }

    fn trial_of(&mut self, node: NodeIx) -> (u32, &mut Trial) {
        let found = self.trials.range_mut(..=node.0).next_back();
        let (first, trial) = found.expect("nodes that are spoken of are of a live trial");
        (*first, trial)
    }

    fn place(&mut self, node: NodeIx) -> Place {
        let (first, trial) = self.trial_of(node);
        let (job, at) = trial.shape.places[(node.0 - first) as usize];
        Place {
            trial: trial.number,
            job,
            at,
        }
    }

    fn act(&mut self, action: Action) {
        match action {
            Action::LookUp(nodes) => {
                let answers = nodes.iter().map(|node| (*node, self.miss(*node)));
                let answers = answers.collect();
                self.queue.push_back(Event::CacheAnswered(answers));
            }
            Action::Start {
                attempt,
                node,
                worker,
                ..
            } => self.begin(attempt, node, worker),
            Action::Commit { node, .. } => self.queue.push_back(Event::Committed(node)),
            Action::SetTimer { id, at } => self.plan_for(at.0, Due::Timer(id)),
            Action::Emit(Notice::NodeDone { node, end }) => self.node_done(node, end),
            Action::Finish => self.out.finished = true,
            Action::Emit(_)
            | Action::Cancel { .. }
            | Action::Recall { .. }
            | Action::Withdraw { .. } => {}
        }
    }

    fn plan_for(&mut self, at: u64, due: Due) {
        self.next_due += 1;
        self.due.push(Reverse((at, self.next_due)));
        self.what.insert(self.next_due, due);
    }

    fn miss(&mut self, node: NodeIx) -> CacheAnswer {
        let plan_each = self.site.plan_each;
        let (first, trial) = self.trial_of(node);
        let key = trial.shape.keys[(node.0 - first) as usize];
        // Trials that share a plan differ by their number.
        let action = match plan_each {
            true => key,
            false => {
                let mut bytes = key.0;
                for (byte, of) in bytes.iter_mut().zip(trial.number.to_le_bytes()) {
                    *byte ^= of;
                }
                Digest(bytes)
            }
        };
        CacheAnswer::Miss {
            action: Some(action),
        }
    }

    fn begin(&mut self, attempt: AttemptId, node: NodeIx, worker: WorkerIx) {
        self.watch(Watched::Started);
        let place = self.place(node);
        self.out.simulations += u64::from(place.job == 0);
        if self.site.hosts.len() > 1 {
            self.stage(node, worker);
        }
        let takes = ((self.site.seconds)(place) * 1e6).round() as u64;
        self.started.insert(attempt.0, self.now);
        self.queue.push_back(Event::AttemptStarted(attempt));
        self.plan_for(self.now + takes, Due::Ended(attempt));
    }

    /// Brings what a node reads to its host; hosts have the same numbers as their workers.
    fn stage(&mut self, node: NodeIx, worker: WorkerIx) {
        let bit = 1_u64 << worker.0;
        let (first, trial) = self.trial_of(node);
        let local = (node.0 - first) as usize;
        let inputs: Vec<u32> = trial.shape.inputs(local).map(|it| it.0 + first).collect();
        if trial.shape.scores.contains(&NodeIx::from_index(local)) {
            trial.score_hosts |= bit;
        }
        for input in inputs {
            let held = self.held.entry(input).or_default();
            if *held & bit == 0 {
                *held |= bit;
                self.out.moves += 1;
                let (node, host) = (NodeIx(input), HostIx(worker.0));
                self.queue.push_back(Event::ReplicaAdded { node, host });
            }
        }
        // What it makes will be here.
        self.held.insert(node.0, bit);
    }

    fn node_done(&mut self, node: NodeIx, end: NodeEnd) {
        let (loss, now) = (self.site.loss, self.now);
        let (first, trial) = self.trial_of(node);
        let local = NodeIx(node.0 - first);
        trial.open -= 1;
        trial.failed |= !matches!(end, NodeEnd::Succeeded | NodeEnd::Cached);
        if trial.shape.scores.contains(&local) {
            trial.awaited -= 1;
        }
        if trial.awaited > 0 || trial.open > 0 {
            return;
        }
        let value = loss(trial.number, &trial.values);
        let result = match (&trial.plan, trial.failed) {
            (_, true) => Err("a node failed".to_owned()),
            (Some(plan), _) => objective(plan, value),
            (None, _) => Ok(vec![value]),
        };
        let end = TrialEnd {
            result: result.map(|values| Scores {
                values,
                violation: 0.0,
            }),
            replicates: 0,
            seconds: seconds(now - trial.began) as f32,
            hits: 0,
            nodes: trial.shape.delta.nodes.len() as u32,
            key: Digest::empty(),
            targets: (0..trial.shape.scores.len())
                .map(|at| (format!("score[target={at}].loss").into(), value))
                .collect(),
        };
        let (number, nodes) = (trial.number, trial.shape.delta.nodes.len() as u32);
        let split = trial.score_hosts.count_ones() > 1;
        self.out.split += u64::from(split);
        self.told.push(StudyEvent::Ended { trial: number, end });
        self.trials.remove(&first);
        for node in first..first + nodes {
            self.held.remove(&node);
        }
        self.queue.push_back(Event::Retire(NodeIx(first)));
    }
}

/// The objective as the plan evaluates it, where the loss is spread evenly over the scores.
fn objective(plan: &Plan, loss: f64) -> Result<Vec<f64>, String> {
    let scores = plan.objective_nodes();
    let value = serde_json::json!(loss / scores.len() as f64);
    let artifact = Artifact::Value {
        file: BlobRef {
            digest: Digest::empty(),
            size: 0,
            executable: false,
        },
        value,
    };
    let outputs = Outputs::from_iter([("loss".to_owned(), artifact)]);
    let results = Results { scores, outputs };
    let values = plan.trial_objective(&results);
    values
        .map(|it| it.values)
        .map_err(|cause| cause.to_string())
}

struct Results {
    scores: Vec<NodeIx>,
    outputs: Outputs,
}

impl Upstream for Results {
    fn outputs(&self, node: NodeIx) -> Option<&Outputs> {
        self.scores.contains(&node).then_some(&self.outputs)
    }

    fn end(&self, _node: NodeIx) -> Option<UpstreamEnd> {
        Some(UpstreamEnd::Succeeded)
    }

    fn run_id(&self) -> &str {
        "bench"
    }
}

fn seconds(micros: u64) -> f64 {
    micros as f64 / 1e6
}

/// A number from 0 (excluded) to 1 that looks random and depends on nothing but its arguments.
pub(super) fn unit(seed: u64, a: u64, b: u64) -> f64 {
    let mut z = seed.wrapping_mul(0xA076_1D64_78BD_642F)
        ^ a.wrapping_mul(0x9E37_79B9_7F4A_7C15)
        ^ b.wrapping_mul(0xD1B5_4A32_D192_ED03);
    for _ in 0..2 {
        z = z.wrapping_add(0x9E37_79B9_7F4A_7C15);
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^= z >> 31;
    }
    ((z >> 11) as f64 + 1.0) / (1_u64 << 53) as f64
}

/// A log-normal number with mean 1 and a standard deviation of `cv`.
pub(super) fn lognormal(cv: f64, seed: u64, a: u64, b: u64) -> f64 {
    let (u, v) = (unit(seed, a, 2 * b), unit(seed, a, 2 * b + 1));
    let normal = (-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos();
    let variance = (1.0 + cv * cv).ln();
    (variance.sqrt() * normal - variance / 2.0).exp()
}
