//! What a record is about, read without the rest of it.
//!
//! A long run has hundreds of thousands of records of attempts that succeeded. Whoever only wants to know what is left to do
//! need not read what they took: the beginning says enough.

/// What a record is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heading {
    /// An attempt of this number was started.
    AttemptStarted(u64),
    /// An attempt of this number ended.
    AttemptEnded {
        /// The attempt.
        attempt: u64,
        /// It has a result.
        succeeded: bool,
    },
    /// A node is done.
    NodeDone,
    /// Nodes had results in the cache.
    NodesCached,
    /// Something else, or a record that this version would not write so.
    Other,
}

impl Heading {
    /// Reads the beginning of a record as [`crate::Record::to_json`] writes it; any other text is [`Heading::Other`].
    pub fn of(json: &[u8]) -> Self {
        Self::read(json).unwrap_or(Self::Other)
    }

    fn read(json: &[u8]) -> Option<Self> {
        let rest = json.strip_prefix(b"{\"at\":")?;
        let at = rest.iter().position(|byte| *byte == b',')?;
        let rest = rest[at..].strip_prefix(b",\"event\":\"")?;
        let end = rest.iter().position(|byte| *byte == b'"')?;
        Some(match &rest[..end] {
            b"attempt_started" => Self::AttemptStarted(attempt(rest)?.0),
            b"attempt_ended" => {
                let (attempt, rest) = attempt(rest)?;
                let succeeded = rest.starts_with(b",\"result\":{\"outcome\":\"succeeded\"");
                Self::AttemptEnded { attempt, succeeded }
            }
            b"node_done" => Self::NodeDone,
            b"nodes_cached" => Self::NodesCached,
            _ => Self::Other,
        })
    }
}

/// The number of the attempt, and what follows it.
fn attempt(json: &[u8]) -> Option<(u64, &[u8])> {
    const NAME: &[u8] = b",\"attempt\":";
    // No string of JSON has this text in it: its quotes would be escaped.
    let anywhere = || {
        let at = json.windows(NAME.len()).position(|text| text == NAME)?;
        Some(&json[at + NAME.len()..])
    };
    let rest = behind_key(json)
        .and_then(|rest| rest.strip_prefix(NAME))
        .or_else(anywhere)?;
    let end = rest.iter().position(|byte| !byte.is_ascii_digit())?;
    let digits = std::str::from_utf8(&rest[..end]).ok()?;
    Some((digits.parse().ok()?, &rest[end..]))
}

/// What follows the node and its key, where the node's id has nothing that is escaped.
fn behind_key(json: &[u8]) -> Option<&[u8]> {
    const KEY: usize = 64;
    let at = json.iter().position(|byte| *byte == b'"')?;
    let rest = json[at..].strip_prefix(b"\",\"node\":\"")?;
    let at = rest.iter().position(|byte| *byte == b'"')?;
    let rest = rest[at..].strip_prefix(b"\",\"key\":\"")?;
    rest.get(KEY..)?.strip_prefix(b"\"")
}

#[cfg(test)]
mod tests {
    use dagrun_model::{AttemptResult, Digest, FailureCause, Outcome};

    use super::*;
    use crate::{NodeOutcome, Record, RunEvent};

    fn heading(event: RunEvent) -> Heading {
        let record = Record { at: 1.5e9, event };
        let mut text = Vec::new();
        record.append_json(&mut text).unwrap();
        assert_eq!(Heading::of(&record.to_json().unwrap()), Heading::of(&text));
        Heading::of(&text)
    }

    fn ended(attempt: u64, outcome: Outcome) -> RunEvent {
        RunEvent::AttemptEnded {
            node: "a[x=\",\\\"attempt\\\":7\"]".into(),
            key: Digest::of(b"a"),
            attempt,
            result: Box::new((&AttemptResult::bare(outcome)).into()),
        }
    }

    #[test]
    fn what_is_written_is_known_by_its_beginning() {
        let started = RunEvent::AttemptStarted {
            node: "a[x=\",\\\"attempt\\\":7\"]".into(),
            key: Digest::of(b"a"),
            attempt: 40,
            number: 1,
            worker: 2,
            after: Some("\",\"attempt\":9".into()),
            adopted: None,
        };
        assert_eq!(heading(started), Heading::AttemptStarted(40));
        let attempt = u64::MAX;
        assert_eq!(
            heading(ended(attempt, Outcome::Succeeded(Default::default()))),
            Heading::AttemptEnded {
                attempt,
                succeeded: true
            }
        );
        let cause = FailureCause::Exit {
            code: 1,
            step: "\"outcome\":\"succeeded\"".into(),
        };
        for outcome in [Outcome::Failed(cause), Outcome::Lost("succeeded".into())] {
            assert_eq!(
                heading(ended(3, outcome)),
                Heading::AttemptEnded {
                    attempt: 3,
                    succeeded: false
                }
            );
        }
        let done = RunEvent::NodeDone {
            node: "a".into(),
            also: Vec::new(),
            end: NodeOutcome::Succeeded,
            because: None,
            cause: None,
            outputs: Default::default(),
        };
        assert_eq!(heading(done), Heading::NodeDone);
        let cached = RunEvent::NodesCached { nodes: Vec::new() };
        assert_eq!(heading(cached), Heading::NodesCached);
        let rewound = RunEvent::Rewound { node: "a".into() };
        assert_eq!(heading(rewound), Heading::Other);
    }

    #[test]
    fn other_text_is_left_to_a_full_reading() {
        for text in [
            "",
            "{",
            "{\"event\":\"node_done\"}",
            "{\"at\":1,\"event\":\"attempt_started\",\"node\":\"a\"}",
            "{\"at\":1,\"event\":\"attempt_ended\",\"attempt\":99999999999999999999999}",
            "{\"at\":1,\"event\":\"attempt_ended\",\"attempt\":9",
        ] {
            assert_eq!(Heading::of(text.as_bytes()), Heading::Other, "{text}");
        }
    }
}
