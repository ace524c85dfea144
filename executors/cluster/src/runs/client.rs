//! The client's side: one object for all that a person asks of a coordinator.

use std::{collections::BTreeMap, time::Duration};

use bytes::Bytes;
use dagrun_model::{ActionDigest, Digest};
use dagrun_proto::v1::{
    BlobChunk, CancelRun, ClusterStatus, DrainWorker, FindBlobs, FindResults, FindStudies,
    FollowRun, ListRuns, RunRecords, RunRow, StatusRequest, StudyLog, Submission,
    blobs_client::BlobsClient, cluster_client::ClusterClient, runs_client,
};
use dagrun_store::ActionEntry;
use futures_util::Stream;
use tonic::{Code, Status, Streaming};

use crate::security::{Channel, Error};

/// Digests that are asked about in one request.
const ASKED: usize = 10_000;
/// The largest message that is taken: records of many nodes.
const MESSAGE: usize = 64 << 20;
/// How long an answer that needs no work may take.
const ANSWER: Duration = Duration::from_secs(30);

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// The coordinator refused it, in its own words.
    #[error("{0}")]
    Refused(String),
    /// The caller may not do this.
    #[error("{0}")]
    Forbidden(String),
    /// The coordinator cannot be reached, or went away meanwhile: trying again may help.
    #[error("the coordinator does not answer: {0}")]
    Away(String),
}

impl From<Status> for CallError {
    fn from(status: Status) -> Self {
        if let Some(error) = Error::of_status(&status) {
            return Self::Away(error.to_string());
        }
        let why = status.message().to_owned();
        match status.code() {
            Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled | Code::Unknown => {
                Self::Away(if why.is_empty() {
                    status.code().to_string()
                } else {
                    why
                })
            }
            Code::PermissionDenied | Code::Unauthenticated => Self::Forbidden(why),
            _ => Self::Refused(why),
        }
    }
}

/// A connection to a coordinator.
#[derive(Clone)]
pub struct RunsClient {
    runs: runs_client::RunsClient<Channel>,
    cluster: ClusterClient<Channel>,
    blobs: BlobsClient<Channel>,
}

impl RunsClient {
    /// A client over a channel.
    pub fn new(channel: Channel) -> Self {
        Self {
            runs: runs_client::RunsClient::new(channel.clone()).max_decoding_message_size(MESSAGE),
            cluster: ClusterClient::new(channel.clone()).max_decoding_message_size(MESSAGE),
            blobs: BlobsClient::new(channel),
        }
    }

    /// Which of these blobs the coordinator lacks.
    ///
    /// # Errors
    /// When the call fails.
    pub async fn lacking(&mut self, blobs: &[Digest]) -> Result<Vec<Digest>, CallError> {
        let mut lacking = Vec::new();
        for asked in blobs.chunks(ASKED) {
            let digests = asked
                .iter()
                .map(|digest| digest.0.to_vec().into())
                .collect();
            let found = self.blobs.find(timely(FindBlobs { digests })).await?;
            let found: std::collections::BTreeSet<Vec<u8>> = found
                .into_inner()
                .digests
                .iter()
                .map(|it| it.to_vec())
                .collect();
            lacking.extend(asked.iter().filter(|it| !found.contains(it.0.as_slice())));
        }
        Ok(lacking)
    }

    /// Sends blobs. The coordinator verifies each.
    ///
    /// # Errors
    /// When the call fails, or a blob is not what its digest says.
    pub async fn upload(
        &mut self,
        chunks: impl Stream<Item = BlobChunk> + Send + 'static,
    ) -> Result<u64, CallError> {
        Ok(self.blobs.write(chunks).await?.into_inner().bytes)
    }

    /// Submits a run and gives its id.
    ///
    /// # Errors
    /// When the call fails or the run is refused.
    pub async fn submit(&mut self, submission: Submission) -> Result<String, CallError> {
        Ok(self.runs.submit(submission).await?.into_inner().run)
    }

    /// Follows a run from a position on.
    ///
    /// # Errors
    /// When the call fails.
    pub async fn follow(
        &mut self,
        run: &str,
        from: u64,
    ) -> Result<Streaming<RunRecords>, CallError> {
        let follow = FollowRun {
            run: run.to_owned(),
            from,
            until_now: false,
        };
        Ok(self.runs.follow(follow).await?.into_inner())
    }

    /// The records of a run as far as there are any.
    ///
    /// # Errors
    /// When the call fails or there is no such run.
    pub async fn records(&mut self, run: &str) -> Result<Vec<Bytes>, CallError> {
        let follow = timely(FollowRun {
            run: run.to_owned(),
            from: 0,
            until_now: true,
        });
        let mut stream = self.runs.follow(follow).await?.into_inner();
        let mut records = Vec::new();
        while let Some(batch) = stream.message().await? {
            records.extend(batch.records);
        }
        Ok(records)
    }

    /// Stops a run, and says what it was before.
    ///
    /// # Errors
    /// When the call fails or there is no such run.
    pub async fn cancel(&mut self, run: &str, kill: bool) -> Result<String, CallError> {
        let run = run.to_owned();
        Ok(self
            .runs
            .cancel(timely(CancelRun { run, kill }))
            .await?
            .into_inner()
            .was)
    }

    /// The runs of the coordinator.
    ///
    /// # Errors
    /// When the call fails.
    pub async fn list(&mut self, all: bool) -> Result<Vec<RunRow>, CallError> {
        Ok(self
            .runs
            .list(timely(ListRuns { all }))
            .await?
            .into_inner()
            .runs)
    }

    /// What the coordinator knows that actions have made, in the order asked for.
    ///
    /// # Errors
    /// When the call fails.
    pub async fn results(
        &mut self,
        actions: &[ActionDigest],
    ) -> Result<Vec<Option<ActionEntry>>, CallError> {
        let mut found = Vec::with_capacity(actions.len());
        for asked in actions.chunks(ASKED) {
            let actions = asked.iter().map(|it| it.0.to_vec().into()).collect();
            let answer = self.runs.results(timely(FindResults { actions })).await?;
            let entries = answer.into_inner().entries;
            let entries = entries.iter().map(|bytes| ActionEntry::from_bytes(bytes));
            found.extend(entries.chain(std::iter::repeat(None)).take(asked.len()));
        }
        Ok(found)
    }

    /// The log of the study of a run's pipeline as it is now, with the name of its folder; none where it has none.
    ///
    /// # Errors
    /// When the call fails or there is no such run.
    pub async fn studies(&mut self, run: &str) -> Result<BTreeMap<String, Vec<u8>>, CallError> {
        let find = timely(FindStudies {
            run: run.to_owned(),
        });
        let mut stream = self.runs.studies(find).await?.into_inner();
        let mut logs: BTreeMap<String, Vec<u8>> = BTreeMap::new();
        while let Some(StudyLog { study, piece }) = stream.message().await? {
            logs.entry(study).or_default().extend_from_slice(&piece);
        }
        Ok(logs)
    }

    /// How the cluster is.
    ///
    /// # Errors
    /// When the call fails.
    pub async fn status(&mut self) -> Result<ClusterStatus, CallError> {
        Ok(self
            .cluster
            .status(timely(StatusRequest {}))
            .await?
            .into_inner())
    }

    /// Lets a worker go, and says how many attempts it still has.
    ///
    /// # Errors
    /// When the call fails or there is no such worker.
    pub async fn drain(&mut self, worker: &str) -> Result<u32, CallError> {
        let worker = worker.to_owned();
        Ok(self
            .cluster
            .drain(timely(DrainWorker { worker }))
            .await?
            .into_inner()
            .attempts)
    }
}

/// A request that is not waited for without end.
fn timely<T>(message: T) -> tonic::Request<T> {
    let mut request = tonic::Request::new(message);
    request.set_timeout(ANSWER);
    request
}
