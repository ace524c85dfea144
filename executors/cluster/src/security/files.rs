//! Files with keys and tokens: read only when others cannot, written so that others cannot, and read again when they change.

use std::{
    fs::{self, File},
    io::{ErrorKind, Read, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use super::error::Error;

/// How often files are looked at for a change.
pub(super) const LOOK: Duration = Duration::from_secs(1);

/// No file of credentials is larger: what is, is not one.
const MOST_BYTES: u64 = 8 << 20;

/// Reads a file that anybody may see.
pub(super) fn read_public(path: &Path) -> Result<String, Error> {
    read(path, false)
}

/// Reads a file with a secret. Refuses one that others may read.
pub(super) fn read_secret(path: &Path) -> Result<String, Error> {
    read(path, true)
}

fn read(path: &Path, secret: bool) -> Result<String, Error> {
    let cannot =
        |error: std::io::Error| Error::settings(format!("cannot read {}: {error}", path.display()));
    let file = File::open(path).map_err(cannot)?;
    let meta = file.metadata().map_err(cannot)?;
    if secret && meta.mode() & 0o027 != 0 {
        let mode = meta.mode() & 0o777;
        return Err(Error::settings(format!(
            "{} holds a secret and is open to others (mode {mode:04o})",
            path.display()
        ))
        .hint(format!("chmod 600 {}", path.display())));
    }
    let mut text = String::new();
    file.take(MOST_BYTES)
        .read_to_string(&mut text)
        .map_err(cannot)?;
    Ok(text)
}

/// Makes a folder that nobody else may enter. One that is there must be such a folder already.
pub(super) fn make_private_folder(path: &Path) -> Result<(), Error> {
    let made = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => fs::create_dir_all(parent),
        _ => Ok(()),
    };
    let made = made.and_then(|()| {
        use std::os::unix::fs::DirBuilderExt;
        fs::DirBuilder::new().mode(0o700).create(path)
    });
    match made {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => check_private_folder(path),
        Err(error) => Err(Error::settings(format!(
            "cannot make {}: {error}",
            path.display()
        ))),
    }
}

fn check_private_folder(path: &Path) -> Result<(), Error> {
    let meta = fs::metadata(path)
        .map_err(|error| Error::settings(format!("cannot look at {}: {error}", path.display())))?;
    let me = rustix::process::geteuid().as_raw();
    if !meta.is_dir() {
        return Err(Error::settings(format!("{} is no folder", path.display())));
    }
    if meta.mode() & 0o077 != 0 || (meta.uid() != me && me != 0) {
        let mode = meta.mode() & 0o777;
        return Err(Error::settings(format!(
            "the folder {} must be yours alone (it is of user {}, mode {mode:04o})",
            path.display(),
            meta.uid()
        ))
        .hint(format!(
            "chmod 700 {}, or name a folder that is not there yet",
            path.display()
        )));
    }
    Ok(())
}

/// Writes a new file, 0600, durable; never over another.
pub(super) fn write_new(path: &Path, text: &str) -> Result<(), Error> {
    write_to(path, text, true).map_err(|error| match error.kind() {
        ErrorKind::AlreadyExists => Error::settings(format!("{} is there already", path.display())),
        _ => Error::settings(format!("cannot write {}: {error}", path.display())),
    })
}

/// Puts a file in the place of another at once: readers see the old or the new one, never half of it.
pub(super) fn replace(path: &Path, text: &str) -> Result<(), Error> {
    let beside = path.with_extension(format!("new-{}", std::process::id()));
    let written = write_to(&beside, text, true).and_then(|()| fs::rename(&beside, path));
    written.map_err(|error| {
        let _ = fs::remove_file(&beside);
        Error::settings(format!("cannot write {}: {error}", path.display()))
    })
}

fn write_to(path: &Path, text: &str, new: bool) -> std::io::Result<()> {
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create_new(new)
        .mode(0o600)
        .open(path)?;
    // The umask may take bits away, never add any; a file must still be readable to its owner.
    file.set_permissions(fs::Permissions::from_mode(0o600))?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

/// What tells that a file is another one than before.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Stamp {
    file: (u64, u64),
    bytes: u64,
    changed: (i64, i64),
}

fn stamp(path: &Path) -> Option<Stamp> {
    let meta = fs::metadata(path).ok()?;
    Some(Stamp {
        file: (meta.dev(), meta.ino()),
        bytes: meta.size(),
        changed: (meta.ctime(), meta.ctime_nsec()),
    })
}

/// How a value is made from its files.
type Load<T> = Box<dyn Fn() -> Result<T, Error> + Send + Sync>;

/// A value made from files, made again when they change. A change that cannot be read keeps the value as it was.
pub(super) struct Watched<T> {
    paths: Vec<PathBuf>,
    load: Load<T>,
    state: Mutex<State<T>>,
}

struct State<T> {
    value: Arc<T>,
    stamps: Vec<Option<Stamp>>,
    looked: Instant,
    /// Loads that failed since the last good one. The first is not told: two files that belong together change one after the other.
    failures: u32,
}

impl<T> Watched<T> {
    /// Makes the value. What cannot be read now is an error.
    pub(super) fn open(
        paths: Vec<PathBuf>,
        load: impl Fn() -> Result<T, Error> + Send + Sync + 'static,
    ) -> Result<Self, Error> {
        // Stamps before content: a change between the two is seen at the next look.
        let stamps = paths.iter().map(|path| stamp(path)).collect();
        let value = Arc::new(load()?);
        Ok(Self {
            paths,
            load: Box::new(load),
            state: Mutex::new(State {
                value,
                stamps,
                looked: Instant::now(),
                failures: 0,
            }),
        })
    }

    /// The value as of at most a second ago.
    pub(super) fn get(&self) -> Arc<T> {
        let mut state = self
            .state
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        let now = Instant::now();
        if now.duration_since(state.looked) >= LOOK {
            state.looked = now;
            self.look(&mut state);
        }
        Arc::clone(&state.value)
    }

    fn look(&self, state: &mut State<T>) {
        let stamps: Vec<_> = self.paths.iter().map(|path| stamp(path)).collect();
        if stamps == state.stamps && state.failures != 1 {
            return;
        }
        match (self.load)() {
            Ok(value) => {
                tracing::info!(files = %self.names(), "read again");
                state.value = Arc::new(value);
                state.failures = 0;
            }
            Err(error) => {
                state.failures = state.failures.saturating_add(1);
                if state.failures == 2 {
                    tracing::warn!(%error, "a changed file is not usable; going on with what was read before");
                }
            }
        }
        state.stamps = stamps;
    }

    fn names(&self) -> String {
        let names: Vec<_> = self
            .paths
            .iter()
            .map(|path| path.display().to_string())
            .collect();
        names.join(", ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_that_others_may_read_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        write_new(&path, "secret").unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert_eq!(read_secret(&path).unwrap(), "secret");
        for (mode, fine) in [
            (0o640, true),
            (0o644, false),
            (0o620, false),
            (0o601, false),
        ] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            let read = read_secret(&path);
            assert_eq!(read.is_ok(), fine, "{mode:o}");
            if let Err(error) = read {
                assert!(error.to_string().contains("chmod 600"), "{error}");
                assert!(!error.to_string().contains("secret\""));
            }
        }
        assert_eq!(read_public(&path).unwrap(), "secret");
    }

    #[test]
    fn files_are_never_written_over() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ca.key");
        write_new(&path, "one").unwrap();
        let error = write_new(&path, "two").unwrap_err();
        assert!(error.to_string().contains("there already"));
        assert_eq!(read_secret(&path).unwrap(), "one");
        replace(&path, "three").unwrap();
        assert_eq!(read_secret(&path).unwrap(), "three");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn folders_of_others_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let private = folder.path().join("a/b");
        make_private_folder(&private).unwrap();
        assert_eq!(fs::metadata(&private).unwrap().mode() & 0o777, 0o700);
        make_private_folder(&private).unwrap();
        fs::set_permissions(&private, fs::Permissions::from_mode(0o750)).unwrap();
        let error = make_private_folder(&private).unwrap_err().to_string();
        assert!(error.contains("chmod 700"), "{error}");
    }

    #[test]
    fn a_change_is_seen_and_a_broken_one_keeps_the_value() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("number");
        fs::write(&path, "1").unwrap();
        let read = path.clone();
        let watched = Watched::open(vec![path.clone()], move || {
            let text = read_public(&read)?;
            text.parse::<u32>()
                .map_err(|error| Error::settings(error.to_string()))
        })
        .unwrap();
        // Time is made to pass by looking at once.
        let look = || {
            watched.state.lock().unwrap().looked -= LOOK;
            *watched.get()
        };
        assert_eq!(look(), 1);
        replace(&path, "2").unwrap();
        assert_eq!(*watched.get(), 1, "not looked at within a second");
        assert_eq!(look(), 2);
        replace(&path, "x").unwrap();
        assert_eq!((look(), look(), look()), (2, 2, 2));
        fs::remove_file(&path).unwrap();
        assert_eq!(look(), 2);
        replace(&path, "3").unwrap();
        assert_eq!(look(), 3);
    }
}
