//! Progress that begins when the first node has to run: a run of hits alone is over before there is anything to show, and
//! needs no thread for it.

use std::{
    sync::{Arc, Mutex, PoisonError},
    thread::JoinHandle,
};

use dagrun_events::RunEvent;
use dagrun_run::{ExecutorFactory, Notification, Subscriber, Subscription, subscribe};

use crate::{error::CliError, term::Progress};

type Make = Box<dyn FnOnce() -> Progress + Send>;

/// Progress that waits for its beginning.
#[derive(Clone)]
pub(crate) struct Later(Arc<Mutex<State>>);

enum State {
    Waiting(Make, Subscription),
    Thread(JoinHandle<()>),
    Over,
}

impl Later {
    /// Progress over at most `queue` events that wait.
    pub(crate) fn new(
        queue: usize,
        make: impl FnOnce() -> Progress + Send + 'static,
    ) -> (Subscriber, Self) {
        let (subscriber, subscription) = subscribe(queue);
        let state = State::Waiting(Box::new(make), subscription);
        (subscriber, Self(Arc::new(Mutex::new(state))))
    }

    /// Starts the thread that follows events, unless it is there.
    ///
    /// # Errors
    /// When there can be no thread.
    pub(crate) fn begin(&self) -> Result<(), String> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *state = match std::mem::replace(&mut *state, State::Over) {
            State::Waiting(make, subscription) => {
                let thread = std::thread::Builder::new().name("events".into());
                let thread = thread.spawn(move || follow(make, &subscription, |_| true));
                State::Thread(thread.map_err(|error| format!("cannot start a thread: {error}"))?)
            }
            other => other,
        };
        Ok(())
    }

    /// Begins when the executor is made.
    pub(crate) fn begin_with(&self, factory: ExecutorFactory) -> ExecutorFactory {
        let later = self.clone();
        Box::new(move |context| {
            later.begin()?;
            factory(context)
        })
    }

    /// Waits until all is shown; the run must be over. What did not begin says now what there is besides hits.
    pub(crate) fn join(self) -> Result<(), CliError> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match std::mem::replace(&mut *state, State::Over) {
            State::Waiting(make, subscription) => follow(make, &subscription, |event| {
                !matches!(
                    event,
                    RunEvent::RunStarted(_)
                        | RunEvent::Planned { .. }
                        | RunEvent::NodesCached { .. }
                        | RunEvent::RunEnded { .. }
                )
            }),
            State::Thread(thread) => thread
                .join()
                .map_err(|_| CliError::environment("a thread that shows progress panicked"))?,
            State::Over => {}
        }
        Ok(())
    }
}

fn follow(make: Make, subscription: &Subscription, shown: impl Fn(&RunEvent) -> bool) {
    let (mut make, mut progress) = (Some(make), None);
    while let Some(notification) = subscription.next() {
        if let Notification::Event(record) = notification
            && shown(&record.event)
        {
            if let Some(make) = make.take() {
                progress = Some(make());
            }
            if let Some(progress) = &mut progress {
                progress.event(&record);
            }
        }
    }
    if let Some(progress) = &mut progress {
        progress.finish();
    }
}
