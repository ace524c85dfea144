//! Stories of a coordinator that started again and of a worker that has something of the former one; and of runs that share workers.

use dagrun_executor_api::conformance::shell;
use dagrun_model::{AttemptResult, Digest, Outcome, Outputs, Resources};

use super::*;
use crate::message::{AttemptRef, Extra, Held, Hello, How, Progress, Welcome};

const WORKER: WorkerIx = WorkerIx(0);
const RUN: RunIx = RunIx(0);

struct Story {
    core: Core,
    now: Duration,
    conn: u64,
}

impl Story {
    /// A coordinator that is not the first, and one worker.
    fn new(held: Vec<Held>) -> Self {
        let mut config = Config::new("1", 2);
        config.adopts = Some(Duration::from_secs(60));
        let mut story = Self {
            core: Core::new(config),
            now: Duration::ZERO,
            conn: 0,
        };
        story.connect(held);
        story
    }

    fn happens(&mut self, event: Event) -> Vec<Effect> {
        let mut effects = Vec::new();
        self.core.handle(self.now, event, &mut effects);
        effects
    }

    fn says(&mut self, message: FromWorker) -> Vec<Effect> {
        self.happens(Event::Message(ConnIx(self.conn), message))
    }

    /// The worker connects, for the first time or anew.
    fn connect(&mut self, held: Vec<Held>) -> Vec<Effect> {
        self.conn += 1;
        self.happens(Event::Opened(ConnIx(self.conn)));
        let identity = Identity {
            capacity: Resources {
                cpu_milli: 4000,
                ..Resources::none()
            },
            ..Identity::named("w", "h", Incarnation([7; 16]))
        };
        self.says(FromWorker::Hello(Box::new(Hello {
            worker: Arc::new(identity),
            epoch: 1,
            held,
        })))
    }

    /// Opens a run that goes on with the former one; gives what it is offered.
    fn open(&mut self) -> Vec<HeldAttempt> {
        let effects = self.happens(Event::RunOpened {
            run: RUN,
            id: "new".into(),
            priority: 0,
            cpus: None,
            resumes: vec!["old".into()],
        });
        let joined = effects.into_iter().find_map(|effect| match effect {
            Effect::Tell(RUN, ExecutorEvent::WorkerJoined(info)) => Some(info.held),
            _ => None,
        });
        joined.expect("it hears of the worker")
    }

    /// Time passes, and the worker is there.
    fn wait(&mut self, seconds: u64) -> Vec<Effect> {
        let mut effects = Vec::new();
        for number in 0..seconds {
            self.now += Duration::from_secs(1);
            effects.extend(self.says(FromWorker::Beat(crate::message::Beat {
                number,
                answer: true,
                free_bytes: 0,
                full: None,
            })));
            effects.extend(self.happens(Event::Tick));
        }
        effects
    }

    fn ends(&mut self, id: u64, outcome: Outcome) -> Vec<Effect> {
        self.says(FromWorker::Progress(Progress {
            started: Vec::new(),
            ended: vec![Ended {
                attempt: old(id),
                result: Arc::new(AttemptResult::bare(outcome)),
                extra: Arc::new(Extra::default()),
            }],
        }))
    }
}

fn old(id: u64) -> AttemptRef {
    AttemptRef {
        run: "old".into(),
        attempt: AttemptId(id),
    }
}

fn held(id: u64, ended: bool) -> Held {
    Held {
        attempt: old(id),
        action: Digest::of(b""),
        started: !ended,
        ended,
        resources: Resources {
            cpu_milli: 1000,
            ..Resources::none()
        },
        limited: BTreeMap::new(),
        ran: Duration::ZERO,
    }
}

/// How the run hears that attempts ended.
fn told(effects: &[Effect]) -> Vec<(u64, Outcome)> {
    let ends = effects.iter().filter_map(|effect| match effect {
        Effect::Tell(RUN, ExecutorEvent::Ended(id, result)) => Some((id.0, result.outcome.clone())),
        _ => None,
    });
    ends.collect()
}

fn sends(effects: &[Effect], conn: u64, message: &ToWorker) -> bool {
    let is_it = |effect: &Effect| matches!(effect, Effect::Send(to, said) if *to == ConnIx(conn) && said == message);
    effects.iter().any(is_it)
}

#[test]
fn what_was_offered_ends_as_its_worker_says() {
    let mut story = Story::new(vec![held(1, false)]);
    let offered = story.open();
    assert_eq!(offered.len(), 1);
    story.says(FromWorker::Leaving("the host is needed".into()));
    let lost = Outcome::Lost("worker w had to go: the host is needed".into());
    let effects = story.ends(1, lost.clone());
    assert_eq!(told(&effects), [], "nobody has taken it over yet");
    let effects = story.happens(Event::Adopt(RUN, WORKER, offered));
    assert_eq!(told(&effects), [(1, lost)]);
    let effects = story.happens(Event::Settled(RUN, vec![AttemptId(1)]));
    assert!(sends(&effects, 1, &ToWorker::Settled(vec![old(1)])));
}

#[test]
fn what_was_offered_is_kept_until_it_is_answered() {
    let mut story = Story::new(vec![held(1, false), held(2, false)]);
    story.wait(59);
    let offered = story.open();
    let effects = story.wait(3);
    let stops = |effect: &Effect| matches!(effect, Effect::Send(_, ToWorker::Stop(..)));
    assert!(!effects.iter().any(stops), "{effects:?}");
    story.happens(Event::Adopt(RUN, WORKER, vec![offered[0].clone()]));
    let effects = story.ends(1, Outcome::Succeeded(Outputs::new()));
    assert_eq!(told(&effects), [(1, Outcome::Succeeded(Outputs::new()))]);
    // What nobody answers about is over with the run.
    let effects = story.happens(Event::RunClosed(RUN));
    let stop = ToWorker::Stop(vec![old(2)], How::Kill);
    assert!(sends(&effects, 1, &stop), "{effects:?}");
}

#[test]
fn what_was_given_up_is_not_offered() {
    let mut story = Story::new(vec![held(1, false), held(2, true)]);
    story.ends(2, Outcome::Succeeded(Outputs::new()));
    let effects = story.wait(61);
    assert!(sends(&effects, 1, &ToWorker::Stop(vec![old(1)], How::Kill)));
    // Its end would take the result away before the run could answer.
    assert_eq!(story.open(), []);
}

#[test]
fn what_was_answered_is_not_kept_again() {
    let mut story = Story::new(vec![held(1, true)]);
    story.ends(1, Outcome::Succeeded(Outputs::new()));
    let offered = story.open();
    story.happens(Event::Disown(RUN, offered));
    story.happens(Event::Closed(ConnIx(1), "broken".into()));
    // The word that it is settled was lost with the connection.
    let effects = story.connect(vec![held(1, true)]);
    let welcome = effects.iter().find_map(|effect| match effect {
        Effect::Send(_, ToWorker::Welcome(welcome)) => Some(welcome),
        _ => None,
    });
    let Welcome { settled, drop, .. } = welcome.expect("it is known");
    assert_eq!((&settled[..], &drop[..]), (&[old(1)][..], &[][..]));
}

#[test]
fn who_was_lost_is_told_for_a_while() {
    let mut story = Story::new(Vec::new());
    story.wait(1);
    story.happens(Event::Closed(ConnIx(story.conn), "cut".into()));
    for _ in 0..3 {
        story.now += Duration::from_secs(1);
        story.happens(Event::Tick);
    }
    let told = |story: &Story| {
        let lost = story.core.status(story.now).lost;
        let told = lost
            .into_iter()
            .map(|it| (it.identity.name.clone(), it.ago));
        told.collect::<Vec<_>>()
    };
    let just = ("w".to_owned(), Duration::from_secs(1));
    assert_eq!(told(&story), [just]);
    story.now += Duration::from_secs(3598);
    assert_eq!(told(&story).len(), 1);
    story.now += Duration::from_secs(1);
    assert_eq!(told(&story), []);
}

#[test]
fn who_has_left_is_not_lost() {
    let mut story = Story::new(Vec::new());
    story.says(FromWorker::Leaving("it was told to".into()));
    story.happens(Event::Closed(ConnIx(story.conn), "it left".into()));
    story.happens(Event::Tick);
    let status = story.core.status(story.now);
    assert_eq!((status.workers.len(), status.lost), (0, Vec::new()));
}

/// Nobody is refused for a name, which often is that of the machine; but people can tell which is meant.
#[test]
fn workers_of_one_name_are_told_apart() {
    let mut core = Core::new(Config::new("1", 1));
    let mut effects = Vec::new();
    let mut join = |number: u8, boot: &str| {
        let conn = ConnIx(number.into());
        core.handle(Duration::ZERO, Event::Opened(conn), &mut effects);
        let identity = Identity {
            boot: boot.into(),
            blobs: format!("10.0.0.{number}:4000"),
            ..Identity::named("w", boot, Incarnation([number; 16]))
        };
        let hello = FromWorker::Hello(Box::new(Hello {
            worker: Arc::new(identity),
            epoch: 0,
            held: Vec::new(),
        }));
        core.handle(Duration::ZERO, Event::Message(conn, hello), &mut effects);
        let news = effects.drain(..).filter_map(|effect| match effect {
            Effect::News(news @ News::Namesakes(_)) => Some(news.to_string()),
            _ => None,
        });
        news.collect::<Vec<_>>()
    };
    assert_eq!(join(1, "a"), [""; 0]);
    assert_eq!(join(2, "a"), [""; 0], "several on one machine");
    assert_eq!(
        join(3, "b"),
        [
            "3 workers on different machines are called w: number 0 (blobs at 10.0.0.1:4000), \
          number 1 (blobs at 10.0.0.2:4000), number 2 (blobs at 10.0.0.3:4000); `dagrun worker --name` tells them apart"
        ]
    );
    core.handle(Duration::ZERO, Event::Tick, &mut effects);
    for second in 1..30 {
        core.handle(Duration::from_secs(second), Event::Tick, &mut effects);
    }
    let lost = core.status(Duration::from_secs(30)).lost;
    let whys: Vec<&str> = lost.iter().map(|lost| &*lost.why).collect();
    assert_eq!(whys.len(), 3);
    assert!(
        whys[0].starts_with("worker w (number 0) said nothing"),
        "{whys:?}"
    );
    assert!(
        whys[1].starts_with("worker w (number 1) said nothing"),
        "{whys:?}"
    );
}

/// Two workers with one slot each, and two runs.
struct Shared {
    core: Core,
    now: Duration,
}

const OTHER: RunIx = RunIx(1);

impl Shared {
    fn new() -> Self {
        let mut shared = Self {
            core: Core::new(Config::new("1", 1)),
            now: Duration::ZERO,
        };
        for n in 0..2 {
            shared.happens(Event::Opened(ConnIx(n)));
            let identity = Identity {
                capacity: Resources::default(),
                ..Identity::named(
                    &format!("w{n}"),
                    &format!("h{n}"),
                    Incarnation([n as u8; 16]),
                )
            };
            let hello = FromWorker::Hello(Box::new(Hello {
                worker: Arc::new(identity),
                epoch: 1,
                held: Vec::new(),
            }));
            shared.happens(Event::Message(ConnIx(n), hello));
        }
        shared
    }

    fn happens(&mut self, event: Event) -> Vec<Effect> {
        let mut effects = Vec::new();
        self.core.handle(self.now, event, &mut effects);
        effects
    }

    fn open(&mut self, run: RunIx, id: &str) -> Vec<Effect> {
        self.happens(Event::RunOpened {
            run,
            id: id.into(),
            priority: 0,
            cpus: None,
            resumes: Vec::new(),
        })
    }

    fn submit(&mut self, run: RunIx, worker: u32, attempt: u64) -> Vec<Effect> {
        let spec = shell(attempt, "true", |_| {});
        self.happens(Event::Submit(run, WorkerIx(worker), vec![spec]))
    }

    fn ends(&mut self, worker: u64, run: &str, id: u64) -> Vec<Effect> {
        let ended = Ended {
            attempt: AttemptRef {
                run: run.into(),
                attempt: AttemptId(id),
            },
            result: Arc::new(AttemptResult::bare(Outcome::Succeeded(Outputs::new()))),
            extra: Arc::new(Extra::default()),
        };
        self.happens(Event::Message(
            ConnIx(worker),
            FromWorker::Progress(Progress {
                started: Vec::new(),
                ended: vec![ended],
            }),
        ))
    }
}

/// What a run hears that others have, by worker.
fn hears(effects: &[Effect], who: RunIx) -> Vec<(u32, u64)> {
    let told = effects.iter().filter_map(|effect| match effect {
        Effect::Tell(run, ExecutorEvent::TakenByOthers(taken)) if *run == who => Some(taken),
        _ => None,
    });
    let told = told.flatten();
    told.map(|(worker, others)| (worker.0, others.cpu_milli))
        .collect()
}

#[test]
fn a_run_hears_what_others_have_and_where_room_comes_up() {
    let mut shared = Shared::new();
    let effects = shared.open(RUN, "one");
    assert_eq!(hears(&effects, RUN), [], "it is alone");
    shared.submit(RUN, 0, 1);
    let effects = shared.open(OTHER, "two");
    let joined = effects.iter().filter_map(|effect| match effect {
        Effect::Tell(OTHER, ExecutorEvent::WorkerJoined(info)) => Some(info.worker.0),
        _ => None,
    });
    assert_eq!(joined.collect::<Vec<_>>(), [1, 0], "who idles comes first");
    assert_eq!(hears(&effects, OTHER), [(0, 1000)]);
    // Its own room may be taken while it does not look.
    shared.submit(RUN, 1, 2);
    let effects = shared.submit(OTHER, 1, 1);
    assert_eq!(hears(&effects, OTHER), [(1, 1000)]);
    let waits = shared.core.status(shared.now).waits;
    assert_eq!(waits, ["1 of run two for room on w1, which run one has"]);
    // It waits for one worker, and hears that the other one is free now.
    let effects = shared.ends(0, "one", 1);
    assert_eq!(
        (hears(&effects, RUN), hears(&effects, OTHER)),
        (vec![], vec![(0, 0)])
    );
    let effects = shared.happens(Event::Withdraw(OTHER, vec![AttemptId(1)]));
    let cancelled = end_of(OTHER, 1, Outcome::Cancelled);
    assert_eq!(effects, [cancelled]);
    // What its worker was told of is not withdrawn.
    let effects = shared.happens(Event::Withdraw(RUN, vec![AttemptId(2)]));
    assert_eq!(effects, []);
}

fn end_of(run: RunIx, id: u64, outcome: Outcome) -> Effect {
    let result = Box::new(AttemptResult::bare(outcome));
    Effect::Tell(run, ExecutorEvent::Ended(AttemptId(id), result))
}

#[test]
fn a_run_hears_that_others_have_its_room_before_it_can_take_it() {
    let mut shared = Shared::new();
    shared.open(RUN, "one");
    shared.open(OTHER, "two");
    shared.submit(RUN, 0, 1);
    shared.submit(OTHER, 0, 1);
    let effects = shared.ends(0, "one", 1);
    let told = effects.iter().filter_map(|effect| match effect {
        Effect::Tell(RUN, ExecutorEvent::TakenByOthers(_)) => Some("taken"),
        Effect::Tell(RUN, ExecutorEvent::Ended(..)) => Some("ended"),
        _ => None,
    });
    assert_eq!(told.collect::<Vec<_>>(), ["taken", "ended"]);
    assert_eq!(hears(&effects, RUN), [(0, 1000)]);
    // All else it hears with the next tick.
    shared.submit(OTHER, 1, 2);
    let effects = shared.happens(Event::Tick);
    assert_eq!(hears(&effects, RUN), [(1, 1000)]);
    assert_eq!(hears(&shared.happens(Event::Tick), RUN), []);
}
