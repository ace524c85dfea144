//! Who did what when: attempts laid into the slots of their workers.

use std::collections::BTreeMap;

use dagrun_events::RunState;

/// A slot of a worker, with what ran in it. Journals do not know slots: attempts of a worker that overlap are put into
/// different ones, as few as do.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Lane {
    /// The worker.
    pub(crate) worker: u32,
    /// The slot, from 1.
    pub(crate) slot: usize,
    /// What ran in it, by start.
    pub(crate) bars: Vec<Bar>,
}

/// An attempt on the time line.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Bar {
    /// Its position in [`RunState::attempts`].
    pub(crate) attempt: usize,
    /// When its slot was taken, in seconds since the epoch.
    pub(crate) start: f64,
    /// When it was free again; of an attempt under way, the last that was heard.
    pub(crate) end: f64,
}

/// When each attempt had its slot. Of short attempts that were handed over together the ends are told together too.
pub(crate) fn bars(state: &RunState) -> impl Iterator<Item = Bar> {
    state.attempts.iter().enumerate().map(|(attempt, row)| {
        let end = row.ended.unwrap_or(state.last_at).max(row.started);
        let start = match &row.result {
            Some(result) => (end - result.phases.busy()).max(row.started),
            None => row.started,
        };
        Bar {
            attempt,
            start,
            end,
        }
    })
}

/// All slots, by worker.
pub(crate) fn lanes(state: &RunState) -> Vec<Lane> {
    let mut bars: Vec<Bar> = bars(state).collect();
    bars.sort_by(|a, b| a.start.total_cmp(&b.start));
    let mut workers: BTreeMap<u32, Vec<Lane>> = BTreeMap::new();
    for bar in bars {
        let worker = state.attempts[bar.attempt].worker;
        let lanes = workers.entry(worker).or_default();
        let is_free = |lane: &Lane| lane.bars.last().is_none_or(|b| b.end <= bar.start + 1e-6);
        let free = lanes.iter().position(is_free);
        let ix = free.unwrap_or_else(|| {
            let slot = lanes.len() + 1;
            lanes.push(Lane {
                worker,
                slot,
                bars: Vec::new(),
            });
            slot - 1
        });
        lanes[ix].bars.push(bar);
    }
    workers.into_values().flatten().collect()
}
