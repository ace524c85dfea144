//! A coordinator's process: the pool's task and its service on a simulated socket, and a driver of one run.

use std::{
    collections::BTreeMap,
    io,
    net::Ipv4Addr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use dagrun_executor_api::ExecutorEvent;
use dagrun_model::{AttemptId, WorkerIx};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    sync::{mpsc, watch},
    task::spawn_local,
    time::{interval, sleep},
};
use tonic::transport::server::Connected;
use turmoil::net::{TcpListener, TcpStream};

use super::{
    super::runs::{LIMITED, Next},
    truth::{Shared, note},
};
use crate::{
    pool::{Actor, Config, Event, Input, OpenRun, RunIx, workers_service},
    security::Limits,
};

/// Where it listens.
pub(super) const PORT: u16 = 9000;
/// What both sides say that they are.
pub(super) const VERSION: &str = "1";
/// The terms: shorter than usual, so that much happens in little time.
const LEASE: Duration = Duration::from_secs(3);
const BEAT: Duration = Duration::from_millis(600);
const GRACE: Duration = Duration::from_secs(1);
const ADOPTS: Duration = Duration::from_secs(6);
/// How often a driver has its turn.
const TURN: Duration = Duration::from_millis(60);

/// Runs a coordinator until its host dies.
pub(super) async fn coordinate(truth: Shared) -> turmoil::Result {
    let epoch = truth.borrow_mut().begin();
    let mut config = Config::new(VERSION, epoch);
    config.lease = LEASE;
    config.beat = BEAT;
    config.grace = GRACE;
    config.adopts = Some(ADOPTS);
    if truth.borrow().limit {
        config.limits.insert(LIMITED.into(), 1000);
    }
    let (inbox, commands) = mpsc::unbounded_channel();
    let (count, _workers) = watch::channel(0);
    tokio::spawn(Actor::new(config, None, count, commands).run());
    let service = workers_service(&inbox, epoch << 32);
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, PORT)).await?;
    let incoming = futures_util::stream::unfold(listener, async |listener| {
        let accepted = listener.accept().await;
        Some((accepted.map(|(stream, _)| Socket(stream)), listener))
    });
    let server = Limits::default().server().add_service(service);
    spawn_local(server.serve_with_incoming(incoming));
    Driver::open(truth, inbox.clone()).run().await;
    // Workers that are late hear that they are not needed any more, from a pool that goes on.
    inbox.closed().await;
    Ok(())
}

struct Driver {
    truth: Shared,
    run: RunIx,
    inbox: mpsc::UnboundedSender<Input>,
    events: mpsc::UnboundedReceiver<ExecutorEvent>,
    /// By what results tell who made them.
    marks: BTreeMap<WorkerIx, u64>,
}

impl Driver {
    fn open(truth: Shared, inbox: mpsc::UnboundedSender<Input>) -> Self {
        let (sender, events) = mpsc::unbounded_channel();
        let run = truth.borrow().run.ix;
        let open = OpenRun {
            id: Arc::clone(&truth.borrow().run.id),
            priority: 0,
            cpus: None,
            resumes: truth.borrow().run.chain.clone(),
        };
        truth.borrow_mut().run.opened = true;
        let _ = inbox.send(Input::OpenRun(run, open, sender));
        Self {
            truth,
            run,
            inbox,
            events,
            marks: BTreeMap::new(),
        }
    }

    /// Works until all is done and nothing goes wrong any more, and ends the run.
    async fn run(mut self) {
        let mut turns = interval(TURN);
        while !self.is_done() {
            tokio::select! {
                Some(event) = self.events.recv() => self.hear(event),
                _ = turns.tick() => self.turn(),
            }
        }
        note(&self.truth, "the run is closed");
        let (done, is_over) = std::sync::mpsc::channel();
        self.say(Input::CloseRun(self.run, done));
        while is_over.try_recv().is_err() {
            // Not a wait on the channel: that would stop the clock.
            sleep(TURN).await;
        }
        while let Ok(event) = self.events.try_recv() {
            self.hear(event);
        }
        note(&self.truth, "the run is over");
        let open = self.truth.borrow().run.attempts.clone();
        if let Some((id, _)) = open.iter().find(|(_, attempt)| !attempt.ended) {
            let why = format!("the run is over and {id} did not end");
            self.truth.borrow_mut().violate(why);
        }
        self.truth.borrow_mut().dismissed = true;
        self.say(Input::Event(Event::Dismiss("all is done".into())));
    }

    fn is_done(&self) -> bool {
        let truth = self.truth.borrow();
        truth.healed && truth.run.is_done()
    }

    fn say(&self, word: Input) {
        let _ = self.inbox.send(word);
    }

    fn turn(&mut self) {
        let words = {
            let truth = &mut *self.truth.borrow_mut();
            truth.run.turn(&mut truth.rng, true)
        };
        for word in words {
            note(&self.truth, &format!("driver: {word:?}"));
            if let Event::Submit(_, _, specs) = &word {
                let run = &mut self.truth.borrow_mut().run;
                specs.iter().for_each(|spec| run.sent(spec.attempt));
            }
            self.say(Input::Event(word));
        }
    }

    fn hear(&mut self, event: ExecutorEvent) {
        note(&self.truth, &format!("run: {event:?}"));
        if let ExecutorEvent::WorkerJoined(info) = &event {
            let half = u64::from_str_radix(&info.process[..16], 16).expect("it is in hex");
            self.marks.insert(info.worker, half.swap_bytes());
        }
        let made_by = |worker| self.marks.get(&worker).copied().unwrap_or_default();
        // There is one coordinator at a time here.
        let next = self.truth.borrow_mut().run.hear(event, made_by, |_| false);
        match next {
            Ok(Next::Nothing) => {}
            Ok(Next::Commit(id)) => self.settle(id, true),
            Ok(Next::Settle(id)) => self.settle(id, false),
            Ok(Next::Decide(worker, wanted, unwanted)) => {
                self.truth.borrow_mut().adopted += wanted.len() as u64;
                self.say(Input::Event(Event::Adopt(self.run, worker, wanted)));
                self.say(Input::Event(Event::Disown(self.run, unwanted)));
            }
            Err(why) => self.truth.borrow_mut().violate(why),
        }
    }

    /// Says some time later that nothing of an attempt is left to do; before that, its result is made durable.
    fn settle(&self, id: AttemptId, commits: bool) {
        let (truth, inbox, run) = (self.truth.clone(), self.inbox.clone(), self.run);
        spawn_local(async move {
            let wait = truth.borrow_mut().rng.below(80_000);
            sleep(Duration::from_micros(wait)).await;
            if commits {
                note(&truth, &format!("{id} is committed"));
                let committed = truth.borrow_mut().run.commit(id);
                if let Err(why) = committed {
                    truth.borrow_mut().violate(why);
                }
            }
            let _ = inbox.send(Input::Event(Event::Settled(run, vec![id])));
        });
    }
}

/// A simulated connection, as tonic wants it.
struct Socket(TcpStream);

impl Connected for Socket {
    type ConnectInfo = ();

    fn connect_info(&self) {}
}

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}
