//! Who somebody is: read from a certificate, a token, or the fact of being on this machine.
//!
//! A certificate says it in URIs of its subject alternative names, `dagrun://CLUSTER/ROLE/NAME`, one for each role.

use std::{
    fmt,
    time::{Duration, SystemTime},
};

use blake3::Hash;
use tokio_rustls::rustls::pki_types::CertificateDer;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use super::{
    roles::{Role, Roles},
    tokens::{Token, check_name},
};

/// What URIs of dagrun in certificates begin with.
const SCHEME: &str = "dagrun://";

/// By what somebody showed who they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Proof {
    /// They are on this machine, as its user.
    Local,
    /// A certificate of the cluster's CA.
    Certificate,
    /// A token.
    Token,
}

/// Who makes a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The name, for people and logs.
    pub name: String,
    /// What they may do.
    pub roles: Roles,
    /// The only run that their credential is for.
    pub run: Option<String>,
    /// By what they showed it.
    pub by: Proof,
}

impl Identity {
    /// The user of this machine, who may do everything: they could do it without us.
    pub(super) fn local(uid: u32) -> Self {
        Self {
            name: format!("uid {uid}"),
            roles: Roles::of(&[Role::Admin]),
            run: None,
            by: Proof::Local,
        }
    }

    pub(super) fn of_token(token: &Token) -> Self {
        Self {
            name: token.name.clone(),
            roles: token.roles,
            run: token.run.clone(),
            by: Proof::Token,
        }
    }

    pub(super) fn of_certificate(facts: &Facts) -> Self {
        Self {
            name: facts.name.clone(),
            roles: facts.roles,
            run: None,
            by: Proof::Certificate,
        }
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            name, roles, by, ..
        } = self;
        match by {
            Proof::Local => write!(f, "local user ({name})"),
            Proof::Certificate => write!(f, "certificate `{name}` ({roles})"),
            Proof::Token => write!(f, "token `{name}` ({roles})"),
        }
    }
}

/// What a certificate says that dagrun goes by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// The cluster; none for a certificate that was not made for dagrun.
    pub cluster: Option<String>,
    /// Whose it is.
    pub name: String,
    /// What its holder may do.
    pub roles: Roles,
    /// Hosts that it is for.
    pub hosts: Vec<String>,
    /// When it begins.
    pub not_before: SystemTime,
    /// When it ends.
    pub not_after: SystemTime,
    /// BLAKE3 of the certificate: what it is revoked by.
    pub fingerprint: Hash,
}

impl Facts {
    /// Reads a certificate. It says nothing about who signed it.
    pub fn of(certificate: &CertificateDer<'_>) -> Result<Self, String> {
        let (_, parsed) = X509Certificate::from_der(certificate)
            .map_err(|error| format!("it is no X.509 certificate: {error}"))?;
        let names = parsed
            .subject_alternative_name()
            .map_err(|error| format!("its alternative names cannot be read: {error}"))?;
        let names = names.map_or(&[][..], |names| &names.value.general_names);
        let mut facts = Self {
            cluster: None,
            name: String::new(),
            roles: Roles::none(),
            hosts: names.iter().filter_map(host).collect(),
            not_before: time(parsed.validity().not_before.timestamp()),
            not_after: time(parsed.validity().not_after.timestamp()),
            fingerprint: blake3::hash(certificate),
        };
        for name in names {
            if let GeneralName::URI(uri) = name
                && let Some(rest) = uri.strip_prefix(SCHEME)
            {
                facts.take(rest).map_err(|why| format!("`{uri}`: {why}"))?;
            }
        }
        Ok(facts)
    }

    fn take(&mut self, rest: &str) -> Result<(), String> {
        let parts: Vec<_> = rest.split('/').collect();
        let [cluster, role, name] = parts[..] else {
            return Err("write dagrun://CLUSTER/ROLE/NAME".into());
        };
        check_name(cluster).map_err(|error| error.message)?;
        check_name(name).map_err(|error| error.message)?;
        let role = Role::parse(role).ok_or_else(|| format!("unknown role `{role}`"))?;
        if self
            .cluster
            .as_deref()
            .is_some_and(|other| other != cluster)
            || (!self.name.is_empty() && self.name != name)
        {
            return Err("a certificate is for one name in one cluster".into());
        }
        self.cluster = Some(cluster.to_owned());
        self.name = name.to_owned();
        self.roles = self.roles.with(role);
        Ok(())
    }

    /// Whether it is valid now: through the whole of its last second, as certificates are.
    pub(super) fn lives(&self, now: SystemTime) -> bool {
        self.not_before <= now && now < self.not_after + Duration::from_secs(1)
    }

    /// How long it lives yet, where that is so little that somebody should renew it: a quarter of its life, 30 days at most.
    pub(super) fn ends_soon(&self, now: SystemTime) -> Option<Duration> {
        let left = self.not_after.duration_since(now).unwrap_or_default();
        let life = self
            .not_after
            .duration_since(self.not_before)
            .unwrap_or_default();
        (left < (life / 4).min(Duration::from_secs(30 * 86_400))).then_some(left)
    }
}

/// The URI that gives a role.
pub(super) fn uri(cluster: &str, role: Role, name: &str) -> String {
    format!("{SCHEME}{cluster}/{role}/{name}")
}

fn host(name: &GeneralName<'_>) -> Option<String> {
    match name {
        GeneralName::DNSName(name) => Some((*name).to_owned()),
        GeneralName::IPAddress(bytes) => match bytes.len() {
            4 => <[u8; 4]>::try_from(*bytes)
                .ok()
                .map(|ip| std::net::Ipv4Addr::from(ip).to_string()),
            _ => <[u8; 16]>::try_from(*bytes)
                .ok()
                .map(|ip| std::net::Ipv6Addr::from(ip).to_string()),
        },
        _ => None,
    }
}

fn time(seconds: i64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(u64::try_from(seconds).unwrap_or(0))
}

/// A time as people read it.
pub(super) fn date(time: SystemTime) -> String {
    humantime::format_rfc3339_seconds(time).to_string()
}
