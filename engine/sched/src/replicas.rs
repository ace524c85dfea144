//! Which hosts have the outputs of a node, and how many bytes of a set are on which host.
//!
//! Both are short lists by host: most outputs are on one host, and what a gather reads is on as many hosts as made it.

use dagrun_model::HostIx;

/// The hosts that have the outputs of a node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Replicas {
    #[default]
    None,
    One(HostIx),
    /// Several, in order; boxed, so that a node stays small.
    #[expect(
        clippy::box_collection,
        reason = "a node with one replica pays for no list"
    )]
    Many(Box<Vec<HostIx>>),
}

impl Replicas {
    pub(crate) fn hosts(&self) -> &[HostIx] {
        match self {
            Self::None => &[],
            Self::One(host) => std::slice::from_ref(host),
            Self::Many(hosts) => hosts,
        }
    }

    pub(crate) fn has(&self, host: HostIx) -> bool {
        self.hosts().binary_search(&host).is_ok()
    }

    /// Adds a host; whether it was not there.
    pub(crate) fn add(&mut self, host: HostIx) -> bool {
        match self {
            Self::None => *self = Self::One(host),
            Self::One(there) if *there == host => return false,
            Self::One(there) => {
                let mut both = vec![*there, host];
                both.sort_unstable();
                *self = Self::Many(Box::new(both));
            }
            Self::Many(hosts) => match hosts.binary_search(&host) {
                Ok(_) => return false,
                Err(at) => hosts.insert(at, host),
            },
        }
        true
    }

    /// Drops a host; whether it was there.
    pub(crate) fn drop(&mut self, host: HostIx) -> bool {
        match self {
            Self::One(there) if *there == host => *self = Self::None,
            Self::None | Self::One(_) => return false,
            Self::Many(hosts) => {
                let Ok(at) = hosts.binary_search(&host) else {
                    return false;
                };
                hosts.remove(at);
                if let [left] = hosts[..] {
                    *self = Self::One(left);
                }
            }
        }
        true
    }
}

/// Bytes of a set by host, in order of hosts; hosts with none have no entry.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sums {
    by_host: Vec<(HostIx, u64)>,
    /// A bit for each host that has an entry, which it may share with others: most hosts have nothing of most sets.
    marks: u64,
}

/// The bit that a host has in a word, perhaps with others.
fn mark(host: HostIx) -> u64 {
    1 << (host.0 % u64::BITS)
}

impl Sums {
    /// Whether a host may have something; if not, it has nothing.
    pub(crate) fn may_have(&self, host: HostIx) -> bool {
        self.marks & mark(host) != 0
    }

    pub(crate) fn at(&self, host: HostIx) -> u64 {
        if !self.may_have(host) {
            return 0;
        }
        let found = self.by_host.binary_search_by_key(&host, |(host, _)| *host);
        found.map_or(0, |at| self.by_host[at].1)
    }

    pub(crate) fn hosts(&self) -> impl Iterator<Item = HostIx> {
        self.by_host.iter().map(|(host, _)| *host)
    }

    pub(crate) fn change(&mut self, host: HostIx, bytes: u64, add: bool) {
        match self.by_host.binary_search_by_key(&host, |(host, _)| *host) {
            Ok(at) if add => self.by_host[at].1 += bytes,
            Ok(at) => {
                self.by_host[at].1 -= bytes;
                if self.by_host[at].1 == 0 {
                    self.by_host.remove(at);
                    self.marks = self.hosts().map(mark).fold(0, |all, one| all | one);
                }
            }
            Err(at) => {
                debug_assert!(add, "what was never added is not taken off");
                // Most sets are on one host or two for ever.
                if self.by_host.len() < 4 {
                    self.by_host.reserve_exact(1);
                }
                self.by_host.insert(at, (host, bytes));
                self.marks |= mark(host);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_come_and_go_in_order() {
        let mut replicas = Replicas::default();
        for (host, is_new) in [(70, true), (3, true), (70, false), (9_000, true)] {
            assert_eq!(replicas.add(HostIx(host)), is_new);
        }
        assert_eq!(replicas.hosts(), [HostIx(3), HostIx(70), HostIx(9_000)]);
        assert!(replicas.drop(HostIx(3)) && !replicas.drop(HostIx(3)));
        assert!(replicas.drop(HostIx(9_000)));
        assert_eq!(replicas, Replicas::One(HostIx(70)));
        assert!(replicas.drop(HostIx(70)) && !replicas.has(HostIx(70)));
    }

    #[test]
    fn sums_keep_no_empty_hosts() {
        let mut sums = Sums::default();
        sums.change(HostIx(5), 3, true);
        sums.change(HostIx(2), 1, true);
        sums.change(HostIx(5), 4, true);
        assert_eq!((sums.at(HostIx(5)), sums.at(HostIx(4))), (7, 0));
        sums.change(HostIx(5), 7, false);
        assert!(sums.hosts().eq([HostIx(2)]));
    }
}
