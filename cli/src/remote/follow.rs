//! Following a run: records come, progress is shown, and what ends it is laid out here.

use std::{
    sync::Arc,
    time::{Duration, UNIX_EPOCH},
};

use dagrun_cluster::runs::{CallError, RunsClient};
use dagrun_events::Record;
use dagrun_model::format_seconds;
use dagrun_proto::v1::{RunEnd, RunRow};
use dagrun_run::{Subscriber, Workspace};
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::{Remote, call_error, connect::patiently, end};
use crate::{
    args::{Global, INTERRUPTED, RunArgs},
    commands::{EventFile, Later, Ready, project_of, run_error},
    error::{CliError, Done},
    say,
    term::{Ink, Progress, Style, escape, escape_line, plural},
};

/// Events that the screen may lag behind.
const QUEUE: usize = 65_536;
/// After so long without news it is asked whether there are workers at all.
const NO_NEWS: Duration = Duration::from_secs(3);

/// A run begins within so long, unless it has to wait for another.
const ITS_TURN: Duration = Duration::from_millis(300);

/// What is followed.
pub(super) enum Watch<'a> {
    /// A run of a project here.
    Own {
        run: String,
        ready: Box<Ready>,
        args: &'a RunArgs,
    },
    /// A run of anybody: it is only looked at.
    Other { run: String },
}

impl Watch<'_> {
    fn run(&self) -> &str {
        match self {
            Self::Own { run, .. } | Self::Other { run } => run,
        }
    }
}

/// `dagrun attach`: follows a run that was submitted before. With the pipeline's project its exports are laid out too.
pub(crate) fn attach(
    remote: Remote,
    run: &str,
    project: Option<(&RunArgs, &Global)>,
    style: Style,
) -> Done {
    let run = run.to_owned();
    if !style.quiet {
        say!(
            "run {run} on {}; Ctrl-C leaves it running, `{}` stops it",
            remote.address,
            escape(&remote.typed(&format!("cancel {run}")))
        );
    }
    let what = match project {
        None => Watch::Other { run },
        Some((args, global)) => match follower(&remote, &run, args)? {
            Some(other) => {
                say!("process {other} follows it too, and lays out what it makes");
                Watch::Other { run }
            }
            None => {
                let ready = Ready::new(dagrun_run::StudyMode::Continue, args, global, style)?;
                ready.planned.keep_to_the_end();
                let ready = Box::new(ready);
                Watch::Own { run, ready, args }
            }
        },
    };
    view(remote, what, Told::ToLeave, style)
}

/// The process that follows the same run for the same folder already.
fn follower(remote: &Remote, run: &str, args: &RunArgs) -> Result<Option<u32>, CliError> {
    let project = project_of(&args.work.pipeline.file);
    let workspace = Workspace::existing(&project).map_err(run_error)?;
    let holder = workspace.and_then(|workspace| workspace.holder());
    let same = holder.filter(|it| it.follows.as_ref() == Some(&remote.followed(run)));
    Ok(same.map(|it| it.pid))
}

/// What a signal means to who follows a run, be it Ctrl-C or SIGTERM.
#[derive(Clone, Copy, PartialEq)]
enum Told {
    /// The run is to stop: its client started it, and it would have stopped here.
    ToStop,
    /// Nobody looks any more: the run goes on.
    ToLeave,
}

/// Follows a run that was started here to its end.
pub(super) fn watch(remote: Remote, what: Watch<'_>, style: Style) -> Done {
    view(remote, what, Told::ToStop, style)
}

fn view(mut remote: Remote, mut what: Watch<'_>, told: Told, style: Style) -> Done {
    let (mut subscriber, progress) = progress(&what, style);
    progress.begin().map_err(CliError::environment)?;
    let mut heard = Heard {
        records: Vec::new(),
        events: match &what {
            Watch::Own { args, .. } => args.events.as_deref().map(EventFile::create).transpose()?,
            Watch::Other { .. } => None,
        },
        subscriber: &mut subscriber,
    };
    if let Watch::Own { run, ready, .. } = &mut what {
        ready.follow(remote.followed(run));
    }
    let run = what.run().to_owned();
    let end = stream(&mut remote, &run, &mut heard, told, style)?;
    let records = heard.records;
    drop(subscriber);
    progress.join()?;
    let Some(end) = end else {
        say!(
            "left; run {run} goes on: `{}` follows it again",
            escape(&remote.typed(&format!("attach {run}")))
        );
        return Ok(INTERRUPTED);
    };
    for line in end.summary.lines() {
        say!("{line}");
    }
    match what {
        Watch::Other { .. } => Ok(u8::try_from(end.exit_code).unwrap_or(1)),
        Watch::Own { ready, args, .. } => {
            end::take_over(&remote, *ready, args, &records, &end, style)
        }
    }
}

/// What was heard of a run, and who hears it too.
struct Heard<'a> {
    records: Vec<Vec<u8>>,
    events: Option<EventFile>,
    subscriber: &'a mut Subscriber,
}

impl Heard<'_> {
    /// Takes records as the journal has them: events are written as they are.
    fn take(&mut self, batch: impl IntoIterator<Item = impl AsRef<[u8]>>) -> Result<(), CliError> {
        for bytes in batch {
            let bytes = bytes.as_ref();
            if let Ok(record) = Record::from_json(bytes) {
                self.subscriber.give(&Arc::new(record));
            }
            if let Some(events) = &mut self.events {
                events.write(bytes)?;
            }
            self.records.push(bytes.to_vec());
        }
        self.events.as_mut().map_or(Ok(()), EventFile::flush)
    }
}

fn progress(what: &Watch<'_>, style: Style) -> (Subscriber, Later) {
    match what {
        Watch::Own { ready, .. } => {
            let (plan, jobs) = (ready.planned.plan.clone(), ready.jobs_of_trials());
            Later::new(QUEUE, move || {
                Progress::new(style, crate::commands::nodes_by_job(&plan), jobs)
            })
        }
        Watch::Other { .. } => Later::new(QUEUE, move || {
            Progress::new(style, Default::default(), None)
        }),
    }
}

/// Takes records until the run is over, or this process is told to leave it: then there is no end. A coordinator that goes away
/// may come back: the run goes on there.
fn stream(
    remote: &mut Remote,
    run: &str,
    heard: &mut Heard<'_>,
    on_signal: Told,
    style: Style,
) -> Result<Option<RunEnd>, CliError> {
    let Remote {
        runtime,
        client,
        address,
        flags,
        ..
    } = remote;
    runtime.block_on(async {
        let mut interrupt = signal(SignalKind::interrupt()).map_err(CliError::environment)?;
        let mut terminate = signal(SignalKind::terminate()).map_err(CliError::environment)?;
        let (mut from, mut asked) = (0, 0_u32);
        let (mut silence, mut told) = (ITS_TURN, false);
        loop {
            let follow = patiently(address, async || client.follow(run, from).await);
            let mut stream = follow.await.map_err(call_error)?;
            loop {
                let message = tokio::select! {
                    message = stream.message() => message,
                    () = tokio::time::sleep(silence), if !told => {
                        told = say_why_nothing_comes(client, run, address, flags, silence).await;
                        silence = NO_NEWS;
                        continue;
                    }
                    () = either(&mut interrupt, &mut terminate) => {
                        if on_signal == Told::ToLeave {
                            return Ok(None);
                        }
                        asked += 1;
                        stop(client, run, asked > 1, style).await?;
                        continue;
                    }
                };
                let batch = match message.map_err(CallError::from) {
                    Ok(Some(batch)) => batch,
                    Ok(None) | Err(CallError::Away(_)) => break,
                    Err(error) => return Err(call_error(error)),
                };
                (from, told) = (batch.next, false);
                heard.take(batch.records)?;
                if let Some(end) = batch.end {
                    return Ok(Some(end));
                }
            }
        }
    })
}

async fn either(one: &mut Signal, other: &mut Signal) {
    tokio::select! {
        _ = one.recv() => {}
        _ = other.recv() => {}
    }
}

/// Says that nothing can go on where another run goes first, or no worker is there; whether something was said.
async fn say_why_nothing_comes(
    client: &mut RunsClient,
    run: &str,
    address: &str,
    flags: &str,
    silence: Duration,
) -> bool {
    // Whoever may not see the workers, or does not reach them, hears of it in another way.
    let Ok(status) = client.status().await else {
        return false;
    };
    if let Some(why) = why_queued(&status.runs, run, flags) {
        say!("{why}");
        return true;
    }
    // Those of a coordinator that has just started are on their way.
    if status.workers.is_empty() && silence >= NO_NEWS {
        say!(
            "waiting: no workers are connected; start one with `dagrun worker --connect {address}`"
        );
        return true;
    }
    false
}

/// Why a run has not begun: another one of its folder goes first, or as many go on as the coordinator takes. Nothing where it has.
pub(super) fn why_queued(runs: &[RunRow], run: &str, flags: &str) -> Option<String> {
    let mut rows = runs.iter();
    let own = rows.find(|row| row.run == run && row.state == "queued")?;
    let first = runs.iter().find(|row| {
        (&row.project, &row.user) == (&own.project, &own.user) && row.state == "running"
    });
    let Some(first) = first else {
        let go_on = runs.iter().filter(|row| row.state == "running").count();
        return Some(format!(
            "waiting: {go_on} of {} go on, as many as the coordinator takes at a time (`dagrun serve --runs N`)",
            plural(runs.len() as u64, "run"),
        ));
    };
    let run = escape_line(&first.run);
    let of = match first.user.as_str() {
        "" => String::new(),
        user => format!(" of {}", escape_line(user)),
    };
    let submitted = UNIX_EPOCH + Duration::from_millis(first.submitted_ms);
    let ago = submitted.elapsed().unwrap_or_default().as_secs_f64();
    Some(format!(
        "waiting: run {run}{of}, submitted {} ago, goes first: runs of one folder take turns\n  \
         `dagrun attach {run}{flags}` follows it, `dagrun cancel {run}{flags}` stops it",
        format_seconds(ago)
    ))
}

async fn stop(
    client: &mut RunsClient,
    run: &str,
    kill: bool,
    style: Style,
) -> Result<(), CliError> {
    let text = if kill {
        "killing"
    } else {
        "stopping the run; Ctrl-C again kills its nodes at once"
    };
    say!("\n{}", style.paint(Ink::Warn, text));
    client.cancel(run, kill).await.map(drop).map_err(call_error)
}

/// `dagrun cancel`.
pub(crate) fn cancel(mut remote: Remote, run: &str, kill: bool) -> Done {
    let was = remote
        .runtime
        .block_on(remote.client.cancel(run, kill))
        .map_err(call_error)?;
    match was.as_str() {
        "running" => say!("run {run} is stopping"),
        "queued" => say!("run {run} was waiting, and is cancelled"),
        over => say!("run {run} had ended already: {over}"),
    }
    Ok(0)
}
