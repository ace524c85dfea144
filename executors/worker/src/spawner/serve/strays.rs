//! Strays: children of the spawner that it did not start itself, which came to it because their parents ended.
//!
//! Each belongs to an attempt, by its token or its process group, and is killed when that has ended. What hides both may belong to
//! any attempt that ran when it was seen first, and is killed when all of these have ended.

use std::os::fd::OwnedFd;

use rustix::process::{Pid, Signal};

use super::{Server, tree};
use crate::spawner::attempt::Attempt;

/// A child that this process did not start.
pub(super) struct Stray {
    pub(super) pid: i32,
    pub(super) owner: Owner,
    /// Set once it was killed; readable when it is dead.
    pub(super) killed: Option<Option<OwnedFd>>,
    /// It did not die of it in time.
    pub(super) given_up: bool,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Owner {
    /// An attempt, by its id.
    Known(u64),
    /// It hides where it comes from; it may be of any of these, all that ran when it was seen first.
    OneOf(Vec<u64>),
}

impl Server {
    /// Finds new strays, kills those whose attempt has ended, and reaps the dead.
    pub(super) fn sweep(&mut self) {
        loop {
            if !self.children.are_strays() || self.tools.launcher.is_alone() {
                self.settle(|_| true);
            }
            let mut pids = std::mem::take(&mut self.pids);
            self.children.list(&mut pids);
            for pid in pids.drain(..) {
                if !self.is_known(pid) {
                    self.adopt(pid);
                }
            }
            self.pids = pids;
            self.ask_again();
            self.kill_leftovers();
            // The children of a dead stray are ours now, so look again.
            if !self.reap_strays() {
                return;
            }
        }
    }

    fn is_known(&self, pid: i32) -> bool {
        let is_main = |attempt: &Attempt| attempt.main.as_ref().is_some_and(|main| main.pid == pid);
        self.live.iter().any(is_main) || self.strays.iter().any(|stray| stray.pid == pid)
    }

    fn adopt(&mut self, pid: i32) {
        let owner = self.owner(pid);
        self.strays.push(Stray {
            pid,
            owner,
            killed: None,
            given_up: false,
        });
    }

    /// A stray that was just becoming another program had no environment to read when it was seen first.
    fn ask_again(&mut self) {
        for at in 0..self.strays.len() {
            let Stray { pid, owner, .. } = &self.strays[at];
            if matches!(owner, Owner::OneOf(ids) if !ids.is_empty())
                && let Some(owner) = self.owner_by_token(*pid)
            {
                self.strays[at].owner = owner;
            }
        }
    }

    fn owner(&self, pid: i32) -> Owner {
        if let Some(owner) = self.owner_by_token(pid) {
            return owner;
        }
        let group = tree::stat(pid).map(|stat| stat.group);
        let leads = |attempt: &&Attempt| attempt.main.as_ref().map(|main| main.pid) == group;
        match self.live.iter().find(leads) {
            Some(attempt) => Owner::Known(attempt.order.id),
            None => Owner::OneOf(self.live.iter().map(|attempt| attempt.order.id).collect()),
        }
    }

    fn owner_by_token(&self, pid: i32) -> Option<Owner> {
        let token = tree::token(pid).filter(|token| token.starts_with(&self.session))?;
        let mut live = self.live.iter();
        let of = live.find(|attempt| attempt.order.token == token);
        // Nobody's: its attempt was reported already.
        Some(of.map_or(Owner::OneOf(Vec::new()), |attempt| {
            Owner::Known(attempt.order.id)
        }))
    }

    fn kill_leftovers(&mut self) {
        let runs = |id: &u64| {
            let attempt = self.live.iter().find(|attempt| attempt.order.id == *id);
            attempt.is_some_and(|attempt| attempt.how.is_none())
        };
        let mut killed = Vec::new();
        for (at, stray) in self.strays.iter().enumerate() {
            let wanted = match &stray.owner {
                Owner::Known(id) => runs(id),
                Owner::OneOf(ids) => ids.iter().any(runs),
            };
            if !wanted && stray.killed.is_none() {
                killed.push(at);
            }
        }
        for at in killed {
            self.kill_stray(at);
        }
    }

    fn kill_stray(&mut self, at: usize) {
        let stray = &mut self.strays[at];
        let Some(pid) = Pid::from_raw(stray.pid) else {
            return;
        };
        stray.killed = Some(open_handle(pid));
        let was_dead = tree::stat(stray.pid).is_none_or(|stat| stat.zombie);
        // It is an unreaped child of this process, so the pid is still its own.
        let _ = rustix::process::kill_process(pid, Signal::KILL);
        self.kill_group_of(pid.as_raw_pid());
        let stray = &self.strays[at];
        if was_dead {
            return;
        }
        let blamed = match &stray.owner {
            Owner::Known(id) => Some(*id),
            Owner::OneOf(ids) => ids.last().copied(),
        };
        let attempt = self
            .live
            .iter_mut()
            .find(|attempt| Some(attempt.order.id) == blamed);
        if let Some(attempt) = attempt.filter(|attempt| attempt.stop.is_none()) {
            attempt.leaked += 1;
        }
    }

    /// Kills the process group of a stray at one stroke: what forks faster than it can be looked for dies only so.
    fn kill_group_of(&self, stray: i32) {
        let own = rustix::process::getpgrp().as_raw_pid();
        let Some(group) = tree::stat(stray).map(|stat| stat.group) else {
            return;
        };
        let runs = |attempt: &Attempt| {
            attempt.how.is_none() && attempt.main.as_ref().is_some_and(|main| main.pid == group)
        };
        // The group has an unreaped child of this process in it, so its id is still its own.
        if group != own
            && !self.live.iter().any(runs)
            && let Some(group) = Pid::from_raw(group)
        {
            let _ = rustix::process::kill_process_group(group, Signal::KILL);
        }
    }

    /// Whether any was reaped.
    fn reap_strays(&mut self) -> bool {
        let before = self.strays.len();
        let live = &mut self.live;
        self.strays
            .retain(|stray| match dagrun_sys::reap(stray.pid) {
                Ok(None) => true,
                Ok(Some(reaped)) => {
                    if let Owner::Known(id) = stray.owner
                        && let Some(attempt) =
                            live.iter_mut().find(|attempt| attempt.order.id == id)
                    {
                        attempt.account(&reaped);
                    }
                    false
                }
                Err(_) => false,
            });
        self.strays.len() < before
    }
}

pub(super) fn strays_of(strays: &[Stray], id: u64) -> Vec<i32> {
    strays
        .iter()
        .filter(|stray| match &stray.owner {
            Owner::Known(owner) => *owner == id,
            Owner::OneOf(ids) => *ids == [id],
        })
        .map(|stray| stray.pid)
        .collect()
}

#[cfg(target_os = "linux")]
fn open_handle(pid: Pid) -> Option<OwnedFd> {
    rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()).ok()
}

#[cfg(not(target_os = "linux"))]
fn open_handle(_: Pid) -> Option<OwnedFd> {
    None
}
