//! What the service says to those who ask for what is not there, write what is not right, or read files of the workspace.

use std::{fs, sync::Arc};

use dagrun_model::Digest;
use dagrun_proto::v1::{BlobChunk, FindBlobs, ReadBlob, ReadBlobs};
use futures_util::StreamExt;
use tonic::Code;

use super::kit::{World, assert_clean, noise, peer};
use crate::blobs::{BlobService, Extras, Peer, WriteLimits, wire};

fn read(world: &World, from: &Peer, blobs: Vec<ReadBlob>) -> Vec<Result<BlobChunk, tonic::Status>> {
    let peers = world.peers(None);
    world.runtime.block_on(async {
        let mut client = peers.get(from).unwrap().client();
        match client
            .read(ReadBlobs {
                blobs,
                ..ReadBlobs::default()
            })
            .await
        {
            Ok(answer) => answer.into_inner().collect().await,
            Err(status) => vec![Err(status)],
        }
    })
}

fn whole(digest: &Digest) -> ReadBlob {
    ReadBlob {
        digest: wire(digest),
        offset: 0,
    }
}

#[test]
fn what_is_not_there_is_said_and_the_rest_follows_in_order() {
    let world = World::new();
    let store = world.store("there");
    let one = store.put_bytes(b"one").unwrap().digest;
    let two = store.put_bytes(b"two and more").unwrap().digest;
    let from = world.serve_store(&store);
    let gone = Digest::of(b"gone");
    let later = ReadBlob {
        offset: 4,
        ..whole(&two)
    };
    let chunks = read(&world, &from, vec![whole(&one), whole(&gone), later]);
    let [Ok(one), Ok(gone), Ok(two)] = &chunks[..] else {
        panic!("{chunks:?}");
    };
    assert!(one.last && !one.missing && &*one.data == b"one");
    assert!(gone.missing && gone.data.is_empty());
    assert!(two.last && &*two.data == b"and more" && two.size == 12);

    let bad = ReadBlob {
        digest: vec![1; 31].into(),
        offset: 0,
    };
    let refused = read(&world, &from, vec![bad]).pop().unwrap().unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    let many = vec![whole(&Digest::of(b"x")); 70_000];
    let refused = read(&world, &from, many).pop().unwrap().unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
}

/// A blob that is damaged on a holder's disk is not sent, and its holder learns of it.
#[test]
fn damaged_blobs_are_missing() {
    let world = World::new();
    let store = world.store("there");
    let blob = store.put_bytes(&noise(1, 10_000)).unwrap();
    let path = store.blob_path(&blob.digest);
    fs::remove_file(&path).unwrap();
    fs::write(&path, noise(2, 10_000)).unwrap();
    let from = world.serve_store(&store);
    let chunk = read(&world, &from, vec![whole(&blob.digest)])
        .pop()
        .unwrap()
        .unwrap();
    assert!(chunk.missing);
    assert_eq!(store.stat().unwrap().quarantined, 1);
}

#[test]
fn files_of_the_workspace_are_served_from_where_they_lie() {
    let world = World::new();
    let (store, here) = (world.store("there"), world.store("here"));
    let path = world.path().join("input.csv");
    fs::write(&path, noise(1, 3_000_000)).unwrap();
    let digest = Digest::of(&noise(1, 3_000_000));
    let extras = Extras::default();
    let run: Arc<str> = "run".into();
    extras.add(&run, digest, &path);
    let service = BlobService::new(store.clone()).with_extras(extras.clone());
    let coordinator = peer(world.serve(service));
    let (fetcher, _) = world.fetcher(Some(coordinator.clone()));
    world.bring(&fetcher, &here, &[digest]);
    assert_eq!(here.read(&digest).unwrap(), noise(1, 3_000_000));
    assert!(!store.contains(&digest), "nothing was copied");

    fs::write(&path, noise(2, 3_000_000)).unwrap();
    let chunk = read(&world, &coordinator, vec![whole(&digest)])
        .pop()
        .unwrap()
        .unwrap();
    assert!(chunk.missing, "it has changed");
    fs::remove_file(&path).unwrap();
    let chunk = read(&world, &coordinator, vec![whole(&digest)])
        .pop()
        .unwrap()
        .unwrap();
    assert!(chunk.missing);
    extras.forget("run");
}

#[test]
fn find_tells_what_is_here() {
    let world = World::new();
    let store = world.store("there");
    let here = store.put_bytes(b"here").unwrap().digest;
    let from = world.serve_store(&store);
    let peers = world.peers(None);
    let gone = Digest::of(b"gone");
    let found = world.runtime.block_on(async {
        let mut client = peers.get(&from).unwrap().client();
        let digests = vec![wire(&gone), wire(&here)];
        client
            .find(FindBlobs { digests })
            .await
            .unwrap()
            .into_inner()
    });
    assert_eq!(found.digests, [wire(&here)]);
}

/// The chunks of a blob, as a client sends them.
fn chunks(digest: Digest, bytes: &[u8]) -> Vec<BlobChunk> {
    let pieces: Vec<&[u8]> = bytes.chunks(1 << 20).collect();
    let last = pieces.len() - 1;
    let chunk = |(at, piece): (usize, &&[u8])| BlobChunk {
        digest: if at == 0 {
            wire(&digest)
        } else {
            Default::default()
        },
        size: if at == 0 { bytes.len() as u64 } else { 0 },
        data: piece.to_vec().into(),
        last: at == last,
        ..BlobChunk::default()
    };
    pieces.iter().enumerate().map(chunk).collect()
}

#[test]
fn writes_are_verified_and_bounded() {
    let world = World::new();
    let store = world.store("central");
    let limits = WriteLimits {
        blob: 4 << 20,
        call: 6 << 20,
    };
    let open = peer(world.serve(BlobService::new(store.clone()).with_writes(limits)));
    let closed = world.serve_store(&store);
    let peers = world.peers(None);
    let write = |to: &Peer, chunks: Vec<BlobChunk>| {
        world.runtime.block_on(async {
            let mut client = peers.get(to).unwrap().client();
            let sent = client.write(tokio_stream::iter(chunks)).await;
            sent.map(|answer| answer.into_inner())
                .map_err(|status| status.code())
        })
    };
    let (small, large) = (noise(1, 100), noise(2, 3 << 20));
    let digests = [Digest::of(&small), Digest::of(&large)];
    let both = [chunks(digests[0], &small), chunks(digests[1], &large)].concat();
    let written = write(&open, both.clone()).unwrap();
    assert_eq!((written.blobs, written.bytes), (2, 100 + (3 << 20)));
    assert_eq!(store.read(&digests[1]).unwrap(), large);
    assert_eq!(write(&closed, both), Err(Code::Unimplemented));

    let other = noise(3, 2 << 20);
    let digest = Digest::of(&other);
    let wrong = chunks(digest, &noise(4, 2 << 20));
    assert_eq!(write(&open, wrong), Err(Code::InvalidArgument));
    let cut = chunks(digest, &other)[..1].to_vec();
    assert_eq!(write(&open, cut), Err(Code::InvalidArgument));
    let longer = [chunks(digest, &other), chunks(digest, &other)[1..].to_vec()].concat();
    assert_eq!(write(&open, longer), Err(Code::InvalidArgument));
    assert_eq!(
        write(&open, vec![BlobChunk::default()]),
        Err(Code::InvalidArgument)
    );
    let too_large = noise(5, 5 << 20);
    let too_large = chunks(Digest::of(&too_large), &too_large);
    assert_eq!(write(&open, too_large), Err(Code::ResourceExhausted));
    let three: Vec<_> = (6..9)
        .flat_map(|n| {
            let bytes = noise(n, 3 << 20);
            chunks(Digest::of(&bytes), &bytes)
        })
        .collect();
    assert_eq!(write(&open, three), Err(Code::ResourceExhausted));
    // A bomb: a piece that would unpack to far more than a piece may be.
    let bomb = zstd::bulk::compress(&vec![0; 512 << 20], 1).unwrap();
    let bomb = BlobChunk {
        digest: wire(&digest),
        size: 1 << 20,
        data: bomb.into(),
        zstd: true,
        last: true,
        ..BlobChunk::default()
    };
    assert_eq!(write(&open, vec![bomb]), Err(Code::InvalidArgument));
    assert_clean(&store);
}
