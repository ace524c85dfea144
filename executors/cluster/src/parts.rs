//! Long messages in parts: a message has a limit, and neither side may be kept from saying what it has to.
//!
//! Sizes are estimates of what is long: texts, values, files and blobs. The limit of a message leaves room for eight times as much. What
//! is too long by itself fails its node.

use std::io;

use dagrun_model::{
    Action, Artifact, AttemptResult, AttemptSpec, FailureCause, InputSource, Outcome, Outputs,
    format_bytes,
};
use serde_json::Value;

use crate::{
    message::{Ended, Extra, FromWorker, Progress, StartAttempt, ToWorker},
    security::MESSAGE,
};

/// Bytes after which another part begins.
const PART: usize = MESSAGE / 8;
/// What goes with each thing that is named: digests, numbers, names of fields.
const NAMED: usize = 300;
/// Bytes of the longest attempt or result that is sent: what stands around it in a message has room beside it.
const LONGEST: usize = MESSAGE - (1 << 20);

/// Whether a worker can be told to run an attempt.
///
/// # Errors
/// Why not, and what to do.
pub(crate) fn check_start(spec: &AttemptSpec) -> Result<(), FailureCause> {
    if NAMED + action_bytes(&spec.action) <= PART {
        return Ok(());
    }
    let bytes = json_bytes(spec);
    if bytes <= LONGEST {
        return Ok(());
    }
    Err(FailureCause::Expression {
        message: format!(
            "what a worker has to be told takes {}, and the limit is {}: it has {} inputs; give it a folder or one file in place of many \
             files, or gather in steps",
            format_bytes(bytes as u64),
            format_bytes(LONGEST as u64),
            spec.action.inputs.len()
        ),
    })
}

/// Makes a result fit into a message: what goes along with it may be left out, and a success that is too long by itself fails.
pub(crate) fn fit_result(result: &mut AttemptResult, extra: &mut Extra) {
    let around = extra_bytes(extra);
    if result_bytes(result) + around <= PART {
        return;
    }
    let bytes = json_bytes(result);
    if bytes + around > LONGEST {
        *extra = Extra {
            fetched_bytes: extra.fetched_bytes,
            ..Extra::default()
        };
    }
    if let Outcome::Succeeded(outputs) = &result.outcome
        && bytes > LONGEST
    {
        let longest = outputs
            .iter()
            .max_by_key(|(_, output)| output_bytes(output));
        let name = longest.map(|(name, _)| name.clone()).unwrap_or_default();
        result.outcome = Outcome::Failed(FailureCause::BadOutput {
            name,
            reason: format!(
                "the result takes {}, and a worker can send {}; make large values files instead of json outputs",
                format_bytes(bytes as u64),
                format_bytes(LONGEST as u64)
            ),
        });
    }
}

/// Bytes of something as JSON.
fn json_bytes(value: &impl serde::Serialize) -> usize {
    struct Count(usize);
    impl io::Write for Count {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0 += bytes.len();
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let mut count = Count(0);
    serde_json::to_writer(&mut count, value).expect("it is plain data");
    count.0
}

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
    extra_bytes(&ended.extra) + result_bytes(&ended.result)
}

fn extra_bytes(extra: &Extra) -> usize {
    let blobs = extra.blobs.iter().map(|(_, blob)| NAMED + blob.len());
    NAMED * extra.fetched.len() + blobs.sum::<usize>()
}

fn result_bytes(result: &AttemptResult) -> usize {
    // The ends of its logs are in a result.
    let logs = [&result.stdout, &result.stderr];
    let tails = logs.into_iter().flatten().map(|log| log.tail.len());
    let outputs = match &result.outcome {
        Outcome::Succeeded(outputs) => outputs_bytes(outputs),
        _ => 0,
    };
    NAMED * 2 + outputs + tails.sum::<usize>()
}

fn outputs_bytes(outputs: &Outputs) -> usize {
    let each = outputs.iter();
    each.map(|(name, output)| NAMED + name.len() + output_bytes(output))
        .sum()
}

fn output_bytes(output: &Artifact) -> usize {
    match output {
        Artifact::Value { value, .. } => value_bytes(value),
        _ => 0,
    }
}

fn value_bytes(value: &Value) -> usize {
    match value {
        Value::String(text) => text.len(),
        Value::Array(items) => items.iter().map(|item| 1 + value_bytes(item)).sum(),
        Value::Object(map) => {
            let entries = map.iter();
            entries
                .map(|(name, value)| 4 + name.len() + value_bytes(value))
                .sum()
        }
        _ => 8,
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, sync::Arc};

    use dagrun_executor_api::conformance::{shell, text_input};
    use dagrun_model::{AttemptId, BlobRef, Digest};
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

    fn texts(count: usize, bytes: usize) -> AttemptResult {
        let outputs = (0..count).map(|n| {
            let value = serde_json::Value::from("v".repeat(bytes));
            let file = BlobRef {
                digest: Digest::of(b"v"),
                size: bytes as u64,
                executable: false,
            };
            (format!("o{n}"), Artifact::Value { file, value })
        });
        AttemptResult::bare(Outcome::Succeeded(outputs.collect()))
    }

    #[test]
    fn an_attempt_that_is_too_long_by_itself_fails_with_the_limit() {
        let with_text = |bytes: usize| {
            shell(1, "true", |action| {
                action.inputs = vec![text_input("a", &"t".repeat(bytes))];
            })
        };
        assert!(check_start(&with_text(60 << 20)).is_ok());
        let cause = check_start(&with_text(64 << 20)).unwrap_err().to_string();
        assert!(cause.contains("the limit is 63"), "{cause}");
    }

    #[test]
    fn a_result_that_is_too_long_by_itself_fails_with_the_limit() {
        let mut result = texts(70, 1 << 20);
        fit_result(&mut result, &mut Extra::default());
        let Outcome::Failed(cause) = &result.outcome else {
            panic!("it was taken");
        };
        assert!(cause.to_string().contains("63.0 MiB"), "{cause}");
        // What goes along with one that is long, and not too long, is left out.
        let mut result = texts(60, 1 << 20);
        let mut extra = Extra {
            blobs: vec![(Digest::of(b"7"), vec![7; 8 << 20].into())],
            fetched_bytes: 5,
            ..Extra::default()
        };
        fit_result(&mut result, &mut extra);
        assert!(matches!(result.outcome, Outcome::Succeeded(_)));
        assert_eq!((extra.blobs.len(), extra.fetched_bytes), (0, 5));
    }

    #[test]
    fn values_of_results_are_counted() {
        let ended = (0..30).map(|n| Ended {
            attempt: name(n),
            result: Arc::new(texts(4, 1 << 20)),
            extra: Arc::default(),
        });
        let progress = FromWorker::Progress(Progress {
            started: Vec::new(),
            ended: ended.collect(),
        });
        let parts = from_worker(progress);
        let fits = |part| wire::encode_from_worker(part).encoded_len() <= MESSAGE;
        assert!(parts.len() > 1 && parts.iter().all(fits));
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
