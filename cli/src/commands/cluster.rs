//! `dagrun cluster status` and `drain`, `attach` and `cancel`: looking at a coordinator from anywhere.

use std::{
    collections::BTreeMap,
    path::Path,
    time::{Duration, SystemTime},
};

use dagrun_cluster::wire::decode_full;
use dagrun_model::{format_bytes, format_seconds};
use dagrun_proto::v1::{ClusterStatus, LostWorker, Resources, RunRow, WorkerRow};
use serde_json::{Value, json};

use crate::{
    args::{AttachArgs, CancelArgs, Cli, ClusterCommand, Command, Global},
    commands::credentials,
    error::{CliError, Done},
    put,
    remote::{self, Remote, call_error},
    say,
    term::{Ink, Style, escape_line, plural, table},
};

use clap::Parser;

/// Lost workers that are named.
const LOST: usize = 5;

pub(crate) fn cluster(command: &ClusterCommand, global: &Global, style: Style) -> Done {
    match command {
        ClusterCommand::Status {
            coordinator,
            all,
            answer,
        } => status(
            Remote::connect(coordinator, global)?,
            *all,
            answer.json,
            style,
        ),
        ClusterCommand::Drain {
            worker,
            coordinator,
        } => drain(Remote::connect(coordinator, global)?, worker),
        ClusterCommand::Credentials(command) => credentials::run(command, style),
    }
}

pub(crate) fn attach(args: &AttachArgs, global: &Global, style: Style) -> Done {
    let remote = Remote::connect(&args.coordinator, global)?;
    let Some(file) = &args.file else {
        return remote::attach(remote, &args.run, None, style);
    };
    // The same arguments that a run of the file without any would have.
    let words = ["dagrun".into(), "run".into(), file.as_os_str().to_owned()];
    let cli = Cli::try_parse_from(words).map_err(CliError::invalid)?;
    let Command::Run(mut run) = cli.command else {
        return Err(CliError::invalid("`--file` names a pipeline"));
    };
    run.coordinator = args.coordinator.clone();
    remote::attach(remote, &args.run, Some((&run, global)), style)
}

pub(crate) fn cancel(args: &CancelArgs, global: &Global) -> Done {
    let remote = Remote::connect(&args.coordinator, global)?;
    remote::cancel(remote, &args.run, args.kill)
}

fn drain(mut remote: Remote, worker: &str) -> Done {
    let left = remote
        .runtime
        .block_on(remote.client.drain(worker))
        .map_err(call_error)?;
    say!(
        "{worker} takes nothing new; it has {}",
        plural(u64::from(left), "attempt")
    );
    Ok(0)
}

fn status(mut remote: Remote, all: bool, as_json: bool, style: Style) -> Done {
    let (status, runs) = remote
        .runtime
        .block_on(async {
            let status = remote.client.status().await?;
            let runs = remote.client.list(all).await?;
            Ok((status, runs))
        })
        .map_err(call_error)?;
    if as_json {
        put!("{:#}", to_json(&status, &runs));
        return Ok(0);
    }
    print(&remote.address, &status, &runs, style);
    Ok(0)
}

fn print(address: &str, status: &ClusterStatus, runs: &[RunRow], style: Style) {
    put!(
        "coordinator {} (dagrun {}, epoch {}), up {}",
        style.paint_out(Ink::Bold, address),
        escape_line(&status.version),
        status.epoch,
        format_seconds(status.uptime_ms as f64 / 1000.0)
    );
    if status.workers.is_empty() {
        put!("\nno workers; `dagrun worker --connect {address}` on any host joins one");
    } else {
        put!("\n{}", worker_table(&status.workers).trim_end());
        put!("{}", together(&status.workers));
    }
    for line in full_lines(&status.workers) {
        put!("{} {line}", style.paint_out(Ink::Warn, "disk full:"));
    }
    for line in lost_lines(&status.lost) {
        put!("{} {line}", style.paint_out(Ink::Warn, "lost:"));
    }
    if runs.is_empty() {
        put!("\nno runs");
    } else {
        put!("\n{}", run_table(runs, SystemTime::now()).trim_end());
    }
    for wait in &status.waits {
        put!(
            "{} {}",
            style.paint_out(Ink::Warn, "waits:"),
            escape_line(wait)
        );
    }
}

fn worker_table(workers: &[WorkerRow]) -> String {
    let header = [
        ">", "worker", "store", "state", ">slots", ">running", ">queued", ">memory", ">speed",
    ];
    let with_speed = differ_in_speed(workers);
    let rows = workers.iter().zip(numbered_stores(workers));
    let rows: Vec<_> = rows
        .map(|(row, store)| worker_row(row, store, with_speed))
        .collect();
    with_used_columns(&header, rows)
}

/// All workers in one line.
fn together(workers: &[WorkerRow]) -> String {
    let sum = |of: fn(&WorkerRow) -> u64| workers.iter().map(of).sum::<u64>();
    let mut states: BTreeMap<&str, u64> = BTreeMap::new();
    for row in workers {
        *states.entry(row.state.as_str()).or_default() += 1;
    }
    let states: Vec<String> = states
        .iter()
        .map(|(state, n)| format!("{n} {}", escape_line(state)))
        .collect();
    format!(
        "{}: {}; {} of {} slots taken, {} running, {} queued",
        plural(workers.len() as u64, "worker"),
        states.join(", "),
        sum(|row| slots(row.used.as_ref())),
        sum(|row| slots(row.capacity.as_ref())),
        sum(|row| row.running.into()),
        sum(|row| row.queued.into()),
    )
}

fn slots(resources: Option<&Resources>) -> u64 {
    resources.map_or(0, |it| it.cpu_milli / 1000)
}

/// Whether some worker is so much faster than another that nodes are given out by it.
fn differ_in_speed(workers: &[WorkerRow]) -> bool {
    let speeds = || workers.iter().map(|row| u64::from(row.speed));
    let (least, most) = (speeds().min(), speeds().max());
    least
        .zip(most)
        .is_some_and(|(least, most)| most * 4 >= least * 5)
}

/// The workers whose disks have no room, a line each.
fn full_lines(workers: &[WorkerRow]) -> Vec<String> {
    let full = workers
        .iter()
        .filter_map(|row| Some((row, row.full.as_ref()?)));
    full.map(|(row, full)| {
        let disk = decode_full(full.clone()).to_string();
        let (name, disk) = (escape_line(&row.name), escape_line(&disk));
        format!("{name}: {disk}; it gets only what no other worker can take")
    })
    .collect()
}

/// The workers that were lost last, a line each.
fn lost_lines(lost: &[LostWorker]) -> Vec<String> {
    let more = lost.len().saturating_sub(LOST);
    let before = (more > 0).then(|| format!("{more} more before them"));
    let last = lost[more..].iter().rev().map(|lost| {
        let ago = format_seconds(lost.ago_ms as f64 / 1000.0);
        format!(
            "{} {ago} ago: {}",
            escape_line(&lost.name),
            escape_line(&lost.why)
        )
    });
    last.chain(before).collect()
}

/// Stores by numbers in the order of the workers. Nothing where each worker has one of its own.
fn numbered_stores(workers: &[WorkerRow]) -> Vec<String> {
    let mut stores: Vec<&str> = Vec::new();
    let mut numbers = Vec::new();
    for row in workers {
        let known = stores.iter().position(|store| *store == row.host);
        numbers.push(known.unwrap_or(stores.len()) + 1);
        if known.is_none() {
            stores.push(&row.host);
        }
    }
    let each_has_its_own = stores.len() == workers.len();
    let text = |number: usize| match each_has_its_own {
        true => String::new(),
        false => number.to_string(),
    };
    numbers.into_iter().map(text).collect()
}

fn worker_row(row: &WorkerRow, store: String, with_speed: bool) -> Vec<String> {
    let memory = row.capacity.as_ref().map_or(0, |it| it.memory);
    vec![
        row.worker.to_string(),
        escape_line(&row.name),
        store,
        escape_line(&row.state),
        format!(
            "{}/{}",
            slots(row.used.as_ref()),
            slots(row.capacity.as_ref())
        ),
        row.running.to_string(),
        row.queued.to_string(),
        format_bytes(memory),
        if with_speed {
            format!("{:.2}", f64::from(row.speed) / 1000.0)
        } else {
            String::new()
        },
    ]
}

/// Runs as a table.
fn run_table(runs: &[RunRow], now: SystemTime) -> String {
    let header = [
        "run",
        "project",
        "pipeline",
        "user",
        "state",
        ">submitted",
        ">priority",
        ">done",
        ">running",
        ">waiting",
    ];
    let rows = runs.iter().map(|row| run_row(row, now)).collect();
    with_used_columns(&header, rows)
}

/// A table without columns that have nothing in them.
fn with_used_columns(header: &[&str], rows: Vec<Vec<String>>) -> String {
    let is_used = |column: &usize| rows.iter().any(|row| !row[*column].is_empty());
    let used: Vec<usize> = (0..header.len()).filter(is_used).collect();
    let header: Vec<&str> = used.iter().map(|column| header[*column]).collect();
    let rows: Vec<Vec<String>> = rows
        .iter()
        .map(|row| used.iter().map(|column| row[*column].clone()).collect())
        .collect();
    table(&header, &rows)
}

fn run_row(row: &RunRow, now: SystemTime) -> Vec<String> {
    let count = |n: u64| if n == 0 { String::new() } else { n.to_string() };
    let project = Path::new(&row.project).file_name();
    let submitted = SystemTime::UNIX_EPOCH + Duration::from_millis(row.submitted_ms);
    let ago = now.duration_since(submitted).unwrap_or_default();
    let done = match row.nodes {
        // Of a run that is over its journal tells, which is with who started it.
        0 => String::new(),
        nodes => format!("{}/{nodes}", row.done),
    };
    vec![
        row.run.clone(),
        project.map_or(String::new(), |name| escape_line(&name.to_string_lossy())),
        escape_line(&row.pipeline),
        escape_line(&row.user),
        row.state.clone(),
        format!("{} ago", format_seconds(ago.as_secs_f64())),
        if row.priority == 0 {
            String::new()
        } else {
            row.priority.to_string()
        },
        done,
        count(row.running),
        count(row.waiting),
    ]
}

fn to_json(status: &ClusterStatus, runs: &[RunRow]) -> Value {
    let resources = |it: Option<&Resources>| {
        it.map(|it| json!({"cpu_milli": it.cpu_milli, "memory": it.memory, "named": it.named}))
    };
    json!({
        "version": status.version,
        "epoch": status.epoch,
        "uptime_ms": status.uptime_ms,
        "workers": status.workers.iter().map(|row| json!({
            "worker": row.worker,
            "name": row.name,
            "store": row.host,
            "state": row.state,
            "capacity": resources(row.capacity.as_ref()),
            "used": resources(row.used.as_ref()),
            "running": row.running,
            "queued": row.queued,
            "speed": row.speed,
            "labels": row.labels,
            "silent_ms": row.silent_ms,
            "free_bytes": row.free_bytes,
            "full": row.full.as_ref().map(|full| json!({
                "folder": full.folder,
                "free_bytes": full.free_bytes,
                "total_bytes": full.total_bytes,
                "no_inodes": full.no_inodes,
            })),
            "blobs": row.blobs,
        })).collect::<Vec<_>>(),
        "lost": status.lost.iter().map(|lost| json!({
            "worker": lost.worker,
            "name": lost.name,
            "ago_ms": lost.ago_ms,
            "why": lost.why,
        })).collect::<Vec<_>>(),
        "runs": runs.iter().map(|row| json!({
            "run": row.run,
            "project": row.project,
            "pipeline": row.pipeline,
            "user": row.user,
            "state": row.state,
            "priority": row.priority,
            "submitted_ms": row.submitted_ms,
            "nodes": row.nodes,
            "done": row.done,
            "running": row.running,
            "waiting": row.waiting,
        })).collect::<Vec<_>>(),
        "waits": status.waits,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_say_whose_they_are_and_how_old() {
        let run = |run: &str, nodes, done| RunRow {
            run: run.into(),
            project: "/home/me/sir".into(),
            pipeline: "pipeline.yaml".into(),
            state: "running".into(),
            submitted_ms: 1_000,
            nodes,
            done,
            ..RunRow::default()
        };
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(61);
        assert_eq!(
            run_table(&[run("1", 0, 0), run("2", 76, 3)], now),
            "run  project  pipeline       state     submitted  done\n\
             1    sir      pipeline.yaml  running  1m 00s ago\n\
             2    sir      pipeline.yaml  running  1m 00s ago  3/76\n"
        );
    }

    #[test]
    fn a_name_is_on_one_line() {
        let lost = LostWorker {
            name: "a\nrun 7 succeeded\u{1b}[2J".into(),
            ..LostWorker::default()
        };
        let lines = lost_lines(&[lost]);
        assert!(
            lines[0].starts_with(r"a\nrun 7 succeeded\u{1b}[2J "),
            "{lines:?}"
        );
    }

    #[test]
    fn workers_are_told_one_by_one_and_together() {
        let worker = |worker: u32, host: &str, state: &str, running| WorkerRow {
            worker,
            name: format!("node{worker}"),
            host: host.into(),
            state: state.into(),
            capacity: Some(Resources {
                cpu_milli: 4000,
                memory: 1 << 30,
                ..Resources::default()
            }),
            used: Some(Resources {
                cpu_milli: u64::from(running) * 1000,
                ..Resources::default()
            }),
            running,
            speed: 1000,
            ..WorkerRow::default()
        };
        let workers = [worker(9, "a:1", "here", 3), worker(10, "b:1", "leaving", 0)];
        let table = worker_table(&workers);
        let lines: Vec<&str> = table.lines().collect();
        assert_eq!(
            lines,
            [
                "    worker  state    slots  running  queued   memory",
                " 9  node9   here       3/4        3       0  1.0 GiB",
                "10  node10  leaving    0/4        0       0  1.0 GiB",
            ]
        );
        assert_eq!(
            together(&workers),
            "2 workers: 1 here, 1 leaving; 3 of 8 slots taken, 3 running, 0 queued"
        );
        let mut other = workers.clone();
        other[1].speed = 1240;
        assert!(!worker_table(&other).contains("speed"), "that is noise");
        other[1].speed = 1250;
        assert!(worker_table(&other).contains("1.25"));
        // Which of them share a store is told only where some do.
        let shared = [worker(1, "a:1", "here", 0), worker(2, "a:1", "here", 0)];
        assert!(worker_table(&shared).contains("store"));
    }

    #[test]
    fn the_last_of_the_lost_come_first() {
        let lost = |n: u32| LostWorker {
            worker: n,
            name: format!("node{n}"),
            ago_ms: u64::from(70 - n) * 1000,
            why: "its connection broke".into(),
        };
        let all: Vec<LostWorker> = (1..=7).map(lost).collect();
        let lines = lost_lines(&all);
        assert_eq!(lines[0], "node7 1m 03s ago: its connection broke");
        assert_eq!(lines[LOST..], ["2 more before them"]);
        assert_eq!(lost_lines(&all[..2]).len(), 2);
    }

    #[test]
    fn workers_that_share_a_store_have_its_number() {
        let on = |host: &str| WorkerRow {
            host: host.into(),
            ..WorkerRow::default()
        };
        let workers = ["c", "a", "c", "b"].map(on);
        assert_eq!(numbered_stores(&workers), ["1", "2", "1", "3"]);
        assert_eq!(numbered_stores(&workers[..2]), ["", ""]);
    }
}
