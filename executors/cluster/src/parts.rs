//! Long messages in parts: a message has a limit, and neither side may be kept from saying what it has to.
//!
//! Sizes are estimates of what is long: texts, files and blobs. The limit of a message leaves room for eight times as much.

use dagrun_model::{Action, InputSource};

use crate::{
    message::{Ended, FromWorker, Progress, StartAttempt, ToWorker},
    security::MESSAGE,
};

/// Bytes after which another part begins.
const PART: usize = MESSAGE / 8;
/// What goes with each thing that is named: digests, numbers, names of fields.
const NAMED: usize = 300;

/// What a coordinator says, in as many messages as it takes.
pub(crate) fn to_worker(message: ToWorker) -> Vec<ToWorker> {
    match message {
        ToWorker::Start(starts) => split(starts, start_bytes).map(ToWorker::Start).collect(),
        other => vec![other],
    }
}

/// What a worker says, likewise.
pub(crate) fn from_worker(message: FromWorker) -> Vec<FromWorker> {
    let FromWorker::Progress(Progress { started, ended }) = message else {
        return vec![message];
    };
    let mut parts: Vec<Progress> = split(ended, ended_bytes)
        .map(|ended| Progress {
            started: Vec::new(),
            ended,
        })
        .collect();
    if parts.is_empty() {
        parts.push(Progress::default());
    }
    // A start is told before the end.
    parts[0].started = started;
    parts.into_iter().map(FromWorker::Progress).collect()
}

/// Things in order, in parts of about the same size; each has one thing at least.
fn split<T>(things: Vec<T>, bytes: impl Fn(&T) -> usize) -> impl Iterator<Item = Vec<T>> {
    let mut parts: Vec<(usize, Vec<T>)> = Vec::new();
    for thing in things {
        let size = bytes(&thing);
        match parts.last_mut() {
            Some((filled, part)) if *filled + size <= PART => {
                *filled += size;
                part.push(thing);
            }
            _ => parts.push((size, vec![thing])),
        }
    }
    parts.into_iter().map(|(_, part)| part)
}

fn start_bytes(start: &StartAttempt) -> usize {
    let peers = start.sources.iter().map(|(_, peers)| NAMED + peers.len());
    NAMED + action_bytes(&start.spec.action) + peers.sum::<usize>()
}

fn action_bytes(action: &Action) -> usize {
    let env = |env: &[(String, String)]| -> usize {
        env.iter()
            .map(|(name, value)| name.len() + value.len())
            .sum()
    };
    let commands = action.commands.iter().map(|command| {
        let argv: usize = command.argv.iter().map(String::len).sum();
        let script = command.script.as_ref().map_or(0, String::len);
        NAMED + argv + script + env(&command.env)
    });
    let inputs = action.inputs.iter().map(|input| {
        let text = match &input.source {
            InputSource::Text(text) => text.len(),
            _ => 0,
        };
        NAMED + input.path.as_str().len() + text
    });
    env(&action.env)
        + commands.sum::<usize>()
        + inputs.sum::<usize>()
        + NAMED * action.outputs.len()
}

fn ended_bytes(ended: &Ended) -> usize {
    let blobs = ended.extra.blobs.iter().map(|(_, blob)| NAMED + blob.len());
    // The ends of its logs are in a result.
    let logs = [&ended.result.stdout, &ended.result.stderr];
    let tails = logs.into_iter().flatten().map(|log| log.tail.len());
    NAMED * (2 + ended.extra.fetched.len()) + blobs.sum::<usize>() + tails.sum::<usize>()
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, sync::Arc};

    use dagrun_executor_api::conformance::{shell, text_input};
    use dagrun_model::{AttemptId, AttemptResult, Digest, Outcome};
    use prost::{Message, bytes::Bytes};

    use super::*;
    use crate::{
        message::{AttemptRef, Extra},
        wire,
    };

    fn name(number: u64) -> AttemptRef {
        AttemptRef {
            run: "run".into(),
            attempt: AttemptId(number),
        }
    }

    #[test]
    fn starts_of_any_number_fit_into_messages() {
        // Control characters take six bytes each on the wire.
        let text = "\u{1}".repeat(1 << 20);
        let starts: Vec<StartAttempt> = (0..20)
            .map(|n| StartAttempt {
                attempt: name(n),
                spec: Arc::new(shell(n, "true", |action| {
                    action.inputs = vec![text_input("a", &text)];
                })),
                limited: BTreeMap::new(),
                sources: Vec::new(),
            })
            .collect();
        let parts = to_worker(ToWorker::Start(starts));
        assert!(parts.len() > 1);
        let mut order = Vec::new();
        for part in &parts {
            assert!(wire::encode_to_worker(part).encoded_len() <= MESSAGE);
            let ToWorker::Start(starts) = part else {
                panic!("{part:?}");
            };
            order.extend(starts.iter().map(|start| start.attempt.attempt.0));
        }
        assert_eq!(order, (0..20).collect::<Vec<_>>());
    }

    #[test]
    fn results_of_any_number_fit_into_messages() {
        let blob = Bytes::from(vec![7; 256 << 10]);
        let ended = (0..300).map(|n| Ended {
            attempt: name(n),
            result: Arc::new(AttemptResult::bare(Outcome::Cancelled)),
            extra: Arc::new(Extra {
                blobs: vec![(Digest::of(b"7"), blob.clone())],
                ..Extra::default()
            }),
        });
        let progress = Progress {
            started: vec![name(5)],
            ended: ended.collect(),
        };
        let parts = from_worker(FromWorker::Progress(progress.clone()));
        assert!(parts.len() > 1);
        let mut told = Progress::default();
        for part in parts {
            assert!(wire::encode_from_worker(&part).encoded_len() <= MESSAGE);
            let FromWorker::Progress(part) = part else {
                panic!("{part:?}");
            };
            told.started.extend(part.started);
            told.ended.extend(part.ended);
        }
        assert_eq!(told, progress);
        let alone = FromWorker::Progress(Progress {
            ended: Vec::new(),
            ..progress
        });
        assert_eq!(from_worker(alone.clone()), [alone]);
    }
}
