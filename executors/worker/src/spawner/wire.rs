//! What the engine and its spawner say to each other: batches of messages, each batch a length and postcard bytes.
//!
//! Both ends are the same build, so the format has no versions; a greeting refuses another program.

use std::{fmt, io, time::Duration};

use dagrun_model::{Pressure, Resources};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

/// What the spawner says first, so that another program is noticed at once.
pub(crate) const GREETING: &[u8] =
    concat!("dagrun spawner ", env!("CARGO_PKG_VERSION"), "\n").as_bytes();

/// A frame beyond this is a sign of confusion, not of work.
const MAX_FRAME: usize = 256 << 20;

/// What the engine asks for.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Order {
    /// Comes first.
    Hello(Hello),
    /// Run an attempt.
    Start(Box<Start>),
    /// End an attempt: TERM and KILL after its grace time, or KILL at once.
    Stop { id: u64, kill: bool },
    /// Give an attempt back, if it has not begun.
    Recall(u64),
    /// Say that you are there.
    Ping,
}

/// What holds for all attempts.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Hello {
    /// What tokens of this engine begin with.
    pub(crate) session: String,
    /// The environment that every node gets.
    pub(crate) env: Vec<(String, String)>,
    /// What nodes may take together.
    pub(crate) capacity: Resources,
    /// How long to go on reading pipes that something keeps open after a node's end.
    pub(crate) leak_timeout: Duration,
}

/// An attempt whose folder is ready. It starts when those before it have started and its resources are free.
#[derive(Clone, Default, Serialize, Deserialize)]
pub(crate) struct Start {
    pub(crate) id: u64,
    /// What it takes of the capacity.
    pub(crate) resources: Resources,
    /// The value of `DAGRUN_ATTEMPT_TOKEN`.
    pub(crate) token: String,
    /// Run one after the other until one fails.
    pub(crate) commands: Vec<Cmd>,
    pub(crate) env: Vec<(String, String)>,
    /// The folder in which it runs.
    pub(crate) folder: String,
    /// Where files of its own may be put: names that begin with this.
    pub(crate) scratch: String,
    /// The file that takes the standard output.
    pub(crate) stdout: Option<String>,
    /// Values that must not reach a log.
    pub(crate) mask: Vec<String>,
    pub(crate) timeout: Option<Duration>,
    pub(crate) grace: Duration,
    /// Bytes for the process tree; 0 for no limit.
    pub(crate) memory: u64,
    /// Bytes kept of each log.
    pub(crate) log_cap: u64,
}

/// Secrets are among the variables, so this is never printed.
impl fmt::Debug for Start {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Start")
            .field("id", &self.id)
            .field("folder", &self.folder)
            .finish_non_exhaustive()
    }
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Cmd {
    /// The step's name.
    pub(crate) name: String,
    pub(crate) argv: Vec<String>,
    pub(crate) env: Vec<(String, String)>,
}

/// What the spawner reports.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Report {
    /// The first process of an attempt runs.
    Started(u64),
    /// Nothing of an attempt is left.
    Ended(Box<End>),
    /// The answer to a ping.
    Here,
    /// Nothing is started beside what runs: so many bytes are free of so many.
    MemoryShort { free: u64, limit: u64 },
}

/// The end of an attempt's processes.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct End {
    pub(crate) id: u64,
    pub(crate) how: How,
    /// Seconds until it was its turn.
    pub(crate) queued: f64,
    /// Seconds from the first start to the last exit.
    pub(crate) wall: f64,
    /// Seconds it took to start processes.
    pub(crate) spawn: f64,
    pub(crate) cpu: f64,
    pub(crate) peak_memory: u64,
    pub(crate) read: u64,
    pub(crate) written: u64,
    pub(crate) stdout: Log,
    pub(crate) stderr: Log,
    /// Processes that had to be killed after the end.
    pub(crate) leaked: u32,
    pub(crate) pressure: Pressure,
}

/// How the processes ended; what became of the outputs is the worker's business.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) enum How {
    Exit {
        code: i32,
        step: String,
    },
    Signal {
        signal: i32,
        core: bool,
        step: String,
    },
    OutOfMemory {
        limit: u64,
        peak: u64,
    },
    Exec {
        program: String,
        errno: String,
        reason: String,
    },
    TimedOut(f64),
    Cancelled,
    /// It was stopped as the newest of several, when the memory of the host was nearly used up, or the kernel killed it when it was used
    /// up and nothing was free. All in bytes; its own peak last.
    Displaced {
        free: Option<u64>,
        limit: u64,
        peak: u64,
    },
    /// A file of the node's could not be written because the disk is full.
    DiskFull(String),
    /// The spawner itself could not do it.
    Trouble(String),
}

/// The kept bytes of a log.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Log {
    /// Bytes written in all, after masking.
    pub(crate) total: u64,
    /// All of it, where it is small.
    pub(crate) inline: Vec<u8>,
    /// Where it is, when it is larger.
    pub(crate) file: Option<LogFile>,
}

/// A log on disk: the first `head` bytes, then a ring of `ring` bytes whose oldest byte stands at `start`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct LogFile {
    pub(crate) path: String,
    pub(crate) head: u64,
    pub(crate) ring: u64,
    pub(crate) start: u64,
}

/// Appends a batch as a frame.
pub(crate) fn encode<T: Serialize>(batch: &[T], out: &mut Vec<u8>) {
    let start = out.len();
    out.extend_from_slice(&[0; 4]);
    let mut frame = postcard::to_extend(batch, std::mem::take(out))
        .expect("messages are plain data and vectors grow");
    let len = u32::try_from(frame.len() - start - 4).expect("frames stay far below 4 GiB");
    frame[start..start + 4].copy_from_slice(&len.to_le_bytes());
    *out = frame;
}

/// Takes the next whole frame out of `input`.
///
/// # Errors
/// When the bytes are not a frame.
pub(crate) fn decode<T: DeserializeOwned>(input: &mut Vec<u8>) -> io::Result<Option<Vec<T>>> {
    let Some(head) = input.first_chunk::<4>() else {
        return Ok(None);
    };
    let len = u32::from_le_bytes(*head) as usize;
    if len > MAX_FRAME {
        return Err(io::Error::other(format!("a frame of {len} bytes")));
    }
    let Some(body) = input.get(4..4 + len) else {
        return Ok(None);
    };
    let batch = postcard::from_bytes(body).map_err(io::Error::other)?;
    input.drain(..4 + len);
    Ok(Some(batch))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_come_out_whole_and_in_order() {
        let mut bytes = Vec::new();
        encode(&[Report::Started(1), Report::Started(2)], &mut bytes);
        encode(&[Report::Started(3)], &mut bytes);
        let mut input = Vec::new();
        let mut seen = Vec::new();
        for byte in bytes {
            input.push(byte);
            while let Some(batch) = decode::<Report>(&mut input).expect("they are frames") {
                seen.push(batch.len());
            }
        }
        assert_eq!((seen, input.len()), (vec![2, 1], 0));
    }

    #[test]
    fn secrets_are_not_printed() {
        let start = Start {
            env: vec![("TOKEN".into(), "canary".into())],
            mask: vec!["canary".into()],
            ..Start::default()
        };
        assert!(!format!("{:?}", Order::Start(Box::new(start))).contains("canary"));
    }

    #[test]
    fn nonsense_is_refused() {
        assert!(decode::<Report>(&mut vec![0xff; 64]).is_err());
    }
}
