//! One request to one peer: from its chunks to blobs in the store.
//!
//! A task takes messages off the connection, and a thread hashes and writes them; a few chunks lie between, so that a slow disk
//! holds back the sender.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use dagrun_model::Digest;
use dagrun_proto::v1::{BlobChunk, ReadBlob, ReadBlobs};
use dagrun_store::{Incoming, Store, StoreError};
use futures_util::{FutureExt, Stream, StreamExt};
use rustc_hash::FxHashSet;
use tokio::{
    sync::mpsc,
    task::spawn_blocking,
    time::{sleep, sleep_until, timeout},
};

use super::{
    CHUNK, Peer,
    assemble::{Assembler, Fault, Step},
    fetch::Inner,
    jitter,
    peers::Known,
    wire,
};

/// Bundles of chunks between the connection and the disk.
const AHEAD: usize = 4;
/// Bytes, and small chunks, that make a bundle.
const BUNDLE: (usize, usize) = (CHUNK, 256);
/// How often to look whether another process has a blob that it receives.
const LOOK: Duration = Duration::from_millis(100);
/// How long to wait for it.
const WAIT: Duration = Duration::from_secs(600);

/// A request to make.
pub(super) struct Order {
    pub(super) peer: Peer,
    pub(super) blobs: Vec<Digest>,
    /// What is there of the first blob.
    pub(super) partial: Option<Partial>,
    /// How long the peer may say nothing.
    pub(super) patience: Duration,
    /// The peer is to get what it has not.
    pub(super) relay: bool,
}

/// Bytes of a blob whose end has not come.
pub(super) struct Partial {
    incoming: Incoming,
    /// Whose bytes they are; `None` is a process of this host that died.
    from: Vec<Option<Peer>>,
}

impl Partial {
    /// Whether all of it came from this peer.
    pub(super) fn is_of(&self, peer: &Peer) -> bool {
        self.from.iter().all(|from| from.as_ref() == Some(peer))
    }

    pub(super) fn of_another(incoming: Incoming) -> Self {
        let from = if incoming.size() > 0 {
            vec![None]
        } else {
            Vec::new()
        };
        Self { incoming, from }
    }
}

/// What came of a request.
pub(super) struct ReadEnd {
    pub(super) peer: Peer,
    pub(super) stored: Vec<(Digest, u64)>,
    pub(super) missing: Vec<Digest>,
    pub(super) wrong: Vec<Digest>,
    /// Another process of this host receives them.
    pub(super) busy: Vec<Digest>,
    pub(super) no_room: Vec<(Digest, StoreError)>,
    /// Nothing was said of these, or not to the end.
    pub(super) left: Vec<Digest>,
    pub(super) partial: Option<(Digest, Partial)>,
    /// A blob of which another peer had sent a part.
    pub(super) mixed: Option<Digest>,
    pub(super) broke: Option<String>,
    /// The store cannot take what arrives.
    pub(super) fatal: Option<StoreError>,
    received: bool,
}

impl ReadEnd {
    fn new(peer: &Peer, blobs: &[Digest]) -> Self {
        Self {
            peer: peer.clone(),
            stored: Vec::new(),
            missing: Vec::new(),
            wrong: Vec::new(),
            busy: Vec::new(),
            no_room: Vec::new(),
            left: blobs.to_vec(),
            partial: None,
            mixed: None,
            broke: None,
            fatal: None,
            received: false,
        }
    }

    pub(super) fn made_progress(&self) -> bool {
        self.received || !self.stored.is_empty()
    }
}

/// What the thread that writes has seen.
#[derive(Default)]
struct Sunk {
    stored: Vec<(Digest, u64)>,
    missing: Vec<Digest>,
    wrong: Vec<Digest>,
    busy: Vec<Digest>,
    /// What another process had received.
    resume: Option<(Digest, Incoming)>,
    partial: Option<Incoming>,
    fault: Option<Fault>,
    /// The thread stopped by itself.
    stopped: bool,
}

/// Makes a request and takes what comes of it.
pub(super) async fn read(inner: &Arc<Inner>, store: &Store, order: Order) -> ReadEnd {
    let Order {
        peer,
        blobs,
        partial,
        patience,
        relay,
    } = order;
    let mut end = ReadEnd::new(&peer, &blobs);
    let known = match inner.peers.get(&peer) {
        Ok(known) => known,
        Err(why) => {
            end.broke = Some(why);
            return end;
        }
    };
    if let Some(until) = inner.peers.rests_until(&peer) {
        sleep_until(until.into()).await;
    }
    let (Ok(_stream), Ok(_transfer)) = (
        known.streams.acquire().await,
        inner.transfers.acquire().await,
    ) else {
        return end;
    };
    let (incoming, mut from) = match partial {
        Some(Partial { incoming, from }) => (Some(incoming), from),
        None => (None, Vec::new()),
    };
    let offset = incoming.as_ref().map_or(0, Incoming::size);
    from.retain(|_| offset > 0);
    let request = request(&blobs, offset, relay);
    let (sender, receiver) = mpsc::channel(AHEAD);
    let sinking = {
        let store = store.clone();
        spawn_blocking(move || sink(store, incoming, receiver))
    };
    if let Err(breach) = receive(&known, request, patience, sender).await {
        if let Breach::Silent(_) = breach {
            inner.peers.renew(&peer, &known);
        }
        end.broke = Some(breach.to_string());
    }
    match sinking.await {
        Ok(sunk) => {
            if from.iter().any(|other| other.as_ref() != Some(&peer)) {
                end.mixed = blobs.first().copied();
            }
            from.push(Some(peer));
            take_sunk(&mut end, sunk, &blobs, offset, from);
        }
        Err(error) => end.broke = Some(error.to_string()),
    }
    match end.broke {
        Some(_) => known.failed(end.made_progress()),
        None => known.was_good(),
    }
    end
}

fn request(blobs: &[Digest], offset: u64, relay: bool) -> ReadBlobs {
    let blobs = blobs.iter().enumerate().map(|(at, digest)| ReadBlob {
        digest: wire(digest),
        offset: if at == 0 { offset } else { 0 },
    });
    ReadBlobs {
        blobs: blobs.collect(),
        zstd: true,
        relay,
    }
}

/// Why a stream did not come to its end.
#[derive(Debug, thiserror::Error)]
enum Breach {
    #[error("it sent nothing for {} s", .0.as_secs_f32())]
    Silent(Duration),
    #[error("{0}")]
    Broke(#[from] tonic::Status),
}

/// Hands what arrives to the thread that writes it, until all has come.
async fn receive(
    known: &Known,
    request: ReadBlobs,
    patience: Duration,
    sender: mpsc::Sender<Vec<BlobChunk>>,
) -> Result<(), Breach> {
    let silent = |_| Breach::Silent(patience);
    let mut client = known.client();
    let answer = timeout(patience, client.read(request));
    let mut chunks = answer.await.map_err(silent)??.into_inner();
    loop {
        let next = timeout(patience, chunks.next()).await.map_err(silent)?;
        let (bundle, end) = bundle(next, &mut chunks);
        // Before a breach is told of: what came is good.
        if !bundle.is_empty() && sender.send(bundle).await.is_err() {
            // The thread has stopped; what it says counts.
            return Ok(());
        }
        match end {
            None => {}
            Some(Ok(())) => return Ok(()),
            Some(Err(status)) => return Err(status.into()),
        }
    }
}

/// What has arrived and fits into a bundle, and how the stream ended if it did. Waking a thread costs more than a small blob.
fn bundle(
    mut next: Option<Result<BlobChunk, tonic::Status>>,
    chunks: &mut (impl Stream<Item = Result<BlobChunk, tonic::Status>> + Unpin),
) -> (Vec<BlobChunk>, Option<Result<(), tonic::Status>>) {
    let mut bundle = Vec::new();
    let mut bytes = 0;
    loop {
        match next {
            None => return (bundle, Some(Ok(()))),
            Some(Err(status)) => return (bundle, Some(Err(status))),
            Some(Ok(chunk)) => {
                bytes += chunk.data.len();
                bundle.push(chunk);
            }
        }
        if bytes >= BUNDLE.0 || bundle.len() >= BUNDLE.1 {
            return (bundle, None);
        }
        match chunks.next().now_or_never() {
            Some(arrived) => next = arrived,
            None => return (bundle, None),
        }
    }
}

fn sink(
    store: Store,
    incoming: Option<Incoming>,
    mut chunks: mpsc::Receiver<Vec<BlobChunk>>,
) -> Sunk {
    let mut sunk = Sunk::default();
    let mut assembler = match Assembler::new(store, u64::MAX, true, incoming) {
        Ok(assembler) => assembler,
        Err(error) => {
            sunk.fault = Some(Fault::Sender(error.to_string()));
            return sunk;
        }
    };
    let bundles = std::iter::from_fn(|| chunks.blocking_recv());
    for chunk in bundles.flatten() {
        match assembler.take(chunk) {
            Ok(Step::More) => {}
            Ok(Step::Stored(digest, size)) => sunk.stored.push((digest, size)),
            Ok(Step::Missing(digest)) => sunk.missing.push(digest),
            Ok(Step::Wrong(digest)) => sunk.wrong.push(digest),
            // To let the rest of a large blob come for nothing would cost more than to ask again.
            Ok(Step::Busy(digest)) => {
                sunk.busy.push(digest);
                sunk.stopped = true;
            }
            Ok(Step::Resume(digest, incoming)) => {
                sunk.resume = Some((digest, incoming));
                sunk.stopped = true;
            }
            Err(fault) => {
                sunk.fault = Some(fault);
                sunk.stopped = true;
            }
        }
        if sunk.stopped {
            break;
        }
    }
    sunk.partial = assembler.into_partial();
    sunk
}

fn take_sunk(
    end: &mut ReadEnd,
    sunk: Sunk,
    blobs: &[Digest],
    offset: u64,
    from: Vec<Option<Peer>>,
) {
    let spoken_of: FxHashSet<Digest> = sunk
        .stored
        .iter()
        .map(|(digest, _)| *digest)
        .chain(
            sunk.missing
                .iter()
                .chain(&sunk.wrong)
                .chain(&sunk.busy)
                .copied(),
        )
        .collect();
    end.left.retain(|digest| !spoken_of.contains(digest));
    let asked: FxHashSet<Digest> = blobs.iter().copied().collect();
    if !spoken_of.is_subset(&asked) {
        end.broke = Some("it sent blobs that were not asked for".into());
    }
    // Where the stream stands: the first blob that has not come to its end.
    let at = end.left.first().copied();
    if let (Some(incoming), Some(digest)) = (sunk.partial, at.or(blobs.first().copied())) {
        end.received = incoming.size() > offset;
        end.partial = Some((digest, Partial { incoming, from }));
    }
    if let Some((digest, incoming)) = sunk.resume {
        end.received = true;
        end.partial = Some((digest, Partial::of_another(incoming)));
    }
    end.stored = sunk.stored;
    end.missing = sunk.missing;
    end.wrong = sunk.wrong;
    end.busy = sunk.busy;
    match sunk.fault {
        None if sunk.stopped => end.broke = None,
        None if end.broke.is_none() && !end.left.is_empty() => {
            end.broke = Some("it ended before all was sent".into());
        }
        None => {}
        Some(Fault::Sender(what)) => end.broke = Some(what),
        Some(Fault::NoRoom(error)) => no_room(end, error),
        Some(Fault::TooLarge(digest, size)) => {
            end.broke = Some(format!(
                "blob {digest} of {size} bytes is larger than any may be"
            ));
        }
        Some(Fault::Store(error)) => end.fatal = Some(error),
    }
}

/// Whoever sent it may have lied about its size: others are asked too.
fn no_room(end: &mut ReadEnd, error: StoreError) {
    if !end.left.is_empty() {
        let digest = end.left.remove(0);
        end.no_room.push((digest, error));
        end.partial = None;
    }
    end.broke = None;
}

/// Waits until another process of this host has a blob, or has stopped to receive it. Gives what it left.
pub(super) async fn wait_for_another(store: &Store, digest: &Digest) -> Option<Incoming> {
    let until = Instant::now() + WAIT;
    while Instant::now() < until && !store.contains(digest) {
        sleep(jitter(LOOK)).await;
        let (store, digest) = (store.clone(), *digest);
        let taken = spawn_blocking(move || store.receive_alone(&digest)).await;
        if let Ok(Ok(Some(incoming))) = taken {
            return Some(incoming);
        }
    }
    None
}
