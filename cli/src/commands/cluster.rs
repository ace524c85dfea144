//! `dagrun cluster status` and `drain`, `attach` and `cancel`: looking at a coordinator from anywhere.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    time::{Duration, SystemTime},
};

use dagrun_model::{format_bytes, format_seconds};
use dagrun_proto::v1::{ClusterStatus, Resources, RunRow, WorkerRow};
use serde_json::{Value, json};

use crate::{
    args::{AttachArgs, CancelArgs, Cli, ClusterCommand, Command, Global},
    commands::credentials,
    error::{CliError, Done},
    put,
    remote::{self, Remote, call_error},
    say,
    term::{Ink, Style, escape, plural, table},
};

use clap::Parser;

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
    let Command::Run(run) = cli.command else {
        return Err(CliError::invalid("`--file` names a pipeline"));
    };
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
        escape(&status.version),
        status.epoch,
        format_seconds(status.uptime_ms as f64 / 1000.0)
    );
    if status.workers.is_empty() {
        put!("\nno workers; `dagrun worker --connect {address}` on any host joins one");
    } else {
        put!("\n{}", worker_table(&status.workers).trim_end());
        put!("{}", together(&status.workers));
    }
    if runs.is_empty() {
        put!("\nno runs");
    } else {
        put!("\n{}", run_table(runs, SystemTime::now()).trim_end());
    }
    for wait in &status.waits {
        put!("{} {}", style.paint_out(Ink::Warn, "waits:"), escape(wait));
    }
}

fn worker_table(workers: &[WorkerRow]) -> String {
    let header = [
        ">", "worker", "host", "state", ">slots", ">running", ">queued", ">memory", ">speed",
    ];
    let rows = workers.iter().zip(short_hosts(workers));
    let rows: Vec<_> = rows.map(|(row, host)| worker_row(row, host)).collect();
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
        .map(|(state, n)| format!("{n} {}", escape(state)))
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

/// Hosts by the beginnings of their ids; those that begin alike, as stores of one machine do, are numbered. Nothing where each worker is
/// a host of its own: their names say that.
fn short_hosts(workers: &[WorkerRow]) -> Vec<String> {
    let hosts: BTreeSet<&str> = workers.iter().map(|row| row.host.as_str()).collect();
    if hosts.len() == workers.len() {
        return vec![String::new(); workers.len()];
    }
    let short = |host: &str| -> String { escape(host).chars().take(12).collect() };
    let alike = |row: &WorkerRow| {
        let others = workers.iter().map(|other| other.host.as_str());
        let alike: BTreeSet<&str> = others
            .filter(|other| short(other) == short(&row.host))
            .collect();
        alike
    };
    let name = |row: &WorkerRow| {
        let (short, alike) = (short(&row.host), alike(row));
        match alike.iter().position(|host| *host == row.host) {
            Some(at) if alike.len() > 1 => format!("{short}~{}", at + 1),
            _ => short,
        }
    };
    workers.iter().map(name).collect()
}

fn worker_row(row: &WorkerRow, host: String) -> Vec<String> {
    let memory = row.capacity.as_ref().map_or(0, |it| it.memory);
    vec![
        row.worker.to_string(),
        escape(&row.name),
        host,
        escape(&row.state),
        format!(
            "{}/{}",
            slots(row.used.as_ref()),
            slots(row.capacity.as_ref())
        ),
        row.running.to_string(),
        row.queued.to_string(),
        format_bytes(memory),
        format!("{:.2}", f64::from(row.speed) / 1000.0),
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
        project.map_or(String::new(), |name| escape(&name.to_string_lossy())),
        escape(&row.pipeline),
        escape(&row.user),
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
            "host": row.host,
            "state": row.state,
            "capacity": resources(row.capacity.as_ref()),
            "used": resources(row.used.as_ref()),
            "running": row.running,
            "queued": row.queued,
            "speed": row.speed,
            "labels": row.labels,
            "silent_ms": row.silent_ms,
            "free_bytes": row.free_bytes,
            "blobs": row.blobs,
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
                "    worker  state    slots  running  queued   memory  speed",
                " 9  node9   here       3/4        3       0  1.0 GiB   1.00",
                "10  node10  leaving    0/4        0       0  1.0 GiB   1.00",
            ]
        );
        assert_eq!(
            together(&workers),
            "2 workers: 1 here, 1 leaving; 3 of 8 slots taken, 3 running, 0 queued"
        );
        // Which of them share a store is told only where some do.
        let shared = [worker(1, "a:1", "here", 0), worker(2, "a:1", "here", 0)];
        assert!(worker_table(&shared).contains("a:1"));
    }

    #[test]
    fn hosts_that_begin_alike_are_told_apart() {
        let on = |host: &str| WorkerRow {
            host: host.into(),
            ..WorkerRow::default()
        };
        let workers = [
            on("6f3cdf05-245a:1:2"),
            on("6f3cdf05-245a:1:3"),
            on("6f3cdf05-245a:1:2"),
            on("00000000-1111:1:2"),
        ];
        assert_eq!(
            short_hosts(&workers),
            [
                "6f3cdf05-245~1",
                "6f3cdf05-245~2",
                "6f3cdf05-245~1",
                "00000000-111"
            ]
        );
    }
}
