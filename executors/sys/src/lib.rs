//! The system calls that no safe crate offers.
//!
//! Owns: reaping a child together with what it used, and catching signals without acting on them, a place near the head of the
//! kernel's queue. Knows nothing of nodes.
//! This is the only crate of the workspace where `unsafe` is allowed; everything else goes through `rustix`.

#![expect(
    unsafe_code,
    reason = "wait4, sigaction and sched_setattr have no safe wrapper in rustix"
)]

use std::{io, mem::MaybeUninit, os::unix::process::ExitStatusExt, process::ExitStatus};

use std::time::Duration;

/// A child that ended, with what it and the children that it had waited for used.
#[derive(Clone, Copy, Debug)]
pub struct Reaped {
    /// Its process id, free from now on.
    pub pid: i32,
    /// How it ended.
    pub status: ExitStatus,
    /// User and system CPU time.
    pub cpu: Duration,
    /// The greatest resident memory of any single process, in bytes.
    pub peak_memory: u64,
    /// Bytes read from storage.
    pub read: u64,
    /// Bytes written to storage.
    pub written: u64,
}

/// Reaps a child that has ended; `None` while it still runs. Never blocks.
///
/// # Errors
/// `ECHILD` when `pid` is not a child of this process.
pub fn reap(pid: i32) -> io::Result<Option<Reaped>> {
    assert!(pid > 0, "a process id is positive");
    let mut status = 0;
    let mut usage = MaybeUninit::<libc::rusage>::zeroed();
    // SAFETY: both pointers are valid for writes for the whole call, and `rusage` is plain data.
    let got = unsafe { libc::wait4(pid, &raw mut status, libc::WNOHANG, usage.as_mut_ptr()) };
    match got {
        0 => Ok(None),
        -1 => Err(io::Error::last_os_error()),
        pid => {
            // SAFETY: all-zero bytes are a valid `rusage`, and the kernel has filled it in.
            let usage = unsafe { usage.assume_init() };
            Ok(Some(Reaped {
                pid,
                status: ExitStatus::from_raw(status),
                cpu: duration(usage.ru_utime) + duration(usage.ru_stime),
                peak_memory: usage.ru_maxrss.max(0) as u64 * MAXRSS_UNIT,
                read: usage.ru_inblock.max(0) as u64 * 512,
                written: usage.ru_oublock.max(0) as u64 * 512,
            }))
        }
    }
}

/// Linux counts `ru_maxrss` in KiB, macOS in bytes.
const MAXRSS_UNIT: u64 = if cfg!(target_os = "macos") { 1 } else { 1024 };

fn duration(time: libc::timeval) -> Duration {
    Duration::new(time.tv_sec.max(0) as u64, time.tv_usec.max(0) as u32 * 1000)
}

/// Makes SIGTERM, SIGHUP and SIGINT do nothing in this process.
///
/// Unlike ignored signals, caught ones are back at their default in every program that this process starts.
pub fn catch_stop_signals() {
    extern "C" fn nothing(_: libc::c_int) {}
    for signal in [libc::SIGTERM, libc::SIGHUP, libc::SIGINT] {
        // SAFETY: an all-zero `sigaction` is valid, and the handler is async-signal-safe because it does nothing.
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = nothing as extern "C" fn(libc::c_int) as usize;
            action.sa_flags = libc::SA_RESTART;
            libc::sigaction(signal, &raw const action, std::ptr::null_mut());
        }
    }
}

/// Asks the kernel to let the calling thread run soon after it wakes, in exchange for shorter turns. Its CPU share stays the
/// same, and what it starts has the usual turns.
///
/// For threads that others wait for and that run only for moments: on CPUs that are all busy such a thread otherwise waits for
/// the end of somebody's turn. Linux 6.12 and later do it, without privileges (EEVDF: a shorter slice has an earlier
/// deadline); elsewhere, under another policy, and with a raised priority (which children would lose), nothing happens.
pub fn wake_promptly() {
    #[cfg(target_os = "linux")]
    {
        const TURN_NS: u64 = 100_000;
        let Some(mut attr) = scheduling() else { return };
        if attr.sched_policy == libc::SCHED_OTHER as u32 && attr.sched_nice >= 0 {
            attr.sched_flags = libc::SCHED_FLAG_RESET_ON_FORK as u64;
            attr.sched_runtime = TURN_NS;
            // SAFETY: the kernel reads as many bytes as `size` says, which are those of the whole struct.
            unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attr, 0) };
        }
    }
}

/// How the kernel schedules the calling thread, where it tells.
#[cfg(target_os = "linux")]
fn scheduling() -> Option<libc::sched_attr> {
    let size = size_of::<libc::sched_attr>() as libc::c_uint;
    // SAFETY: all-zero bytes are a valid `sched_attr`, and the kernel writes at most `size` bytes to it.
    let (got, mut attr) = unsafe {
        let mut attr: libc::sched_attr = std::mem::zeroed();
        let got = libc::syscall(libc::SYS_sched_getattr, 0, &raw mut attr, size, 0);
        (got, attr)
    };
    attr.size = size;
    (got == 0).then_some(attr)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_os = "linux")]
    fn short_turns_are_for_the_thread_alone() {
        fn runtime_and_nice() -> (u64, i32) {
            let attr = scheduling().expect("the kernel tells the attributes of a thread");
            (attr.sched_runtime, attr.sched_nice)
        }
        let (before, nice) = runtime_and_nice();
        let inside = std::thread::spawn(|| {
            wake_promptly();
            (
                runtime_and_nice(),
                std::thread::spawn(runtime_and_nice).join(),
            )
        });
        let (own, child) = inside.join().expect("no panic");
        assert_eq!(
            child.expect("no panic"),
            (before, nice),
            "children have the usual turns"
        );
        assert_eq!(own.1, nice, "the priority stays");
        // Kernels before 6.12 tell no length of turns, and have none to set.
        assert!(before == 0 || own.0 < before, "{own:?} against {before}");
    }

    #[test]
    #[expect(clippy::zombie_processes, reason = "it is reaped by what is tested")]
    fn a_child_is_reaped_once_with_its_status() {
        let child = std::process::Command::new("sh")
            .args(["-c", "exit 7"])
            .spawn()
            .expect("sh starts");
        let pid = child.id() as i32;
        let reaped = loop {
            if let Some(reaped) = reap(pid).expect("it is our child") {
                break reaped;
            }
            std::thread::yield_now();
        };
        assert_eq!((reaped.pid, reaped.status.code()), (pid, Some(7)));
        assert!(reaped.peak_memory > 0);
        assert!(reap(pid).is_err());
    }
}
