//! What a node costs over its process: `spawn_loop [COUNT] [WIDTH]` prints a line of JSON.
//!
//! Runs `true I` COUNT times through a local executor, with WIDTH slots, and by a bare loop of as many threads around
//! `std::process`. Both run three times by turns, and the best of each counts. The bare loop does what any program must:
//! start, wait. `_s` are wall seconds, `_cpu_s` CPU seconds of all processes: under load by others only the latter mean anything.

#![forbid(unsafe_code)]
#![expect(
    clippy::print_stdout,
    reason = "the result goes to the standard output"
)]

use std::{
    process::{Command, ExitCode, Stdio},
    sync::atomic::{AtomicU64, Ordering},
    time::Instant,
};

use dagrun_executor_api::{Executor, ExecutorEvent, conformance::attempt};
use dagrun_local::{LocalExecutor, LocalOptions};
use dagrun_model::WorkerIx;
use dagrun_store::{Store, StoreOptions};

fn main() -> ExitCode {
    if dagrun_worker::is_spawner() {
        return dagrun_worker::spawner_main();
    }
    let mut args = std::env::args().skip(1).filter_map(|arg| arg.parse().ok());
    let count: u64 = args.next().unwrap_or(5000);
    let width: u64 = args.next().unwrap_or(2);
    let mut bare = Best::default();
    let mut nodes = Best::default();
    for _ in 0..3 {
        bare.take(bare_loop(count, width));
        nodes.take(through_executor(count, width as u32));
    }
    let result = serde_json::json!({
        "count": count,
        "width": width,
        "bare_s": bare.wall,
        "executor_s": nodes.wall,
        "ratio": nodes.wall / bare.wall,
        "bare_cpu_s": bare.cpu,
        "executor_cpu_s": nodes.cpu,
        "cpu_ratio": nodes.cpu / bare.cpu,
    });
    println!("{result}");
    ExitCode::SUCCESS
}

/// The best of some rounds.
struct Best {
    wall: f64,
    cpu: f64,
}

impl Default for Best {
    fn default() -> Self {
        Self {
            wall: f64::MAX,
            cpu: f64::MAX,
        }
    }
}

impl Best {
    fn take(&mut self, (wall, cpu): (f64, f64)) {
        self.wall = self.wall.min(wall);
        self.cpu = self.cpu.min(cpu);
    }
}

/// CPU seconds of this process and of all children that it has waited for.
fn cpu() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields = stat
        .rsplit(')')
        .next()
        .unwrap_or_default()
        .split_ascii_whitespace();
    let ticks: f64 = fields
        .skip(11)
        .take(4)
        .filter_map(|f| f.parse::<f64>().ok())
        .sum();
    ticks / rustix::param::clock_ticks_per_second() as f64
}

fn bare_loop(count: u64, width: u64) -> (f64, f64) {
    let next = AtomicU64::new(0);
    let (began, before) = (Instant::now(), cpu());
    std::thread::scope(|scope| {
        for _ in 0..width {
            scope.spawn(|| {
                loop {
                    let i = next.fetch_add(1, Ordering::Relaxed);
                    if i >= count {
                        return;
                    }
                    let status = Command::new("true")
                        .arg(i.to_string())
                        .stdin(Stdio::null())
                        .stdout(Stdio::null())
                        .stderr(Stdio::null())
                        .status();
                    assert!(status.expect("true starts").success());
                }
            });
        }
    });
    (began.elapsed().as_secs_f64(), cpu() - before)
}

fn through_executor(count: u64, slots: u32) -> (f64, f64) {
    let root = tempfile::tempdir().expect("a temporary folder");
    let store = Store::open(&root.path().join("store"), StoreOptions::default()).expect("a store");
    let me = std::env::current_exe().expect("this program has a path");
    let mut options = LocalOptions::new(store, root.path(), root.path().join("work"), me, "r");
    options.slots = slots;
    let executor = LocalExecutor::new(options).expect("an executor");
    let (sender, mut events) = tokio::sync::mpsc::unbounded_channel();
    executor.start(sender);
    let (began, before) = (Instant::now(), cpu());
    // As a scheduler does it: a little more than there are slots, and one for each that ends.
    let spec = |i: u64| attempt(i, &["true", &i.to_string()]);
    let ahead = u64::from(slots) + 2;
    executor.submit(WorkerIx(0), (0..ahead.min(count)).map(spec).collect());
    let (mut sent, mut ended) = (ahead.min(count), 0);
    while ended < count {
        let Some(event) = events.blocking_recv() else {
            break;
        };
        if let ExecutorEvent::Ended(id, result) = event {
            assert!(result.usage.cpu >= 0.0, "{id}");
            ended += 1;
            if sent < count {
                executor.submit(WorkerIx(0), vec![spec(sent)]);
                sent += 1;
            }
        }
    }
    let took = began.elapsed().as_secs_f64();
    executor.shutdown();
    (took, cpu() - before)
}
