//! The gate: who may make which call. Every call passes it before it reaches a service.
//!
//! Owns the credentials of this side, the connections, and the limits. Knows nothing of what services do; they find the
//! [`Identity`] of the caller among the extensions of a request ([`caller`]).

use std::{
    collections::BTreeSet,
    net::IpAddr,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant, SystemTime},
};

use blake3::Hash;
use http::{HeaderMap, header::AUTHORIZATION};
use tokio::sync::Semaphore;
use tonic::Status;

use super::{
    calls::{self, About, Call},
    connection::{Connection, Connections, Peer, Room},
    error::Error,
    files::{LOOK, Watched, read_public},
    identity::{Facts, Identity, Proof, date},
    rate::{Buckets, Rate},
    service::KEEPALIVE,
    tls::ServerTls,
    tokens::{Token, Tokens},
};

/// The token file in a server's folder.
pub(super) const TOKENS: &str = "tokens";
/// The list of revoked certificates in a server's folder.
pub(super) const REVOKED: &str = "revoked";

/// How often a certificate that expires soon is spoken of.
const WARN_AGAIN: Duration = Duration::from_secs(86_400);

/// Bytes of the largest message that is taken (an action may name many files); what `max_decoding_message_size` of a service is to be, where its messages are large.
pub const MESSAGE: usize = 64 << 20;

/// What a client may ask of this side.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Connections in all.
    pub connections: usize,
    /// Connections from one address.
    pub connections_from_one: usize,
    /// Unfinished handshakes in all; more wait in the kernel's queue.
    pub handshakes: usize,
    /// Unfinished handshakes from one address; more are closed.
    pub handshakes_from_one: usize,
    /// How long a handshake may take.
    pub handshake: Duration,
    /// How long a connection may be without a call that was let in.
    pub patience: Duration,
    /// How long a client may take nothing of what is sent to it.
    pub stall: Duration,
    /// How often a client is asked whether it is there, and how long its answer may take.
    pub keepalive: (Duration, Duration),
    /// Bytes of a message.
    pub message: usize,
    /// How long a request may say nothing in its middle.
    pub silence: Duration,
    /// Calls at once on a connection.
    pub streams: u32,
    /// Bytes of a request's headers.
    pub headers: u32,
    /// Calls of one credential from one address.
    pub calls: Rate,
    /// Calls and handshakes from one address that are refused; more end the connection and are no longer logged.
    pub refusals: Rate,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 8192,
            connections_from_one: 1024,
            handshakes: 256,
            handshakes_from_one: 128,
            handshake: Duration::from_secs(5),
            patience: Duration::from_secs(30),
            stall: Duration::from_secs(30),
            keepalive: KEEPALIVE,
            message: MESSAGE,
            silence: Duration::from_secs(60),
            streams: 256,
            headers: 16 << 10,
            calls: Rate {
                each_second: 5_000.0,
                burst: 20_000.0,
            },
            refusals: Rate {
                each_second: 5.0,
                burst: 50.0,
            },
        }
    }
}

/// What a server goes by; see the module.
pub struct Gate {
    pub(super) limits: Limits,
    pub(super) tls: Option<Watched<ServerTls>>,
    tokens: Option<Watched<Tokens>>,
    revoked: Option<Watched<BTreeSet<[u8; 32]>>>,
    pub(super) connections: Arc<Connections>,
    pub(super) handshakes: Arc<Semaphore>,
    calls: Mutex<Buckets<(Proof, String, Option<IpAddr>)>>,
    refusals: Mutex<Buckets<Option<IpAddr>>>,
}

impl Gate {
    /// Opens a gate with the credentials of a folder; without one it lets in the user of this machine alone.
    pub fn open(tls: Option<&Path>, limits: Limits) -> Result<Arc<Self>, Error> {
        let tls_folder = tls.map(Path::to_path_buf);
        let watch = tls_folder.clone().map(|folder| {
            Watched::open(ServerTls::files(&folder), move || ServerTls::read(&folder))
        });
        let tokens = tls_folder.clone().map(|folder| {
            let file = folder.join(TOKENS);
            Watched::open(vec![file.clone()], move || Tokens::read(&file))
        });
        let revoked = tls_folder.map(|folder| {
            let file = folder.join(REVOKED);
            Watched::open(vec![file.clone()], move || read_revoked(&file))
        });
        Ok(Arc::new(Self {
            tls: watch.transpose()?,
            tokens: tokens.transpose()?,
            revoked: revoked.transpose()?,
            connections: Arc::default(),
            handshakes: Arc::new(Semaphore::new(limits.handshakes)),
            calls: Mutex::new(Buckets::new(limits.calls)),
            refusals: Mutex::new(Buckets::new(limits.refusals)),
            limits,
        }))
    }

    /// The cluster that this side belongs to, by its certificate.
    pub fn cluster(&self) -> Option<String> {
        self.tls.as_ref()?.get().facts.cluster.clone()
    }

    pub(super) fn room(&self) -> Room {
        Room {
            all: self.limits.connections,
            from_one: self.limits.connections_from_one,
            unfinished_from_one: self.limits.handshakes_from_one,
        }
    }

    /// Who a certificate is, that its CA's signature was verified of.
    pub(super) fn peer_of(&self, own: &Facts, certificate: Option<Result<Facts, String>>) -> Peer {
        let stranger = |why: String| Peer::Unknown { why: Some(why) };
        match certificate {
            None => Peer::Unknown { why: None },
            Some(Err(why)) => stranger(format!("the client certificate is not usable: {why}")),
            Some(Ok(facts)) if facts.cluster.is_none() => {
                stranger("the client certificate gives no role (dagrun://CLUSTER/ROLE/NAME)".into())
            }
            Some(Ok(facts)) if facts.cluster != own.cluster => stranger(format!(
                "the client certificate is for cluster `{}`, and this is `{}`",
                facts.cluster.unwrap_or_default(),
                own.cluster.as_deref().unwrap_or("?")
            )),
            Some(Ok(facts)) => Peer::Certificate(facts),
        }
    }

    /// Lets a call in, or says why not.
    pub(super) fn admit(
        &self,
        path: &str,
        headers: &HeaderMap,
        connection: &Connection,
    ) -> Result<(&'static Call, Arc<Identity>), Status> {
        let identity = self.identify(headers, connection)?;
        self.take_call(&identity, connection)?;
        let call = calls::find(path).ok_or_else(|| {
            Status::unimplemented("there is no such call; are both sides the same version?")
        })?;
        authorize(&identity, call)?;
        Ok((call, Arc::new(identity)))
    }

    fn identify(&self, headers: &HeaderMap, connection: &Connection) -> Result<Identity, Status> {
        let now = SystemTime::now();
        if let Peer::Local(identity) = connection.peer() {
            connection.admit(None);
            return Ok(identity.clone());
        }
        if let Some(secret) = bearer(headers)? {
            let token = self.token(secret, now)?;
            if !connection.admit(Some(&token)) {
                return Err(Status::resource_exhausted(
                    "too many tokens on one connection",
                ));
            }
            return Ok(Identity::of_token(&token));
        }
        match connection.peer() {
            Peer::Certificate(facts) => {
                self.check_certificate(facts, now)?;
                connection.admit(None);
                Ok(Identity::of_certificate(facts))
            }
            Peer::Unknown { why: Some(why) } => Err(Status::unauthenticated(why.clone())),
            _ => Err(Status::unauthenticated(
                "no credentials; use --tls DIR with a client.pem of this cluster, or a token by --token-file or DAGRUN_TOKEN",
            )),
        }
    }

    fn token(&self, secret: &str, now: SystemTime) -> Result<Token, Status> {
        let tokens = self.tokens.as_ref().map(Watched::get);
        let found = tokens.as_ref().and_then(|tokens| tokens.find(secret));
        let token = found.ok_or_else(|| {
            Status::unauthenticated(
                "this token is not known here: it was revoked, or belongs to another cluster; `dagrun cluster token add` makes one",
            )
        })?;
        if token.expired(now) {
            return Err(Status::unauthenticated(format!(
                "token `{}` expired at {}; `dagrun cluster token add` makes another",
                token.name,
                date(token.expires)
            )));
        }
        Ok(token.clone())
    }

    fn check_certificate(&self, facts: &Facts, now: SystemTime) -> Result<(), Status> {
        let again = "`dagrun cluster cert` makes another";
        let name = &facts.name;
        if self.is_revoked(&facts.fingerprint) {
            return Err(Status::unauthenticated(format!(
                "certificate `{name}` was revoked; {again}"
            )));
        }
        if !facts.lives(now) {
            return Err(Status::unauthenticated(format!(
                "certificate `{name}` expired at {}; {again}",
                date(facts.not_after)
            )));
        }
        Ok(())
    }

    fn is_revoked(&self, fingerprint: &Hash) -> bool {
        let revoked = self.revoked.as_ref();
        revoked.is_some_and(|list| list.get().contains(fingerprint.as_bytes()))
    }

    fn take_call(&self, identity: &Identity, connection: &Connection) -> Result<(), Status> {
        if identity.by == Proof::Local {
            return Ok(());
        }
        let from = connection.address().map(|address| address.ip());
        let key = (identity.by, identity.name.clone(), from);
        let mut calls = self.calls.lock().unwrap_or_else(PoisonError::into_inner);
        if calls.take(key, Instant::now()) {
            return Ok(());
        }
        Err(Status::resource_exhausted(format!(
            "{identity} makes more than {} calls a second; slow down",
            self.limits.calls.each_second
        )))
    }

    /// Tells the log of a refusal. Who is refused too often is cut off, and told of no more.
    pub(super) fn refused(&self, connection: &Connection, path: &str, status: &Status) {
        if self.tell(connection.address().map(|address| address.ip())) {
            let call: String = path.chars().take(80).collect();
            tracing::warn!(from = %connection.from(), %call, code = ?status.code(), why = status.message(), "refused a call");
        } else {
            connection.cut();
        }
    }

    /// Whether a refusal is still to be logged.
    pub(super) fn tell(&self, from: Option<IpAddr>) -> bool {
        let mut refusals = self.refusals.lock().unwrap_or_else(PoisonError::into_inner);
        refusals.take(from, Instant::now())
    }

    /// Cuts connections whose credentials are no longer valid.
    pub(super) fn sweep(&self) {
        if let Some(tls) = &self.tls {
            tls.get();
        }
        let now = SystemTime::now();
        for connection in self.connections.all() {
            if !connection.is_cut() && !self.still_valid(&connection, now) {
                tracing::warn!(from = %connection.from(), "cut a connection: its credential was revoked or has expired");
                connection.cut();
            }
        }
    }

    fn still_valid(&self, connection: &Connection, now: SystemTime) -> bool {
        let certificate = match connection.peer() {
            Peer::Certificate(facts) => facts.lives(now) && !self.is_revoked(&facts.fingerprint),
            _ => true,
        };
        let tokens = connection.tokens();
        certificate
            && (tokens.is_empty() || {
                let known = self.tokens.as_ref().map(Watched::get);
                known.is_some_and(|known| tokens.iter().all(|token| known.still(token, now)))
            })
    }

    fn warn_of_expiry(&self) {
        let Some(tls) = self.tls.as_ref().map(Watched::get) else {
            return;
        };
        if let Some(left) = tls.facts.ends_soon(SystemTime::now()) {
            let name = &tls.facts.name;
            let days = left.as_secs() / 86_400;
            tracing::warn!(%name, %days, "a certificate expires soon; `dagrun cluster cert NAME --renew` makes a new one, and it is used without a restart");
        }
    }

    /// Looks after the connections as long as the gate is there.
    pub(super) fn keep_watch(self: &Arc<Self>) {
        let gate = Arc::downgrade(self);
        tokio::spawn(async move {
            let mut clock = tokio::time::interval(LOOK);
            clock.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            let mut warned = Instant::now();
            loop {
                clock.tick().await;
                let Some(gate) = gate.upgrade() else { return };
                gate.sweep();
                if warned.elapsed() > WARN_AGAIN {
                    warned = Instant::now();
                    gate.warn_of_expiry();
                }
            }
        });
    }
}

/// Checks roles and scope. A call about a run is checked once more, against the run that it names.
fn authorize(identity: &Identity, call: &Call) -> Result<(), Status> {
    if !identity.roles.allow(call.role) {
        let name = call.path.rsplit('.').next().unwrap_or(call.path);
        let role = call.role;
        return Err(Status::permission_denied(format!(
            "{identity} may not call {name}, which needs the role {role}; where the CA is, {} makes one with it",
            match identity.by {
                Proof::Certificate => format!("`dagrun cluster cert NAME --role {role}`"),
                _ => format!("`dagrun cluster token add NAME --role {role}`"),
            }
        )));
    }
    match (&identity.run, call.about) {
        (Some(run), About::Cluster) => Err(Status::permission_denied(format!(
            "{identity} is for run `{run}` alone"
        ))),
        _ => Ok(()),
    }
}

/// The token of a request.
fn bearer(headers: &HeaderMap) -> Result<Option<&str>, Status> {
    let Some(value) = headers.get(AUTHORIZATION) else {
        return Ok(None);
    };
    let token = value
        .to_str()
        .ok()
        .and_then(|value| value.strip_prefix("Bearer "));
    match token {
        Some(token) => Ok(Some(token)),
        None => Err(Status::unauthenticated(
            "the authorization header is not `Bearer TOKEN`",
        )),
    }
}

/// Reads `FINGERPRINT NAME` lines; a file that is not there revokes nothing.
fn read_revoked(file: &Path) -> Result<BTreeSet<[u8; 32]>, Error> {
    if !file.exists() {
        return Ok(BTreeSet::new());
    }
    let text = read_public(file)?;
    let lines = text.lines().enumerate();
    let lines = lines.filter(|(_, line)| !line.trim().is_empty() && !line.starts_with('#'));
    lines
        .map(|(at, line)| {
            let word = line.split_ascii_whitespace().next().unwrap_or_default();
            let hash = Hash::from_hex(word).map_err(|_| {
                Error::settings(format!(
                    "{}:{}: no fingerprint of 64 hexadecimal digits",
                    file.display(),
                    at + 1
                ))
            })?;
            Ok(*hash.as_bytes())
        })
        .collect()
}
