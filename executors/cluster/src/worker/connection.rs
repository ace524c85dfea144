//! A connection to the coordinator: a task that carries words.

use std::{
    fmt::{self, Display},
    future::Future,
    time::Duration,
};

use dagrun_proto::v1::{self, workers_client::WorkersClient};
use tokio::{sync::mpsc, task::JoinHandle};
use tokio_stream::wrappers::ReceiverStream;

use crate::{
    message::{FromWorker, ToWorker},
    net::reasons,
    parts,
    pool::ConnIx,
    security::{Address, Channel, Connector, Error, Expect, MESSAGE},
    wire,
};

/// Messages that may wait to be sent.
const OUTBOX: usize = 1024;

/// A way to the coordinator; shown, it says where that is.
pub(crate) trait Way: Clone + Display + Send + Sync + 'static {
    /// Makes a connection.
    ///
    /// # Errors
    /// Why there is none.
    fn connect(&self) -> impl Future<Output = Result<Channel, Error>> + Send;
}

/// The way to a coordinator that listens on an address.
#[derive(Clone, Debug)]
pub(super) struct ByAddress {
    pub(super) address: Address,
    pub(super) connector: Connector,
}

impl Way for ByAddress {
    async fn connect(&self) -> Result<Channel, Error> {
        let expect = Expect::Coordinator;
        self.connector.connect(&self.address, expect).await
    }
}

impl Display for ByAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.address.fmt(f)
    }
}

/// What a connection brings.
#[derive(Debug)]
pub(super) enum Word {
    /// It is there.
    Connected,
    /// A message.
    Message(ToWorker),
    /// It is over, or could not be made; why.
    Closed(String),
}

/// A connection, also while it is made.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) conn: ConnIx,
    messages: mpsc::Sender<v1::FromWorker>,
    task: JoinHandle<()>,
}

impl Connection {
    /// Begins to make a connection.
    pub(super) fn make(conn: ConnIx, way: impl Way, words: mpsc::Sender<(ConnIx, Word)>) -> Self {
        let (messages, outgoing) = mpsc::channel(OUTBOX);
        let task = tokio::spawn(async move {
            let why = carry(conn, &way, outgoing, &words).await;
            let _ = words.send((conn, Word::Closed(why))).await;
        });
        Self {
            conn,
            messages,
            task,
        }
    }

    /// Sends a message.
    pub(super) fn send(&self, message: FromWorker) -> Result<(), String> {
        for part in parts::from_worker(message) {
            self.messages
                .try_send(wire::encode_from_worker(&part))
                .map_err(|_| "the coordinator does not read".to_owned())?;
        }
        Ok(())
    }

    /// Lets what was sent get out, and ends.
    pub(super) async fn finish(self, within: Duration) {
        drop(self.messages);
        let abort = self.task.abort_handle();
        if tokio::time::timeout(within, self.task).await.is_err() {
            abort.abort();
        }
    }
}

/// Carries words both ways until the connection ends; says why.
async fn carry(
    conn: ConnIx,
    way: &impl Way,
    outgoing: mpsc::Receiver<v1::FromWorker>,
    words: &mpsc::Sender<(ConnIx, Word)>,
) -> String {
    let channel = match way.connect().await {
        Ok(channel) => channel,
        Err(error) => return error.to_string(),
    };
    let mut client = WorkersClient::new(channel)
        .max_decoding_message_size(MESSAGE)
        .max_encoding_message_size(MESSAGE);
    let mut incoming = match client.join(ReceiverStream::new(outgoing)).await {
        Ok(response) => response.into_inner(),
        Err(status) => return format!("{way}: {}", words_of(&status)),
    };
    let mut word = Word::Connected;
    loop {
        // The worker is over where nobody listens.
        if words.send((conn, word)).await.is_err() {
            return String::new();
        }
        word = match incoming.message().await {
            Ok(Some(message)) => match wire::decode_to_worker(message) {
                Ok(message) => Word::Message(message),
                Err(error) => return error.to_string(),
            },
            Ok(None) => return "the coordinator closed the connection".into(),
            Err(status) => return words_of(&status),
        };
    }
}

fn words_of(status: &tonic::Status) -> String {
    if let Some(error) = Error::of_status(status) {
        return error.to_string();
    }
    match std::error::Error::source(status) {
        Some(source) => reasons(source),
        None => status.message().to_owned(),
    }
}
