//! What a worker is asked to do.

use std::{sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};

use crate::{ActionDigest, AttemptId, Digest, NodeIx, ParamType, RelPath, Resources};

/// A file in the store: its digest, its size, and whether it may be executed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct BlobRef {
    /// The digest of its bytes.
    pub digest: Digest,
    /// Its size in bytes.
    pub size: u64,
    /// The executable bit.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub executable: bool,
}

/// A thing that a node made, or that is staged for one.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Artifact {
    /// A file.
    File(BlobRef),
    /// A folder: a blob that holds its manifest (see `dagrun-store`), with the total size of its files.
    Tree {
        /// The digest of the manifest.
        digest: Digest,
        /// Bytes of all files together.
        size: u64,
        /// How many files.
        files: u64,
    },
    /// A JSON value and the file it was read from.
    Value {
        /// The value.
        value: serde_json::Value,
        /// The file.
        file: BlobRef,
    },
    /// An optional output that was not made.
    Absent,
}

impl Artifact {
    /// The digest that stands for the content downstream: of the file, the manifest or the canonical value.
    pub fn content_digest(&self) -> Digest {
        use crate::{ContentHasher, Value};
        match self {
            Self::File(blob) => ContentHasher::new("dagrun.file.v1")
                .with(&blob.digest)
                .with(&blob.executable)
                .finish(),
            Self::Tree { digest, .. } => *digest,
            Self::Value { value, .. } => ContentHasher::new("dagrun.value.v1")
                .with(&Value::from_json(value))
                .finish(),
            Self::Absent => ContentHasher::new("dagrun.absent.v1").finish(),
        }
    }

    /// The digest of the blob that holds it: what `outputs` in reports show.
    pub fn blob_digest(&self) -> Option<Digest> {
        match self {
            Self::File(blob) | Self::Value { file: blob, .. } => Some(blob.digest),
            Self::Tree { digest, .. } => Some(*digest),
            Self::Absent => None,
        }
    }

    /// Bytes in all its files.
    pub fn size(&self) -> u64 {
        match self {
            Self::File(blob) | Self::Value { file: blob, .. } => blob.size,
            Self::Tree { size, .. } => *size,
            Self::Absent => 0,
        }
    }
}

/// One concrete piece of work, ready to be run: every template is evaluated, every input has a digest.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Action {
    /// Its index in the action cache.
    pub digest: ActionDigest,
    /// Commands in order; the first that fails ends the node.
    pub commands: Vec<ActionCommand>,
    /// Declared environment variables, values of templates among them.
    pub env: Vec<(String, String)>,
    /// Variables passed through from the worker's environment, besides the default list.
    pub pass_env: Vec<String>,
    /// Secrets to set as variables of the same name; the worker resolves and masks them.
    pub secrets: Vec<String>,
    /// What is staged, sorted by path; no path is a prefix of another.
    pub inputs: Vec<StagedInput>,
    /// What is captured.
    pub outputs: Vec<OutputSpec>,
    /// The file that takes the standard output, where it is an output.
    pub stdout: Option<RelPath>,
    /// Limits.
    pub limits: Limits,
}

/// A command of an action.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ActionCommand {
    /// A name for logs; empty for a job's only command.
    pub name: String,
    /// Program and arguments. Where `script` is set, the path of the script file is appended.
    pub argv: Vec<String>,
    /// A script that the worker writes to a file outside the node's folder.
    pub script: Option<String>,
    /// Variables of this command alone.
    pub env: Vec<(String, String)>,
}

/// Something that is staged before a node starts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StagedInput {
    /// Where it goes, below the node's folder.
    pub path: RelPath,
    /// Where it comes from.
    pub source: InputSource,
}

/// Where a staged input comes from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum InputSource {
    /// A file of the workspace (or, absolute, of the machine): staged from there and checked against its digest.
    Workspace {
        /// Relative to the project folder, or absolute for an external input.
        path: String,
        /// What was hashed when the plan was made.
        blob: BlobRef,
    },
    /// An output of another node, from the store.
    Stored(Artifact),
    /// Text made by the engine, such as the list of a long input.
    Text(Arc<str>),
}

/// An output that a worker captures.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct OutputSpec {
    /// Its name.
    pub name: String,
    /// Its path below the node's folder.
    pub path: RelPath,
    /// Where it is a JSON value: the pointer and the name of the expected type.
    pub json: Option<(String, JsonType)>,
    /// It may be missing.
    pub optional: bool,
}

/// The type that a JSON output must have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "the names are JSON's")]
pub enum JsonType {
    Number,
    Integer,
    String,
    Bool,
    List,
    Map,
    Any,
}

impl From<ParamType> for JsonType {
    fn from(ty: ParamType) -> Self {
        match ty {
            ParamType::String => Self::String,
            ParamType::Int => Self::Integer,
            ParamType::Float => Self::Number,
            ParamType::Bool => Self::Bool,
            ParamType::List => Self::List,
            ParamType::Map => Self::Map,
            ParamType::Any => Self::Any,
        }
    }
}

/// What an attempt may use.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Limits {
    /// Wall time; then TERM, and KILL after the grace time.
    pub timeout: Option<Duration>,
    /// The time between TERM and KILL.
    pub grace: Duration,
    /// Bytes of memory for the whole process tree; 0 for no limit.
    pub memory: u64,
    /// Bytes of standard output and of standard error that are kept each, half from the start and half from the end.
    pub log_cap: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            timeout: None,
            grace: Duration::from_secs(5),
            memory: 0,
            log_cap: 16 << 20,
        }
    }
}

/// An attempt as it is handed to an executor.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AttemptSpec {
    /// Its id.
    pub attempt: AttemptId,
    /// The node it is for.
    pub node: NodeIx,
    /// The node's first logical id: for folder names and logs only.
    pub id: String,
    /// The number of this attempt at the node, from 1; `DAGRUN_ATTEMPT` in its environment.
    pub number: u32,
    /// What to do.
    pub action: Arc<Action>,
    /// What it may take from the host.
    pub resources: Resources,
    /// Keep its folder if it fails.
    pub keep_failed: bool,
    /// The run it is for, where its executor serves several; `DAGRUN_RUN` in its environment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run: Option<Arc<str>>,
}
