//! The ready nodes of a lane, oldest first, in runs of nodes that are alike.
//!
//! Knows nothing of what makes nodes alike. The replicates of a trial become ready together and go equally well to each host, so that
//! a look along the queue steps from run to run. Only the oldest of a run is ever taken out.

use std::collections::VecDeque;

use dagrun_model::{GroupIx, NodeIx, SetIx};

/// A node that became ready with a number.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Entry {
    pub(crate) seq: u64,
    pub(crate) node: NodeIx,
    /// How long its run is, where it is the oldest of it.
    run: u32,
    pub(crate) glance: Glance,
}

/// What a look along the queue needs to know of a run to pass it by.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Glance {
    /// The only set that its nodes read, where it is one, and how large that is: it does not change while they wait.
    pub(crate) reads: Option<(SetIx, u64)>,
    pub(crate) group: Option<GroupIx>,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Queue {
    entries: VecDeque<Entry>,
    /// How long the youngest run is.
    last_run: u32,
}

impl Queue {
    /// Adds the youngest node; `alike` says that it is like the one before.
    pub(crate) fn push(&mut self, seq: u64, node: NodeIx, glance: Glance, alike: bool) {
        if alike && self.last_run > 0 {
            let head = self.entries.len() - self.last_run as usize;
            self.entries[head].run += 1;
            self.last_run += 1;
        } else {
            self.last_run = 1;
        }
        self.entries.push_back(Entry {
            seq,
            node,
            run: 1,
            glance,
        });
    }

    pub(crate) fn oldest(&self) -> Option<Entry> {
        self.entries.front().copied()
    }

    pub(crate) fn youngest(&self) -> Option<Entry> {
        self.entries.back().copied()
    }

    /// The oldest of the run that begins at a place, and the place of the next run.
    pub(crate) fn run_at(&self, at: usize) -> Option<(Entry, usize)> {
        let head = self.entries.get(at).copied()?;
        Some((head, at + head.run as usize))
    }

    /// Takes out the oldest of the run that begins at a place, where the next one of it then stands.
    pub(crate) fn remove_oldest_of_run(&mut self, at: usize) {
        let Some(removed) = self.entries.remove(at) else {
            return;
        };
        let left = removed.run - 1;
        if at + left as usize == self.entries.len() {
            self.last_run = left;
        }
        if left > 0 {
            self.entries[at].run = left;
        }
    }

    /// All entries, oldest first.
    pub(crate) fn iter(&self) -> impl Iterator<Item = Entry> {
        self.entries.iter().copied()
    }

    pub(crate) fn clear(&mut self) {
        self.entries.clear();
        self.last_run = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn queue(runs: &[u32]) -> Queue {
        let mut queue = Queue::default();
        for (run, len) in runs.iter().enumerate() {
            for at in 0..*len {
                queue.push(0, NodeIx(run as u32 * 10 + at), Glance::default(), at > 0);
            }
        }
        queue
    }

    /// The nodes of each run.
    fn runs(queue: &Queue) -> Vec<Vec<u32>> {
        let (mut runs, mut at) = (Vec::new(), 0);
        while let Some((_, next)) = queue.run_at(at) {
            let nodes = queue.iter().skip(at).take(next - at);
            runs.push(nodes.map(|entry| entry.node.0).collect());
            at = next;
        }
        runs
    }

    #[test]
    fn a_look_steps_from_run_to_run() {
        assert_eq!(
            runs(&queue(&[3, 1, 2])),
            [vec![0, 1, 2], vec![10], vec![20, 21]]
        );
    }

    #[test]
    fn a_run_gets_shorter_from_its_oldest_on() {
        let mut queue = queue(&[2, 2, 2]);
        queue.remove_oldest_of_run(2);
        assert_eq!(runs(&queue), [vec![0, 1], vec![11], vec![20, 21]]);
        queue.remove_oldest_of_run(2);
        assert_eq!(runs(&queue), [vec![0, 1], vec![20, 21]]);
        queue.remove_oldest_of_run(0);
        queue.remove_oldest_of_run(1);
        assert_eq!(runs(&queue), [vec![1], vec![21]]);
    }

    #[test]
    fn the_youngest_run_grows_as_long_as_something_of_it_is_there() {
        let mut queue = queue(&[1, 2]);
        queue.remove_oldest_of_run(1);
        queue.push(0, NodeIx(30), Glance::default(), true);
        assert_eq!(runs(&queue), [vec![0], vec![11, 30]]);
        queue.remove_oldest_of_run(1);
        queue.remove_oldest_of_run(1);
        // What it was like is gone: nothing says that it is like the one before that.
        queue.push(0, NodeIx(31), Glance::default(), true);
        assert_eq!(runs(&queue), [vec![0], vec![31]]);
    }
}
