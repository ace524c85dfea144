//! Checking the whole store, and repairing what can be repaired.
//!
//! Every blob is hashed and every entry read. A repair moves damaged blobs to quarantine, so that their producers run
//! again, and saves the sound records of damaged action-cache files.

use std::{
    path::PathBuf,
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use dagrun_model::{ActionDigest, Digest};

use crate::{
    ActionEntry, Store,
    actions::{SEGMENT, damaged, is},
    blob::hash_reader,
    compact::Extent,
    error::{At, StoreError},
    fsx::{Temp, lock, names, now_ms, open_plain},
    log::{self, End, Kind, SEGMENT_MAGIC},
};

/// What a check found.
#[derive(Clone, Debug, Default)]
pub struct VerifyReport {
    /// Blobs that were hashed.
    pub blobs: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Blobs whose bytes are wrong; in quarantine after a repair.
    pub corrupt: Vec<Digest>,
    /// Entries that were read.
    pub entries: u64,
    /// Entries whose blobs are not there. That is no damage: they were collected, and their nodes run again when needed.
    pub missing: Vec<MissingBlob>,
    /// What is damaged in the action cache: file, position and what to do, one sentence each.
    pub damaged: Vec<String>,
    /// Records that a repair saved from damaged files.
    pub saved: u64,
    /// Whether repairs were made.
    pub fixed: bool,
}

impl VerifyReport {
    /// Whether everything that is there is as it should be.
    pub fn is_sound(&self) -> bool {
        self.corrupt.is_empty() && self.damaged.is_empty()
    }
}

/// A blob that an entry names and that is not there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MissingBlob {
    /// The action.
    pub action: ActionDigest,
    /// The logical id of its node.
    pub node: String,
    /// The blob.
    pub digest: Digest,
}

/// What a store holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StoreStat {
    /// Blobs.
    pub blobs: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Entries of the action cache that hold.
    pub entries: u64,
    /// Results that differ from the one that holds, kept as evidence.
    pub differing: u64,
    /// Bytes of the action cache.
    pub action_bytes: u64,
    /// Files of the action cache that are still written to, or not yet merged.
    pub segments: u64,
    /// Merged files.
    pub tables: u64,
    /// Files in quarantine.
    pub quarantined: u64,
}

impl Store {
    /// Hashes all blobs and reads all entries. With `fix`, repairs what it finds.
    ///
    /// # Errors
    /// When the store cannot be read; damage is no error but in the report.
    pub fn verify(&self, fix: bool) -> Result<VerifyReport, StoreError> {
        let mut report = VerifyReport {
            fixed: fix,
            ..VerifyReport::default()
        };
        self.refresh()?;
        self.verify_blobs(fix, &mut report)?;
        if fix {
            self.save_records(&mut report)?;
        } else {
            for name in self.damaged_segments() {
                let path = self.inner.root.join("quarantine").join(name);
                report.damaged.push(damaged(&path, 0));
            }
        }
        let actions = &self.inner.actions;
        let census = actions.each(|row| {
            report.entries += u64::from(row.holds);
            for artifact in row.entry.outputs.values().filter(|_| row.holds) {
                let lost = artifact.blob_digest().filter(|d| !self.contains(d));
                report.missing.extend(lost.map(|digest| MissingBlob {
                    action: row.action,
                    node: row.entry.made_by.node.clone(),
                    digest,
                }));
            }
            Ok(())
        })?;
        let found = census.damaged.iter();
        report
            .damaged
            .extend(found.map(|(path, at)| damaged(path, *at)));
        if fix && !census.damaged.is_empty() {
            // Sound records of a table move to a new one; the damaged file is kept in quarantine.
            for (path, at) in &census.damaged {
                if *at == 0
                    && let Some(name) = path.file_name()
                {
                    let aside = self.inner.root.join("quarantine");
                    std::fs::create_dir_all(&aside).at("create", &aside)?;
                    std::fs::rename(path, aside.join(name)).at("move to quarantine", path)?;
                }
            }
            actions.compact(Extent::Everything, &|_, _| true)?;
            self.save_records(&mut report)?;
        }
        Ok(report)
    }

    /// Counts what is there. Reads all entries, but no blobs.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn stat(&self) -> Result<StoreStat, StoreError> {
        let mut stat = StoreStat::default();
        self.each_blob(|_, path| {
            stat.blobs += 1;
            stat.bytes += std::fs::symlink_metadata(path).map_or(0, |m| m.len());
            Ok(())
        })?;
        let census = self.inner.actions.each(|row| {
            if row.holds {
                stat.entries += 1;
            } else {
                stat.differing += 1;
            }
            Ok(())
        })?;
        stat.action_bytes = census.bytes;
        stat.segments = census.segments;
        stat.tables = census.tables;
        stat.quarantined = names(&self.inner.root.join("quarantine"))
            .unwrap_or_default()
            .len() as u64;
        Ok(stat)
    }

    /// Gives every entry that holds, sorted by action.
    ///
    /// # Errors
    /// When the action cache cannot be read, or with the error of `each`.
    pub fn each_entry(
        &self,
        each: &mut dyn FnMut(ActionDigest, ActionEntry) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let rows = self.inner.actions.each(|row| match row.holds {
            true => each(row.action, row.entry),
            false => Ok(()),
        });
        rows.map(|_| ())
    }

    fn verify_blobs(&self, fix: bool, report: &mut VerifyReport) -> Result<(), StoreError> {
        let mut blobs: Vec<(Digest, PathBuf)> = Vec::new();
        self.each_blob(|digest, path| {
            blobs.push((digest, path.into()));
            Ok(())
        })?;
        let next = AtomicUsize::new(0);
        let found = Mutex::new((report, None));
        let workers = std::thread::available_parallelism().map_or(1, |n| n.get().min(8));
        std::thread::scope(|scope| {
            let work = || {
                while let Some((digest, path)) = blobs.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let hashed = open_plain(path).and_then(|mut file| {
                        let size = file.metadata()?.len();
                        Ok((hash_reader(&mut file, size)?, size))
                    });
                    let mut found = lock(&found);
                    match hashed {
                        Ok((hash, size)) => {
                            found.0.blobs += 1;
                            found.0.bytes += size;
                            if hash != *digest {
                                found.0.corrupt.push(*digest);
                            }
                        }
                        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                        Err(error) => found.1 = Some(StoreError::io("read", path, error)),
                    }
                }
            };
            for _ in 0..workers {
                scope.spawn(work);
            }
        });
        let (report, error) = found
            .into_inner()
            .unwrap_or_else(|poison| poison.into_inner());
        if let Some(error) = error {
            return Err(error);
        }
        report.corrupt.sort_unstable();
        if fix {
            for digest in &report.corrupt {
                let _ = self.quarantine(digest);
            }
        }
        Ok(())
    }

    fn damaged_segments(&self) -> Vec<String> {
        let mut found = names(&self.inner.root.join("quarantine")).unwrap_or_default();
        found.retain(|name| is(name, SEGMENT));
        found
    }

    /// Appends the sound records of segments in quarantine to the cache again.
    fn save_records(&self, report: &mut VerifyReport) -> Result<(), StoreError> {
        let quarantine = self.inner.root.join("quarantine");
        for name in self.damaged_segments() {
            let path = quarantine.join(&name);
            let bytes = std::fs::read(&path).at("read", &path)?;
            let (body, records, first_bad) = sound_records(&bytes);
            if let Some(frame) = log::frame(&body).filter(|_| !body.is_empty()) {
                use std::io::Write;
                let folder = &self.inner.actions.folder;
                let mut temp = Temp::new(folder)?;
                temp.file
                    .write_all(SEGMENT_MAGIC)
                    .and_then(|()| temp.file.write_all(&frame))
                    .and_then(|()| temp.file.sync_all())
                    .at("write", temp.path())?;
                let saved = format!("{}{:013x}-saved{}", SEGMENT.0, now_ms(), SEGMENT.1);
                if !temp.persist_new(&folder.join(saved))? {
                    continue;
                }
            }
            report.saved += records;
            report.damaged.push(format!(
                "{} was damaged at byte {first_bad}; {records} sound records were saved from it",
                path.display()
            ));
            let done = quarantine.join(format!("{name}.saved"));
            std::fs::rename(&path, &done).at("rename to", &done)?;
        }
        Ok(())
    }
}

/// All records of whole frames, with how many results are among them, and where the first damage is.
fn sound_records(segment: &[u8]) -> (Vec<u8>, u64, usize) {
    let (mut body, mut count, mut first_bad) = (Vec::new(), 0, None);
    let mut blobs = Vec::new();
    let mut at = SEGMENT_MAGIC.len().min(segment.len());
    loop {
        // What follows damage may not settle what stood there, so blobs count as unsettled.
        let (good, end) = log::scan(&segment[at..], |_, record| match record.kind {
            Kind::Blob => record.write(&mut blobs),
            Kind::Settled => {}
            _ => {
                record.write(&mut body);
                count += 1;
            }
        });
        first_bad = first_bad.or(Some(at + good));
        match end {
            End::Damaged { next_good } => at += next_good,
            End::Clean | End::Torn => {
                body.append(&mut blobs);
                return (body, count, first_bad.unwrap_or(0));
            }
        }
    }
}
