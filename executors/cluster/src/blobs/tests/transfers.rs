//! Transfers that go well.

use std::{
    collections::BTreeSet,
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt},
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use dagrun_model::{Artifact, Digest};
use dagrun_proto::v1::{ReadBlob, ReadBlobs};
use dagrun_store::{PutMode, Staging};
use dagrun_testkit::{TcpFault, TcpProxy, require_plain_copies, skip};
use futures_util::StreamExt;

use super::kit::{Bad, World, assert_clean, noise, peer};
use crate::blobs::{BlobService, Peer, Places, wire};

#[test]
fn blobs_of_every_size_arrive_from_those_who_have_them() {
    let world = World::new();
    let (one, two, here) = (world.store("one"), world.store("two"), world.store("here"));
    let (fetcher, hints) = world.fetcher(None);
    let mut wanted = Vec::new();
    for (n, size) in [
        0,
        1,
        4096,
        300_000,
        (1 << 20) - 1,
        1 << 20,
        (1 << 20) + 1,
        5_000_000,
    ]
    .into_iter()
    .enumerate()
    {
        let bytes = noise(n as u64, size);
        let store = if n % 2 == 0 { &one } else { &two };
        wanted.push((store.put_bytes(&bytes).unwrap().digest, bytes));
    }
    let peers = [world.serve_store(&one), world.serve_store(&two)];
    let digests: Vec<Digest> = wanted.iter().map(|(digest, _)| *digest).collect();
    // Both are said to have all of them; each has half.
    hints.add(digests.iter().map(|digest| (*digest, peers.to_vec())));
    world.bring(&fetcher, &here, &digests);
    for (digest, bytes) in &wanted {
        assert_eq!(&here.read(digest).unwrap(), bytes);
    }
    let stats = fetcher.stats();
    assert_eq!((stats.blobs, stats.wrong, stats.breaks), (8, 0, 0));
    assert_eq!(
        stats.bytes,
        wanted
            .iter()
            .map(|(_, bytes)| bytes.len() as u64)
            .sum::<u64>()
    );
    let (fetched, bytes) = fetcher.take_fetched(&digests[2..4]);
    assert_eq!((fetched, bytes), (digests[2..4].to_vec(), 304_096));
    assert_eq!(fetcher.take_fetched(&digests[2..4]), (Vec::new(), 0));
    assert_clean(&here);
}

/// Staging fetches by itself, and files of a folder are had from where its manifest is.
#[test]
fn staging_fetches_folders_from_who_has_their_manifest() {
    let world = World::new();
    let (there, here) = (world.store("there"), world.store("here"));
    let folder = world.path().join("out");
    fs::create_dir_all(folder.join("sub")).unwrap();
    for n in 0..20_u64 {
        fs::write(folder.join(format!("sub/{n}")), noise(n, 2000)).unwrap();
    }
    let tree = there.put_tree(&folder, PutMode::Copy).unwrap();
    let manifest = tree.blob_digest().unwrap();
    let (fetcher, hints) = world.fetcher(None);
    hints.add([(manifest, vec![world.serve_store(&there)])]);
    here.add_source(Arc::new(fetcher.clone()));
    let dest = world.path().join("staged");
    here.stage(&tree, &dest, Staging::Auto).unwrap();
    assert_eq!(fs::read(dest.join("sub/7")).unwrap(), noise(7, 2000));
    let (fetched, bytes) = fetcher.take_fetched(&[manifest]);
    let size = there.read(&manifest).unwrap().len() as u64;
    assert_eq!((fetched, bytes), (vec![manifest], 40_000 + size));
}

/// What was fetched may be had again: a node gets the file itself, and what it writes to it is no blob any more.
#[test]
fn what_was_fetched_is_given_to_a_node_and_had_again_where_it_was_altered() {
    let world = World::new();
    skip!("F43", require_plain_copies(world.path()));
    let (there, here) = (world.store("there"), world.store("here"));
    let bytes = noise(1, 3 << 20);
    let blob = there.put_bytes(&bytes).unwrap();
    let artifact = Artifact::File(blob);
    let (fetcher, hints) = world.fetcher(None);
    let counted = Bad::counted(&there);
    let counts = counted.counts.clone();
    hints.add([(blob.digest, vec![peer(world.serve(counted))])]);
    here.add_source(Arc::new(fetcher));
    for (name, alters) in [("one", false), ("two", true), ("three", false)] {
        let dest = world.path().join(name);
        let staged = here.stage(&artifact, &dest, Staging::Auto).unwrap();
        assert_eq!(fs::metadata(&dest).unwrap().nlink(), 2);
        assert!(fs::read(&dest).unwrap() == bytes);
        if alters {
            fs::set_permissions(&dest, fs::Permissions::from_mode(0o644)).unwrap();
            fs::write(&dest, "altered").unwrap();
        }
        assert!(staged.check().unwrap().is_empty());
        fs::remove_file(&dest).unwrap();
        staged.gone();
    }
    assert_eq!(counts.requests.load(Relaxed), 2);
    assert_clean(&here);
}

#[test]
fn ten_thousand_small_blobs_come_in_one_request() {
    let world = World::new();
    let there = world.store("there");
    let blobs: Vec<Digest> = (0..10_000_u32)
        .map(|n| there.put_bytes(&n.to_le_bytes()).unwrap().digest)
        .collect();
    let bad = Bad::counted(&there);
    let counts = bad.counts.clone();
    let address = peer(world.serve(bad));
    let request = ReadBlobs {
        blobs: blobs
            .iter()
            .map(|digest| ReadBlob {
                digest: wire(digest),
                offset: 0,
            })
            .collect(),
        ..ReadBlobs::default()
    };
    let peers = world.peers(None);
    let arrived = world.runtime.block_on(async {
        let mut client = peers.get(&address).unwrap().client();
        let chunks = client.read(request).await.unwrap().into_inner();
        chunks
            .map(|chunk| {
                let chunk = chunk.unwrap();
                assert!(chunk.last && chunk.size == 4);
                assert_eq!(Digest::of(&chunk.data).0, *chunk.digest);
            })
            .count()
            .await
    });
    assert_eq!((arrived, counts.requests.load(Relaxed)), (10_000, 1));

    let here = world.store("here");
    let (fetcher, hints) = world.fetcher(None);
    hints.add(blobs.iter().map(|digest| (*digest, vec![address.clone()])));
    world.bring(&fetcher, &here, &blobs);
    assert_eq!(here.stat().unwrap().blobs, 10_000);
    assert!(counts.requests.load(Relaxed) < 20, "a few requests at once");
}

/// Of all who want a blob at once, one fetches it.
#[test]
fn a_blob_is_fetched_once_for_all_who_want_it() {
    let world = World::new();
    let (there, here) = (world.store("there"), world.store("here"));
    let blobs: Vec<Digest> = (0..40_u64)
        .map(|n| there.put_bytes(&noise(n, 50_000)).unwrap().digest)
        .collect();
    let bad = Bad::counted(&there);
    let counts = bad.counts.clone();
    let address = peer(world.serve(bad));
    let (fetcher, hints) = world.fetcher(None);
    hints.add(blobs.iter().map(|digest| (*digest, vec![address.clone()])));
    here.add_source(Arc::new(fetcher));
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let (here, blobs) = (&here, &blobs);
            scope.spawn(move || {
                let own: Vec<Digest> = blobs
                    .iter()
                    .cycle()
                    .skip(thread * 5)
                    .take(30)
                    .copied()
                    .collect();
                assert_eq!(here.bring(&own).unwrap(), []);
            });
        }
    });
    assert_eq!(counts.blobs.load(Relaxed), 40);
}

/// Two workers of one host share a store: a large blob comes over the network once.
#[test]
fn workers_of_one_host_fetch_a_large_blob_once() {
    let world = World::new();
    let there = world.store("there");
    let bytes = noise(1, 20 << 20);
    let digest = there.put_bytes(&bytes).unwrap().digest;
    let bad = Bad::counted(&there);
    let counts = bad.counts.clone();
    // Slow enough that both are at it together.
    let proxy = TcpProxy::start(world.serve(bad), |_| TcpFault::Rate(40 << 20));
    let address = peer(proxy.address());
    std::thread::scope(|scope| {
        for _ in 0..3 {
            let (world, address, bytes) = (&world, &address, &bytes);
            scope.spawn(move || {
                let here = world.store("here");
                let (fetcher, hints) = world.fetcher(None);
                hints.add([(digest, vec![address.clone()])]);
                here.add_source(Arc::new(fetcher));
                assert_eq!(&here.read(&digest).unwrap(), bytes);
            });
        }
    });
    let sent = counts.bytes.load(Relaxed);
    // Whoever finds another at it breaks off, with what was on its way by then.
    assert!(sent < 2 * (20 << 20), "{sent} bytes were sent");
    assert_clean(&world.store("here"));
}

/// Who has a blob is found by the coordinator where hints are missing or stale; and it gets what cannot be reached.
#[test]
fn the_coordinator_says_where_blobs_are_and_gets_what_cannot_be_reached() {
    struct Known(BTreeSet<Digest>, Peer);
    impl Places for Known {
        fn sources(&self, digests: &[Digest]) -> Vec<(Digest, Vec<Peer>)> {
            let known = digests.iter().filter(|digest| self.0.contains(digest));
            known
                .map(|digest| (*digest, vec![self.1.clone()]))
                .collect()
        }
        fn spare(&self, _: &str, digests: &[Digest], _: bool) -> Vec<Digest> {
            digests.to_vec()
        }
    }
    let world = World::new();
    let (there, hidden) = (world.store("there"), world.store("hidden"));
    let (central, here) = (world.store("central"), world.store("here"));
    let moved = there.put_bytes(b"on another host").unwrap().digest;
    let own = central.put_bytes(b"with the coordinator").unwrap().digest;
    let far = hidden
        .put_bytes(b"on a host that only the coordinator reaches")
        .unwrap()
        .digest;
    let nowhere = Digest::of(b"nowhere");

    let (relay, relay_hints) = world.fetcher(None);
    relay_hints.add([(far, vec![world.serve_store(&hidden)])]);
    central.add_source(Arc::new(relay));
    let places = Known([moved, far].into(), world.serve_store(&there));
    let service = BlobService::new(central)
        .with_places(Arc::new(places))
        .with_relay();
    let coordinator = peer(world.serve(service));
    let (fetcher, hints) = world.fetcher(Some(coordinator));
    // Nobody listens there any more.
    hints.add([(moved, vec!["127.0.0.1:1".into()])]);
    let wanted = [moved, own, far, nowhere];
    world.bring(&fetcher, &here, &wanted);
    let there_now = wanted.map(|digest| here.contains(&digest));
    assert_eq!(there_now, [true, true, true, false]);
}

/// A network that is slower than zstd gets fewer bytes; what does not compress stays as it is.
#[test]
fn slow_networks_get_compressed_bytes() {
    let world = World::new();
    let (there, here) = (world.store("there"), world.store("here"));
    let line = "time,incidence,prevalence,recovered\n0.125,14,203,1189\n";
    let text = there.put_bytes(line.repeat(400_000).as_bytes()).unwrap();
    let address = world.serve(BlobService::new(there));
    let proxy = TcpProxy::start(address, |_| TcpFault::Rate(4 << 20));
    let (fetcher, hints) = world.fetcher(None);
    hints.add([(text.digest, vec![peer(proxy.address())])]);
    world.bring(&fetcher, &here, &[text.digest]);
    assert!(here.contains(&text.digest));
    assert!(
        proxy.bytes() < text.size * 3 / 4,
        "{} of {} bytes came over",
        proxy.bytes(),
        text.size
    );
}

/// The memory of both ends does not grow with a blob: 512 MiB, nearly all of it a hole.
#[test]
fn a_blob_may_be_larger_than_memory() {
    let world = World::new();
    let (there, here) = (world.store("there"), world.store("here"));
    let path = world.path().join("large");
    let file = fs::File::create(&path).unwrap();
    file.set_len(512 << 20).unwrap();
    std::os::unix::fs::FileExt::write_at(&file, b"its end", (512 << 20) - 7).unwrap();
    drop(file);
    let blob = there.put_file(&path, PutMode::Move).unwrap();
    let before = peak_memory();
    let (fetcher, hints) = world.fetcher(None);
    hints.add([(blob.digest, vec![world.serve_store(&there)])]);
    world.bring(&fetcher, &here, &[blob.digest]);
    let grown = peak_memory() - before;
    assert!(grown < 100 << 20, "{} MiB more than before", grown >> 20);
    let (file, size) = here.open_here(&blob.digest).unwrap();
    assert_eq!(size, 512 << 20);
    let on_disk = std::os::unix::fs::MetadataExt::blocks(&file.metadata().unwrap()) * 512;
    assert!(
        on_disk < 16 << 20,
        "holes stay holes: {on_disk} bytes on disk"
    );
}

fn peak_memory() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status
        .lines()
        .find(|line| line.starts_with("VmHWM:"))
        .unwrap();
    let kib: u64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
    kib << 10
}

#[test]
fn what_is_there_already_is_not_asked_for() {
    let world = World::new();
    let here = world.store("here");
    let blob = here.put_bytes(b"here").unwrap();
    let (fetcher, hints) = world.impatient(None, Duration::from_millis(100));
    hints.add([(blob.digest, vec!["127.0.0.1:1".into()])]);
    world.bring(&fetcher, &here, &[blob.digest]);
    assert_eq!(fetcher.stats().breaks, 0);
}
