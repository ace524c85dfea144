//! The study of a run: its trials become nodes, and what their nodes make is told.
//!
//! The state machine of `dagrun-study` decides; here its actions become plans, records of its log and words to a sampler in
//! another process.

mod laying;

use std::{
    collections::BTreeMap, collections::VecDeque, path::PathBuf, rc::Rc, sync::Arc, time::Duration,
    time::Instant,
};

use dagrun_events::{NodeOutcome, RunEvent};
use dagrun_model::{Digest, FailureCause, Map, NodeIx, SamplerKind, Value};
use dagrun_plan::{JobPhase, TrialPoint, Upstream, UpstreamEnd};
use dagrun_sched::Event;
use dagrun_study::{
    Answer, Best, EndReason, Scores, Study, StudyAction, StudyEnd, StudyEvent, StudyRecord,
    TrialEnd,
};
use rustc_hash::{FxHashMap, FxHashSet};
use serde_json::json;

use super::Driver;
use crate::{
    RunError, StudyMode, StudyRequest, StudySummary, Workspace,
    growing::{GrowingPlan, Part},
    study::{
        ExternalSampler, FactCache, LogWriter, Opened, Word, encode, hello, optuna_command,
        plan_trial, widest, write_table,
    },
};

/// How long a sampler in another process may think about an ask, where its option `timeout` says nothing.
const ASK_TIMEOUT: Duration = Duration::from_secs(60);
/// Reasons of failed trials that the summary holds.
const MOST_REASONS: usize = 20;
/// The log says at least this often how long the study was under way.
const TELL_TIME: Duration = Duration::from_secs(5);

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
    /// Why its first node failed.
    failed: Option<String>,
    cancelled: bool,
}

impl LiveTrial {
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
        slots: u32,
    ) -> Result<(Self, LogWriter), RunError> {
        let Opened {
            study,
            log,
            warnings,
            facts,
            folder,
        } = Opened::open(&request, name, workspace)?;
        let now = Instant::now();
        let before = study.wall();
        let wall = study.definition().stop.wall.map(|wall| {
            now + wall.saturating_sub(Duration::try_from_secs_f32(before).unwrap_or_default())
        });
        let run = Self {
            name: name.into(),
            growing,
            request,
            logged: study.counts().asked > 0,
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

    /// The next word of the sampler in another process.
    pub(super) async fn word(&mut self) -> Word {
        match &mut self.sampler {
            Some(sampler) => sampler.next().await,
            None => std::future::pending().await,
        }
    }

    pub(super) fn take_word(&mut self, word: Word) {
        let (trial, answer) = match (word, self.asked) {
            (Word::Answer { trial, params }, Some((asked, _))) if trial == asked => {
                let answer = match params {
                    Ok(params) => Answer::Point(params),
                    Err(error) => Answer::Failed(error),
                };
                (trial, answer)
            }
            (Word::UsedUp { trial }, Some((asked, _))) if trial == asked => (trial, Answer::UsedUp),
            (Word::Answer { trial, .. } | Word::UsedUp { trial }, Some((asked, _))) => {
                let name = self.sampler_name();
                let wrong = format!("`{name}` answered for trial {trial}, asked for trial {asked}");
                (asked, Answer::Failed(wrong))
            }
            // What it says when nobody asked it changes nothing.
            (Word::Answer { .. } | Word::UsedUp { .. }, None) => return,
            (Word::Gone(why), Some((asked, _))) => (asked, Answer::Failed(why)),
            (Word::Gone(why), None) => {
                self.gone = Some(why);
                return;
            }
        };
        self.asked = None;
        self.events.push(StudyEvent::Answered { trial, answer });
    }

    fn sampler_name(&self) -> &str {
        self.sampler.as_ref().map_or("", ExternalSampler::name)
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

    fn ask_timeout(&self) -> Duration {
        let timeout = self.core.definition().options.get("timeout");
        let seconds = timeout.and_then(dagrun_study::seconds);
        seconds.map_or(ASK_TIMEOUT, Duration::from_secs_f64)
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
        self.trial_of(node).is_some_and(|trial| {
            let scores = trial.part.plan().objective_nodes();
            !scores.iter().any(|score| trial.part.global(*score) == node)
        })
    }

    /// A node that was done has to run again: what reads it waits for it anew.
    pub(super) fn rewound(&mut self, node: NodeIx, was_hit: bool) {
        if let Some(trial) = self.trial_of(node) {
            trial.open += 1;
            trial.hits -= u32::from(was_hit);
            trial.await_again(node);
            return;
        }
        for trial in self.live.values_mut() {
            trial.await_again(node);
        }
    }

    fn sampler(&mut self) -> Result<&ExternalSampler, String> {
        if self.sampler.is_none() {
            self.sampler = Some(self.start_sampler().map_err(|error| error.to_string())?);
        }
        Ok(self.sampler.as_ref().expect("it was just started"))
    }

    fn start_sampler(&self) -> Result<ExternalSampler, RunError> {
        let definition = self.core.definition();
        let text = |name: &str| match definition.options.get(name) {
            Some(value) => Some(value.to_text()),
            None => None,
        };
        let (name, command) = match definition.sampler {
            SamplerKind::Optuna => {
                let python = text("python").unwrap_or_else(|| "python3".into());
                ("optuna".to_owned(), optuna_command(&python))
            }
            _ => {
                let words = definition.options.get("command");
                let words = words.and_then(Value::as_list).unwrap_or_default();
                let command: Vec<String> = words.iter().map(Value::to_text).collect();
                (command.first().cloned().unwrap_or_default(), command)
            }
        };
        let constrained = study_has_constraints(self.growing.pipeline());
        let hello = hello(self.core.definition(), &self.name, constrained);
        ExternalSampler::start(
            &name,
            &command,
            &self.project,
            &self.folder.join("sampler.log"),
            &json!({ "hello": hello }),
        )
    }

    /// Tells the sampler what it has missed, and asks. All that it is told is durable.
    fn ask(&mut self) {
        let Some(Ask {
            trial,
            new_told,
            pending,
        }) = self.to_ask.take()
        else {
            return;
        };
        let fresh = self.sampler.is_none();
        let ready = match self.gone.take() {
            Some(why) => Err(why),
            None => self.sampler().map(|_| ()),
        };
        if let Err(why) = ready {
            let answer = Answer::Failed(why);
            self.events.push(StudyEvent::Answered { trial, answer });
            return;
        }
        let sampler = self.sampler.as_ref().expect("it was just started");
        let space = &self.core.definition().space;
        for told in self
            .core
            .history()
            .iter()
            .take(new_told.end)
            .skip(new_told.start)
        {
            let row = self.core.row(told.trial).expect("a told trial has a row");
            let result = match &row.values {
                Some(values) => Ok(values.as_slice()),
                None => Err(row.reason.unwrap_or("failed")),
            };
            sampler.tell(
                told.trial,
                &space.values(told.point),
                result,
                told.violation,
            );
        }
        if fresh {
            for number in pending {
                if let Some(values) = self.core.values(number) {
                    sampler.pending(number, &values);
                }
            }
        }
        sampler.ask(trial);
        self.asked = Some((trial, Instant::now() + self.ask_timeout()));
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
            study.say_slots();
        }
    }

    /// What identifies the objectives now: by the plan of the first trial.
    fn objective_of(&mut self, study: &mut StudyRun<'_>, asked: u64) -> Result<Digest, String> {
        if asked == 0 {
            return Err(format!(
                "study `{}` has no trials to tell again; run it first",
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
            if study.time_told.elapsed() >= TELL_TIME {
                self.tell_time(study);
            }
        }
    }

    fn tell_time(&mut self, study: &mut StudyRun<'_>) {
        study.time_told = Instant::now();
        if !study.logged {
            return;
        }
        let wall = study.used();
        encode(&StudyRecord::Used { wall }, &mut self.batch.study);
    }

    fn start_trial(&mut self, study: &mut StudyRun<'_>, trial: u64, values: Arc<Map>) {
        self.record(RunEvent::TrialStarted {
            trial,
            params: Value::map((*values).clone()).to_json(),
        });
        self.plan_part(study, trial, values, None, Instant::now());
    }

    /// Plans a trial and hands its nodes to the scheduler.
    fn plan_part(
        &mut self,
        study: &mut StudyRun<'_>,
        number: u64,
        values: Arc<Map>,
        replicates: Option<u32>,
        began: Instant,
    ) {
        let point = TrialPoint {
            number,
            values: Arc::clone(&values),
            replicates,
        };
        let planned = plan_trial(
            &study.request.planner,
            point,
            &mut study.facts,
            Some(&study.growing.pipeline().sources),
        );
        let plan = match planned {
            Ok(plan) => plan,
            Err(why) => {
                let end = TrialEnd {
                    result: Err(format!("trial {number} cannot be planned: {why}")),
                    replicates: 0,
                    seconds: 0.0,
                    hits: 0,
                    nodes: 0,
                    key: Digest::empty(),
                };
                study.events.push(StudyEvent::Ended { trial: number, end });
                return;
            }
        };
        if study.width == 0 {
            study.width = widest(&plan);
            study.say_slots();
        }
        study.naive.insert(number, plan.counts().naive);
        let (part, delta) = study.growing.add(Arc::new(plan), false);
        study.nodes = part.nodes().len() as u32;
        let is_open = |node: &NodeIx| match part.nodes().contains(&node.0) {
            true => true,
            false => self.board.end_of(*node).is_none(),
        };
        let awaited = part.plan().objective_nodes().into_iter();
        let nodes = part.nodes();
        let live = LiveTrial {
            number,
            values,
            began,
            open: part.nodes().len() as u32,
            awaited: awaited
                .map(|node| part.global(node))
                .filter(is_open)
                .collect(),
            over: false,
            replicates,
            hits: 0,
            failed: None,
            cancelled: false,
            part: Rc::clone(&part),
        };
        if !part.nodes().is_empty() {
            study.trials.insert(part.nodes().start, number);
        }
        let is_known = live.awaited.is_empty();
        study.live.insert(number, live);
        let exports = match self.options.export {
            true => part.exports(),
            false => Vec::new(),
        };
        self.extend(delta, &exports);
        if is_known {
            self.tell_trial(study, number);
        }
        if nodes.is_empty() {
            // No node of its own will ever end.
            study.live.remove(&number);
        }
    }

    /// A node of the run is done: what that means for its trial.
    pub(super) fn trial_node_done(&mut self, node: NodeIx, outcome: NodeOutcome) {
        let Some(mut study) = self.study.take() else {
            return;
        };
        let reason = match outcome {
            NodeOutcome::Failed => Some(self.reason_of(node)),
            _ => None,
        };
        let mut failed_outside = false;
        let root = match outcome {
            NodeOutcome::Skipped => self.blame.get(&node).copied(),
            _ => None,
        };
        match study.trial_of(node) {
            Some(trial) => {
                trial.open -= 1;
                trial.awaited.remove(&node);
                trial.hits += u32::from(outcome == NodeOutcome::Cached);
                trial.cancelled |= outcome == NodeOutcome::Cancelled;
                let number = trial.number;
                // What failed outside of trials says nothing of this one: it goes on once that is mended.
                let is_outside = root.is_some_and(|root| !trial.part.nodes().contains(&root.0));
                trial.cancelled |= is_outside;
                if reason.is_some() {
                    if trial.failed.is_none() {
                        trial.failed = reason;
                    }
                    study.failed_nodes += 1;
                }
                if is_outside && !study.stopping {
                    study.stop();
                    self.queue.push_back(Event::PlanComplete);
                }
                self.after_node(&mut study, number);
            }
            None => {
                failed_outside = reason.is_some();
                let mut waiting = Vec::new();
                for trial in study.live.values_mut() {
                    if trial.awaited.remove(&node) {
                        trial.cancelled |= outcome == NodeOutcome::Cancelled;
                        waiting.push(trial.number);
                    }
                }
                for number in waiting {
                    self.after_node(&mut study, number);
                }
            }
        }
        if failed_outside && self.options.fail_fast {
            // Trials go on with the next run; what runs may end.
            study.stop();
            self.queue.push_back(Event::PlanComplete);
            self.queue
                .push_back(Event::StopRequested(dagrun_sched::Stop::Drain));
        }
        self.study = Some(study);
    }

    fn after_node(&mut self, study: &mut StudyRun<'_>, number: u64) {
        let ready = |trial: &LiveTrial| trial.awaited.is_empty() && !trial.over;
        if study.live.get(&number).is_some_and(ready) {
            self.tell_trial(study, number);
        }
        let gone = |trial: &LiveTrial| trial.open == 0 && trial.over;
        if study.live.get(&number).is_some_and(gone) {
            if let Some(trial) = study.live.remove(&number) {
                self.retire(study, &trial);
            }
        }
        while let Some(at) = study.outgrown.iter().position(gone) {
            let trial = study.outgrown.swap_remove(at);
            self.retire(study, &trial);
        }
    }

    /// Evaluates a trial whose objectives can be read, and tells it, or gives it more replicates.
    fn tell_trial(&mut self, study: &mut StudyRun<'_>, number: u64) {
        let Some(trial) = study.live.get_mut(&number) else {
            return;
        };
        if trial.cancelled {
            // The run is being stopped: the trial goes on with the next one.
            trial.over = true;
            return;
        }
        let part = Rc::clone(&trial.part);
        let upstream = part.upstream(&self.board);
        let result = part.plan().trial_objective(&upstream);
        trial.over = true;
        if let Ok(values) = &result
            && trial.replicates.is_none()
            && let Some(to) = part.plan().grow_to()
        {
            let mut context = Map::new();
            let value = values.values.first().copied();
            context.insert("value".into(), value.map_or(Value::Null, Value::Float));
            context.insert("best".into(), study.core.best_value());
            match part.plan().grow(&upstream, &Value::map(context)) {
                Ok(false) => {}
                Ok(true) if study.stopping => {
                    // Its further replicates would not run any more.
                    return;
                }
                Ok(true) => {
                    let trial = study.live.remove(&number).expect("it was just there");
                    let (values, began) = (Arc::clone(&trial.values), trial.began);
                    study.outgrown.push(trial);
                    self.plan_part(study, number, values, Some(to), began);
                    return;
                }
                Err(cause) => return self.tell(study, number, Err(cause)),
            }
        }
        let result = result.map(|values| Scores {
            values: values.values,
            violation: values.violation,
        });
        self.tell(study, number, result);
    }

    fn tell(
        &mut self,
        study: &mut StudyRun<'_>,
        number: u64,
        result: Result<Scores, FailureCause>,
    ) {
        let Some(trial) = study.live.get(&number) else {
            return;
        };
        let plan = trial.part.plan();
        let result = result.map_err(|cause| match &trial.failed {
            Some(why) => why.clone(),
            None => cause.to_string(),
        });
        let end = TrialEnd {
            result,
            replicates: replicates_of(&trial.part, &self.board),
            seconds: trial.began.elapsed().as_secs_f32(),
            hits: trial.hits,
            nodes: trial.part.nodes().len() as u32,
            key: plan.objective_key(),
        };
        study.events.push(StudyEvent::Ended { trial: number, end });
    }

    /// Lays out what a trial exports, and forgets its nodes.
    fn retire(&mut self, study: &mut StudyRun<'_>, trial: &LiveTrial) {
        if self.options.export && !self.interrupted() {
            let exports = trial.part.exports();
            if !exports.is_empty() {
                self.export(exports, true);
            }
        }
        let nodes = trial.part.nodes();
        if nodes.is_empty() {
            return;
        }
        // What is queued about these nodes is handled first.
        self.to_retire.push(Rc::clone(&trial.part));
        study.trials.remove(&nodes.start);
        self.go_on_laying(study);
    }

    /// Forgets the nodes of trials that are over, once the scheduler has nothing more to say about them.
    pub(super) fn forget_trials(&mut self) {
        for part in std::mem::take(&mut self.to_retire) {
            let nodes = part.nodes();
            // The second attempt at a node that straggled may still end.
            if self
                .live
                .values()
                .any(|live| nodes.contains(&live.node().0))
            {
                self.to_retire.push(part);
                continue;
            }
            for node in nodes.clone().map(NodeIx) {
                self.never_cached.remove(&node);
                self.exported_nodes.remove(&node);
                self.ran_nodes.remove(&node);
                self.forced.remove(&node);
                self.causes.remove(&node);
                self.last_ends.remove(&node);
                self.blame.remove(&node);
                if let Some(blocked) = self.blocked.remove(&node)
                    && let Some(failure) = self.failures.iter_mut().find(|it| it.node == node)
                {
                    failure.blocked = blocked;
                }
                self.rewound.remove(&node);
            }
            self.queue.push_back(Event::Retire(NodeIx(nodes.start)));
            self.board.retire(nodes);
            if let Some(study) = &self.study {
                study.growing.retire(&part);
            }
        }
    }

    /// Why a node failed, in one line.
    fn reason_of(&self, node: NodeIx) -> String {
        let id = self.plan.id(node);
        let found = self.failures.iter().rev().find(|it| it.node == node);
        match found {
            Some(failure) => format!("`{id}` {}", failure.describe()),
            None => format!("`{id}` failed"),
        }
    }

    /// A sampler in another process may be told what the log has.
    pub(super) fn study_is_durable(&mut self) {
        if let Some(study) = &mut self.study {
            study.ask();
        }
    }

    /// The run ends, and the study goes on with the next one.
    pub(super) fn leave_study(&mut self) {
        let Some(mut study) = self.study.take() else {
            return;
        };
        if study.end.is_none() && study.logged {
            self.tell_time(&mut study);
            if let Err(error) = write_table(&study.core, &study.folder) {
                self.warn(error.to_string());
            }
        }
        let went_on = self.interrupted() || study.stopping;
        debug_assert!(
            went_on || study.live.is_empty() && study.growing.only_lasting(),
            "a trial that is over leaves nothing"
        );
        study.sampler = None;
        self.study = Some(study);
    }

    fn end_study(&mut self, study: &mut StudyRun<'_>, end: StudyEnd) {
        self.tell_time(study);
        self.record(RunEvent::StudyEnded {
            reason: end.reason.to_string(),
            told: end.counts.told,
            failed: end.counts.failed,
            succeeded: end.succeeded(),
            best: study.best(),
        });
        let goes_on = matches!(end.reason, EndReason::Stopped);
        study.end = Some(end);
        study.sampler = None;
        if let Err(error) = write_table(&study.core, &study.folder) {
            self.warn(error.to_string());
        }
        if !goes_on {
            self.plan_after(study);
        }
        self.queue.push_back(Event::PlanComplete);
    }

    /// Plans what runs over the finished study.
    fn plan_after(&mut self, study: &mut StudyRun<'_>) {
        study.after = true;
        let phases = dagrun_plan::job_phases(study.growing.pipeline());
        if !phases.contains(&JobPhase::After) {
            return;
        }
        let table = Workspace::study_table(&study.name);
        study.facts.forget(&table);
        let planned = study
            .request
            .planner
            .after(Arc::new(study.context()))
            .map_err(|errors| first_message(&errors))
            .and_then(|expansion| {
                let facts = study.facts.answer(&expansion.facts_needed());
                let facts = facts.map_err(|error| error.to_string())?;
                expansion
                    .finish(facts)
                    .map_err(|errors| first_message(&errors))
            });
        match planned {
            Ok((plan, _)) => {
                let (part, delta) = study.growing.add(Arc::new(plan), true);
                let exports = match self.options.export {
                    true => part.exports(),
                    false => Vec::new(),
                };
                self.extend(delta, &exports);
            }
            Err(why) => {
                let why = format!("what runs after the study cannot be planned: {why}");
                // Where the study has failed there may be no best trial to read, and the study is what failed.
                match &study.end {
                    Some(end) if !end.succeeded() => self.warn(why),
                    _ => self.fatal = Some(why),
                }
            }
        }
    }
}

fn study_has_constraints(pipeline: &dagrun_model::Pipeline) -> bool {
    let study = pipeline.study.as_ref();
    study.is_some_and(|study| !study.constraints.is_empty())
}

fn first_message(errors: &[dagrun_model::Diagnostic]) -> String {
    errors
        .first()
        .map_or_else(String::new, |it| it.message.clone())
}

/// How many replicates of the trial have a result: the most among its jobs.
fn replicates_of(part: &Part, board: &crate::board::Board) -> u32 {
    let plan = part.plan();
    let upstream = part.upstream(board);
    let mut by_job: FxHashMap<u32, u32> = FxHashMap::default();
    for node in plan.nodes() {
        let is_replicate = plan.axes(node).iter().any(|(name, _)| name == "replicate");
        if is_replicate && upstream.end(node) == Some(UpstreamEnd::Succeeded) {
            *by_job.entry(plan.job(node).0).or_default() += 1;
        }
    }
    by_job.into_values().max().unwrap_or(1)
}
