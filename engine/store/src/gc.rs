//! Collection: what is old, too much, or left over goes; what a live run may use stays.
//!
//! Entries go by age, blobs by last use until the rest fits, and a blob without an entry after a time of grace. An entry
//! outlives its blobs: what is downstream of it still finds its results. Removal is decided and done in small steps under
//! the lock of `lease.rs`.

use std::{
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use dagrun_model::{ActionDigest, Digest};
use rustc_hash::{FxHashMap, FxHashSet};

use crate::{
    Store,
    codec::ActionEntry,
    compact::Extent,
    error::{At, StoreError},
    fsx::{StatId, TEMP_PREFIX, names, now_ms},
    lease::{Guarded, LastUses, Use},
    tree::{self, TreeKind},
};

/// What to collect.
#[derive(Clone, Debug)]
pub struct GcOptions {
    /// Remove entries that were not used for so long, and their blobs.
    pub max_age: Option<Duration>,
    /// Remove the blobs that were not used for longest until the rest takes at most so many bytes.
    pub max_bytes: Option<u64>,
    /// Change nothing; say what would go.
    pub dry_run: bool,
    /// Blobs younger than this stay: they may belong to a result that is just being made.
    pub grace: Duration,
    /// Whether blobs that belong to an entry need no grace while no run is live.
    pub now: bool,
    /// Damaged files in quarantine are kept for so long.
    pub quarantine: Duration,
}

impl Default for GcOptions {
    fn default() -> Self {
        Self {
            max_age: None,
            max_bytes: None,
            dry_run: false,
            grace: Duration::from_secs(3600),
            now: false,
            quarantine: Duration::from_secs(30 * 86_400),
        }
    }
}

/// What was collected, or would be.
#[derive(Clone, Debug, Default)]
pub struct GcReport {
    /// Results that lost their entry or blobs, those that were not used for longest first.
    pub rows: Vec<GcRow>,
    /// Entries that were removed.
    pub entries: u64,
    /// Blobs that were removed, with those that belonged to no entry.
    pub blobs: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Blobs that stay.
    pub kept_blobs: u64,
    /// Their bytes.
    pub kept_bytes: u64,
    /// Blobs that would have gone but for a live run.
    pub guarded: u64,
    /// Blobs that would have gone, were they not younger than the time of grace.
    pub young: u64,
    /// Their bytes.
    pub young_bytes: u64,
    /// Live leases.
    pub leases: u64,
    /// Temporary files of dead processes that were removed.
    pub temporary: u64,
    /// Files that left the quarantine.
    pub quarantined: u64,
}

/// A result that lost something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GcRow {
    /// The action.
    pub action: ActionDigest,
    /// The run that made it.
    pub run: String,
    /// The logical id of its node.
    pub node: String,
    /// Bytes of its blobs that go; a blob of several results is counted at the first.
    pub bytes: u64,
    /// Time since its last use.
    pub unused: Duration,
    /// Whether the entry goes, and not just blobs.
    pub entry: bool,
}

/// What a store holds beyond a bound, see [`Store::excess`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Excess {
    /// Bytes of blobs beyond the bound.
    pub bytes: u64,
    /// Blobs that no live lease guards, and their sizes; those that were not used for longest first.
    pub candidates: Vec<(Digest, u64)>,
}

/// Removals under one lock: users of the store wait for this at most.
const STEP: usize = 64;
/// A temporary file is only looked at when it is older than this: it is locked soon after it is made.
const TEMP_AGE: Duration = Duration::from_secs(60);

struct Blob {
    size: u64,
    /// Milliseconds since the epoch.
    used: u64,
    made: u64,
    named: bool,
}

struct Entry {
    action: ActionDigest,
    run: String,
    node: String,
    used: u64,
    blobs: Vec<Digest>,
    goes: bool,
}

impl Store {
    /// Collects. Safe at any time, also while others use the store: what they guard by a [`crate::Lease`] stays.
    ///
    /// # Errors
    /// When the store cannot be read or changed. What was removed by then is consistent.
    pub fn gc(&self, options: &GcOptions) -> Result<GcReport, StoreError> {
        if !options.dry_run {
            self.refresh()?;
        }
        let root = &self.inner.root;
        let mut guarded = Guarded::default();
        let uses = {
            let _lock = self.gc_lock(true)?;
            guarded.refresh(root)?;
            LastUses::load(root)?
        };
        self.expand(&mut guarded);
        let mut report = GcReport {
            leases: guarded.leases as u64,
            ..GcReport::default()
        };
        let mut blobs = self.list_blobs(&uses)?;
        let mut entries = self.list_entries(&uses, &mut blobs)?;
        let now = now_ms();
        let doomed = choose(
            options,
            now,
            &guarded,
            &mut entries,
            &mut blobs,
            &mut report,
        );
        report.rows = rows(now, &entries, &doomed, &blobs);
        let gone = if options.dry_run {
            doomed
        } else {
            self.remove_blobs(&doomed, &mut guarded, &mut report)?
        };
        for (digest, blob) in &blobs {
            if gone.contains(digest) {
                report.blobs += 1;
                report.bytes += blob.size;
            } else {
                report.kept_blobs += 1;
                report.kept_bytes += blob.size;
            }
        }
        let goes: FxHashSet<ActionDigest> = entries
            .iter()
            .filter(|e| e.goes)
            .map(|e| e.action)
            .collect();
        report.entries = goes.len() as u64;
        if !options.dry_run && !goes.is_empty() {
            let stays = |action: &ActionDigest, _: &ActionEntry| !goes.contains(action);
            report.entries = self.inner.actions.compact(Extent::Everything, &stays)?;
        }
        self.sweep(options, &mut report)?;
        Ok(report)
    }

    /// Finds what may go from a store that others can fill again: whose entries, if it has any, do not keep blobs.
    ///
    /// Blobs younger than `min_age` are no candidates: somebody may just be told of them.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn excess(&self, max_bytes: u64, min_age: Duration) -> Result<Excess, StoreError> {
        let root = &self.inner.root;
        let mut guarded = Guarded::default();
        let uses = {
            let _lock = self.gc_lock(true)?;
            guarded.refresh(root)?;
            LastUses::load(root)?
        };
        self.expand(&mut guarded);
        let blobs = self.list_blobs(&uses)?;
        let total: u64 = blobs.values().map(|blob| blob.size).sum();
        let bytes = total.saturating_sub(max_bytes);
        if bytes == 0 {
            return Ok(Excess::default());
        }
        let now = now_ms();
        let is_old = |blob: &Blob| u128::from(now.saturating_sub(blob.made)) >= min_age.as_millis();
        let mut rest: Vec<(u64, Digest, u64)> = blobs
            .iter()
            .filter(|(digest, blob)| !guarded.blobs.contains(*digest) && is_old(blob))
            .map(|(digest, blob)| (blob.used, *digest, blob.size))
            .collect();
        rest.sort_unstable();
        let candidates = rest.into_iter().map(|(_, digest, size)| (digest, size));
        Ok(Excess {
            bytes,
            candidates: candidates.collect(),
        })
    }

    /// Removes blobs, those excepted that a live lease guards. Gives what was removed.
    ///
    /// # Errors
    /// When one cannot be removed.
    pub fn remove_unguarded(&self, blobs: &[Digest]) -> Result<Vec<Digest>, StoreError> {
        let doomed = blobs.iter().copied().collect();
        let mut guarded = Guarded::default();
        let gone = self.remove_blobs(&doomed, &mut guarded, &mut GcReport::default())?;
        Ok(blobs
            .iter()
            .copied()
            .filter(|blob| gone.contains(blob))
            .collect())
    }

    fn list_blobs(&self, uses: &LastUses) -> Result<FxHashMap<Digest, Blob>, StoreError> {
        let mut blobs = FxHashMap::default();
        self.each_blob(|digest, path| {
            let Ok(meta) = std::fs::symlink_metadata(path) else {
                return Ok(());
            };
            let stat = StatId::of(&meta);
            let made = u64::try_from(stat.mtime.max(stat.ctime) / 1_000_000).unwrap_or(0);
            blobs.insert(
                digest,
                Blob {
                    size: stat.size,
                    used: uses.of(&digest).unwrap_or(0).max(made),
                    made,
                    named: false,
                },
            );
            Ok(())
        })?;
        Ok(blobs)
    }

    /// Gives each blob's digest and path; other files in the folders are passed over.
    pub(crate) fn each_blob(
        &self,
        mut each: impl FnMut(Digest, &Path) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        for prefix in names(&self.inner.blobs)? {
            let folder = self.inner.blobs.join(&prefix);
            if prefix.len() != 2 || !folder.is_dir() {
                continue;
            }
            for name in names(&folder)? {
                if let Ok(digest) = format!("{prefix}{name}").parse() {
                    each(digest, &folder.join(name))?;
                }
            }
        }
        Ok(())
    }

    fn list_entries(
        &self,
        uses: &LastUses,
        blobs: &mut FxHashMap<Digest, Blob>,
    ) -> Result<Vec<Entry>, StoreError> {
        let mut entries = Vec::new();
        self.inner.actions.each(|row| {
            let mut named = Vec::new();
            self.blobs_for_gc(&row.entry, &mut named);
            let made = row.entry.made_by;
            let used = uses.of(&row.action).unwrap_or(0).max(made.time_ms);
            for digest in &named {
                if let Some(blob) = blobs.get_mut(digest) {
                    blob.named = true;
                    blob.used = blob.used.max(used);
                }
            }
            entries.push(Entry {
                action: row.action,
                run: made.run,
                node: made.node,
                used,
                blobs: named,
                goes: false,
            });
            Ok(())
        })?;
        Ok(entries)
    }

    /// All blobs of an entry, as far as its trees can be read. Looking is no use.
    fn blobs_for_gc(&self, entry: &ActionEntry, named: &mut Vec<Digest>) {
        for artifact in entry.outputs.values() {
            let Some(digest) = artifact.blob_digest() else {
                continue;
            };
            named.push(digest);
            if let dagrun_model::Artifact::Tree { .. } = artifact {
                self.members(&digest, named);
            }
        }
        let logs = [&entry.stdout, &entry.stderr];
        named.extend(logs.into_iter().flatten().map(|log| log.blob.digest));
    }

    fn members(&self, tree: &Digest, members: &mut Vec<Digest>) {
        let bytes = std::fs::read(self.blob_path(tree)).unwrap_or_default();
        for entry in tree::parse(&bytes).unwrap_or_default() {
            if let TreeKind::File(blob) = entry.kind {
                members.push(blob.digest);
            }
        }
    }

    /// A guarded tree guards what it names.
    fn expand(&self, guarded: &mut Guarded) {
        for tree in std::mem::take(&mut guarded.trees) {
            guarded.blobs.insert(tree);
            let mut members = Vec::new();
            self.members(&tree, &mut members);
            guarded.blobs.extend(members);
        }
    }

    /// Removes blobs, those excepted that a lease has come to guard. Gives what was removed.
    fn remove_blobs(
        &self,
        doomed: &FxHashSet<Digest>,
        guarded: &mut Guarded,
        report: &mut GcReport,
    ) -> Result<FxHashSet<Digest>, StoreError> {
        let mut order: Vec<Digest> = doomed.iter().copied().collect();
        order.sort_unstable();
        let mut gone = FxHashSet::default();
        for step in order.chunks(STEP) {
            let _lock = self.gc_lock(true)?;
            guarded.refresh(&self.inner.root)?;
            self.expand(guarded);
            for digest in step {
                if guarded.blobs.contains(digest) {
                    report.guarded += 1;
                    continue;
                }
                let path = self.blob_path(digest);
                match std::fs::remove_file(&path) {
                    Ok(()) => {}
                    Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                    Err(error) => return Err(StoreError::io("remove", &path, error)),
                }
                self.inner.verified.forget(digest);
                gone.insert(*digest);
            }
        }
        Ok(gone)
    }

    /// Removes what dead processes left, and old damage.
    fn sweep(&self, options: &GcOptions, report: &mut GcReport) -> Result<(), StoreError> {
        let root = &self.inner.root;
        let mut folders = vec![
            root.clone(),
            self.inner.blobs.clone(),
            root.join("actions"),
            root.join("leases"),
        ];
        for prefix in names(&self.inner.blobs)? {
            folders.push(self.inner.blobs.join(prefix));
        }
        for folder in folders.iter().filter(|f| f.is_dir()) {
            for name in names(folder)? {
                let path = folder.join(&name);
                if name.starts_with(TEMP_PREFIX) && is_orphan(&path) {
                    report.temporary += 1;
                    if !options.dry_run {
                        let _ = std::fs::remove_file(&path);
                    }
                }
            }
        }
        let quarantine = root.join("quarantine");
        for name in names(&quarantine).unwrap_or_default() {
            let path = quarantine.join(name);
            if age(&path).is_some_and(|age| age > options.quarantine) {
                report.quarantined += 1;
                if !options.dry_run {
                    std::fs::remove_file(&path).at("remove", &path)?;
                }
            }
        }
        Ok(())
    }

    /// The results that `wanted` names, and who made them.
    ///
    /// # Errors
    /// When the action cache cannot be read.
    pub fn entries_that(
        &self,
        wanted: &dyn Fn(&ActionDigest, &ActionEntry) -> bool,
    ) -> Result<Vec<(ActionDigest, crate::MadeBy)>, StoreError> {
        let mut found = Vec::new();
        self.inner.actions.each(|row| {
            if row.holds && wanted(&row.action, &row.entry) {
                found.push((row.action, row.entry.made_by));
            }
            Ok(())
        })?;
        Ok(found)
    }

    /// Drops the results that `distrusted` names, wherever they are, so that their nodes run again: for a machine that
    /// was found to be broken. Gives who made them. Blobs stay until they are collected.
    ///
    /// # Errors
    /// As [`Store::commit`].
    pub fn evict(
        &self,
        distrusted: &dyn Fn(&ActionDigest, &ActionEntry) -> bool,
    ) -> Result<Vec<(ActionDigest, crate::MadeBy)>, StoreError> {
        use crate::{
            actions::{Append, With},
            fsx::lock,
            log::Kind,
        };
        self.inner.poison.check()?;
        let evicted = self.entries_that(distrusted)?;
        let records: Vec<Append> = evicted
            .iter()
            .map(|(action, _)| Append {
                kind: Kind::Evict,
                action: *action,
                entry: Vec::new(),
            })
            .collect();
        let actions = &self.inner.actions;
        let mut state = lock(&actions.state);
        actions.refresh(&mut state)?;
        actions
            .append(
                &mut state,
                &records,
                &With::default(),
                self.inner.options.durable,
            )?
            .map_err(|error| self.inner.poison.set(&error))?;
        Ok(evicted)
    }

    /// Notes the use of an artifact without touching it, so that it is kept for the leases of this store.
    ///
    /// # Errors
    /// When the note cannot be written.
    pub fn guard(&self, artifact: &dagrun_model::Artifact) -> Result<(), StoreError> {
        let Some(digest) = artifact.blob_digest() else {
            return Ok(());
        };
        let kind = match artifact {
            dagrun_model::Artifact::Tree { .. } => Use::Tree,
            _ => Use::Blob,
        };
        self.note(&[(kind, digest)])
    }
}

/// Decides which entries and blobs go.
fn choose(
    options: &GcOptions,
    now: u64,
    guarded: &Guarded,
    entries: &mut [Entry],
    blobs: &mut FxHashMap<Digest, Blob>,
    report: &mut GcReport,
) -> FxHashSet<Digest> {
    let older = |time: u64, age: Duration| now.saturating_sub(time) as u128 > age.as_millis();
    let mut needed: FxHashSet<Digest> = FxHashSet::default();
    for entry in entries.iter_mut() {
        entry.goes = !guarded.entries.contains(&entry.action)
            && options.max_age.is_some_and(|age| older(entry.used, age));
        if !entry.goes {
            needed.extend(&entry.blobs);
        }
    }
    let mut doomed = FxHashSet::default();
    let mut rest: Vec<(u64, Digest, u64)> = Vec::new();
    let mut young: Vec<(u64, Digest, u64)> = Vec::new();
    let mut total = 0;
    // A result that has its entry is not just being made; only a run that has begun to read it needs it.
    let at_once = options.now && guarded.leases == 0;
    for (digest, blob) in blobs.iter() {
        let is_young = !(older(blob.made, options.grace) || at_once && blob.named);
        let is_guarded = guarded.blobs.contains(digest);
        let is_needed = needed.contains(digest);
        let row = (blob.used, *digest, blob.size);
        match (is_needed, is_young || is_guarded) {
            (false, false) => {
                doomed.insert(*digest);
                continue;
            }
            (true, false) => rest.push(row),
            (false, true) if is_guarded => report.guarded += u64::from(!is_young),
            (false, true) if blob.named => {
                report.young += 1;
                report.young_bytes += blob.size;
            }
            (true, true) if !is_guarded => young.push(row),
            _ => {}
        }
        total += blob.size;
    }
    rest.sort_unstable();
    young.sort_unstable();
    let Some(max) = options.max_bytes else {
        return doomed;
    };
    for (_, digest, size) in rest {
        if total <= max {
            break;
        }
        total -= size;
        doomed.insert(digest);
    }
    for (_, _, size) in young {
        if total <= max {
            break;
        }
        total -= size;
        report.young += 1;
        report.young_bytes += size;
    }
    doomed
}

/// Says whose what goes is.
fn rows(
    now: u64,
    entries: &[Entry],
    doomed: &FxHashSet<Digest>,
    blobs: &FxHashMap<Digest, Blob>,
) -> Vec<GcRow> {
    let mut counted = FxHashSet::default();
    let mut rows = Vec::new();
    for entry in entries {
        let bytes: u64 = entry
            .blobs
            .iter()
            .filter(|d| doomed.contains(d) && counted.insert(**d))
            .filter_map(|d| blobs.get(d))
            .map(|blob| blob.size)
            .sum();
        if entry.goes || bytes > 0 {
            rows.push(GcRow {
                action: entry.action,
                run: entry.run.clone(),
                node: entry.node.clone(),
                bytes,
                unused: Duration::from_millis(now.saturating_sub(entry.used)),
                entry: entry.goes,
            });
        }
    }
    rows.sort_by_key(|row| (std::cmp::Reverse(row.unused), row.action));
    rows
}

fn age(path: &PathBuf) -> Option<Duration> {
    let modified = std::fs::symlink_metadata(path).ok()?.modified().ok()?;
    SystemTime::now().duration_since(modified).ok()
}

/// Whether a temporary file has no process any more: it is old, and nobody holds its lock.
fn is_orphan(path: &PathBuf) -> bool {
    let old = age(path).is_some_and(|age| age > TEMP_AGE);
    old && std::fs::File::open(path).is_ok_and(|file| crate::actions::is_dead(&file))
}
