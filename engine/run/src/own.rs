//! dagrun's own files in a workspace, opened for what they are.
//!
//! A project may come from a stranger, with anything in its `.dagrun`. So no link is followed to a file that is somebody else's,
//! and nobody waits for the other end of a pipe.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read},
    os::unix::fs::OpenOptionsExt,
    path::Path,
};

use dagrun_store::kind_of;
use rustix::fs::OFlags;

/// Opens a file, if it is a regular one.
pub(crate) fn open(options: &OpenOptions, path: &Path) -> io::Result<File> {
    let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits();
    let opened = options.clone().custom_flags(flags as i32).open(path);
    match fs::symlink_metadata(path) {
        Ok(meta) if !meta.is_file() => Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("it is {}, not a file; remove it", kind_of(meta.file_type())),
        )),
        _ => opened,
    }
}

/// The bytes of a file.
pub(crate) fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    open(OpenOptions::new().read(true), path)?.read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Makes a file, or empties the one that is there.
pub(crate) fn create(path: &Path) -> io::Result<File> {
    open(
        OpenOptions::new().write(true).create(true).truncate(true),
        path,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_but_files_is_opened_and_no_link_is_followed() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        fs::write(path("mine"), "mine").unwrap();
        std::os::unix::fs::symlink("mine", path("link")).unwrap();
        std::os::unix::fs::symlink("nowhere", path("dangling")).unwrap();
        fs::create_dir(path("folder")).unwrap();
        let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
        let fifo = rustix::fs::FileType::Fifo;
        rustix::fs::mknodat(rustix::fs::CWD, path("fifo"), fifo, mode, 0).unwrap();
        for (name, kind) in [
            ("link", "a symlink"),
            ("dangling", "a symlink"),
            ("folder", "a folder"),
            ("fifo", "a fifo"),
        ] {
            for error in [
                read(&path(name)).unwrap_err(),
                create(&path(name)).unwrap_err(),
            ] {
                assert!(error.to_string().contains(kind), "{name}: {error}");
            }
        }
        assert_eq!(read(&path("mine")).unwrap(), b"mine");
        assert!(!path("nowhere").exists());
        create(&path("mine")).unwrap();
        assert_eq!(read(&path("mine")).unwrap(), b"");
    }
}
