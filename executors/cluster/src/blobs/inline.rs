//! Small blobs that ride along with a result, so that most reports, values and logs need no worker, and a lost host loses less.

use dagrun_model::{AttemptResult, Digest, Outcome};
use dagrun_store::{Received, Store, StoreError};
use prost::bytes::Bytes;

/// The largest blob that rides along, in bytes.
const LARGEST: u64 = 64 << 10;
/// All that rides along with one result, in bytes.
const ALL: u64 = 256 << 10;

/// Blobs with their bytes.
pub type Inlined = Vec<(Digest, Bytes)>;

/// The small blobs of a result: logs, outputs, manifests of folders; the smallest first, as many as there is room for.
pub fn small_blobs(store: &Store, result: &AttemptResult) -> Inlined {
    let mut small: Vec<(u64, Digest)> = named(result)
        .into_iter()
        .filter_map(|digest| Some((store.open_here(&digest).ok()?.1, digest)))
        .filter(|(size, _)| *size <= LARGEST)
        .collect();
    small.sort_unstable();
    small.dedup();
    let mut left = ALL;
    let mut blobs = Inlined::new();
    for (size, digest) in small {
        if size > left {
            break;
        }
        // What was damaged or removed just now is no reason to fail a success.
        if let Ok(bytes) = store.read(&digest) {
            left -= size;
            blobs.push((digest, bytes.into()));
        }
    }
    blobs
}

/// Every blob that a result names: outputs and logs.
fn named(result: &AttemptResult) -> Vec<Digest> {
    let mut named: Vec<Digest> = [&result.stdout, &result.stderr]
        .into_iter()
        .flatten()
        .map(|log| log.blob.digest)
        .collect();
    if let Outcome::Succeeded(outputs) = &result.outcome {
        named.extend(
            outputs
                .values()
                .filter_map(dagrun_model::Artifact::blob_digest),
        );
    }
    named
}

/// Puts what rode along into the coordinator's store; they are durable with the commit of the result. Wrong bytes, and more
/// than is agreed on, are left out. Gives how many were kept.
///
/// # Errors
/// When the store cannot take them.
pub fn take_blobs<'a>(
    store: &Store,
    blobs: impl IntoIterator<Item = (&'a Digest, &'a [u8])>,
) -> Result<usize, StoreError> {
    let mut left = ALL;
    let mut kept = 0;
    for (digest, bytes) in blobs {
        let size = bytes.len() as u64;
        if size > LARGEST || size > left {
            continue;
        }
        left -= size;
        if store.receive_whole(digest, bytes)? == Received::Stored {
            kept += 1;
        }
    }
    Ok(kept)
}

#[cfg(test)]
mod tests {
    use dagrun_model::{Artifact, LogRef};
    use dagrun_store::StoreOptions;

    use super::*;

    fn log(store: &Store, bytes: &[u8]) -> LogRef {
        LogRef {
            blob: store.put_bytes(bytes).unwrap(),
            total: bytes.len() as u64,
            tail: String::new(),
        }
    }

    #[test]
    fn small_blobs_ride_along_up_to_a_bound_and_wrong_ones_do_not_arrive() {
        let folder = tempfile::tempdir().unwrap();
        let open =
            |name: &str| Store::open(&folder.path().join(name), StoreOptions::default()).unwrap();
        let (worker, coordinator) = (open("worker"), open("coordinator"));
        let mut outputs = dagrun_model::Outputs::default();
        for n in 0..6_u8 {
            let blob = worker.put_bytes(&vec![n; 60_000]).unwrap();
            outputs.insert(format!("o{n}"), Artifact::File(blob));
        }
        let large = worker.put_bytes(&vec![9; 70_000]).unwrap();
        outputs.insert("large".into(), Artifact::File(large));
        let mut result = AttemptResult::bare(Outcome::Succeeded(outputs));
        result.stdout = Some(log(&worker, b"said"));

        let mut blobs = small_blobs(&worker, &result);
        let sizes: Vec<usize> = blobs.iter().map(|(_, bytes)| bytes.len()).collect();
        assert_eq!(sizes, [4, 60_000, 60_000, 60_000, 60_000]);
        blobs[1].1 = vec![7; 60_000].into();
        let kept = take_blobs(&coordinator, blobs.iter().map(|(d, b)| (d, &b[..]))).unwrap();
        assert_eq!(kept, 4);
        assert!(!coordinator.contains(&blobs[1].0));
        assert_eq!(coordinator.read(&blobs[0].0).unwrap(), b"said");
        let too_large = (&large.digest, &vec![9; 70_000][..]);
        assert_eq!(take_blobs(&coordinator, [too_large]).unwrap(), 0);
    }
}
