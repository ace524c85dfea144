//! The state machine of a worker: events and a time in, effects out.

use std::{sync::Arc, time::Duration};

use dagrun_executor_api::FullDisk;
use dagrun_model::{AttemptId, AttemptResult, Outcome};

use super::held::Holdings;
use crate::{
    message::{
        AttemptRef, Beat, Extra, FromWorker, Hello, How, Identity, Progress, Refusal, StartAttempt,
        ToWorker, Welcome,
    },
    mutant::{Mutant, Mutants},
    pool::ConnIx,
};

/// How long a worker waits before it connects again: at least, and at most; never longer than half a lease, so that a coordinator
/// that was away itself does not take it for lost.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(5));
/// In between, a wait is this part of the time that there was no connection: what a worker adds to an outage stays a part of it.
const SHARE: u32 = 4;
/// How long a worker that leaves waits for the coordinator to take what it ended, beyond its time.
const SETTLED: Duration = Duration::from_secs(5);

/// How a worker deals with its coordinator.
#[derive(Clone, Debug)]
pub struct Config {
    /// Who it is.
    pub identity: Arc<Identity>,
    /// How long it tries to reach a coordinator that it has never reached.
    pub reach: Duration,
    /// How long it tries to reach one that it had reached; `None` for as long as it lives.
    pub linger: Option<Duration>,
    /// Makes the waits of workers differ.
    pub seed: u64,
}

/// What happened.
#[derive(Clone, Debug)]
pub enum Event {
    /// Time has passed. To be told at least four times a beat.
    Tick,
    /// The connection that was asked for is there.
    Connected(ConnIx),
    /// A connection brought a message.
    Message(ConnIx, ToWorker),
    /// A connection could not be made, or is over; why.
    Closed(ConnIx, String),
    /// Processes of attempts run.
    Started(Vec<AttemptId>),
    /// Attempts ended. Blobs of successes are durable.
    Ended(Vec<(AttemptId, AttemptResult, Extra)>),
    /// A disk had no room for an attempt whose end is told next; or it has room again.
    Disk(Option<FullDisk>),
    /// Take nothing new, finish what began within this time, and go; why.
    Leave(Duration, String),
}

/// What is to be done, in order. Attempts are named as the local executor knows them.
#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    /// Make a connection. [`Event::Connected`] or [`Event::Closed`] follows.
    Connect(ConnIx),
    /// Send a message. Where that fails, [`Event::Closed`] follows.
    Send(ConnIx, FromWorker),
    /// Close a connection after what was sent. No event answers.
    Close(ConnIx),
    /// Run these.
    Submit(Vec<StartAttempt>, Vec<AttemptId>),
    /// End these: by TERM, or by KILL.
    Cancel(Vec<AttemptId>, bool),
    /// Give these back if they have not begun.
    Recall(Vec<AttemptId>),
    /// Nothing is left to do.
    Exit(Exit),
}

/// Why a worker ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Exit {
    /// It was told to, and handed all over.
    Left,
    /// The coordinator does not take it.
    Refused(String),
    /// There is no coordinator; what the last try said.
    Unreachable(String),
}

/// The connection, as far as it is made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Link {
    /// None; when to try again.
    Down {
        /// When.
        retry: Duration,
    },
    /// It is being made, or the coordinator has not answered yet.
    Greeting {
        /// The connection.
        conn: ConnIx,
        /// When it was asked for.
        since: Duration,
    },
    /// It works.
    Up {
        /// The connection.
        conn: ConnIx,
        /// When the coordinator last said something.
        heard: Duration,
        /// When the worker last did.
        said: Duration,
    },
}

/// The state of a worker.
#[derive(Debug)]
pub struct Core {
    config: Config,
    link: Link,
    next_conn: u64,
    /// The highest epoch that was heard of; 0 for none.
    epoch: u64,
    /// How long the coordinator may be silent, also before its first word on a connection; what it said last.
    lease: Duration,
    beat: Duration,
    beats: u64,
    free_bytes: u64,
    full: Option<FullDisk>,
    /// Since when there is no connection that works.
    down_since: Duration,
    held: Holdings,
    leaving: Option<Leaving>,
    exited: bool,
    mutants: Mutants,
}

#[derive(Debug)]
struct Leaving {
    why: String,
    by: Duration,
    /// What had not ended in time was killed.
    killed: bool,
}

impl Core {
    /// A worker that has not connected yet.
    pub fn new(config: Config) -> Self {
        Self {
            config,
            link: Link::Down {
                retry: Duration::ZERO,
            },
            next_conn: 0,
            epoch: 0,
            lease: Duration::from_secs(10),
            beat: Duration::from_secs(2),
            beats: 0,
            free_bytes: 0,
            full: None,
            down_since: Duration::ZERO,
            held: Holdings::default(),
            leaving: None,
            exited: false,
            mutants: Mutants::default(),
        }
    }

    /// A worker with a bug.
    #[cfg(test)]
    pub(crate) fn with_mutant(config: Config, mutant: Option<Mutant>) -> Self {
        Self {
            mutants: Mutants::of(mutant),
            ..Self::new(config)
        }
    }

    /// Whether it holds nothing at all.
    #[cfg(test)]
    pub(crate) fn holds_nothing(&self) -> bool {
        self.held.is_empty()
    }

    /// Takes an event; appends what is to be done. `now` is of a monotonic clock, since any moment.
    pub fn handle(&mut self, now: Duration, event: Event, effects: &mut Vec<Effect>) {
        if self.exited {
            return;
        }
        match event {
            Event::Tick => self.tick(now, effects),
            Event::Connected(conn) => self.connected(now, conn, effects),
            Event::Message(conn, message) => self.message(now, conn, message, effects),
            Event::Closed(conn, why) => self.closed(now, conn, &why, effects),
            Event::Started(locals) => self.started(now, &locals, effects),
            Event::Ended(ends) => self.ended(now, ends, effects),
            Event::Disk(full) => self.disk(now, full, effects),
            Event::Leave(within, why) => self.leave(now, within, why, effects),
        }
        self.exit_if_done(now, effects);
    }

    /// What beats say of the room for blobs.
    pub fn set_free_bytes(&mut self, bytes: u64) {
        self.free_bytes = bytes;
    }

    /// The connection.
    pub fn link(&self) -> &Link {
        &self.link
    }

    // --- the connection ------------------------------------------------------------------------

    /// Why it goes, where it was told to.
    pub fn leaving(&self) -> Option<&str> {
        self.leaving.as_ref().map(|leaving| leaving.why.as_str())
    }

    fn connected(&mut self, now: Duration, conn: ConnIx, effects: &mut Vec<Effect>) {
        if !matches!(&self.link, Link::Greeting { conn: mine, .. } if *mine == conn) {
            return;
        }
        let hello = Hello {
            worker: self.config.identity.clone(),
            epoch: self.epoch,
            held: self.held.held(now),
        };
        effects.push(Effect::Send(conn, FromWorker::Hello(Box::new(hello))));
    }

    fn message(
        &mut self,
        now: Duration,
        conn: ConnIx,
        message: ToWorker,
        effects: &mut Vec<Effect>,
    ) {
        match (&mut self.link, message) {
            (Link::Greeting { conn: mine, .. }, ToWorker::Welcome(welcome)) if *mine == conn => {
                self.welcome(now, conn, welcome, effects);
            }
            (Link::Greeting { conn: mine, .. }, ToWorker::Refused(refusal)) if *mine == conn => {
                self.refused(now, conn, refusal, effects);
            }
            (
                Link::Up {
                    conn: mine, heard, ..
                },
                message,
            ) if *mine == conn => {
                *heard = now;
                self.word(now, conn, message, effects);
            }
            // A former connection; nothing that it still brings counts.
            _ => {}
        }
    }

    fn welcome(
        &mut self,
        now: Duration,
        conn: ConnIx,
        welcome: Welcome,
        effects: &mut Vec<Effect>,
    ) {
        if welcome.epoch < self.epoch && !self.mutants.has(Mutant::OldEpoch) {
            let why = format!(
                "the coordinator of epoch {} was replaced: epoch {} was heard of",
                welcome.epoch, self.epoch
            );
            effects.push(Effect::Close(conn));
            return self.down(now, &why, effects);
        }
        self.epoch = welcome.epoch;
        self.lease = welcome.lease;
        self.beat = welcome.beat;
        self.link = Link::Up {
            conn,
            heard: now,
            said: now,
        };
        self.drop_held(&welcome.drop, effects);
        welcome.settled.iter().for_each(|a| self.held.settle(a));
        self.tell_all(conn, effects);
    }

    /// What the coordinator may not have heard.
    fn tell_all(&mut self, conn: ConnIx, effects: &mut Vec<Effect>) {
        // Before the ends of attempts that found no room.
        if self.full.is_some() {
            effects.push(Effect::Send(conn, self.next_beat()));
        }
        // What began or ended since the hello went out is in nothing that was sent.
        let progress = Progress {
            started: self.held.begun(),
            ended: self.held.results(),
        };
        if progress != Progress::default() {
            effects.push(Effect::Send(conn, FromWorker::Progress(progress)));
        }
        if let Some(leaving) = &self.leaving {
            let why = leaving.why.clone();
            effects.push(Effect::Send(conn, FromWorker::Leaving(why)));
        }
    }

    fn refused(
        &mut self,
        now: Duration,
        conn: ConnIx,
        refusal: Refusal,
        effects: &mut Vec<Effect>,
    ) {
        effects.push(Effect::Close(conn));
        if refusal.retry {
            self.down(now, &refusal.reason, effects);
        } else {
            self.exit(Exit::Refused(refusal.reason), effects);
        }
    }

    fn closed(&mut self, now: Duration, conn: ConnIx, why: &str, effects: &mut Vec<Effect>) {
        if self.conn() == Some(conn) {
            self.down(now, why, effects);
        }
    }

    /// There is no connection; plans the next try, or gives up.
    fn down(&mut self, now: Duration, why: &str, effects: &mut Vec<Effect>) {
        if matches!(self.link, Link::Up { .. }) {
            self.down_since = now;
        }
        let patience = match self.epoch {
            0 => Some(self.config.reach),
            _ => self.config.linger,
        };
        if patience.is_some_and(|patience| now - self.down_since >= patience) {
            return self.exit(Exit::Unreachable(why.to_owned()), effects);
        }
        self.link = Link::Down {
            retry: now + self.pause(now),
        };
    }

    /// Grows with the time that there is no connection; half of it is by chance, so that many workers do not come at once.
    fn pause(&self, now: Duration) -> Duration {
        let (least, most) = BACKOFF;
        let most = most.min(self.lease / 2);
        let full = ((now - self.down_since) / SHARE).clamp(least, most);
        let share = scramble(self.config.seed ^ self.next_conn << 32);
        full / 2 + (full / 2).mul_f64(share as f64 / u64::MAX as f64)
    }

    fn conn(&self) -> Option<ConnIx> {
        match self.link {
            Link::Down { .. } => None,
            Link::Greeting { conn, .. } | Link::Up { conn, .. } => Some(conn),
        }
    }

    fn tick(&mut self, now: Duration, effects: &mut Vec<Effect>) {
        self.kill_late(now, effects);
        match self.link {
            Link::Down { retry } if retry <= now => self.connect(now, effects),
            Link::Down { .. } => {}
            Link::Greeting { conn, since } if now - since >= self.lease => {
                effects.push(Effect::Close(conn));
                self.down(now, "the coordinator does not answer", effects);
            }
            Link::Greeting { .. } => {}
            Link::Up { conn, heard, .. } if now - heard >= self.lease => {
                effects.push(Effect::Close(conn));
                self.down(now, "the coordinator said nothing for a lease", effects);
            }
            Link::Up { conn, heard, said } => {
                if now - heard >= self.beat || now - said >= self.beat {
                    self.say_beat(now, conn, effects);
                }
            }
        }
    }

    fn connect(&mut self, now: Duration, effects: &mut Vec<Effect>) {
        self.next_conn += 1;
        let conn = ConnIx(self.next_conn);
        self.link = Link::Greeting { conn, since: now };
        effects.push(Effect::Connect(conn));
    }

    fn say_beat(&mut self, now: Duration, conn: ConnIx, effects: &mut Vec<Effect>) {
        let beat = self.next_beat();
        self.say(now, conn, beat, effects);
    }

    fn next_beat(&mut self) -> FromWorker {
        self.beats += 1;
        FromWorker::Beat(Beat {
            number: self.beats,
            answer: false,
            free_bytes: self.free_bytes,
            full: self.full.clone(),
        })
    }

    /// What changes for others is told at once.
    fn disk(&mut self, now: Duration, full: Option<FullDisk>, effects: &mut Vec<Effect>) {
        let is_news = full.is_some() != self.full.is_some();
        self.full = full;
        if let (true, Link::Up { conn, .. }) = (is_news, &self.link) {
            self.say_beat(now, *conn, effects);
        }
    }

    fn say(&mut self, now: Duration, conn: ConnIx, message: FromWorker, effects: &mut Vec<Effect>) {
        if let Link::Up { said, .. } = &mut self.link {
            *said = now;
        }
        effects.push(Effect::Send(conn, message));
    }

    /// Says something if the coordinator can hear it; otherwise it is told when it can.
    fn say_if_up(&mut self, now: Duration, message: FromWorker, effects: &mut Vec<Effect>) {
        if let Link::Up { conn, .. } = self.link {
            self.say(now, conn, message, effects);
        }
    }

    // --- attempts ------------------------------------------------------------------------------

    fn word(&mut self, now: Duration, conn: ConnIx, message: ToWorker, effects: &mut Vec<Effect>) {
        match message {
            ToWorker::Start(starts) => self.start(now, starts, effects),
            ToWorker::Stop(attempts, how) => self.stop(&attempts, how, effects),
            ToWorker::Settled(attempts) if !self.mutants.has(Mutant::NeverForget) => {
                attempts.iter().for_each(|a| self.held.settle(a));
            }
            ToWorker::Settled(_) => {}
            ToWorker::Leave(why) => self.leave(now, Duration::MAX, why, effects),
            ToWorker::Beat(_) => {}
            ToWorker::Welcome(_) | ToWorker::Refused(_) => {
                effects.push(Effect::Close(conn));
                self.down(now, "the coordinator answered twice", effects);
            }
        }
    }

    fn start(&mut self, now: Duration, starts: Vec<StartAttempt>, effects: &mut Vec<Effect>) {
        if self.leaving.is_some() {
            return self.hand_back(now, starts, effects);
        }
        let mut locals = Vec::with_capacity(starts.len());
        let mut taken = starts;
        taken.retain(|start| {
            let local = self.held.take(start);
            locals.extend(local);
            local.is_some()
        });
        if !taken.is_empty() {
            effects.push(Effect::Submit(taken, locals));
        }
    }

    /// What comes in while this worker leaves.
    fn hand_back(&mut self, now: Duration, starts: Vec<StartAttempt>, effects: &mut Vec<Effect>) {
        let ended = starts.into_iter().filter_map(|start| {
            let result = AttemptResult::bare(Outcome::Cancelled);
            self.held.take_ended(&start, result)
        });
        let progress = Progress {
            started: Vec::new(),
            ended: ended.collect(),
        };
        self.say_if_up(now, FromWorker::Progress(progress), effects);
    }

    fn stop(&mut self, attempts: &[AttemptRef], how: How, effects: &mut Vec<Effect>) {
        let open = attempts.iter().filter_map(|a| self.held.open_local(a));
        let locals: Vec<AttemptId> = open.collect();
        if locals.is_empty() {
            return;
        }
        effects.push(match how {
            How::Recall => Effect::Recall(locals),
            How::Terminate => Effect::Cancel(locals, false),
            How::Kill => Effect::Cancel(locals, true),
        });
    }

    fn drop_held(&mut self, attempts: &[AttemptRef], effects: &mut Vec<Effect>) {
        if self.mutants.has(Mutant::DropIgnored) {
            return;
        }
        let open = attempts.iter().filter_map(|a| self.held.drop(a));
        let locals: Vec<AttemptId> = open.collect();
        if !locals.is_empty() {
            effects.push(Effect::Cancel(locals, true));
        }
    }

    fn started(&mut self, now: Duration, locals: &[AttemptId], effects: &mut Vec<Effect>) {
        let started = locals
            .iter()
            .filter_map(|local| self.held.begin(now, *local));
        let progress = Progress {
            started: started.collect(),
            ended: Vec::new(),
        };
        if !progress.started.is_empty() {
            self.say_if_up(now, FromWorker::Progress(progress), effects);
        }
    }

    fn ended(
        &mut self,
        now: Duration,
        ends: Vec<(AttemptId, AttemptResult, Extra)>,
        effects: &mut Vec<Effect>,
    ) {
        let mut progress = Progress::default();
        for (local, mut result, extra) in ends {
            self.blame_leaving(&mut result);
            let ended = self.held.end(local, Arc::new(result), Arc::new(extra));
            progress.ended.extend(ended);
        }
        if progress.ended.is_empty() {
            return;
        }
        if self.mutants.has(Mutant::ForgetUnsettled) {
            for ended in &progress.ended {
                self.held.settle(&ended.attempt);
            }
        }
        self.say_if_up(now, FromWorker::Progress(progress), effects);
    }

    // --- leaving -------------------------------------------------------------------------------

    fn leave(&mut self, now: Duration, within: Duration, why: String, effects: &mut Vec<Effect>) {
        let by = now.saturating_add(within);
        if let Some(leaving) = &mut self.leaving {
            leaving.by = leaving.by.min(by);
            return;
        }
        self.leaving = Some(Leaving {
            why: why.clone(),
            by,
            killed: false,
        });
        self.say_if_up(now, FromWorker::Leaving(why), effects);
        let open = self.held.open_locals();
        let waiting: Vec<AttemptId> = open.filter(|(_, began)| !began).map(|(id, _)| id).collect();
        if !waiting.is_empty() {
            effects.push(Effect::Recall(waiting));
        }
    }

    /// What did not end in the time that a leaving worker has is killed, and lost.
    fn kill_late(&mut self, now: Duration, effects: &mut Vec<Effect>) {
        let Some(leaving) = &mut self.leaving else {
            return;
        };
        if leaving.killed || now < leaving.by {
            return;
        }
        leaving.killed = true;
        let open: Vec<AttemptId> = self.held.open_locals().map(|(id, _)| id).collect();
        if !open.is_empty() {
            effects.push(Effect::Cancel(open, true));
        }
    }

    /// An attempt that was killed because its worker leaves is not to blame.
    fn blame_leaving(&self, result: &mut AttemptResult) {
        if let Some(leaving) = self.leaving.as_ref().filter(|leaving| leaving.killed)
            && matches!(result.outcome, Outcome::Cancelled)
        {
            let name = &self.config.identity.name;
            result.outcome = Outcome::Lost(format!("worker {name} had to go: {}", leaving.why));
        }
    }

    fn exit_if_done(&mut self, now: Duration, effects: &mut Vec<Effect>) {
        let Some(leaving) = &self.leaving else {
            return;
        };
        let late = now >= leaving.by.saturating_add(SETTLED);
        if self.held.is_empty() || (self.held.is_idle() && late) {
            self.exit(Exit::Left, effects);
        }
    }

    fn exit(&mut self, exit: Exit, effects: &mut Vec<Effect>) {
        if self.exited {
            return;
        }
        self.exited = true;
        if let Some(conn) = self.conn() {
            effects.push(Effect::Close(conn));
        }
        effects.push(Effect::Exit(exit));
    }
}

/// SplitMix64's finish: evenly spread bits.
fn scramble(mut z: u64) -> u64 {
    z = z.wrapping_add(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::Incarnation;

    fn worker(seed: u64) -> Core {
        let identity = Identity::named("w", "h", Incarnation([0; 16]));
        Core::new(Config {
            identity: Arc::new(identity),
            reach: Duration::from_secs(3600),
            linger: None,
            seed,
        })
    }

    /// When a worker tries to connect, if each try fails at once.
    fn tries(seed: u64, within: Duration) -> Vec<Duration> {
        let mut core = worker(seed);
        let (mut now, mut tries) = (Duration::ZERO, Vec::new());
        while now < within {
            let mut effects = Vec::new();
            core.handle(now, Event::Tick, &mut effects);
            if let [Effect::Connect(conn)] = effects[..] {
                tries.push(now);
                core.handle(now, Event::Closed(conn, "away".into()), &mut effects);
            }
            now += Duration::from_millis(1);
        }
        tries
    }

    #[test]
    fn a_worker_looks_again_after_a_part_of_the_time_that_it_was_alone() {
        let mut all = Vec::new();
        for seed in 0..20 {
            let tries = tries(seed, Duration::from_secs(60));
            for pair in tries.windows(2) {
                let full = (pair[0] / SHARE).clamp(BACKOFF.0, BACKOFF.1);
                let waited = pair[1] - pair[0];
                let least = full / 2;
                let most = full + Duration::from_millis(1);
                assert!(
                    (least..=most).contains(&waited),
                    "{waited:?} after {:?}",
                    pair[0]
                );
            }
            all.push(tries[5]);
        }
        all.sort_unstable();
        all.dedup();
        assert!(all.len() > 15, "workers come at once: {all:?}");
    }
    fn welcomed(core: &mut Core, now: Duration, lease: Duration) {
        let mut effects = Vec::new();
        core.handle(now, Event::Tick, &mut effects);
        let [Effect::Connect(conn)] = effects[..] else {
            panic!("{effects:?}");
        };
        core.handle(now, Event::Connected(conn), &mut effects);
        let welcome = Welcome {
            epoch: 1,
            lease,
            beat: lease / 5,
            worker: 0,
            drop: Vec::new(),
            settled: Vec::new(),
        };
        let welcome = ToWorker::Welcome(welcome);
        core.handle(now, Event::Message(conn, welcome), &mut effects);
        core.handle(now, Event::Closed(conn, "cut".into()), &mut effects);
    }

    /// A connection that is taken and not answered is given up when a coordinator that works would be.
    #[test]
    fn a_greeting_is_awaited_for_a_lease() {
        for lease in [2, 10, 40].map(Duration::from_secs) {
            let mut core = worker(7);
            welcomed(&mut core, Duration::ZERO, lease);
            let began = Duration::from_secs(1);
            let mut effects = Vec::new();
            core.handle(began, Event::Tick, &mut effects);
            let [Effect::Connect(conn)] = effects[..] else {
                panic!("{effects:?}");
            };
            core.handle(began, Event::Connected(conn), &mut effects);
            effects.clear();
            core.handle(began + lease * 9 / 10, Event::Tick, &mut effects);
            assert_eq!(effects, [], "{lease:?}");
            core.handle(began + lease, Event::Tick, &mut effects);
            assert_eq!(effects, [Effect::Close(conn)], "{lease:?}");
        }
    }
}
