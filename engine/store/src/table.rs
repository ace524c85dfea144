//! A table: an immutable file of records with a hashed index, read by position.
//!
//! `header (64) | records | slots`. A slot is the first eight bytes of the digest and the place of the record (40 bits of
//! offset, 24 of length); slots are probed linearly and at most half of them are used. Opening reads the header only.

use std::{
    fs::File,
    io::{BufWriter, Write},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::OnceLock,
};

use dagrun_model::Digest;

use crate::{
    error::{At, StoreError},
    fsx::{Temp, patiently},
    log::{MAX_RECORD, RECORD_HEAD, Record},
};

const MAGIC: &[u8; 8] = b"dagrtbl\x01";
const HEADER: usize = 64;
const SLOT: usize = 16;
/// Slots that are read at once.
const PROBE: usize = 8;
/// Tables up to this size are read whole for a large batch of look-ups.
const WHOLE: u64 = 32 << 20;

/// An open table.
pub(crate) struct Table {
    file: File,
    pub(crate) path: PathBuf,
    /// Later tables have greater numbers.
    pub(crate) seq: u64,
    slots: u64,
    index_at: u64,
    /// Bytes of the file.
    pub(crate) bytes: u64,
    whole: OnceLock<Option<Vec<u8>>>,
}

/// A record could not be read at this offset.
#[derive(Debug)]
pub(crate) struct Damage(pub(crate) u64);

impl Table {
    pub(crate) fn open(path: &Path, seq: u64) -> std::io::Result<Option<Self>> {
        let file = patiently(|| File::open(path))?;
        let mut header = [0; HEADER];
        let bytes = file.metadata()?.len();
        if bytes < HEADER as u64 || file.read_exact_at(&mut header, 0).is_err() {
            return Ok(None);
        }
        let number =
            |at: usize| u64::from_le_bytes(header[at..at + 8].try_into().expect("eight bytes"));
        let (slots, index_at) = (number(8), number(16));
        let crc = crc32fast::hash(&header[..HEADER - 4]).to_le_bytes();
        let sound = header[..8] == *MAGIC
            && header[HEADER - 4..] == crc
            && slots.is_power_of_two()
            && index_at.checked_add(slots * SLOT as u64) == Some(bytes);
        Ok(sound.then_some(Self {
            file,
            path: path.into(),
            seq,
            slots,
            index_at,
            bytes,
            whole: OnceLock::new(),
        }))
    }

    /// Reads the table into memory where it is small, because many look-ups follow.
    pub(crate) fn preload(&self) {
        self.whole.get_or_init(|| {
            if self.bytes > WHOLE {
                return None;
            }
            let mut bytes = vec![0; self.bytes as usize];
            self.file.read_exact_at(&mut bytes, 0).ok()?;
            Some(bytes)
        });
    }

    fn read_at(&self, buffer: &mut [u8], at: u64) -> std::io::Result<()> {
        if let Some(Some(whole)) = self.whole.get() {
            let part = usize::try_from(at)
                .ok()
                .and_then(|at| whole.get(at..at.checked_add(buffer.len())?))
                .ok_or(std::io::ErrorKind::UnexpectedEof)?;
            buffer.copy_from_slice(part);
            return Ok(());
        }
        self.file.read_exact_at(buffer, at)
    }

    /// Puts the bytes of the record of an action into `out`; `false` where there is none.
    ///
    /// The buffer is the caller's, because thousands of look-ups follow each other.
    pub(crate) fn get(&self, action: &Digest, out: &mut Vec<u8>) -> Result<bool, Damage> {
        let wanted = action.prefix();
        let mut slot = wanted & (self.slots - 1);
        let mut seen = 0;
        while seen < self.slots {
            let count = (self.slots - slot).min(PROBE as u64);
            let at = self.index_at + slot * SLOT as u64;
            let mut slots = [0; PROBE * SLOT];
            let part = &mut slots[..count as usize * SLOT];
            self.read_at(part, at).map_err(|_| Damage(at))?;
            for bytes in part.chunks_exact(SLOT) {
                let (prefix, place) = read_slot(bytes);
                if place == 0 {
                    return Ok(false);
                }
                if prefix != wanted {
                    continue;
                }
                let (offset, len) = (place >> 24, (place & 0xff_ffff) as usize);
                out.clear();
                out.resize(len, 0);
                self.read_at(out, offset).map_err(|_| Damage(offset))?;
                match Record::read(out) {
                    Some((found, size)) if size == len => {
                        if found.action == *action {
                            return Ok(true);
                        }
                    }
                    _ => return Err(Damage(offset)),
                }
            }
            seen += count;
            slot = (slot + count) & (self.slots - 1);
        }
        Ok(false)
    }

    /// Gives every record with its place, in the order of the file. Returns the offsets of bad ones.
    pub(crate) fn each(
        &self,
        mut each: impl FnMut(Place, Record<'_>),
    ) -> std::io::Result<Vec<u64>> {
        let mut bad = Vec::new();
        let mut at = HEADER as u64;
        let mut chunk = Vec::new();
        let mut chunk_at = at;
        while at < self.index_at {
            let have = (at - chunk_at) as usize;
            let rest = chunk.get(have..).unwrap_or_default();
            let need = record_size(rest);
            if rest.len() < RECORD_HEAD || need.is_some_and(|n| rest.len() < n) {
                let want = need.unwrap_or(0).max(1 << 20) as u64;
                let len = want.min(self.index_at - at) as usize;
                chunk.resize(len, 0);
                self.file.read_exact_at(&mut chunk, at)?;
                chunk_at = at;
                if len < RECORD_HEAD
                    || record_size(&chunk)
                        .is_none_or(|n| n > len && len as u64 == self.index_at - at)
                {
                    bad.push(at);
                    break;
                }
                continue;
            }
            let Some(size) = need else {
                // Without a length, what follows cannot be found.
                bad.push(at);
                break;
            };
            match Record::read(rest) {
                Some((record, _)) => each(Place { at, len: size }, record),
                None => bad.push(at),
            }
            at += size as u64;
        }
        Ok(bad)
    }

    /// Reads a record's bytes at a place that [`Table::each`] gave.
    pub(crate) fn at(&self, place: Place) -> std::io::Result<Vec<u8>> {
        let mut bytes = vec![0; place.len];
        self.read_at(&mut bytes, place.at)?;
        Ok(bytes)
    }
}

/// Where a record stands in a file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Place {
    pub(crate) at: u64,
    pub(crate) len: usize,
}

/// The size of a record with its head, where the length is possible.
fn record_size(bytes: &[u8]) -> Option<usize> {
    let len = u32::from_le_bytes(bytes.get(..4)?.try_into().ok()?) as usize;
    (len > 0 && len <= MAX_RECORD).then_some(len + RECORD_HEAD)
}

fn read_slot(bytes: &[u8]) -> (u64, u64) {
    let number = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"));
    (number(0), number(8))
}

/// Writes a table record by record.
pub(crate) struct TableWriter {
    out: BufWriter<Temp>,
    at: u64,
    indexed: Vec<(u64, u64)>,
    records: u64,
}

impl Write for Temp {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.file.write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl TableWriter {
    pub(crate) fn new(folder: &Path) -> Result<Self, StoreError> {
        let mut writer = Self {
            out: BufWriter::with_capacity(1 << 20, Temp::new(folder)?),
            at: 0,
            indexed: Vec::new(),
            records: 0,
        };
        writer.write(&[0; HEADER])?;
        Ok(writer)
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), StoreError> {
        self.at += bytes.len() as u64;
        let written = self.out.write_all(bytes);
        written.at("write", self.out.get_ref().path())
    }

    /// Appends a record; only one of each action may be indexed.
    pub(crate) fn push(
        &mut self,
        record: &[u8],
        action: &Digest,
        indexed: bool,
    ) -> Result<(), StoreError> {
        if indexed {
            let place = (self.at << 24) | record.len() as u64;
            self.indexed.push((action.prefix(), place));
        }
        self.records += 1;
        self.write(record)
    }

    /// Writes index and header, syncs, and gives the file its name.
    pub(crate) fn finish(mut self, dest: &Path) -> Result<(), StoreError> {
        let slots = (self.indexed.len() as u64 * 2)
            .next_power_of_two()
            .max(PROBE as u64);
        let mut table = vec![(0_u64, 0_u64); slots as usize];
        for (prefix, place) in &self.indexed {
            let mut slot = prefix & (slots - 1);
            while table[slot as usize].1 != 0 {
                slot = (slot + 1) & (slots - 1);
            }
            table[slot as usize] = (*prefix, *place);
        }
        let index_at = self.at;
        for (prefix, place) in table {
            let mut bytes = [0; SLOT];
            bytes[..8].copy_from_slice(&prefix.to_le_bytes());
            bytes[8..].copy_from_slice(&place.to_le_bytes());
            self.write(&bytes)?;
        }
        let mut header = [0; HEADER];
        header[..8].copy_from_slice(MAGIC);
        for (i, n) in [slots, index_at, self.records].into_iter().enumerate() {
            header[8 + 8 * i..16 + 8 * i].copy_from_slice(&n.to_le_bytes());
        }
        let crc = crc32fast::hash(&header[..HEADER - 4]);
        header[HEADER - 4..].copy_from_slice(&crc.to_le_bytes());
        let temp = match self.out.into_inner() {
            Ok(temp) => temp,
            Err(error) => {
                let path = error.into_inner().into_parts().0.path().to_path_buf();
                let source = std::io::Error::from(std::io::ErrorKind::StorageFull);
                return Err(StoreError::io("write", &path, source));
            }
        };
        temp.file
            .write_all_at(&header, 0)
            .at("write", temp.path())?;
        temp.file.sync_all().at("sync", temp.path())?;
        temp.persist(dest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::Kind;

    fn digest(i: u32) -> Digest {
        Digest::of(&i.to_le_bytes())
    }

    fn build(folder: &Path, count: u32) -> Table {
        let mut writer = TableWriter::new(folder).unwrap();
        for i in 0..count {
            let mut bytes = Vec::new();
            let entry = vec![i as u8; (i % 700) as usize];
            Record {
                kind: Kind::Normal,
                time: u64::from(i),
                action: digest(i),
                entry: &entry,
            }
            .write(&mut bytes);
            writer.push(&bytes, &digest(i), true).unwrap();
        }
        let path = folder.join("t");
        writer.finish(&path).unwrap();
        Table::open(&path, 1).unwrap().expect("a sound table")
    }

    #[test]
    fn what_is_written_is_found_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        for count in [0, 1, 5, 5000] {
            let table = build(folder.path(), count);
            for whole in [false, true] {
                if whole {
                    table.preload();
                }
                let mut bytes = Vec::new();
                for i in 0..count {
                    assert!(table.get(&digest(i), &mut bytes).unwrap());
                    assert_eq!(Record::read(&bytes).unwrap().0.time, u64::from(i));
                }
                for i in count..count + 100 {
                    assert!(!table.get(&digest(i), &mut bytes).unwrap());
                }
            }
            let mut seen = 0;
            let bad = table.each(|_, record| {
                assert_eq!(record.time, seen);
                seen += 1;
            });
            assert_eq!((bad.unwrap(), seen), (vec![], u64::from(count)));
        }
    }

    #[test]
    fn a_flipped_bit_is_damage_or_a_miss_and_never_another_entry() {
        let folder = tempfile::tempdir().unwrap();
        let table = build(folder.path(), 8);
        let good = std::fs::read(&table.path).unwrap();
        for byte in 0..good.len() {
            let mut bad = good.clone();
            bad[byte] ^= 1 << (byte % 8);
            let path = folder.path().join("bad");
            std::fs::write(&path, &bad).unwrap();
            let Some(table) = Table::open(&path, 1).unwrap() else {
                continue;
            };
            let mut bytes = Vec::new();
            for i in 0..8 {
                if let Ok(true) = table.get(&digest(i), &mut bytes) {
                    let record = Record::read(&bytes).unwrap().0;
                    assert_eq!((record.action, record.time), (digest(i), u64::from(i)));
                }
            }
            table.each(|_, _| {}).unwrap();
        }
    }
}
