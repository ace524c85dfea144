//! What a worker holds: attempts by what the coordinator calls them and by what its own executor does.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use dagrun_model::{ActionDigest, AttemptId, AttemptResult, Resources};
use rustc_hash::FxHashMap;

use crate::message::{AttemptRef, Ended, Extra, Held, StartAttempt};

/// Attempts that a worker took and that were not settled.
#[derive(Debug, Default)]
pub(super) struct Holdings {
    attempts: BTreeMap<AttemptRef, Holding>,
    by_local: FxHashMap<AttemptId, AttemptRef>,
    last_local: u64,
    open: usize,
}

/// An attempt that a worker holds.
#[derive(Debug)]
struct Holding {
    /// What the worker's own executor calls it.
    local: AttemptId,
    action: ActionDigest,
    resources: Resources,
    limited: BTreeMap<String, u64>,
    state: State,
    /// When its process began.
    began: Option<Duration>,
}

/// How far an attempt is.
#[derive(Debug)]
enum State {
    /// With the executor.
    Open {
        began: bool,
        /// Nobody waits for it any more.
        dropped: bool,
    },
    /// Its result waits to be settled.
    Ended(Arc<AttemptResult>, Arc<Extra>),
}

impl Holdings {
    /// Takes an attempt; gives what it is called here, or nothing where it is held already.
    pub(super) fn take(&mut self, start: &StartAttempt) -> Option<AttemptId> {
        let attempt = &start.attempt;
        if self.attempts.contains_key(attempt) {
            return None;
        }
        self.last_local += 1;
        self.open += 1;
        let local = AttemptId(self.last_local);
        let state = State::Open {
            began: false,
            dropped: false,
        };
        let holding = Holding {
            local,
            action: start.spec.action.digest,
            resources: start.spec.resources.clone(),
            limited: start.limited.clone(),
            state,
            began: None,
        };
        self.attempts.insert(attempt.clone(), holding);
        self.by_local.insert(local, attempt.clone());
        Some(local)
    }

    /// Takes an attempt that ends at once.
    pub(super) fn take_ended(
        &mut self,
        start: &StartAttempt,
        result: AttemptResult,
    ) -> Option<Ended> {
        let local = self.take(start)?;
        self.end(local, Arc::new(result), Arc::default())
    }

    /// A process of an attempt runs; gives the attempt where that is news.
    pub(super) fn begin(&mut self, now: Duration, local: AttemptId) -> Option<AttemptRef> {
        let attempt = self.by_local.get(&local)?;
        let holding = self.attempts.get_mut(attempt)?;
        holding.began.get_or_insert(now);
        match &mut holding.state {
            State::Open { began, dropped } if !*began => {
                *began = true;
                (!*dropped).then(|| attempt.clone())
            }
            _ => None,
        }
    }

    /// An attempt ended; gives what is to be told, which is nothing where nobody waits for it.
    pub(super) fn end(
        &mut self,
        local: AttemptId,
        result: Arc<AttemptResult>,
        extra: Arc<Extra>,
    ) -> Option<Ended> {
        let attempt = self.by_local.remove(&local)?;
        let holding = self.attempts.get_mut(&attempt)?;
        self.open -= 1;
        if let State::Open { dropped: true, .. } = holding.state {
            self.attempts.remove(&attempt);
            return None;
        }
        holding.state = State::Ended(result.clone(), extra.clone());
        Some(Ended {
            attempt,
            result,
            extra,
        })
    }

    /// Forgets a result.
    pub(super) fn settle(&mut self, attempt: &AttemptRef) {
        if let Some(holding) = self.attempts.get(attempt)
            && matches!(holding.state, State::Ended(..))
        {
            self.attempts.remove(attempt);
        }
    }

    /// Nobody waits for this any more; gives what its executor is to end.
    pub(super) fn drop(&mut self, attempt: &AttemptRef) -> Option<AttemptId> {
        let holding = self.attempts.get_mut(attempt)?;
        match &mut holding.state {
            State::Open { dropped, .. } => {
                *dropped = true;
                Some(holding.local)
            }
            State::Ended(..) => {
                self.attempts.remove(attempt);
                None
            }
        }
    }

    /// What the executor calls an attempt that it has.
    pub(super) fn open_local(&self, attempt: &AttemptRef) -> Option<AttemptId> {
        let holding = self.attempts.get(attempt)?;
        matches!(holding.state, State::Open { .. }).then_some(holding.local)
    }

    /// Whether the executor has nothing.
    pub(super) fn is_idle(&self) -> bool {
        self.open == 0
    }

    /// Whether there is nothing at all.
    pub(super) fn is_empty(&self) -> bool {
        self.attempts.is_empty()
    }

    /// What the executor has, by whether it began.
    pub(super) fn open_locals(&self) -> impl Iterator<Item = (AttemptId, bool)> {
        self.attempts.values().filter_map(|h| match h.state {
            State::Open { began, .. } => Some((h.local, began)),
            State::Ended(..) => None,
        })
    }

    /// Attempts that run and that somebody waits for.
    pub(super) fn begun(&self) -> Vec<AttemptRef> {
        let runs = |holding: &Holding| {
            matches!(
                holding.state,
                State::Open {
                    began: true,
                    dropped: false
                }
            )
        };
        let begun = self.attempts.iter().filter(|(_, holding)| runs(holding));
        begun.map(|(attempt, _)| attempt.clone()).collect()
    }

    /// For a hello.
    pub(super) fn held(&self, now: Duration) -> Vec<Held> {
        // What was dropped ends, and nothing will be told of it.
        let wanted =
            |holding: &Holding| !matches!(holding.state, State::Open { dropped: true, .. });
        let held = self.attempts.iter().filter(|(_, it)| wanted(it));
        let held = held.map(|(attempt, holding)| Held {
            attempt: attempt.clone(),
            action: holding.action,
            started: matches!(holding.state, State::Open { began: true, .. }),
            ended: matches!(holding.state, State::Ended(..)),
            resources: holding.resources.clone(),
            limited: holding.limited.clone(),
            ran: holding
                .began
                .map_or(Duration::ZERO, |began| now.saturating_sub(began)),
        });
        held.collect()
    }

    /// Results that were not settled.
    pub(super) fn results(&self) -> Vec<Ended> {
        let ended = self.attempts.iter().filter_map(|(attempt, holding)| {
            let State::Ended(result, extra) = &holding.state else {
                return None;
            };
            Some(Ended {
                attempt: attempt.clone(),
                result: result.clone(),
                extra: extra.clone(),
            })
        });
        ended.collect()
    }
}
