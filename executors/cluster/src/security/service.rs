//! The gate as a layer of tonic's server, and the server's settings.

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use http::{Request, Response};
use http_body_util::{BodyExt, Full, Limited};
use prost::Message;
use tonic::{Status, body::Body, transport::Server};
use tower::{
    Layer, Service,
    layer::util::{Identity as Plain, Stack},
};

use super::{
    calls::{About, Call},
    connection::ConnectionOf,
    gate::{Gate, Limits},
    guard::Guarded,
    identity::Identity,
};

/// Bytes of a request that names a run.
const SMALL: usize = 64 << 10;

/// How often both ends of a connection ask whether the other is there, and how long they wait for the answer.
pub(super) const KEEPALIVE: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(5));

/// Windows of flow control: what a client may send ahead on a stream, and on a connection.
const WINDOWS: (u32, u32) = (1 << 20, 4 << 20);

/// Streams that a client may open and reset before they were looked at (CVE-2023-44487).
const RESETS: usize = 32;

impl Gate {
    /// A server behind the gate, with all limits set; services are added to it, and it serves what [`Gate::bind`] gives.
    pub fn server(self: &Arc<Self>) -> Server<Stack<GateLayer, Plain>> {
        self.limits.server().layer(GateLayer(Arc::clone(self)))
    }
}

impl Limits {
    /// A server with those of its limits that HTTP/2 knows.
    pub(crate) fn server(&self) -> Server {
        let (every, wait) = self.keepalive;
        Server::builder()
            .http2_keepalive_interval(Some(every))
            .http2_keepalive_timeout(Some(wait))
            .initial_stream_window_size(WINDOWS.0)
            .initial_connection_window_size(WINDOWS.1)
            .max_concurrent_streams(self.streams)
            .http2_max_header_list_size(self.headers)
            .http2_max_pending_accept_reset_streams(Some(RESETS))
    }
}

/// Who makes a call: what the gate found out. A request that passed no gate has none.
pub fn caller<T>(request: &tonic::Request<T>) -> Option<Arc<Identity>> {
    request.extensions().get::<Arc<Identity>>().cloned()
}

/// Puts the gate before services.
#[derive(Clone)]
pub struct GateLayer(Arc<Gate>);

impl<S> Layer<S> for GateLayer {
    type Service = Gated<S>;

    fn layer(&self, inner: S) -> Gated<S> {
        Gated {
            gate: Arc::clone(&self.0),
            inner,
        }
    }
}

/// Services behind the gate.
#[derive(Clone)]
pub struct Gated<S> {
    gate: Arc<Gate>,
    inner: S,
}

impl<S> Service<Request<Body>> for Gated<S>
where
    S: Service<Request<Body>, Response = Response<Body>> + Clone + Send + 'static,
    S::Future: Send,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let gate = Arc::clone(&self.gate);
        // The one that is ready goes with the call; its clone waits for the next.
        let next = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, next);
        Box::pin(async move {
            match gate.pass(request).await {
                Ok(request) => inner.call(request).await,
                Err(status) => Ok(status.into_http()),
            }
        })
    }
}

impl Gate {
    async fn pass(&self, mut request: Request<Body>) -> Result<Request<Body>, Status> {
        // A server that was not given connections of a gate lets nobody in.
        let connection = request.extensions().get::<ConnectionOf>().cloned();
        let Some(ConnectionOf(connection)) = connection else {
            return Err(Status::internal("a connection that came by no gate"));
        };
        let path = request.uri().path().to_owned();
        let passed = match self.admit(&path, request.headers(), &connection) {
            Ok((call, identity)) => {
                request.extensions_mut().insert(Arc::clone(&identity));
                let limits = &self.limits;
                let request = request
                    .map(|body| Body::new(Guarded::new(body, limits.message, limits.silence)));
                check_run(request, call, &identity).await
            }
            Err(status) => Err(status),
        };
        passed.inspect_err(|status| self.refused(&connection, &path, status))
    }
}

/// The first field of every request about a run.
#[derive(Message)]
struct NamesRun {
    #[prost(string, tag = "1")]
    run: String,
}

/// Holds a credential for one run to that run: the request is read here, before its service sees it.
async fn check_run(
    request: Request<Body>,
    call: &Call,
    identity: &Identity,
) -> Result<Request<Body>, Status> {
    let (About::Run, Some(mine)) = (call.about, &identity.run) else {
        return Ok(request);
    };
    let (parts, body) = request.into_parts();
    let whole = Limited::new(body, SMALL).collect().await;
    let whole = whole
        .map_err(|_| Status::invalid_argument("the request is not readable"))?
        .to_bytes();
    // One message: a byte that says that it is not compressed, its length, and itself.
    let run = match whole.split_first_chunk::<5>() {
        Some(([0, length @ ..], message))
            if u32::from_be_bytes(*length) as usize == message.len() =>
        {
            NamesRun::decode(message).ok().map(|names| names.run)
        }
        _ => None,
    };
    if run.as_ref() != Some(mine) {
        return Err(Status::permission_denied(format!(
            "{identity} is for run `{mine}` alone"
        )));
    }
    Ok(Request::from_parts(parts, Body::new(Full::new(whole))))
}
