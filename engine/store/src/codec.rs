//! The bytes of an action-cache entry: compact, versioned, and quick to read.
//!
//! Knows nothing of files. Integers are LEB128, floats and digests raw little-endian, texts preceded by their length.

use dagrun_model::{Artifact, BlobRef, Digest, LogRef, Outputs, Phases, Usage};

/// The result of an action, as the action cache keeps it.
#[derive(Clone, Debug, PartialEq)]
pub struct ActionEntry {
    /// What it made, by name.
    pub outputs: Outputs,
    /// Its standard output, where any was written. At most 512 bytes of the tail are kept.
    pub stdout: Option<LogRef>,
    /// Its standard error, likewise.
    pub stderr: Option<LogRef>,
    /// Seconds of the attempt that made it.
    pub phases: Phases,
    /// What that attempt used.
    pub usage: Usage,
    /// Who made it.
    pub made_by: MadeBy,
}

/// Who made an entry, and when: what one needs to distrust a machine, or to say who owns bytes.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct MadeBy {
    /// The run.
    pub run: String,
    /// The logical id of the node.
    pub node: String,
    /// The host of the attempt.
    pub host: String,
    /// Milliseconds since the epoch.
    pub time_ms: u64,
}

impl ActionEntry {
    /// The entry as bytes, for caches elsewhere. Equal entries have equal bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        encode(self, &mut bytes);
        bytes
    }

    /// Reads what [`ActionEntry::to_bytes`] wrote; `None` where the bytes are something else, or of a version that is not
    /// known.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        decode(bytes)
    }

    /// Whether another entry has the same outputs, name by name: whether the action gave the same result.
    pub fn same_outputs(&self, other: &Self) -> bool {
        crate::compact::same_outputs(self, other)
    }
}

/// Bytes of a log's tail that an entry keeps.
const TAIL: usize = 512;
const VERSION: u8 = 1;

/// Appends the bytes of `entry`.
pub(crate) fn encode(entry: &ActionEntry, out: &mut Vec<u8>) {
    out.push(VERSION);
    number(out, entry.outputs.len() as u64);
    for (name, artifact) in &entry.outputs {
        text(out, name);
        match artifact {
            Artifact::File(blob) => {
                out.push(0);
                blob_ref(out, blob);
            }
            Artifact::Tree {
                digest,
                size,
                files,
            } => {
                out.push(1);
                out.extend_from_slice(&digest.0);
                number(out, *size);
                number(out, *files);
            }
            Artifact::Value { value, file } => {
                out.push(2);
                text(out, &value.to_string());
                blob_ref(out, file);
            }
            Artifact::Absent => out.push(3),
        }
    }
    for log in [&entry.stdout, &entry.stderr] {
        match log {
            None => out.push(0),
            Some(log) => {
                out.push(1);
                blob_ref(out, &log.blob);
                number(out, log.total);
                text(out, tail(&log.tail));
            }
        }
    }
    let p = &entry.phases;
    for seconds in [
        p.queue,
        p.start,
        p.fetch,
        p.decode,
        p.compute,
        p.encode,
        p.store,
        entry.usage.cpu,
    ] {
        out.extend_from_slice(&seconds.to_bits().to_le_bytes());
    }
    let u = &entry.usage;
    for count in [u.peak_memory, u.read, u.written, u.bytes_in, u.bytes_out] {
        number(out, count);
    }
    let made = &entry.made_by;
    text(out, &made.run);
    text(out, &made.node);
    text(out, &made.host);
    number(out, made.time_ms);
}

/// What a look-up needs of an entry.
#[derive(Debug, PartialEq)]
pub(crate) struct Hit {
    pub(crate) outputs: Outputs,
    /// The blobs of its logs.
    pub(crate) logs: [Option<Digest>; 2],
}

/// An entry with its texts still in the bytes.
struct Parts<'a> {
    outputs: Outputs,
    logs: [Option<(BlobRef, u64, &'a str)>; 2],
    seconds: [f64; 8],
    counts: [u64; 5],
    made_by: [&'a str; 3],
    time_ms: u64,
}

/// Reads an entry; `None` where the bytes are not one of a known version.
pub(crate) fn decode(bytes: &[u8]) -> Option<ActionEntry> {
    let parts = parse(bytes)?;
    let [stdout, stderr] = parts.logs.map(|log| {
        log.map(|(blob, total, tail)| LogRef {
            blob,
            total,
            tail: tail.to_owned(),
        })
    });
    let [queue, start, fetch, decode, compute, encode, store, cpu] = parts.seconds;
    let [peak_memory, read, written, bytes_in, bytes_out] = parts.counts;
    let [run, node, host] = parts.made_by.map(str::to_owned);
    Some(ActionEntry {
        outputs: parts.outputs,
        stdout,
        stderr,
        phases: Phases {
            queue,
            start,
            fetch,
            decode,
            compute,
            encode,
            store,
        },
        usage: Usage {
            cpu,
            peak_memory,
            read,
            written,
            bytes_in,
            bytes_out,
        },
        made_by: MadeBy {
            run,
            node,
            host,
            time_ms: parts.time_ms,
        },
    })
}

/// Reads what a look-up needs of an entry; `None` like [`decode`].
pub(crate) fn decode_hit(bytes: &[u8]) -> Option<Hit> {
    let parts = parse(bytes)?;
    Some(Hit {
        outputs: parts.outputs,
        logs: parts.logs.map(|log| log.map(|(blob, ..)| blob.digest)),
    })
}

fn parse(bytes: &[u8]) -> Option<Parts<'_>> {
    let mut r = Reader(bytes);
    if r.byte()? != VERSION {
        return None;
    }
    let count = r.size()?;
    let mut outputs = Outputs::with_capacity(count.min(1024));
    for _ in 0..count {
        let name = r.text()?.to_owned();
        let artifact = match r.byte()? {
            0 => Artifact::File(r.blob()?),
            1 => Artifact::Tree {
                digest: r.digest()?,
                size: r.number()?,
                files: r.number()?,
            },
            2 => Artifact::Value {
                value: serde_json::from_str(r.text()?).ok()?,
                file: r.blob()?,
            },
            3 => Artifact::Absent,
            _ => return None,
        };
        outputs.insert(name, artifact);
    }
    let logs = [r.log()?, r.log()?];
    let mut seconds = [0.0; 8];
    for value in &mut seconds {
        *value = f64::from_bits(u64::from_le_bytes(r.take(8)?.try_into().ok()?));
    }
    let mut counts = [0; 5];
    for value in &mut counts {
        *value = r.number()?;
    }
    let parts = Parts {
        outputs,
        logs,
        seconds,
        counts,
        made_by: [r.text()?, r.text()?, r.text()?],
        time_ms: r.number()?,
    };
    r.0.is_empty().then_some(parts)
}

fn tail(text: &str) -> &str {
    let mut start = text.len().saturating_sub(TAIL);
    while !text.is_char_boundary(start) {
        start += 1;
    }
    &text[start..]
}

fn number(out: &mut Vec<u8>, mut n: u64) {
    while n >= 0x80 {
        out.push(n as u8 | 0x80);
        n >>= 7;
    }
    out.push(n as u8);
}

fn text(out: &mut Vec<u8>, text: &str) {
    number(out, text.len() as u64);
    out.extend_from_slice(text.as_bytes());
}

fn blob_ref(out: &mut Vec<u8>, blob: &BlobRef) {
    out.extend_from_slice(&blob.digest.0);
    number(out, blob.size);
    out.push(u8::from(blob.executable));
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, n: usize) -> Option<&'a [u8]> {
        let (head, rest) = self.0.split_at_checked(n)?;
        self.0 = rest;
        Some(head)
    }

    fn byte(&mut self) -> Option<u8> {
        self.take(1).map(|b| b[0])
    }

    fn number(&mut self) -> Option<u64> {
        let mut n = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            n |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Some(n);
            }
        }
        None
    }

    fn size(&mut self) -> Option<usize> {
        usize::try_from(self.number()?).ok()
    }

    fn text(&mut self) -> Option<&'a str> {
        let len = self.size()?;
        std::str::from_utf8(self.take(len)?).ok()
    }

    fn digest(&mut self) -> Option<Digest> {
        self.take(32)?.try_into().ok().map(Digest)
    }

    fn blob(&mut self) -> Option<BlobRef> {
        Some(BlobRef {
            digest: self.digest()?,
            size: self.number()?,
            executable: self.byte()? != 0,
        })
    }

    fn log(&mut self) -> Option<Option<(BlobRef, u64, &'a str)>> {
        Some(match self.byte()? {
            0 => None,
            1 => Some((self.blob()?, self.number()?, self.text()?)),
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> ActionEntry {
        let blob = |text: &str, executable| BlobRef {
            digest: Digest::of(text.as_bytes()),
            size: text.len() as u64,
            executable,
        };
        ActionEntry {
            outputs: [
                ("a".to_owned(), Artifact::File(blob("a", true))),
                (
                    "t".to_owned(),
                    Artifact::Tree {
                        digest: Digest::of(b"t"),
                        size: 1 << 40,
                        files: 3,
                    },
                ),
                (
                    "v".to_owned(),
                    Artifact::Value {
                        value: serde_json::json!({"loss": [1.5, "ü", null]}),
                        file: blob("v", false),
                    },
                ),
                ("n".to_owned(), Artifact::Absent),
            ]
            .into_iter()
            .collect(),
            stdout: Some(LogRef {
                blob: blob("log", false),
                total: 300,
                tail: "last line\n".into(),
            }),
            stderr: None,
            phases: Phases {
                compute: 1.25,
                ..Phases::default()
            },
            usage: Usage {
                cpu: 0.5,
                peak_memory: 7 << 30,
                ..Usage::default()
            },
            made_by: MadeBy {
                run: "r1".into(),
                node: "fit[x=1]".into(),
                host: "h".into(),
                time_ms: 1_700_000_000_000,
            },
        }
    }

    #[test]
    fn entries_round_trip() {
        let mut bytes = Vec::new();
        encode(&sample(), &mut bytes);
        assert_eq!(decode(&bytes), Some(sample()));
        let hit = Hit {
            outputs: sample().outputs,
            logs: [sample().stdout.map(|log| log.blob.digest), None],
        };
        assert_eq!(decode_hit(&bytes), Some(hit));
    }

    #[test]
    fn no_prefix_and_no_longer_text_is_an_entry() {
        let mut bytes = Vec::new();
        encode(&sample(), &mut bytes);
        for len in 0..bytes.len() {
            assert_eq!(decode(&bytes[..len]), None, "{len}");
        }
        bytes.push(0);
        assert_eq!(decode(&bytes), None);
    }

    #[test]
    fn long_tails_are_cut_at_a_character() {
        let text = "ü".repeat(400);
        assert_eq!(tail(&text).len(), 512);
        assert_eq!(tail(&format!("{text}x")).len(), 511);
    }
}
