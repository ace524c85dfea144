//! Staging inputs into a node's folder, and noticing that a workspace file changed meanwhile.

use std::{
    fs::{self, File, Metadata, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use dagrun_model::{Action, BlobRef, Digest, FailureCause, InputSource, StagedInput};
use dagrun_store::{Staged, StoreError};

use crate::{
    Worker,
    worker::{io_failure, patiently},
};

/// Files up to this size are copied in one piece.
const SMALL: u64 = 1 << 20;
/// A file that was written to less than this ago is compared again: its times may not tell of the next write.
const SETTLED: Duration = Duration::from_secs(2);

/// As what a file was seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stat {
    device: u64,
    inode: u64,
    size: u64,
    mtime: (i64, i64),
    ctime: (i64, i64),
}

impl Stat {
    fn of(meta: &Metadata) -> Self {
        Self {
            device: meta.dev(),
            inode: meta.ino(),
            size: meta.size(),
            mtime: (meta.mtime(), meta.mtime_nsec()),
            ctime: (meta.ctime(), meta.ctime_nsec()),
        }
    }
}

/// What was staged, to be checked after the node.
#[derive(Debug, Default)]
pub(crate) struct Inputs {
    pub(crate) bytes: u64,
    workspace: Vec<Source>,
    stored: Vec<(String, Staged)>,
}

/// A workspace file, as it was when it was copied.
#[derive(Debug)]
struct Source {
    path: String,
    full: PathBuf,
    stat: Stat,
    digest: Digest,
}

impl Inputs {
    /// The folder that they were staged in is gone.
    pub(crate) fn gone(&self) {
        for (_, staged) in &self.stored {
            staged.gone();
        }
    }
}

impl Worker {
    /// Stages all inputs of an action below `folder`.
    pub(crate) fn stage(&self, action: &Action, folder: &Path) -> Result<Inputs, FailureCause> {
        let mut inputs = Inputs::default();
        let mut parent = None;
        for input in &action.inputs {
            // Inputs are sorted, so neighbours mostly share their folder.
            let above = input.path.parent();
            if above.is_some() && above != parent {
                make_parents(folder, input)?;
                parent = above;
            }
            self.stage_one(input, &folder.join(&input.path), &mut inputs)?;
        }
        Ok(inputs)
    }

    fn stage_one(
        &self,
        input: &StagedInput,
        dest: &Path,
        inputs: &mut Inputs,
    ) -> Result<(), FailureCause> {
        match &input.source {
            InputSource::Text(text) => {
                inputs.bytes += text.len() as u64;
                write_new(dest, text.as_bytes(), false)
                    .map_err(|error| io_failure("write", dest, &error))
            }
            InputSource::Workspace { path, blob } => {
                let full = self.options.project.join(path);
                let stat = self.copy(path, &full, dest, blob)?;
                inputs.bytes += blob.size;
                inputs.workspace.push(Source {
                    path: path.clone(),
                    full,
                    stat,
                    digest: blob.digest,
                });
                Ok(())
            }
            InputSource::Stored(dagrun_model::Artifact::Absent) => Ok(()),
            InputSource::Stored(artifact) => {
                let staged = self
                    .options
                    .store
                    .stage(artifact, dest, self.options.staging)
                    .map_err(|error| staging_failure(input.path.as_str(), &error))?;
                inputs.bytes += artifact.size();
                inputs.stored.push((input.path.to_string(), staged));
                Ok(())
            }
        }
    }

    /// Copies a workspace file and makes sure that the copy is what the plan was made with.
    fn copy(
        &self,
        path: &str,
        full: &Path,
        dest: &Path,
        blob: &BlobRef,
    ) -> Result<Stat, FailureCause> {
        let changed = || FailureCause::InputChanged { path: path.into() };
        let unreadable = |error: io::Error| match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => changed(),
            _ => FailureCause::Staging {
                path: path.into(),
                reason: error.to_string(),
                missing_blob: false,
            },
        };
        let mut source = patiently(|| File::open(full)).map_err(unreadable)?;
        let meta = source.metadata().map_err(unreadable)?;
        let stat = Stat::of(&meta);
        let executable = meta.permissions().mode() & 0o111 != 0;
        if !meta.is_file() || meta.len() != blob.size || executable != blob.executable {
            return Err(changed());
        }
        let digest = if self.is_compared(full, &stat, &blob.digest) {
            copy_unread(&mut source, dest, blob).map(|()| blob.digest)
        } else {
            copy_hashed(&mut source, dest, blob)
        };
        let digest = digest.map_err(|error| match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                io_failure("copy to", dest, &error)
            }
            _ => unreadable(error),
        })?;
        let after = source.metadata().map_err(unreadable)?;
        if digest != blob.digest || Stat::of(&after) != stat {
            return Err(changed());
        }
        self.note_compared(full, stat, &meta, digest);
        Ok(stat)
    }

    fn is_compared(&self, full: &Path, stat: &Stat, digest: &Digest) -> bool {
        let compared = self
            .compared
            .lock()
            .expect("nothing panics while it is held");
        compared.get(full) == Some(&(*stat, *digest))
    }

    fn note_compared(&self, full: &Path, stat: Stat, meta: &Metadata, digest: Digest) {
        let age = meta
            .modified()
            .ok()
            .and_then(|time| SystemTime::now().duration_since(time).ok());
        if age.is_some_and(|age| age > SETTLED) {
            let mut compared = self
                .compared
                .lock()
                .expect("nothing panics while it is held");
            compared.insert(full.to_path_buf(), (stat, digest));
        }
    }

    /// Whether all workspace files are still as they were staged.
    pub(crate) fn recheck(&self, inputs: &Inputs) -> Result<(), FailureCause> {
        for source in &inputs.workspace {
            if !is_unchanged(source) {
                return Err(FailureCause::InputChanged {
                    path: source.path.clone(),
                });
            }
        }
        Ok(())
    }

    /// Whether the node left alone what it was given by hard link; whatever else it did, others must not get altered bytes.
    pub(crate) fn check_blobs(&self, inputs: &Inputs) -> Result<(), FailureCause> {
        for (path, staged) in &inputs.stored {
            match staged.check() {
                Ok(altered) if altered.is_empty() => {}
                Ok(_) => return Err(FailureCause::BlobAltered { path: path.clone() }),
                Err(error) => return Err(crate::worker::store_failure(&error)),
            }
        }
        Ok(())
    }
}

/// Other times with the same bytes are no change: `git checkout` and editors touch files.
fn is_unchanged(source: &Source) -> bool {
    let Ok(meta) = fs::metadata(&source.full) else {
        return false;
    };
    let stat = Stat::of(&meta);
    stat == source.stat
        || (meta.is_file()
            && stat.size == source.stat.size
            && hash(&source.full).is_ok_and(|digest| digest == source.digest))
}

fn hash(path: &Path) -> io::Result<Digest> {
    let mut hasher = blake3::Hasher::new();
    hasher.update_reader(File::open(path)?)?;
    Ok(Digest(*hasher.finalize().as_bytes()))
}

fn make_parents(folder: &Path, input: &StagedInput) -> Result<(), FailureCause> {
    let Some(parent) = input.path.parent() else {
        return Ok(());
    };
    let parent = folder.join(parent);
    fs::create_dir_all(&parent).map_err(|error| io_failure("make", &parent, &error))
}

/// Makes a read-only file.
pub(crate) fn write_new(dest: &Path, bytes: &[u8], executable: bool) -> io::Result<()> {
    let mut file = create(dest, executable)?;
    file.write_all(bytes)
}

fn create(dest: &Path, executable: bool) -> io::Result<File> {
    let mode = if executable { 0o555 } else { 0o444 };
    patiently(|| {
        OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(mode)
            .open(dest)
    })
}

/// Copies by the fastest means, without looking at the bytes.
fn copy_unread(source: &mut File, dest: &Path, blob: &BlobRef) -> io::Result<()> {
    let mut file = create(dest, blob.executable)?;
    if blob.size > SMALL && reflink(source, &file) {
        return Ok(());
    }
    let copied = io::copy(source, &mut file)?;
    if copied == blob.size {
        Ok(())
    } else {
        Err(io::ErrorKind::NotFound.into())
    }
}

#[cfg(target_os = "linux")]
fn reflink(source: &File, dest: &File) -> bool {
    rustix::fs::ioctl_ficlone(dest, source).is_ok()
}

#[cfg(not(target_os = "linux"))]
fn reflink(_: &File, _: &File) -> bool {
    false
}

/// Copies and hashes what is copied, so that the copy is what was hashed.
fn copy_hashed(source: &mut File, dest: &Path, blob: &BlobRef) -> io::Result<Digest> {
    if blob.size <= SMALL {
        let mut bytes = Vec::with_capacity(blob.size as usize + 1);
        source.take(blob.size + 1).read_to_end(&mut bytes)?;
        write_new(dest, &bytes, blob.executable)?;
        return Ok(Digest::of(&bytes));
    }
    let mut file = create(dest, blob.executable)?;
    let mut hasher = blake3::Hasher::new();
    let mut buffer = vec![0; SMALL as usize];
    loop {
        let read = source.read(&mut buffer)?;
        if read == 0 {
            return Ok(Digest(*hasher.finalize().as_bytes()));
        }
        hasher.update(&buffer[..read]);
        file.write_all(&buffer[..read])?;
    }
}

fn staging_failure(path: &str, error: &StoreError) -> FailureCause {
    match error {
        StoreError::DiskFull { path, .. } => FailureCause::DiskFull {
            path: path.display().to_string(),
        },
        error => FailureCause::Staging {
            path: path.into(),
            reason: error.to_string(),
            missing_blob: error.is_lost_blob(),
        },
    }
}
