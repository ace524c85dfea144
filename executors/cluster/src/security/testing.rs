//! What the tests of this module share: the protocol's calls, and clusters with certificates.

use std::{
    collections::BTreeMap,
    future::Future,
    path::{Path, PathBuf},
    pin::Pin,
    sync::{Arc, Mutex},
    time::{Duration, SystemTime},
};

use dagrun_proto::v1::{
    self, blobs_server::BlobsServer, cluster_server::ClusterServer, runs_server::RunsServer,
    workers_server::WorkersServer,
};
use prost::Message;
use prost_types::{FileDescriptorSet, field_descriptor_proto::Type};
use tokio_stream::{Stream, StreamExt};
use tonic::{Request, Response, Status, Streaming};

use super::{
    Address, Channel, Connector, Error, Expect, Gate, Limits, MESSAGE, Role, Roles, Secret, Token,
    Tokens,
    authority::{Authority, COORDINATOR, Wanted, random, roles_of_coordinator},
    caller,
};

/// The kinds of fields that tests ask about.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum FieldKind {
    String,
    Other,
}

/// A call of the protocol.
#[derive(Debug)]
pub(super) struct Method {
    pub(super) path: String,
    pub(super) first_field: Option<(String, FieldKind)>,
    pub(super) client_streaming: bool,
}

/// All calls of the protocol, by its descriptors.
pub(super) fn methods() -> Vec<Method> {
    let set = FileDescriptorSet::decode(dagrun_proto::DESCRIPTORS).unwrap();
    let mut methods = Vec::new();
    for file in &set.file {
        let package = file.package();
        for service in &file.service {
            for method in &service.method {
                let input = method.input_type().rsplit('.').next().unwrap();
                let input = file.message_type.iter().find(|it| it.name() == input);
                let first = input.unwrap().field.iter().find(|it| it.number() == 1);
                let first_field = first.map(|field| {
                    let string = field.r#type() == Type::String;
                    let kind = if string {
                        FieldKind::String
                    } else {
                        FieldKind::Other
                    };
                    (field.name().to_owned(), kind)
                });
                methods.push(Method {
                    path: format!("/{package}.{}/{}", service.name(), method.name()),
                    first_field,
                    client_streaming: method.client_streaming(),
                });
            }
        }
    }
    methods
}

/// A cluster with a CA in a folder of its own.
pub(super) struct Lab {
    folder: tempfile::TempDir,
    pub(super) authority: Authority,
}

/// Longer than any test.
pub(super) const HOUR: Duration = Duration::from_secs(3600);

impl Lab {
    /// A cluster whose coordinator has a certificate for these hosts.
    pub(super) fn new(hosts: &[&str]) -> Self {
        let folder = dagrun_testkit::scratch();
        let authority =
            Authority::create(&folder.path().join("ca"), "lab", SystemTime::now()).unwrap();
        let lab = Self { folder, authority };
        lab.renew_server(hosts, HOUR);
        lab
    }

    pub(super) fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub(super) fn server(&self) -> PathBuf {
        self.authority.server_folder()
    }

    pub(super) fn renew_server(&self, hosts: &[&str], life: Duration) {
        let wanted = Wanted {
            name: COORDINATOR,
            roles: roles_of_coordinator(),
            hosts: hosts.iter().map(ToString::to_string).collect(),
            expires: SystemTime::now() + life,
        };
        self.authority.issue(&wanted, true).unwrap();
    }

    /// The folder of a client with a certificate.
    pub(super) fn client(&self, name: &str, roles: &[Role], life: Duration) -> PathBuf {
        let wanted = Wanted {
            name,
            roles: Roles::of(roles),
            hosts: Vec::new(),
            expires: SystemTime::now() + life,
        };
        self.authority.issue(&wanted, false).unwrap()
    }

    /// A folder of a client that believes this cluster, and has no certificate.
    pub(super) fn stranger(&self, name: &str) -> PathBuf {
        let folder = self.folder().join(name);
        std::fs::create_dir(&folder).unwrap();
        std::fs::copy(self.server().join("ca.pem"), folder.join("ca.pem")).unwrap();
        folder
    }

    /// The folder of a client with a token.
    pub(super) fn holder(
        &self,
        name: &str,
        roles: &[Role],
        life: Duration,
        run: Option<&str>,
    ) -> (PathBuf, Secret) {
        let file = self.authority.tokens();
        let mut tokens = Tokens::read(&file).unwrap();
        let expires = SystemTime::now() + life;
        let run = run.map(str::to_owned);
        let (token, secret) =
            Token::new(name, Roles::of(roles), expires, run, random().unwrap()).unwrap();
        tokens.add(token).unwrap();
        tokens.write(&file).unwrap();
        let folder = self.stranger(name);
        super::files::write_new(&folder.join("token"), secret.reveal()).unwrap();
        (folder, secret)
    }

    pub(super) fn gate(&self, limits: Limits) -> Arc<Gate> {
        Gate::open(Some(&self.server()), limits).unwrap()
    }
}

/// A real server with services that do nothing.
pub(super) struct Served {
    pub(super) at: Address,
    pub(super) stub: Stub,
    pub(super) gate: Arc<Gate>,
    server: tokio::task::JoinHandle<()>,
}

impl Served {
    pub(super) async fn new(gate: &Arc<Gate>, at: &str) -> Self {
        let incoming = gate.bind(&at.parse().unwrap()).unwrap().incoming().unwrap();
        let at = incoming.at().clone();
        let stub = Stub::default();
        let server = gate
            .server()
            .add_service(WorkersServer::new(stub.clone()))
            .add_service(BlobsServer::new(stub.clone()).max_decoding_message_size(2 * MESSAGE))
            .add_service(RunsServer::new(stub.clone()))
            .add_service(ClusterServer::new(stub.clone()))
            .serve_with_incoming(incoming);
        let server = tokio::spawn(async move { server.await.unwrap() });
        Self {
            at,
            stub,
            gate: Arc::clone(gate),
            server,
        }
    }

    /// The same server by another name of this machine.
    pub(super) fn by(&self, host: &str) -> Address {
        format!("{host}:{}", self.port()).parse().unwrap()
    }

    pub(super) fn port(&self) -> u16 {
        match &self.at {
            Address::Tcp { port, .. } => *port,
            Address::Unix(_) => panic!("a unix socket has no port"),
        }
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.server.abort();
    }
}

/// Services that count and answer. `Join` answers each message with one; `Read` sends 1 MiB again and again.
#[derive(Clone, Default)]
pub(super) struct Stub(Arc<Mutex<BTreeMap<&'static str, usize>>>);

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;
type Answer<T> = Result<Response<T>, Status>;

impl Stub {
    /// How often a call came through.
    pub(super) fn reached(&self, path: &str) -> usize {
        let name = path.rsplit('.').next().unwrap();
        self.0.lock().unwrap().get(name).copied().unwrap_or(0)
    }

    fn count<T>(&self, name: &'static str, request: &Request<T>) {
        assert!(caller(request).is_some(), "{name} has no caller");
        *self.0.lock().unwrap().entry(name).or_default() += 1;
    }

    fn answer<T, A: Default>(&self, name: &'static str, request: &Request<T>) -> Answer<A> {
        self.count(name, request);
        Ok(Response::new(A::default()))
    }
}

#[tonic::async_trait]
impl v1::workers_server::Workers for Stub {
    type JoinStream = Answers<v1::ToWorker>;

    async fn join(&self, request: Request<Streaming<v1::FromWorker>>) -> Answer<Self::JoinStream> {
        self.count("Workers/Join", &request);
        let answers = request
            .into_inner()
            .map(|message| message.map(|_| v1::ToWorker::default()));
        Ok(Response::new(Box::pin(answers)))
    }
}

#[tonic::async_trait]
impl v1::blobs_server::Blobs for Stub {
    type ReadStream = Answers<v1::BlobChunk>;

    async fn read(&self, request: Request<v1::ReadBlobs>) -> Answer<Self::ReadStream> {
        self.count("Blobs/Read", &request);
        let blobs = request.into_inner().blobs.len();
        let chunk = move |_| {
            Ok(v1::BlobChunk {
                data: vec![7; 1 << 20].into(),
                ..Default::default()
            })
        };
        Ok(Response::new(Box::pin(
            tokio_stream::iter(0..blobs).map(chunk),
        )))
    }

    async fn find(&self, request: Request<v1::FindBlobs>) -> Answer<v1::FoundBlobs> {
        self.answer("Blobs/Find", &request)
    }

    async fn write(&self, request: Request<Streaming<v1::BlobChunk>>) -> Answer<v1::WrittenBlobs> {
        self.count("Blobs/Write", &request);
        let mut chunks = request.into_inner();
        let mut written = v1::WrittenBlobs::default();
        while let Some(chunk) = chunks.message().await? {
            written.bytes += chunk.data.len() as u64;
        }
        Ok(Response::new(written))
    }

    async fn spare(&self, request: Request<v1::SpareBlobs>) -> Answer<v1::SparedBlobs> {
        self.answer("Blobs/Spare", &request)
    }
}

#[tonic::async_trait]
impl v1::runs_server::Runs for Stub {
    type FollowStream = Answers<v1::RunRecords>;

    async fn submit(&self, request: Request<v1::Submission>) -> Answer<v1::Submitted> {
        self.answer("Runs/Submit", &request)
    }

    async fn follow(&self, request: Request<v1::FollowRun>) -> Answer<Self::FollowStream> {
        self.count("Runs/Follow", &request);
        Ok(Response::new(Box::pin(tokio_stream::iter([]))))
    }

    async fn cancel(&self, request: Request<v1::CancelRun>) -> Answer<v1::Cancelled> {
        self.answer("Runs/Cancel", &request)
    }

    async fn list(&self, request: Request<v1::ListRuns>) -> Answer<v1::RunList> {
        self.answer("Runs/List", &request)
    }

    async fn results(&self, request: Request<v1::FindResults>) -> Answer<v1::FoundResults> {
        self.answer("Runs/Results", &request)
    }

    type StudiesStream = Answers<v1::StudyLog>;

    async fn studies(&self, request: Request<v1::FindStudies>) -> Answer<Self::StudiesStream> {
        self.count("Runs/Studies", &request);
        Ok(Response::new(Box::pin(tokio_stream::iter([]))))
    }
}

#[tonic::async_trait]
impl v1::cluster_server::Cluster for Stub {
    async fn status(&self, request: Request<v1::StatusRequest>) -> Answer<v1::ClusterStatus> {
        self.answer("Cluster/Status", &request)
    }

    async fn drain(&self, request: Request<v1::DrainWorker>) -> Answer<v1::Drained> {
        self.answer("Cluster/Drain", &request)
    }
}

/// Makes any call with one empty message, and reads the answer to its end.
pub(super) async fn call(channel: &Channel, path: &str) -> Result<(), Status> {
    let mut client = tonic::client::Grpc::new(channel.clone());
    let ready = client.ready().await;
    ready.map_err(|error| Status::from_error(Box::new(error)))?;
    let request = Request::new(tokio_stream::once(()));
    let codec = tonic_prost::ProstCodec::<(), ()>::default();
    let mut answers = client
        .streaming(request, path.parse().unwrap(), codec)
        .await?
        .into_inner();
    while answers.message().await?.is_some() {}
    Ok(())
}

/// A call that whoever may do anything may make.
pub(super) const STATUS: &str = "/dagrun.cluster.v1.Cluster/Status";

/// Connects with the credentials of a folder.
pub(super) async fn connect(folder: &Path, to: &Address) -> Result<Channel, Error> {
    let connector = Connector::open(Some(folder), None)?;
    connector.connect(to, Expect::Coordinator).await
}

/// Connects and asks for the status.
pub(super) async fn status(folder: &Path, to: &Address) -> Result<(), String> {
    let channel = connect(folder, to)
        .await
        .map_err(|error| error.to_string())?;
    let called = call(&channel, STATUS).await;
    called.map_err(|status| format!("{:?}: {}", status.code(), status.message()))
}

/// Waits until something holds; two seconds are twice as long as a change of a file may take to be seen.
pub(super) async fn until<F: Future<Output = bool>>(what: &str, mut holds: impl FnMut() -> F) {
    let start = std::time::Instant::now();
    while !holds().await {
        assert!(start.elapsed() < Duration::from_secs(20), "never: {what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
