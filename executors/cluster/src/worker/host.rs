//! What a worker says of its machine and its process.

use std::{
    fs::File,
    io::{self, Read},
    os::unix::fs::MetadataExt,
    path::Path,
    time::{Duration, Instant},
};

use crate::message::Incarnation;

/// How long the calibration takes.
const CALIBRATION: Duration = Duration::from_millis(100);
/// Bytes that the reference machine hashes in a microsecond, on one core.
const REFERENCE: f64 = 1500.0;
/// What is hashed at a time: fits in a cache, so that it is the core that counts.
const BLOCK: usize = 16 << 10;

/// A process that is a worker from now on.
///
/// # Errors
/// When the machine gives no random bytes.
pub fn incarnation() -> io::Result<Incarnation> {
    let mut bytes = [0; 16];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(Incarnation(bytes))
}

/// What tells apart the stores of a cluster: workers that share one count as one host.
///
/// # Errors
/// When the store's folder cannot be looked at.
pub fn host_id(store: &Path) -> io::Result<String> {
    let meta = std::fs::metadata(store)?;
    Ok(format!("{}:{:x}:{:x}", boot_id(), meta.dev(), meta.ino()))
}

/// The id of the machine's present boot; where the system has none, its name.
pub fn boot_id() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id")
        .map_or_else(|_| host_name(), |text| text.trim().to_owned())
}

/// The machine's name.
pub fn host_name() -> String {
    let name = rustix::system::uname();
    name.nodename().to_string_lossy().into_owned()
}

/// How fast a core of this machine is, in thousandths of the reference. Takes 100 ms. By CPU time: what else runs now says nothing of how
/// fast nodes will be.
pub fn speed() -> u32 {
    let block = vec![0x5A; BLOCK];
    let (began, cpu_began) = (Instant::now(), cpu_time());
    let mut bytes = 0_u64;
    let mut digest = [0; 32];
    while began.elapsed() < CALIBRATION {
        // The digest goes in again, so that nothing of it can be left out.
        let mut hasher = blake3::Hasher::new();
        hasher.update(&digest).update(&block);
        digest = *hasher.finalize().as_bytes();
        bytes += BLOCK as u64;
    }
    let used = cpu_time()
        .saturating_sub(cpu_began)
        .max(Duration::from_micros(1));
    let speed = bytes as f64 / used.as_micros() as f64;
    (speed / REFERENCE * 1000.0).clamp(1.0, 1e6) as u32
}

/// The time that this thread has had of CPUs.
fn cpu_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(
        u64::try_from(time.tv_sec).unwrap_or_default(),
        u32::try_from(time.tv_nsec).unwrap_or_default(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processes_and_stores_are_told_apart() {
        assert_ne!(incarnation().unwrap(), incarnation().unwrap());
        let one = tempfile::tempdir().unwrap();
        let other = tempfile::tempdir().unwrap();
        assert_eq!(host_id(one.path()).unwrap(), host_id(one.path()).unwrap());
        assert_ne!(host_id(one.path()).unwrap(), host_id(other.path()).unwrap());
    }

    #[test]
    fn the_speed_is_not_nothing() {
        assert!(speed() > 1);
    }

    #[test]
    fn what_else_runs_makes_no_core_slow() {
        let alone = speed();
        let over = std::sync::atomic::AtomicBool::new(false);
        let beside = std::thread::scope(|scope| {
            for _ in 0..4 * std::thread::available_parallelism().map_or(1, usize::from) {
                scope.spawn(|| {
                    while !over.load(std::sync::atomic::Ordering::Relaxed) {
                        std::hint::spin_loop();
                    }
                });
            }
            let beside = speed();
            over.store(true, std::sync::atomic::Ordering::Relaxed);
            beside
        });
        assert!(beside * 2 > alone, "{beside} beside others, {alone} alone");
    }
}
