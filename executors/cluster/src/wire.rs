//! Messages as protobuf, and back.
//!
//! Owns: the conversion between [`crate::message`] and `dagrun_proto::v1`. What only dagrun itself reads (actions, results) is
//! JSON within: both ends are the same version.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use dagrun_executor_api::FullDisk;
use dagrun_model::{AttemptId, Digest, Resources};
use dagrun_proto::v1::{self, from_worker, to_worker};
use prost::bytes::Bytes;
use rustc_hash::FxHashMap;

use crate::message::{
    AttemptRef, Beat, Ended, Extra, FromWorker, Held, Hello, How, Identity, Incarnation, Platform,
    Progress, Refusal, StartAttempt, ToWorker, Welcome,
};

/// A message that makes no sense.
#[derive(Debug, thiserror::Error)]
#[error("a message cannot be read: {0}")]
pub struct WireError(String);

type Result<T> = std::result::Result<T, WireError>;

fn lacks(what: &str) -> WireError {
    WireError(format!("it has no {what}"))
}

fn bad(what: &str) -> impl Fn(serde_json::Error) -> WireError {
    move |error| WireError(format!("{what}: {error}"))
}

// --- what workers say --------------------------------------------------------------------------

/// A worker's message as protobuf.
pub fn encode_from_worker(message: &FromWorker) -> v1::FromWorker {
    use from_worker::Message;
    let message = match message {
        FromWorker::Hello(hello) => Message::Hello(encode_hello(hello)),
        FromWorker::Beat(beat) => Message::Beat(encode_beat(beat)),
        FromWorker::Progress(progress) => Message::Progress(encode_progress(progress)),
        FromWorker::Leaving(reason) => Message::Leaving(v1::Leaving {
            reason: reason.clone(),
        }),
    };
    v1::FromWorker {
        message: Some(message),
    }
}

/// A worker's message.
///
/// # Errors
/// When it is empty or malformed.
pub fn decode_from_worker(message: v1::FromWorker) -> Result<FromWorker> {
    use from_worker::Message;
    Ok(match message.message.ok_or_else(|| lacks("content"))? {
        Message::Hello(hello) => FromWorker::Hello(Box::new(decode_hello(hello)?)),
        Message::Beat(beat) => FromWorker::Beat(decode_beat(beat)),
        Message::Progress(progress) => FromWorker::Progress(decode_progress(progress)?),
        Message::Leaving(leaving) => FromWorker::Leaving(leaving.reason),
    })
}

fn encode_hello(hello: &Hello) -> v1::Hello {
    let worker = &hello.worker;
    v1::Hello {
        version: worker.version.clone(),
        name: worker.name.clone(),
        host: worker.host.clone(),
        incarnation: Bytes::copy_from_slice(&worker.incarnation.0),
        epoch: hello.epoch,
        capacity: Some(encode_resources(&worker.capacity)),
        labels: worker.labels.clone().into_iter().collect(),
        profile: worker.profile.clone().unwrap_or_default(),
        blobs: worker.blobs.clone(),
        speed: worker.speed,
        ahead: worker.ahead,
        held: hello.held.iter().map(encode_held).collect(),
        os: worker.platform.os.clone(),
        arch: worker.platform.arch.clone(),
        boot: worker.boot.clone(),
        pid: worker.pid,
    }
}

fn decode_hello(hello: v1::Hello) -> Result<Hello> {
    let incarnation = hello.incarnation.as_ref().try_into();
    let incarnation = incarnation.map_err(|_| lacks("incarnation of 16 bytes"))?;
    let worker = Identity {
        version: hello.version,
        platform: Platform {
            os: hello.os,
            arch: hello.arch,
        },
        name: hello.name,
        host: hello.host,
        incarnation: Incarnation(incarnation),
        capacity: decode_resources(hello.capacity.ok_or_else(|| lacks("capacity"))?),
        labels: hello.labels.into_iter().collect(),
        profile: Some(hello.profile).filter(|profile| !profile.is_empty()),
        blobs: hello.blobs,
        speed: hello.speed,
        ahead: hello.ahead,
        boot: hello.boot,
        pid: hello.pid,
    };
    Ok(Hello {
        worker: Arc::new(worker),
        epoch: hello.epoch,
        held: hello
            .held
            .into_iter()
            .map(decode_held)
            .collect::<Result<_>>()?,
    })
}

fn encode_held(held: &Held) -> v1::Held {
    v1::Held {
        attempt: Some(encode_ref(&held.attempt)),
        action: encode_digest(&held.action),
        started: held.started,
        ended: held.ended,
        resources: Some(encode_resources(&held.resources)),
        limited: held.limited.clone().into_iter().collect(),
        ran_us: u64::try_from(held.ran.as_micros()).unwrap_or(u64::MAX),
    }
}

fn decode_held(held: v1::Held) -> Result<Held> {
    Ok(Held {
        attempt: decode_ref(held.attempt)?,
        action: decode_digest(&held.action)?,
        started: held.started,
        ended: held.ended,
        resources: decode_resources(held.resources.ok_or_else(|| lacks("resources"))?),
        limited: held.limited.into_iter().collect(),
        ran: Duration::from_micros(held.ran_us),
    })
}

fn encode_progress(progress: &Progress) -> v1::Progress {
    v1::Progress {
        started: encode_refs(&progress.started),
        ended: progress.ended.iter().map(encode_ended).collect(),
    }
}

fn decode_progress(progress: v1::Progress) -> Result<Progress> {
    let ended = progress.ended.into_iter().map(decode_ended);
    Ok(Progress {
        started: decode_refs(progress.started),
        ended: ended.collect::<Result<_>>()?,
    })
}

fn encode_ended(ended: &Ended) -> v1::Ended {
    let blobs = ended.extra.blobs.iter();
    v1::Ended {
        attempt: Some(encode_ref(&ended.attempt)),
        result: json(&*ended.result),
        blobs: blobs
            .map(|(digest, data)| v1::InlineBlob {
                digest: encode_digest(digest),
                data: data.clone(),
            })
            .collect(),
        fetched: ended.extra.fetched.iter().map(encode_digest).collect(),
        fetched_bytes: ended.extra.fetched_bytes,
    }
}

fn decode_ended(ended: v1::Ended) -> Result<Ended> {
    let result = serde_json::from_slice(&ended.result).map_err(bad("a result"))?;
    let blobs = ended.blobs.into_iter();
    let blobs = blobs.map(|blob| Ok((decode_digest(&blob.digest)?, blob.data)));
    let fetched = ended.fetched.iter().map(|digest| decode_digest(digest));
    Ok(Ended {
        attempt: decode_ref(ended.attempt)?,
        result: Arc::new(result),
        extra: Arc::new(Extra {
            blobs: blobs.collect::<Result<_>>()?,
            fetched: fetched.collect::<Result<_>>()?,
            fetched_bytes: ended.fetched_bytes,
        }),
    })
}

// --- what coordinators say ---------------------------------------------------------------------

/// A coordinator's message as protobuf.
pub fn encode_to_worker(message: &ToWorker) -> v1::ToWorker {
    use to_worker::Message;
    let message = match message {
        ToWorker::Welcome(welcome) => Message::Welcome(encode_welcome(welcome)),
        ToWorker::Refused(refusal) => Message::Refused(v1::Refused {
            reason: refusal.reason.clone(),
            retry: refusal.retry,
        }),
        ToWorker::Beat(beat) => Message::Beat(encode_beat(beat)),
        ToWorker::Start(starts) => Message::Start(encode_start(starts)),
        ToWorker::Stop(attempts, how) => Message::Stop(v1::Stop {
            attempts: encode_refs(attempts),
            how: encode_how(*how).into(),
        }),
        ToWorker::Settled(attempts) => Message::Settled(v1::Settled {
            attempts: encode_refs(attempts),
        }),
        ToWorker::Leave(reason) => Message::Leave(v1::Leave {
            reason: reason.clone(),
        }),
    };
    v1::ToWorker {
        message: Some(message),
    }
}

/// A coordinator's message.
///
/// # Errors
/// When it is empty or malformed.
pub fn decode_to_worker(message: v1::ToWorker) -> Result<ToWorker> {
    use to_worker::Message;
    Ok(match message.message.ok_or_else(|| lacks("content"))? {
        Message::Welcome(welcome) => ToWorker::Welcome(decode_welcome(welcome)),
        Message::Refused(refused) => ToWorker::Refused(Refusal {
            reason: refused.reason,
            retry: refused.retry,
        }),
        Message::Beat(beat) => ToWorker::Beat(decode_beat(beat)),
        Message::Start(start) => ToWorker::Start(decode_start(start)?),
        Message::Stop(stop) => {
            let how = decode_how(stop.how());
            ToWorker::Stop(decode_refs(stop.attempts), how)
        }
        Message::Settled(settled) => ToWorker::Settled(decode_refs(settled.attempts)),
        Message::Leave(leave) => ToWorker::Leave(leave.reason),
        Message::Holders(_) => return Err(WireError("an answer that nobody asked for".into())),
    })
}

fn encode_welcome(welcome: &Welcome) -> v1::Welcome {
    v1::Welcome {
        epoch: welcome.epoch,
        lease_ms: millis(welcome.lease),
        beat_ms: millis(welcome.beat),
        worker: welcome.worker,
        drop: encode_refs(&welcome.drop),
        settled: encode_refs(&welcome.settled),
    }
}

fn decode_welcome(welcome: v1::Welcome) -> Welcome {
    Welcome {
        epoch: welcome.epoch,
        lease: Duration::from_millis(welcome.lease_ms.into()),
        beat: Duration::from_millis(welcome.beat_ms.into()),
        worker: welcome.worker,
        drop: decode_refs(welcome.drop),
        settled: decode_refs(welcome.settled),
    }
}

fn millis(duration: Duration) -> u32 {
    u32::try_from(duration.as_millis()).unwrap_or(u32::MAX)
}

fn encode_start(starts: &[StartAttempt]) -> v1::Start {
    let mut peers = Peers::default();
    let attempts = starts
        .iter()
        .map(|start| v1::StartAttempt {
            attempt: Some(encode_ref(&start.attempt)),
            spec: json(&*start.spec),
            limited: start.limited.clone().into_iter().collect(),
            sources: peers.encode(&start.sources),
        })
        .collect();
    v1::Start {
        attempts,
        peers: peers.names,
    }
}

/// Names of peers, each once in a message.
#[derive(Default)]
struct Peers {
    names: Vec<String>,
    positions: FxHashMap<Arc<str>, u32>,
}

impl Peers {
    fn encode(&mut self, sources: &[(Digest, Vec<Arc<str>>)]) -> Vec<v1::BlobSource> {
        let source = |(digest, at): &(Digest, Vec<Arc<str>>)| v1::BlobSource {
            digest: encode_digest(digest),
            peers: at.iter().map(|peer| self.position(peer)).collect(),
        };
        sources.iter().map(source).collect()
    }

    fn position(&mut self, peer: &Arc<str>) -> u32 {
        let next = self.names.len() as u32;
        *self.positions.entry(peer.clone()).or_insert_with(|| {
            self.names.push(peer.to_string());
            next
        })
    }
}

fn decode_start(start: v1::Start) -> Result<Vec<StartAttempt>> {
    let peers: Vec<Arc<str>> = start.peers.into_iter().map(Arc::from).collect();
    let attempts = start.attempts.into_iter();
    attempts
        .map(|start| decode_start_attempt(start, &peers))
        .collect()
}

fn decode_start_attempt(start: v1::StartAttempt, peers: &[Arc<str>]) -> Result<StartAttempt> {
    let sources = start.sources.into_iter().map(|source| {
        let at = source.peers.iter();
        let at = at.filter_map(|peer| peers.get(*peer as usize).cloned());
        Ok((decode_digest(&source.digest)?, at.collect()))
    });
    Ok(StartAttempt {
        attempt: decode_ref(start.attempt)?,
        spec: Arc::new(serde_json::from_slice(&start.spec).map_err(bad("an attempt"))?),
        limited: start.limited.into_iter().collect(),
        sources: sources.collect::<Result<_>>()?,
    })
}

fn encode_how(how: How) -> v1::stop::How {
    match how {
        How::Terminate => v1::stop::How::Terminate,
        How::Kill => v1::stop::How::Kill,
        How::Recall => v1::stop::How::Recall,
    }
}

fn decode_how(how: v1::stop::How) -> How {
    match how {
        v1::stop::How::Terminate => How::Terminate,
        v1::stop::How::Kill => How::Kill,
        v1::stop::How::Recall => How::Recall,
    }
}

// --- parts -------------------------------------------------------------------------------------

fn encode_ref(attempt: &AttemptRef) -> v1::AttemptRef {
    v1::AttemptRef {
        run: attempt.run.to_string(),
        attempt: attempt.attempt.0,
    }
}

fn decode_ref(attempt: Option<v1::AttemptRef>) -> Result<AttemptRef> {
    let attempt = attempt.ok_or_else(|| lacks("attempt"))?;
    Ok(AttemptRef {
        run: attempt.run.into(),
        attempt: AttemptId(attempt.attempt),
    })
}

fn encode_refs(attempts: &[AttemptRef]) -> Vec<v1::AttemptRef> {
    attempts.iter().map(encode_ref).collect()
}

fn decode_refs(attempts: Vec<v1::AttemptRef>) -> Vec<AttemptRef> {
    let attempts = attempts.into_iter();
    attempts
        .map(|attempt| AttemptRef {
            run: attempt.run.into(),
            attempt: AttemptId(attempt.attempt),
        })
        .collect()
}

fn encode_digest(digest: &Digest) -> Bytes {
    Bytes::copy_from_slice(&digest.0)
}

/// What only dagrun reads.
fn json(value: &impl serde::Serialize) -> Bytes {
    serde_json::to_vec(value).expect("it is plain data").into()
}

fn decode_digest(bytes: &[u8]) -> Result<Digest> {
    let bytes = bytes.try_into().map(Digest);
    bytes.map_err(|_| WireError("a digest is not 32 bytes long".into()))
}

fn encode_beat(beat: &Beat) -> v1::Beat {
    v1::Beat {
        number: beat.number,
        answer: beat.answer,
        free_bytes: beat.free_bytes,
        full: beat.full.as_ref().map(encode_full),
    }
}

/// A disk without room, on the wire.
pub fn encode_full(full: &FullDisk) -> v1::FullDisk {
    v1::FullDisk {
        folder: full.folder.clone(),
        free_bytes: full.free,
        total_bytes: full.total,
        no_inodes: full.no_inodes,
    }
}

/// A disk without room, from the wire.
pub fn decode_full(full: v1::FullDisk) -> FullDisk {
    FullDisk {
        folder: full.folder,
        free: full.free_bytes,
        total: full.total_bytes,
        no_inodes: full.no_inodes,
    }
}

fn decode_beat(beat: v1::Beat) -> Beat {
    Beat {
        number: beat.number,
        answer: beat.answer,
        free_bytes: beat.free_bytes,
        full: beat.full.map(decode_full),
    }
}

fn encode_resources(resources: &Resources) -> v1::Resources {
    v1::Resources {
        cpu_milli: resources.cpu_milli,
        memory: resources.memory,
        named: resources.named.clone().into_iter().collect(),
    }
}

fn decode_resources(resources: v1::Resources) -> Resources {
    Resources {
        cpu_milli: resources.cpu_milli,
        memory: resources.memory,
        named: BTreeMap::from_iter(resources.named),
    }
}
