//! Which hosts have which blobs, as far as the coordinator has been told.
//!
//! Pure. What it has forgotten is found by asking the hosts, so its memory may be bounded: a row takes 64 bytes, with the
//! table's spare room about 100 bytes a blob.

use std::{cmp::Reverse, collections::BTreeMap};

use dagrun_model::Digest;
use rustc_hash::{FxHashMap, FxHashSet};

/// A host, as the pool numbers them; below [`u16::MAX`].
pub type HostNumber = u16;
/// A run, as the pool numbers them.
pub type RunNumber = u32;

/// No host.
const NOBODY: HostNumber = HostNumber::MAX;
/// Holders of a blob that are remembered: of more, the newest.
const HOLDERS: usize = 8;

/// Blobs and their holders.
#[derive(Clone, Debug)]
pub struct Directory {
    rows: FxHashMap<Digest, Row>,
    limit: usize,
    /// Grows with every blob that is told.
    stamp: u32,
    live: FxHashSet<RunNumber>,
    /// Live runs may need what is not known here.
    forgot: bool,
    /// Bytes for which each host was named as the first source.
    handed: BTreeMap<HostNumber, u64>,
}

#[derive(Clone, Copy, Debug)]
struct Row {
    size: u64,
    holders: [HostNumber; HOLDERS],
    /// The run that named it last.
    run: RunNumber,
    stamp: u32,
}

impl Row {
    fn holders(&self) -> impl Iterator<Item = HostNumber> {
        self.holders.into_iter().filter(|host| *host != NOBODY)
    }

    fn add(&mut self, host: HostNumber) {
        if self.holders.contains(&host) {
            return;
        }
        // The newest first: it has served least.
        self.holders.rotate_right(1);
        self.holders[0] = host;
    }

    /// Says whether somebody still has it.
    fn remove(&mut self, host: HostNumber) -> bool {
        let kept: Vec<_> = self.holders().filter(|other| *other != host).collect();
        self.holders = [NOBODY; HOLDERS];
        self.holders[..kept.len()].copy_from_slice(&kept);
        !kept.is_empty()
    }
}

impl Directory {
    /// An empty directory that remembers at most so many blobs.
    pub fn new(limit: usize) -> Self {
        Self {
            rows: FxHashMap::default(),
            limit: limit.max(1),
            stamp: 0,
            live: FxHashSet::default(),
            forgot: false,
            handed: BTreeMap::new(),
        }
    }

    /// A run has begun: blobs that it names are not to be lost.
    pub fn run_began(&mut self, run: RunNumber) {
        self.live.insert(run);
    }

    /// A run is over.
    pub fn run_ended(&mut self, run: RunNumber) {
        self.live.remove(&run);
    }

    /// Whether live runs may need what is not known here, since they began before it was made.
    pub fn set_forgot(&mut self, forgot: bool) {
        self.forgot = forgot;
    }

    /// A host has a blob of so many bytes, of which a run has spoken.
    pub fn add(&mut self, host: HostNumber, digest: Digest, size: u64, run: RunNumber) {
        if self.rows.len() >= self.limit && !self.rows.contains_key(&digest) {
            self.forget_oldest();
        }
        self.stamp = self.stamp.wrapping_add(1);
        let row = self.rows.entry(digest).or_insert(Row {
            size,
            holders: [NOBODY; HOLDERS],
            run,
            stamp: 0,
        });
        row.run = run;
        row.stamp = self.stamp;
        row.size = row.size.max(size);
        row.add(host);
        if !self.handed.contains_key(&host) {
            // A new host is not to serve everybody until it has caught up with the others.
            let least = self.handed.values().min().copied().unwrap_or(0);
            self.handed.insert(host, least);
        }
    }

    /// A host does not have a blob any more.
    pub fn remove(&mut self, host: HostNumber, digest: &Digest) {
        if let Some(row) = self.rows.get_mut(digest)
            && !row.remove(host)
        {
            self.rows.remove(digest);
        }
    }

    /// A host is lost with all that it had. Gives how many blobs nobody has now.
    pub fn host_lost(&mut self, host: HostNumber) -> usize {
        let before = self.rows.len();
        let has = |row: &Row| row.holders.contains(&host);
        self.rows.retain(|_, row| !has(row) || row.remove(host));
        self.handed.remove(&host);
        before - self.rows.len()
    }

    /// Whether somebody is known to have a blob.
    pub fn has(&self, digest: &Digest) -> bool {
        self.rows.contains_key(digest)
    }

    /// Who is known to have a blob.
    pub fn holders(&self, digest: &Digest) -> Vec<HostNumber> {
        let row = self.rows.get(digest);
        row.into_iter().flat_map(Row::holders).collect()
    }

    /// How many blobs are known.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether none is known.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Where a host may have blobs from: at most `most` others for each, best first, and nothing for a blob that the host has
    /// itself. What is asked for is shared out among those who have it.
    pub fn sources<'a>(
        &mut self,
        digests: impl IntoIterator<Item = &'a Digest>,
        host: Option<HostNumber>,
        run: RunNumber,
        most: usize,
    ) -> Vec<(Digest, Vec<HostNumber>)> {
        let mut sources = Vec::new();
        for digest in digests {
            let Some(row) = self.rows.get_mut(digest) else {
                continue;
            };
            row.run = run;
            if host.is_some_and(|host| row.holders.contains(&host)) {
                continue;
            }
            let mut holders: Vec<HostNumber> = row.holders().collect();
            // Who has served least comes first; the newest among equals.
            holders.sort_by_key(|host| self.handed.get(host).copied().unwrap_or(0));
            holders.truncate(most);
            if let Some(handed) = holders.first().and_then(|first| self.handed.get_mut(first)) {
                *handed += row.size.max(1);
            }
            sources.push((*digest, holders));
        }
        sources
    }

    /// Which of these a host may remove; they count as gone from there from now on.
    ///
    /// What others have, and what no live run has named, may go. The last replica of what a live run has named goes only where
    /// the disk is `full`: its producer then runs again when somebody needs it. What is not known counts as such while live runs
    /// may have named it before.
    pub fn spare(&mut self, host: HostNumber, digests: &[Digest], full: bool) -> Vec<Digest> {
        let mut spared = Vec::new();
        for digest in digests {
            let is_needed = match self.rows.get(digest) {
                Some(row) => {
                    let is_last = row.holders().all(|other| other == host);
                    is_last && (self.live.contains(&row.run) || self.forgot)
                }
                None => self.forgot,
            };
            if is_needed && !full {
                continue;
            }
            self.remove(host, digest);
            spared.push(*digest);
        }
        spared
    }

    /// Makes room: the quarter of the blobs that was told of longest ago is forgotten.
    fn forget_oldest(&mut self) {
        let now = self.stamp;
        let age = |row: &Row| now.wrapping_sub(row.stamp);
        let mut ages: Vec<Reverse<u32>> = self.rows.values().map(|row| Reverse(age(row))).collect();
        let quarter = (ages.len() / 4).min(ages.len() - 1);
        let (_, oldest, _) = ages.select_nth_unstable(quarter);
        let oldest = oldest.0;
        self.rows.retain(|_, row| age(row) < oldest);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blob(n: u32) -> Digest {
        Digest::of(&n.to_le_bytes())
    }

    fn directory() -> Directory {
        let mut directory = Directory::new(1000);
        directory.run_began(1);
        directory
    }

    #[test]
    fn a_row_is_as_small_as_the_docs_say() {
        assert_eq!(size_of::<(Digest, Row)>(), 64);
    }

    #[test]
    fn lost_hosts_take_their_blobs_along_and_replicas_stay() {
        let mut directory = directory();
        directory.add(1, blob(1), 10, 1);
        directory.add(1, blob(2), 10, 1);
        directory.add(2, blob(2), 10, 1);
        assert_eq!(directory.holders(&blob(2)), [2, 1]);
        assert_eq!(directory.host_lost(1), 1);
        assert!(!directory.has(&blob(1)));
        assert_eq!(directory.holders(&blob(2)), [2]);
        directory.remove(2, &blob(2));
        directory.remove(2, &blob(7));
        assert!(directory.is_empty());
    }

    #[test]
    fn load_is_spread_over_those_who_have_a_blob() {
        let mut directory = directory();
        for host in 1..=4 {
            directory.add(host, blob(1), 50, 1);
        }
        let mut served = [0; 5];
        for _ in 0..40 {
            let sources = directory.sources(&[blob(1), blob(9)], Some(9), 1, 2);
            let [(digest, holders)] = &sources[..] else {
                panic!("nobody has the other: {sources:?}");
            };
            assert_eq!((*digest, holders.len()), (blob(1), 2));
            served[usize::from(holders[0])] += 1;
        }
        assert_eq!(served, [0, 10, 10, 10, 10]);
        assert_eq!(
            directory.sources(&[blob(1)], Some(2), 1, 2),
            [],
            "it has it itself"
        );

        // One that has it only now serves its share, and not all until it has caught up.
        directory.add(5, blob(1), 50, 1);
        let first = (0..10).map(|_| directory.sources(&[blob(1)], None, 1, 1)[0].1[0]);
        assert_eq!(first.filter(|host| *host == 5).count(), 2);
    }

    #[test]
    fn only_the_newest_of_very_many_holders_are_remembered() {
        let mut directory = directory();
        for host in 0..100 {
            directory.add(host, blob(1), 1, 1);
        }
        assert_eq!(
            directory.holders(&blob(1)),
            (92..100).rev().collect::<Vec<_>>()
        );
    }

    #[test]
    fn the_last_replica_of_a_live_run_goes_only_when_the_disk_is_full() {
        let mut directory = directory();
        directory.run_began(2);
        directory.add(1, blob(1), 1, 1);
        directory.add(1, blob(2), 1, 1);
        directory.add(2, blob(2), 1, 1);
        directory.add(1, blob(3), 1, 2);
        let all = [blob(1), blob(2), blob(3), blob(4)];
        assert_eq!(directory.spare(1, &all, false), [blob(2), blob(4)]);
        assert_eq!(directory.holders(&blob(2)), [2]);
        assert_eq!(
            directory.spare(2, &[blob(2)], false),
            [],
            "it is the last now"
        );
        directory.run_ended(2);
        let spared = directory.spare(1, &all, false);
        assert_eq!(spared, [blob(2), blob(3), blob(4)], "run 2 is over");
        assert_eq!(directory.spare(1, &[blob(1)], true), [blob(1)]);
        assert!(!directory.has(&blob(1)));
    }

    #[test]
    fn what_was_forgotten_may_be_a_last_replica() {
        let mut directory = directory();
        directory.set_forgot(true);
        directory.add(1, blob(1), 1, 7);
        directory.add(1, blob(2), 1, 7);
        directory.add(2, blob(2), 1, 7);
        let all = [blob(1), blob(2), blob(3)];
        assert_eq!(directory.spare(1, &all, false), [blob(2)], "others have it");
        assert_eq!(directory.spare(1, &[blob(3)], true), [blob(3)]);
        directory.set_forgot(false);
        assert_eq!(directory.spare(1, &all, false), all);
    }

    #[test]
    fn memory_is_bounded_and_what_is_new_is_known() {
        let mut directory = directory();
        for n in 0..10_000 {
            directory.add(1, blob(n), 1, 1);
            assert!(directory.len() <= 1000 && directory.has(&blob(n)));
        }
        assert!((9500..10_000).all(|n| directory.has(&blob(n))));
        let mut tiny = Directory::new(1);
        tiny.add(1, blob(1), 1, 1);
        tiny.add(1, blob(2), 1, 1);
        assert!(tiny.has(&blob(2)) && tiny.len() == 1);
    }
}
