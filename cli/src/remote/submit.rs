//! `dagrun FILE --on HOST`: plan here, upload what the coordinator lacks, submit, and follow.

use std::{collections::BTreeMap, fs::File, io::Read, path::PathBuf};

use dagrun_cluster::runs::CallError;
use dagrun_model::{Digest, format_bytes};
use dagrun_proto::v1::BlobChunk;
use dagrun_run::StudyMode;
use tokio::sync::mpsc::channel;
use tokio_stream::wrappers::ReceiverStream;

use super::{
    Remote, call_error,
    collect::{Collected, collect},
    connect::{Patience, patiently},
    follow::{Watch, watch, why_queued},
};
use crate::{
    args::{Global, RunArgs},
    commands::{Ready, StudyPlan},
    error::{CliError, Context, Done},
    say,
    term::{Ink, Style, plural},
};

/// Bytes of a file in one message.
const CHUNK: usize = 1 << 20;

/// Runs a pipeline on a coordinator.
pub(crate) fn run_on(mode: StudyMode, args: &RunArgs, global: &Global, style: Style) -> Done {
    check(args)?;
    let ready = Ready::new(mode, args, global, style)?;
    ready.planned.keep_to_the_end();
    if let Some(study) = &ready.planned.study {
        // A study's trials may read other files than what is before them: planning one asks for them.
        StudyPlan::new(&ready.loaded, &ready.planned, study)?;
    }
    let Collected {
        mut submission,
        sources,
    } = collect(&ready.loaded, args)?;
    submission.token = token();
    submission.user = user();
    let mut remote = Remote::connect(&args.coordinator, global)?;
    let typed = ready.typed.clone().on(&remote.flags);
    submission.typed = Some(typed.to_wire());
    let (address, flags) = (remote.address.clone(), remote.flags.clone());
    upload(&mut remote, &sources, style)?;
    let Remote {
        runtime, client, ..
    } = &mut remote;
    // Its token makes a submission that is repeated the same run.
    let submit = patiently(&address, async || client.submit(submission.clone()).await);
    let run = runtime.block_on(submit).map_err(submit_error)?;
    if args.detach {
        say!(
            "submitted as run {run}; `dagrun attach {run}{flags}` follows it, `dagrun cancel {run}{flags}` stops it"
        );
        // Whoever may not see other runs does not hear of them.
        let status = runtime.block_on(client.status());
        if let Ok(status) = status
            && let Some(why) = why_queued(&status.runs, &run, &flags)
        {
            say!("{why}");
        }
        return Ok(0);
    }
    if !style.quiet {
        say!(
            "{} on {address} as run {run}; Ctrl-C stops it, and it goes on where the terminal is closed",
            style.paint(Ink::Bold, &ready.planned.plan.pipeline().name.value)
        );
    }
    watch(
        remote,
        Watch::Own {
            run,
            ready: Box::new(ready),
            args,
        },
        style,
    )
}

/// Refuses what has no meaning for a run elsewhere: better than to leave it out without a word.
fn check(args: &RunArgs) -> Result<(), CliError> {
    if args.workers.is_some() {
        return Err(CliError::invalid(
            "`--workers` starts workers here, and the run is to go to a coordinator",
        )
        .hint("leave one out: `--workers`, or `--on` and DAGRUN_ON"));
    }
    let followed = [
        ("--events", args.events.is_some()),
        ("--profile", args.profile.is_some()),
        ("--json", args.json),
    ];
    match followed.iter().find(|(_, given)| *given && args.detach) {
        Some((flag, _)) => Err(CliError::invalid(format!(
            "`{flag}` needs the run to be followed, and `--detach` leaves it"
        ))
        .hint("leave one of them out")),
        None => Ok(()),
    }
}

/// What makes a request that is repeated the same run.
fn token() -> String {
    let now = std::time::SystemTime::now();
    let noise = format!(
        "{now:?} {} {:?}",
        std::process::id(),
        std::thread::current().id()
    );
    Digest::of(noise.as_bytes()).to_string()
}

pub(super) fn user() -> String {
    std::env::var("USER").unwrap_or_default()
}

/// A refusal names the role of the call that was refused, which may be one of several that a submission makes.
fn submit_error(error: CallError) -> CliError {
    let forbidden = matches!(error, CallError::Forbidden(_));
    let error = call_error(error);
    match forbidden {
        true => error
            .hint("a submission takes the role `submit`, which includes all that its calls take: `--role submit`"),
        false => error,
    }
}

/// Sends what the coordinator lacks.
fn upload(
    remote: &mut Remote,
    sources: &BTreeMap<Digest, PathBuf>,
    style: Style,
) -> Result<(), CliError> {
    let mut patience = Patience::default();
    let (count, bytes) = loop {
        match send_lacking(remote, sources)? {
            Ok(sent) => break sent,
            Err(error) => remote
                .runtime
                .block_on(patience.wait(&remote.address, error))
                .map_err(submit_error)?,
        }
    };
    if count > 0 && !style.quiet {
        say!(
            "uploaded {} ({})",
            plural(count, "file"),
            format_bytes(bytes)
        );
    }
    Ok(())
}

/// Sends what is lacking now: how many files, and how many bytes.
fn send_lacking(
    remote: &mut Remote,
    sources: &BTreeMap<Digest, PathBuf>,
) -> Result<Result<(u64, u64), CallError>, CliError> {
    let digests: Vec<Digest> = sources.keys().copied().collect();
    let lacking = match remote.runtime.block_on(remote.client.lacking(&digests)) {
        Ok(lacking) if lacking.is_empty() => return Ok(Ok((0, 0))),
        Ok(lacking) => lacking,
        Err(error) => return Ok(Err(error)),
    };
    let files: Vec<(Digest, PathBuf)> = lacking
        .into_iter()
        .filter_map(|digest| Some((digest, sources.get(&digest)?.clone())))
        .collect();
    let count = files.len() as u64;
    let (sender, receiver) = channel(4);
    let reader = std::thread::spawn(move || {
        for (digest, path) in files {
            send_file(digest, &path, &sender)?;
        }
        Ok(())
    });
    let sent = remote
        .runtime
        .block_on(remote.client.upload(ReceiverStream::new(receiver)));
    let read: Result<(), CliError> = reader
        .join()
        .map_err(|_| CliError::environment("the thread that reads files panicked"))?;
    // That a file cannot be read is why the coordinator got half of it.
    read?;
    Ok(sent.map(|bytes| (count, bytes)))
}

fn send_file(
    digest: Digest,
    path: &std::path::Path,
    sender: &tokio::sync::mpsc::Sender<BlobChunk>,
) -> Result<(), CliError> {
    let doing = || format!("read {}", path.display());
    let mut file = File::open(path).doing(doing)?;
    let size = file.metadata().doing(doing)?.len();
    let (mut left, mut first) = (size, true);
    loop {
        let mut data = vec![0; CHUNK.min(usize::try_from(left).unwrap_or(CHUNK))];
        file.read_exact(&mut data).doing(doing)?;
        left -= data.len() as u64;
        let chunk = BlobChunk {
            digest: if first {
                digest.0.to_vec().into()
            } else {
                Default::default()
            },
            size: if first { size } else { 0 },
            data: data.into(),
            last: left == 0,
            ..BlobChunk::default()
        };
        first = false;
        // The call has ended already, and says why.
        if sender.blocking_send(chunk).is_err() || left == 0 {
            return Ok(());
        }
    }
}
