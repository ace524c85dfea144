//! The state machine of a study: events in, actions out.

use std::{collections::BTreeSet, sync::Arc};

use dagrun_model::{Digest, SamplerKind};

use crate::{
    Basis, Best, Definition, EndReason, FORMAT, History, Order, Source, StudyAction, StudyEnd,
    StudyEvent, StudyRecord, Told, TrialEnd, TrialState,
    outside::Outside,
    rules::Progress,
    sampler::{self, Sampler},
    table::Table,
};

/// What makes the sampler of a study, for a number of trials as it was opened.
pub(crate) type Maker = fn(&Definition, u64) -> Option<Box<dyn Sampler>>;

/// A study under way.
///
/// Every event costs at most the logarithm of the number of trials under way, beside what the sampler takes for an ask.
#[derive(Debug)]
pub struct Study {
    pub(crate) definition: Definition,
    pub(crate) table: Table,
    pub(crate) best: Option<Best>,
    /// None: another process.
    pub(crate) sampler: Option<Box<dyn Sampler>>,
    maker: Maker,
    /// How many trials there were to be when the study was opened.
    pub(crate) design: u64,
    /// How many there are to be, as the log has it.
    pub(crate) recorded_trials: u64,
    /// Asks that the sampler answered.
    pub(crate) sampled: u64,
    /// Points of `enqueue` that were asked.
    enqueued: usize,
    /// Trials of a former definition.
    pub(crate) known: u64,
    /// Trials up to this one count as told for every later ask, whatever the order says: they are of a former definition, or
    /// were told again under other objectives.
    pub(crate) base: u64,
    progress: Progress,
    /// Asked and not told.
    pending: BTreeSet<u64>,
    /// Of these, the ones that are not started: after a resume, or where objectives have changed.
    waiting: BTreeSet<u64>,
    /// Of the pending, the ones that were told under former objectives.
    pub(crate) retold: BTreeSet<u64>,
    /// Of the pending, the ones that only a later session starts: they were never told, and this one tells again.
    held: BTreeSet<u64>,
    /// How many trials may be under way; nothing is started before it is known.
    limit: Option<u32>,
    pub(crate) outside: Outside,
    stopping: Option<EndReason>,
    drained: bool,
    finished: bool,
    pub(crate) opened: bool,
    last_end: Option<EndReason>,
    pub(crate) wall: f32,
    /// Trials that the records so far have told, each once and those of a former definition not among them.
    pub(crate) told_here: u64,
    /// As many of them as were told when [`Study::wall`] was last said.
    pub(crate) told_in_wall: u64,
    objective: Option<Digest>,
    pub(crate) basis: Option<Basis>,
}

impl Study {
    /// A study that has not begun.
    pub fn new(definition: Definition) -> Self {
        Self::with_maker(definition, |it, design| {
            sampler::make(it.sampler, &it.options, &it.space, design)
        })
    }

    pub(crate) fn with_maker(definition: Definition, maker: Maker) -> Self {
        let mut study = Self {
            table: Table::new(definition.space.dims(), definition.objectives.len()),
            best: None,
            sampler: None,
            maker,
            design: definition.trials,
            recorded_trials: definition.trials,
            sampled: 0,
            enqueued: 0,
            known: 0,
            base: 0,
            progress: Progress::default(),
            pending: BTreeSet::new(),
            waiting: BTreeSet::new(),
            retold: BTreeSet::new(),
            held: BTreeSet::new(),
            limit: None,
            outside: Outside::default(),
            stopping: None,
            drained: false,
            finished: false,
            opened: false,
            last_end: None,
            wall: 0.0,
            told_here: 0,
            told_in_wall: 0,
            objective: None,
            basis: None,
            definition,
        };
        study.make_sampler();
        study
    }

    /// What the study is.
    pub fn definition(&self) -> &Definition {
        &self.definition
    }

    /// The told trials in the order in which asks see them: positions of [`StudyAction::Ask`] are into this.
    pub fn history(&self) -> &History {
        &self.table.history
    }

    /// Trials that were asked for and have not come to their end, by number.
    pub fn pending(&self) -> impl Iterator<Item = u64> {
        self.pending.iter().copied()
    }

    /// How many trials are started and have not come to their end.
    pub fn live(&self) -> usize {
        self.pending.len() - self.waiting.len() - self.held.len()
    }

    /// How many trials may be under way at once; none as long as it is not known.
    pub fn limit(&self) -> Option<u32> {
        self.limit
    }

    /// Whether the study has said [`StudyAction::Finish`].
    pub fn is_finished(&self) -> bool {
        self.finished
    }

    /// Whether another process proposes points.
    pub fn is_external(&self) -> bool {
        self.sampler.is_none()
    }

    /// Seconds that the study was under way, as the last [`StudyRecord::Used`] says.
    pub fn wall(&self) -> f32 {
        self.wall
    }

    /// How many trials came to their end within [`Study::wall`]: neither those of a former definition, nor what was told after
    /// the time was last said, nor a second time under other objectives.
    pub fn told_in_wall(&self) -> u64 {
        self.told_in_wall
    }

    /// What its trials depend on, as the last [`StudyRecord::Basis`] says.
    pub fn basis(&self) -> Option<&Basis> {
        self.basis.as_ref()
    }

    /// Takes what its trials depend on from here on; the caller keeps the record.
    pub fn set_basis(&mut self, basis: Basis) {
        self.basis = Some(basis);
    }

    /// Whether a trial was told before, and is to be told again under other objectives.
    pub fn is_told_again(&self, trial: u64) -> bool {
        self.retold.contains(&trial)
    }

    /// What identifies the objectives since the last [`StudyRecord::Rescored`].
    pub fn objective(&self) -> Option<Digest> {
        self.objective
    }

    /// Why it ended the last time that it did, if nothing came after that.
    pub fn last_end(&self) -> Option<&EndReason> {
        self.last_end.as_ref()
    }

    /// Takes an event and adds what is to be done. Events after the end are dropped.
    pub fn handle(&mut self, event: StudyEvent, out: &mut Vec<StudyAction>) {
        if self.finished {
            return;
        }
        match event {
            StudyEvent::Slots {
                slots,
                nodes_per_trial,
            } => self.limit = Some(self.in_flight(slots, nodes_per_trial)),
            StudyEvent::Answered { trial, answer } => self.answered(trial, answer, out),
            StudyEvent::SamplerRestarted => self.restarted(out),
            StudyEvent::Ended { trial, end } => {
                if !self.pending.contains(&trial) {
                    return;
                }
                self.append(
                    StudyRecord::Told {
                        trial,
                        end: end.clone(),
                    },
                    out,
                );
                self.tell(trial, &end);
            }
            StudyEvent::Wall => self.halt(EndReason::Wall),
            StudyEvent::Stop => self.halt(EndReason::Stopped),
            StudyEvent::Rescore { objective } => {
                self.append(StudyRecord::Rescored { objective }, out);
                self.rescored(objective);
                self.held = &self.waiting - &self.retold;
                self.waiting.retain(|trial| self.retold.contains(trial));
            }
        }
        self.go_on(out);
    }

    /// How many trials are under way at once: enough that a slot that frees finds a node of another trial, and one more that
    /// is asked while they run.
    fn in_flight(&self, slots: u32, nodes_per_trial: u32) -> u32 {
        self.definition.in_flight.unwrap_or_else(|| {
            let busy = (u64::from(slots) * 3).div_ceil(u64::from(nodes_per_trial.max(1)) * 2) + 1;
            u32::try_from(busy).unwrap_or(u32::MAX).max(2)
        })
    }

    pub(crate) fn halt(&mut self, reason: EndReason) {
        self.stopping.get_or_insert(reason);
        self.outside.asking = None;
    }

    /// Starts, asks and ends whatever can be.
    fn go_on(&mut self, out: &mut Vec<StudyAction>) {
        if let Some(limit) = self.limit {
            self.start_waiting(limit as usize, out);
            while self.stopping.is_none()
                && self.outside.asking.is_none()
                && self.live() < limit as usize
            {
                if !self.ask_next(out) {
                    break;
                }
            }
        }
        self.end(out);
    }

    /// Trials that were asked before are owed: also a study that its rules end runs them, so that it ends the same however
    /// often it was stopped.
    fn start_waiting(&mut self, limit: usize, out: &mut Vec<StudyAction>) {
        while !self.is_halted()
            && self.live() < limit
            && let Some(trial) = self.waiting.pop_first()
        {
            self.start(trial, out);
        }
    }

    fn is_halted(&self) -> bool {
        matches!(
            self.stopping,
            Some(EndReason::Wall | EndReason::Stopped | EndReason::Sampler(_))
        )
    }

    /// Asks for the next trial; false where none may be asked for now.
    fn ask_next(&mut self, out: &mut Vec<StudyAction>) -> bool {
        let trial = self.table.counts.asked + 1;
        let visible = self.visible(trial);
        if trial > self.total() || self.first_pending() <= visible {
            return false;
        }
        self.show(visible);
        if let Some(reason) = self.verdict() {
            self.stopping = Some(reason);
            return false;
        }
        self.open(out);
        let seen = self.seen();
        if let Some(given) = self.definition.enqueued.get(self.enqueued) {
            let point = self.complete(trial, given);
            self.admit_new(trial, Source::Enqueued, point, seen, out);
        } else if self.sampler.is_some() {
            match self.sample(trial, self.sampled + 1) {
                Some(point) => self.admit_new(trial, Source::Sampler, point, seen, out),
                None => self.stopping = Some(EndReason::UsedUp),
            }
        } else {
            self.ask_outside(trial, out);
        }
        true
    }

    /// The greatest trial up to which an ask sees all in the order of their numbers; 0 where it sees what was told in time.
    pub(crate) fn visible(&self, trial: u64) -> u64 {
        let by_order = match self.definition.order {
            Order::Async => return 0,
            Order::Batched(n) => {
                let n = u64::from(n);
                self.base + (trial - self.base).saturating_sub(1) / n * n
            }
            Order::Lag(lag) => trial.saturating_sub(u64::from(lag)),
        };
        by_order.max(self.base)
    }

    /// How many trials there are in all. Known ones count, but a grid is not cut short by them.
    fn total(&self) -> u64 {
        let beside = match self.definition.sampler {
            SamplerKind::Grid => self.known,
            _ => 0,
        };
        self.definition.trials.saturating_add(beside)
    }

    /// How many trials are still to be asked for, as long as no rule ends the study before.
    pub fn to_come(&self) -> u64 {
        self.total().saturating_sub(self.table.counts.asked)
    }

    /// The least trial that is not told; beyond all where there is none.
    pub(crate) fn first_pending(&self) -> u64 {
        self.pending.first().copied().unwrap_or(u64::MAX)
    }

    /// Shows all trials up to one, in the order of their numbers.
    pub(crate) fn show(&mut self, visible: u64) {
        while self.seen() < visible && self.definition.order != Order::Async {
            self.show_one(self.seen() + 1);
        }
    }

    fn show_one(&mut self, trial: u64) {
        self.table.history.show(trial);
        self.progress.see(self.table.history.trial(trial));
    }

    pub(crate) fn seen(&self) -> u64 {
        self.table.history.len() as u64
    }

    fn verdict(&self) -> Option<EndReason> {
        let stop = &self.definition.stop;
        let target = stop
            .target
            .map(|target| self.definition.objectives[0].turned(target));
        self.progress.verdict(stop, target)
    }

    /// The numbers of the trials that were asked before `trial` and are not in the history.
    pub(crate) fn unseen(&self, trial: u64) -> Vec<u64> {
        match self.definition.order {
            Order::Async => self.pending.range(..trial).copied().collect(),
            _ => (self.seen() + 1..trial).collect(),
        }
    }

    /// A cleaned point of the own sampler.
    pub(crate) fn sample(&mut self, trial: u64, ask: u64) -> Option<Vec<f64>> {
        let unseen = self.unseen(trial);
        let history = &self.table.history;
        let pending: Vec<&[f64]> = unseen.iter().map(|it| history.point(*it)).collect();
        let space = &self.definition.space;
        let sampler = self.sampler.as_mut()?;
        let mut point = sampler.ask(space, ask, history, &pending)?;
        space.clean(&mut point);
        Some(point)
    }

    /// An enqueued point with draws for what was left out.
    fn complete(&self, trial: u64, given: &[Option<f64>]) -> Vec<f64> {
        let space = &self.definition.space;
        let seed = sampler::seed(&self.definition.options);
        let parameters = space.parameters.iter().zip(given).zip(0..);
        let mut point: Vec<f64> = parameters
            .map(|((it, given), at)| {
                given.unwrap_or_else(|| it.from_unit(sampler::draw(!seed, trial, at)))
            })
            .collect();
        space.clean(&mut point);
        point
    }

    pub(crate) fn admit_new(
        &mut self,
        trial: u64,
        source: Source,
        point: Vec<f64>,
        seen: u64,
        out: &mut Vec<StudyAction>,
    ) {
        let seen = u32::try_from(seen).expect("fewer than 2^32 trials");
        self.admit(source, &point, seen);
        self.sampled += u64::from(source == Source::Sampler);
        self.append(
            StudyRecord::Asked {
                trial,
                source,
                point,
                seen,
            },
            out,
        );
        self.start(trial, out);
    }

    /// Adds the next trial, as asked and neither started nor waiting.
    pub(crate) fn admit(&mut self, source: Source, point: &[f64], seen: u32) -> u64 {
        self.table.ask(source, point, seen);
        let trial = self.table.counts.asked;
        self.pending.insert(trial);
        self.enqueued += usize::from(source == Source::Enqueued);
        self.meet(point);
        self.last_end = None;
        trial
    }

    /// Marks a trial as asked and to be started once that is possible.
    pub(crate) fn wait(&mut self, trial: u64) {
        self.waiting.insert(trial);
    }

    fn start(&mut self, trial: u64, out: &mut Vec<StudyAction>) {
        let values = self
            .definition
            .space
            .values(self.table.history.point(trial));
        out.push(StudyAction::Start {
            trial,
            values: Arc::new(values),
        });
    }

    /// Takes in what a pending trial came to.
    pub(crate) fn tell(&mut self, trial: u64, end: &TrialEnd) {
        self.pending.remove(&trial);
        self.waiting.remove(&trial);
        self.retold.remove(&trial);
        self.last_end = None;
        let scored = self.scored(end);
        let values = match &scored {
            Ok((values, violation)) => Ok((values.as_slice(), *violation)),
            Err(reason) => Err(reason.as_str()),
        };
        self.table.tell(trial, values, end);
        if self.definition.order == Order::Async {
            self.show_one(trial);
        }
        self.consider(trial);
    }

    /// The values to be minimised, or why the trial has failed: what is not finite is no value.
    fn scored(&self, end: &TrialEnd) -> Result<(Vec<f64>, f64), String> {
        let scores = end.result.as_ref().map_err(Clone::clone)?;
        let goals = &self.definition.objectives;
        if scores.values.len() != goals.len() {
            return Err(format!(
                "{} values for {} objectives",
                scores.values.len(),
                goals.len()
            ));
        }
        let pairs = || goals.iter().zip(&scores.values);
        if let Some((goal, value)) = pairs().find(|(_, value)| !value.is_finite()) {
            return Err(format!(
                "`{}` is {value}, which is no finite number",
                goal.name
            ));
        }
        if scores.violation.is_nan() {
            return Err("a constraint is NaN".to_owned());
        }
        let values = pairs().map(|(goal, value)| goal.turned(*value));
        Ok((values.collect(), scores.violation.max(0.0)))
    }

    /// Keeps the best one; of equal ones the first by number, whatever was told first.
    fn consider(&mut self, trial: u64) {
        let told: Told<'_> = self.table.history.trial(trial);
        let (Some([value]), true) = (told.values, told.violation == 0.0) else {
            return;
        };
        let goal = &self.definition.objectives[0];
        let better = self.best.is_none_or(|best| {
            let champion = goal.turned(best.value);
            *value < champion || (*value == champion && trial < best.trial)
        });
        if better {
            self.best = Some(Best {
                trial,
                value: goal.turned(*value),
            });
        }
    }

    /// Takes back what all trials came to: they are awaited under the same points.
    pub(crate) fn rescored(&mut self, objective: Digest) {
        let told: Vec<u64> = (1..=self.table.counts.asked)
            .filter(|trial| self.table.state(*trial) != TrialState::Asked)
            .collect();
        self.table.untell();
        self.pending.extend(&told);
        self.waiting.extend(&told);
        self.retold.extend(&told);
        self.base = self.table.counts.asked;
        self.best = None;
        self.progress = Progress::default();
        self.forget_sent();
        self.stopping = None;
        self.drained = false;
        self.last_end = None;
        self.objective = Some(objective);
        self.make_sampler();
    }

    pub(crate) fn make_sampler(&mut self) {
        self.sampler = (self.maker)(&self.definition, self.design);
    }

    /// Notes that it has ended, or does nothing where it has not.
    fn end(&mut self, out: &mut Vec<StudyAction>) {
        let asked_all = self.table.counts.asked >= self.total();
        if self.stopping.is_none() && !(asked_all && self.limit.is_some()) {
            return;
        }
        let owed = !self.waiting.is_empty() && !self.is_halted();
        if self.live() > 0 || owed {
            if !owed && !self.drained {
                self.drained = true;
                out.push(StudyAction::Drain);
            }
            return;
        }
        let reason = self.reason();
        // A study that was stopped before its first ask leaves no log.
        if self.opened && self.last_end.as_ref() != Some(&reason) {
            self.append(
                StudyRecord::Ended {
                    reason: reason.clone(),
                },
                out,
            );
        }
        self.last_end = Some(reason.clone());
        self.finished = true;
        // No ask sees the last trials; whoever keeps all of them outside is to have them too.
        self.show((self.first_pending() - 1).min(self.table.counts.asked));
        out.push(StudyAction::Finish(StudyEnd {
            reason,
            new_told: self.unsent(),
            best: self.best,
            counts: self.table.counts,
        }));
    }

    /// Why it ended. The last trials are seen by no ask, so failures among them are looked at here.
    fn reason(&self) -> EndReason {
        let failed = self.table.counts.failed;
        match &self.stopping {
            Some(reason @ (EndReason::Sampler(_) | EndReason::Stopped)) => reason.clone(),
            _ if failed >= self.definition.stop.failures => EndReason::Failures { failed },
            Some(reason) => reason.clone(),
            // Trials that were never told are for a later session.
            None if !self.held.is_empty() => EndReason::Stopped,
            None => EndReason::Trials,
        }
    }

    pub(crate) fn ended(&mut self, reason: EndReason) {
        self.last_end = Some(reason);
    }

    /// Writes the first record before any other one, and how many trials there are where that has changed since.
    fn open(&mut self, out: &mut Vec<StudyAction>) {
        let trials = self.definition.trials;
        if self.opened && self.recorded_trials != trials {
            out.push(StudyAction::Append(StudyRecord::Trials { trials }));
        }
        self.recorded_trials = trials;
        if !self.opened {
            self.opened = true;
            out.push(StudyAction::Append(StudyRecord::Opened {
                format: FORMAT,
                identity: self.definition.identity(),
                text: self.definition.text(),
                trials: self.design,
            }));
        }
    }

    fn append(&mut self, record: StudyRecord, out: &mut Vec<StudyAction>) {
        self.open(out);
        out.push(StudyAction::Append(record));
    }
}
