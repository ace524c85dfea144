//! The system calls that no safe crate offers.
//!
//! Owns: reaping a child together with what it used, and catching signals without acting on them. Knows nothing of nodes.
//! This is the only crate of the workspace where `unsafe` is allowed; everything else goes through `rustix`.

#![expect(
    unsafe_code,
    reason = "wait4 and sigaction have no safe wrapper in rustix"
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

#[cfg(test)]
mod tests {
    use super::*;

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
