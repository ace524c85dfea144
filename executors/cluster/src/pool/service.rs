//! The `Workers` service: one task for each connection, which only carries words.

use std::sync::atomic::{AtomicU64, Ordering};

use dagrun_proto::v1::{self, workers_server::Workers};
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::{ConnIx, Event};
use crate::{message::FromWorker, wire};

/// Messages that may wait to be sent to a worker; one that reads so little is hung up on.
pub(super) const OUTBOX: usize = 1024;

/// What a connection brings.
#[derive(Debug)]
pub(crate) enum Word {
    /// It is there: where to send what is for it, and what ends it when it is dropped.
    Opened(ConnIx, Outbox),
    /// What it brought.
    Event(Event),
}

/// The way to a worker. Dropped, it ends the connection after what was sent.
#[derive(Debug)]
pub(crate) struct Outbox {
    pub(super) messages: mpsc::Sender<Result<v1::ToWorker, Status>>,
    /// Ends the reading half too.
    _stop: oneshot::Sender<()>,
}

#[derive(Debug)]
pub(crate) struct Service {
    words: mpsc::Sender<Word>,
    next: AtomicU64,
}

impl Service {
    /// Connections are numbered from `first`.
    pub(super) fn new(words: mpsc::Sender<Word>, first: u64) -> Self {
        let next = AtomicU64::new(first);
        Self { words, next }
    }
}

#[tonic::async_trait]
impl Workers for Service {
    type JoinStream = ReceiverStream<Result<v1::ToWorker, Status>>;

    async fn join(
        &self,
        request: Request<Streaming<v1::FromWorker>>,
    ) -> Result<Response<Self::JoinStream>, Status> {
        let conn = ConnIx(self.next.fetch_add(1, Ordering::Relaxed));
        let (messages, outgoing) = mpsc::channel(OUTBOX);
        let (stop, stopped) = oneshot::channel();
        let outbox = Outbox {
            messages,
            _stop: stop,
        };
        self.words
            .send(Word::Opened(conn, outbox))
            .await
            .map_err(|_| Status::unavailable("the coordinator ends"))?;
        tokio::spawn(read(
            conn,
            request.into_inner(),
            self.words.clone(),
            stopped,
        ));
        Ok(Response::new(ReceiverStream::new(outgoing)))
    }
}

/// Reads a connection until it ends, or the other half of it does.
async fn read(
    conn: ConnIx,
    stream: Streaming<v1::FromWorker>,
    words: mpsc::Sender<Word>,
    stopped: oneshot::Receiver<()>,
) {
    let why = tokio::select! {
        why = read_all(conn, stream, &words) => why,
        _ = stopped => return,
    };
    let _ = words.send(Word::Event(Event::Closed(conn, why))).await;
}

async fn read_all(
    conn: ConnIx,
    mut stream: Streaming<v1::FromWorker>,
    words: &mpsc::Sender<Word>,
) -> String {
    loop {
        let message: FromWorker = match stream.message().await {
            Ok(Some(message)) => match wire::decode_from_worker(message) {
                Ok(message) => message,
                Err(error) => return error.to_string(),
            },
            Ok(None) => return "the worker closed the connection".into(),
            Err(status) => return status.message().to_owned(),
        };
        let word = Word::Event(Event::Message(conn, message));
        if words.send(word).await.is_err() {
            return "the coordinator ends".into();
        }
    }
}
