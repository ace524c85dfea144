//! The study of a run: its trials become nodes, and what their nodes make is told.
//!
//! The state machine of `dagrun-study` decides; here its actions become plans, records of its log and words to a sampler in
//! another process.

mod end;
mod laying;
mod outside;
mod parts;
mod tell;

use std::{
    collections::BTreeMap, collections::VecDeque, path::PathBuf, rc::Rc, sync::Arc, time::Duration,
    time::Instant,
};

use dagrun_events::RunEvent;
use dagrun_model::{Digest, Map, NodeIx, NodeKey, Value};
use dagrun_plan::TrialPoint;
use dagrun_sched::Event;
use dagrun_study::{Answer, Best, Study, StudyAction, StudyEnd, StudyEvent, StudyRecord, TrialEnd};
use rustc_hash::FxHashSet;

use super::Driver;
use crate::{
    RunError, StudyMode, StudyRequest, StudySummary, Workspace,
    growing::{GrowingPlan, Part},
    study::{ExternalSampler, FactCache, LogWriter, Opened, encode, plan_trial},
};

/// How long a sampler in another process may think about an ask, where its option `timeout` says nothing.
const ASK_TIMEOUT: Duration = Duration::from_secs(60);
/// Reasons of failed trials that the summary holds.
const MOST_REASONS: usize = 20;
/// The log says how long the study was under way whenever the driver looks, but not more often than this: what a kill takes
/// of it is little.
const TELL_TIME: Duration = Duration::from_millis(500);
/// The same with a trial that ends: its time counts.
const TELL_TIME_OF_TRIAL: Duration = Duration::from_millis(100);

/// The study of a run.
pub(crate) struct StudyRun<'p> {
    name: String,
    growing: &'p GrowingPlan,
    request: StudyRequest,
    core: Study,
    facts: FactCache,
    folder: PathBuf,
    project: PathBuf,
    warnings: Vec<String>,
    /// What the state machine has yet to hear.
    events: Vec<StudyEvent>,
    /// Trials whose nodes are not all done, by number; a trial that grew has two.
    live: BTreeMap<u64, LiveTrial>,
    /// By the first node of a part: its trial.
    trials: BTreeMap<u32, u64>,
    /// Of trials that are not told: how many nodes an engine without deduplication would run.
    naive: BTreeMap<u64, u64>,
    /// Told trials whose exports are to be laid out before the study goes on.
    unlaid: VecDeque<u64>,
    /// It has begun: what is to be laid out first is.
    begun: bool,
    /// Parts of trials that grew, which go when their last nodes are done.
    outgrown: Vec<LiveTrial>,
    sampler: Option<ExternalSampler>,
    /// Why the sampler has ended.
    gone: Option<String>,
    /// Failed trials of a rescore that fail as they did, with what they came to.
    standing: BTreeMap<u64, TrialEnd>,
    /// An ask that waits until what it tells is durable.
    to_ask: Option<Ask>,
    /// The ask that a sampler in another process thinks about, and until when it may.
    asked: Option<(u64, Instant)>,
    /// Seconds of former runs, and when this one began.
    before: f32,
    began: Instant,
    time_told: Instant,
    wall: Option<Instant>,
    slots: u32,
    /// How many nodes of a trial run at once, and how many there are; 0 before the first was planned.
    width: u32,
    nodes: u32,
    after: bool,
    end: Option<StudyEnd>,
    told: u64,
    failures: Vec<(u64, String)>,
    /// Nodes of trials that failed: they are the trials' ends, not the run's.
    pub(super) failed_nodes: u64,
    /// The log has a record: before the first that opens it, nothing else may stand there.
    logged: bool,
    /// This run has said what trials depend on.
    has_basis: bool,
    /// The run is being stopped: trials go on with the next one.
    stopping: bool,
}

/// What an external sampler is to be told and asked.
struct Ask {
    trial: u64,
    new_told: std::ops::Range<usize>,
    pending: Vec<u64>,
}

struct LiveTrial {
    number: u64,
    part: Rc<Part>,
    values: Arc<Map>,
    began: Instant,
    /// Own nodes that are not done.
    open: u32,
    /// Nodes that objectives and constraints read and that are not done.
    awaited: FxHashSet<NodeIx>,
    /// It was told, or grew: its remaining nodes only have to end.
    over: bool,
    replicates: Option<u32>,
    hits: u32,
    /// Nodes that it ran itself, of a trial that may grow: its grown plan finds them again, and they are no hits.
    made: FxHashSet<NodeKey>,
    /// Nodes that were executed.
    ran: u32,
    /// Why its first node failed.
    failed: Option<String>,
    cancelled: bool,
}

impl LiveTrial {
    /// Whether the result of a node that was found is one that others have made.
    fn is_hit(&self, node: NodeIx) -> bool {
        self.made.is_empty() || !self.made.contains(&self.part.key(node))
    }

    /// Whether it may get more replicates.
    fn may_grow(&self) -> bool {
        self.replicates.is_none() && self.part.plan().grow_to().is_some()
    }

    /// Waits once more for a node that it reads.
    fn await_again(&mut self, node: NodeIx) {
        let reads = |local: &NodeIx| self.part.global(*local) == node;
        if !self.over && self.part.plan().objective_nodes().iter().any(reads) {
            self.awaited.insert(node);
        }
    }
}

impl<'p> StudyRun<'p> {
    /// Opens the study of a request.
    pub(super) fn open(
        request: StudyRequest,
        growing: &'p GrowingPlan,
        name: &str,
        workspace: &Workspace,
        store: &dagrun_store::Store,
        slots: u32,
    ) -> Result<(Self, LogWriter), RunError> {
        let Opened {
            study,
            log,
            warnings,
            facts,
            folder,
            standing,
        } = Opened::open(&request, name, workspace, store)?;
        let now = Instant::now();
        let before = study.wall();
        // What is told again was asked for in time.
        let is_rescore = matches!(request.mode, StudyMode::Rescore(_));
        let limit = study.definition().stop.wall.filter(|_| !is_rescore);
        let wall = limit.map(|wall| {
            now + wall.saturating_sub(Duration::try_from_secs_f32(before).unwrap_or_default())
        });
        let run = Self {
            name: name.into(),
            growing,
            request,
            logged: study.counts().asked > 0,
            has_basis: false,
            core: study,
            facts,
            folder,
            project: workspace.project().to_path_buf(),
            warnings,
            events: Vec::new(),
            live: BTreeMap::new(),
            trials: BTreeMap::new(),
            naive: BTreeMap::new(),
            unlaid: VecDeque::new(),
            begun: false,
            outgrown: Vec::new(),
            sampler: None,
            gone: None,
            standing,
            to_ask: None,
            asked: None,
            before,
            began: now,
            time_told: now,
            wall,
            slots: slots.max(1),
            width: 0,
            nodes: 0,
            after: false,
            end: None,
            told: 0,
            failures: Vec::new(),
            failed_nodes: 0,
            stopping: false,
        };
        Ok((run, log))
    }

    fn used(&self) -> f32 {
        self.before + self.began.elapsed().as_secs_f32()
    }

    /// Queues what time brings.
    pub(super) fn look_at_the_clock(&mut self) {
        let now = Instant::now();
        if self.wall.is_some_and(|wall| wall <= now) {
            self.wall = None;
            self.events.push(StudyEvent::Wall);
        }
        if let Some((trial, until)) = self.asked
            && until <= now
        {
            self.asked = None;
            let answer = Answer::Failed(format!(
                "`{}` did not answer within {}; its option `timeout` gives it more time",
                self.sampler_name(),
                dagrun_model::format_seconds(self.ask_timeout().as_secs_f64())
            ));
            self.events.push(StudyEvent::Answered { trial, answer });
        }
    }

    fn say_slots(&mut self) {
        if !self.begun {
            return;
        }
        // Before a trial was planned nobody knows how wide one is: two are enough to begin with.
        let (slots, nodes_per_trial) = match self.width {
            0 => (1, u32::MAX),
            width => (self.slots, width),
        };
        self.events.push(StudyEvent::Slots {
            slots,
            nodes_per_trial,
        });
    }

    pub(super) fn set_slots(&mut self, slots: u32) {
        if slots > 0 && slots != self.slots {
            self.slots = slots;
            self.say_slots();
        }
    }

    pub(super) fn stop(&mut self) {
        self.stopping = true;
        self.to_ask = None;
        self.events.push(StudyEvent::Stop);
    }

    fn trial_of(&mut self, node: NodeIx) -> Option<&mut LiveTrial> {
        let (_, number) = self.trials.range(..=node.0).next_back()?;
        let live = self.live.get_mut(number);
        let outgrown = self.outgrown.iter_mut();
        live.into_iter()
            .chain(outgrown)
            .find(|trial| trial.part.nodes().contains(&node.0))
    }

    /// Whether a node may not run: its result was to be there already.
    pub(super) fn forbids(&mut self, node: NodeIx) -> bool {
        let StudyMode::Rescore(options) = self.request.mode else {
            return false;
        };
        if options.run_missing || self.after {
            return false;
        }
        self.trial_of(node)
            .is_some_and(|trial| trial.part.is_before_scores(node))
    }

    /// A node that was done has to run again: what reads it waits for it anew.
    pub(super) fn rewound(&mut self, node: NodeIx, was_hit: bool) {
        if let Some(trial) = self.trial_of(node) {
            trial.open += 1;
            trial.hits -= u32::from(was_hit && trial.is_hit(node));
            trial.await_again(node);
            return;
        }
        for trial in self.live.values_mut() {
            trial.await_again(node);
        }
    }

    /// `study` as jobs after it see it.
    fn context(&self) -> Map {
        let counts = self.core.counts();
        let mut map = Map::new();
        map.insert(
            "table".into(),
            Value::str(Workspace::study_table(&self.name)),
        );
        map.insert("best".into(), self.core.best_value());
        map.insert("front".into(), self.core.front_value());
        map.insert("trials".into(), Value::Int(counts.told.cast_signed()));
        map.insert("failed".into(), Value::Int(counts.failed.cast_signed()));
        map
    }

    /// How the study stands.
    pub(super) fn summary(&self) -> StudySummary {
        let definition = self.core.definition();
        let best = self.core.best().map(|best| {
            let params = self.core.values(best.trial).unwrap_or_default();
            (best, params)
        });
        StudySummary {
            name: self.name.clone(),
            ended: self.end.as_ref().map(|end| end.reason.clone()),
            succeeded: self.end.as_ref().is_none_or(StudyEnd::succeeded),
            trials: definition.trials,
            counts: self.core.counts(),
            best,
            front: match definition.objectives.len() {
                1 => 0,
                _ => self.core.front().len(),
            },
            told_now: self.told,
            failed_nodes: self.failed_nodes,
            failures: self.failures.clone(),
            table: Workspace::study_table(&self.name),
        }
    }

    fn best(&self) -> Option<(u64, f64)> {
        self.core.best().map(|Best { trial, value }| (trial, value))
    }

    /// How many nodes the run will have, as far as one can know.
    fn expected_nodes(&self, nodes: usize) -> u64 {
        let counts = self.core.counts();
        let to_come = self.core.definition().trials.saturating_sub(counts.asked);
        match self.end {
            Some(_) => nodes as u64,
            None => nodes as u64 + to_come * u64::from(self.nodes),
        }
    }
}

impl Driver<'_> {
    /// Begins the study, or says that no more nodes come.
    pub(super) fn begin_study(&mut self) {
        let Some(mut study) = self.study.take() else {
            self.queue.push_back(Event::PlanComplete);
            return;
        };
        for warning in std::mem::take(&mut study.warnings) {
            self.warn(warning);
        }
        let definition = study.core.definition();
        self.record(RunEvent::StudyOpened {
            study: study.name.clone(),
            trials: definition.trials,
            told: match study.request.mode {
                StudyMode::Rescore(_) => 0,
                _ => study.core.counts().told,
            },
            objectives: definition
                .objectives
                .iter()
                .map(|goal| goal.name.to_string())
                .collect(),
        });
        if let StudyMode::Rescore(_) = study.request.mode {
            let asked = study.core.counts().asked;
            match self.objective_of(&mut study, asked) {
                Ok(objective) => study.events.push(StudyEvent::Rescore { objective }),
                Err(why) => self.fatal = Some(why),
            }
        }
        self.find_unlaid(&mut study);
        self.go_on_laying(&mut study);
        self.study = Some(study);
        self.run_study();
    }

    /// Begins the study itself once the exports of its told trials are laid out.
    fn go_on_laying(&mut self, study: &mut StudyRun<'_>) {
        if !study.begun && self.lay_told(study) {
            study.begun = true;
            // Where the time was over before, nothing more is asked for.
            study.look_at_the_clock();
            study.say_slots();
        }
    }

    /// What identifies the objectives now: by the plan of the first trial.
    fn objective_of(&mut self, study: &mut StudyRun<'_>, asked: u64) -> Result<Digest, String> {
        // A rescore that was cut off before it told anything goes on.
        if asked == 0 || study.core.counts().told == 0 && study.core.objective().is_none() {
            return Err(format!(
                "study `{}` has no trials to score again; run it first",
                study.name
            ));
        }
        let point = TrialPoint {
            number: 1,
            values: Arc::new(study.core.values(1).unwrap_or_default()),
            replicates: None,
        };
        plan_trial(&study.request.planner, point, &mut study.facts, None)
            .map(|plan| plan.objective_key())
    }

    /// Tells the study what happened, and does what it wants.
    pub(super) fn run_study(&mut self) {
        if self
            .study
            .as_ref()
            .is_none_or(|study| study.events.is_empty())
        {
            return;
        }
        let Some(mut study) = self.study.take() else {
            return;
        };
        let mut actions = Vec::new();
        while !study.events.is_empty() {
            for event in std::mem::take(&mut study.events) {
                study.core.handle(event, &mut actions);
                for action in actions.drain(..) {
                    self.do_for_study(&mut study, action);
                }
            }
        }
        self.progress
            .set_total(study.expected_nodes(self.plan.len()));
        self.study = Some(study);
    }

    fn do_for_study(&mut self, study: &mut StudyRun<'_>, action: StudyAction) {
        match action {
            StudyAction::Append(record) => self.append(study, &record),
            StudyAction::Ask {
                trial,
                new_told,
                pending,
            } => {
                study.to_ask = Some(Ask {
                    trial,
                    new_told,
                    pending,
                });
                self.batch.tell_durable = true;
            }
            StudyAction::Start { trial, values } => self.start_trial(study, trial, values),
            StudyAction::Drain => {}
            StudyAction::Finish(end) => self.end_study(study, end),
        }
    }

    fn append(&mut self, study: &mut StudyRun<'_>, record: &StudyRecord) {
        encode(record, &mut self.batch.study);
        study.logged = true;
        if let StudyRecord::Told { trial, end } = record {
            study.told += 1;
            let (values, reason) = match &end.result {
                Ok(scores) => (scores.values.clone(), None),
                Err(reason) => (Vec::new(), Some(reason.clone())),
            };
            if let Some(reason) = &reason
                && study.failures.len() < MOST_REASONS
            {
                study.failures.push((*trial, reason.clone()));
            }
            self.record(RunEvent::TrialEnded {
                trial: *trial,
                values,
                reason,
                seconds: f64::from(end.seconds),
                replicates: end.replicates,
                nodes: end.nodes,
                hits: end.hits,
                naive: study.naive.remove(trial).unwrap_or(0),
                best: study.best(),
            });
            if study.time_told.elapsed() >= TELL_TIME_OF_TRIAL {
                self.tell_time(study);
            }
        }
    }

    /// Says what time the study has used also where no trial ends.
    pub(super) fn tell_time_now_and_then(&mut self) {
        let due = |study: &mut StudyRun<'_>| {
            study.end.is_none() && study.time_told.elapsed() >= TELL_TIME
        };
        if let Some(mut study) = self.study.take_if(due) {
            self.tell_time(&mut study);
            self.study = Some(study);
        }
    }

    fn tell_time(&mut self, study: &mut StudyRun<'_>) {
        study.time_told = Instant::now();
        // What is told again was asked for in time, and its pace is no pace of the study.
        if !study.logged || matches!(study.request.mode, StudyMode::Rescore(_)) {
            return;
        }
        let wall = study.used();
        encode(&StudyRecord::Used { wall }, &mut self.batch.study);
    }
}
