//! The services in front of a host.

use std::{pin::Pin, sync::Arc, time::Duration};

use bytes::Bytes;
use dagrun_model::Digest;
use dagrun_proto::v1::{
    CancelRun, Cancelled, ClusterStatus, DrainWorker, Drained, FindResults, FindStudies, FollowRun,
    FoundResults, ListRuns, RunList, RunRecords, StatusRequest, StudyLog, Submission, Submitted,
    cluster_server::Cluster, runs_server::Runs,
};
use dagrun_store::ActionEntry;
use futures_util::Stream;
use tokio::sync::mpsc::{Sender, channel};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use super::{Batch, Refusal, RunHost};

/// How often a run that is followed is looked at for news.
const LOOK: Duration = Duration::from_millis(50);
/// Messages of records that may wait for a slow reader.
const WAITING: usize = 4;

/// The `Runs` service.
#[derive(Debug)]
pub struct RunsService<H>(Arc<H>);

/// The `Cluster` service.
#[derive(Debug)]
pub struct ClusterService<H>(Arc<H>);

impl<H: RunHost> RunsService<H> {
    /// The service in front of a host.
    pub fn new(host: Arc<H>) -> Self {
        Self(host)
    }
}

impl<H: RunHost> ClusterService<H> {
    /// The service in front of a host.
    pub fn new(host: Arc<H>) -> Self {
        Self(host)
    }
}

impl From<Refusal> for Status {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Unknown(why) => Self::not_found(why),
            Refusal::Invalid(why) => Self::invalid_argument(why),
            Refusal::Trouble(why) => Self::internal(why),
        }
    }
}

/// Asks a host off the threads of the network.
async fn ask<H: RunHost, T: Send + 'static>(
    host: &Arc<H>,
    question: impl FnOnce(Arc<H>) -> T + Send + 'static,
) -> Result<T, Status> {
    let host = Arc::clone(host);
    tokio::task::spawn_blocking(move || question(host))
        .await
        .map_err(|_| Status::internal("the coordinator failed to answer; its log says more"))
}

fn digests(texts: &[Bytes]) -> Result<Vec<Digest>, Status> {
    let digest = |bytes: &Bytes| <[u8; 32]>::try_from(bytes.as_ref()).map(Digest);
    let digests: Result<_, _> = texts.iter().map(digest).collect();
    digests.map_err(|_| Status::invalid_argument("a digest has 32 bytes"))
}

/// Bytes of a study's log in one message.
const PIECE: usize = 1 << 20;

type StudyLogs = Pin<Box<dyn Stream<Item = Result<StudyLog, Status>> + Send>>;
type Records = Pin<Box<dyn Stream<Item = Result<RunRecords, Status>> + Send>>;

#[tonic::async_trait]
impl<H: RunHost> Runs for RunsService<H> {
    async fn submit(&self, request: Request<Submission>) -> Result<Response<Submitted>, Status> {
        let submission = request.into_inner();
        let run = ask(&self.0, |host| host.submit(submission)).await??;
        Ok(Response::new(Submitted { run }))
    }

    type FollowStream = Records;

    async fn follow(&self, request: Request<FollowRun>) -> Result<Response<Records>, Status> {
        let FollowRun {
            run,
            from,
            until_now,
        } = request.into_inner();
        let host = Arc::clone(&self.0);
        let (sender, receiver) = channel(WAITING);
        tokio::spawn(follow(host, run, from, until_now, sender));
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }

    async fn cancel(&self, request: Request<CancelRun>) -> Result<Response<Cancelled>, Status> {
        let CancelRun { run, kill } = request.into_inner();
        let was = ask(&self.0, move |host| host.cancel(&run, kill)).await??;
        Ok(Response::new(Cancelled { was }))
    }

    async fn list(&self, request: Request<ListRuns>) -> Result<Response<RunList>, Status> {
        let all = request.into_inner().all;
        let runs = ask(&self.0, move |host| host.list(all)).await?;
        Ok(Response::new(RunList { runs }))
    }

    async fn results(
        &self,
        request: Request<FindResults>,
    ) -> Result<Response<FoundResults>, Status> {
        let actions = digests(&request.into_inner().actions)?;
        let found = ask(&self.0, move |host| host.results(&actions)).await??;
        let entries = found.iter().map(|entry| {
            let bytes = entry.as_ref().map(ActionEntry::to_bytes);
            bytes.unwrap_or_default().into()
        });
        let entries = entries.collect();
        Ok(Response::new(FoundResults { entries }))
    }

    type StudiesStream = StudyLogs;

    async fn studies(&self, request: Request<FindStudies>) -> Result<Response<StudyLogs>, Status> {
        let run = request.into_inner().run;
        let logs = ask(&self.0, move |host| host.studies(&run)).await??;
        let pieces = logs.into_iter().flat_map(|(study, log)| {
            let log = Bytes::from(log);
            let pieces = (0..log.len()).step_by(PIECE);
            let piece = move |at: usize| log.slice(at..log.len().min(at + PIECE));
            pieces.map(piece).map(move |piece| StudyLog {
                study: study.clone(),
                piece,
            })
        });
        let stream = tokio_stream::iter(pieces.map(Ok));
        Ok(Response::new(Box::pin(stream)))
    }
}

#[tonic::async_trait]
impl<H: RunHost> Cluster for ClusterService<H> {
    async fn status(&self, _: Request<StatusRequest>) -> Result<Response<ClusterStatus>, Status> {
        Ok(Response::new(ask(&self.0, |host| host.status()).await?))
    }

    async fn drain(&self, request: Request<DrainWorker>) -> Result<Response<Drained>, Status> {
        let worker = request.into_inner().worker;
        let drained = ask(&self.0, move |host| host.drain(&worker)).await??;
        Ok(Response::new(drained))
    }
}

/// Sends the records of a run as they come, until it ends, nobody listens, or, `until_now`, there are no more yet.
async fn follow<H: RunHost>(
    host: Arc<H>,
    run: String,
    mut from: u64,
    until_now: bool,
    sender: Sender<Result<RunRecords, Status>>,
) {
    loop {
        let asked = run.clone();
        let batch = ask(&host, move |host| host.records(&asked, from)).await;
        let Batch { records, next, end } = match batch {
            Ok(Ok(batch)) => batch,
            Ok(Err(refusal)) => return drop(sender.send(Err(refusal.into())).await),
            Err(status) => return drop(sender.send(Err(status)).await),
        };
        from = next;
        let is_over = end.is_some();
        let is_news = !records.is_empty() || is_over;
        if is_news {
            let records = records.into_iter().map(Into::into).collect();
            let message = RunRecords { records, next, end };
            if sender.send(Ok(message)).await.is_err() {
                return;
            }
        }
        if is_over || (until_now && !is_news) {
            return;
        }
        if !is_news {
            tokio::select! {
                () = tokio::time::sleep(LOOK) => {}
                () = sender.closed() => return,
            }
        }
    }
}
