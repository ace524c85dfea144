//! A cluster's own CA: a folder with its key, and what it made for the coordinator and for everybody else.
//!
//! ```text
//! ca.pem ca.key      the CA; the key stays here
//! issued             what it signed: NAME ROLES EXPIRES FINGERPRINT
//! server/            for `dagrun serve --tls`: ca.pem server.pem server.key tokens revoked
//! clients/NAME/      for `--tls` of workers and people: ca.pem client.pem client.key
//! ```
//! Nothing is ever written over, except where something is renewed.

use std::{
    net::IpAddr,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, SanType,
};

use super::{
    error::Error,
    files,
    gate::{REVOKED, TOKENS},
    identity::{self, Facts, date},
    roles::{Role, Roles},
    tls::{CA, CLIENT, SERVER, certificates, provider},
    tokens::{Tokens, check_name, in_days},
};

/// Days that a CA lives.
pub const CA_DAYS: u32 = 3650;
/// Days that other certificates live when nobody says otherwise.
pub const DAYS: u32 = 398;
/// Days that a token lives when nobody says otherwise.
pub const TOKEN_DAYS: u32 = 90;

/// Clocks of two machines may differ so much.
const SKEW: Duration = Duration::from_secs(3600);

const ISSUED: &str = "issued";
const CA_KEY: &str = "ca.key";
const CLIENTS: &str = "clients";

/// The CA of a cluster.
pub struct Authority {
    folder: PathBuf,
    cluster: String,
    issuer: Issuer<'static, KeyPair>,
    ends: SystemTime,
}

/// A certificate to make.
#[derive(Clone, Debug)]
pub struct Wanted<'a> {
    /// Whose it is; `server` is the coordinator.
    pub name: &'a str,
    /// What its holder may do.
    pub roles: Roles,
    /// The hosts that a server is reached by.
    pub hosts: Vec<String>,
    /// When it ends.
    pub expires: SystemTime,
}

impl Authority {
    /// Founds a cluster: a CA, the coordinator's folder for these hosts, and a client's folder for each role.
    pub fn found(
        folder: &Path,
        cluster: &str,
        hosts: &[String],
        now: SystemTime,
    ) -> Result<Self, Error> {
        for host in hosts {
            host_name(host)?;
        }
        let authority = Self::create(folder, cluster, now)?;
        let expires = in_days(now, DAYS);
        let issue = |name, roles, hosts| {
            let wanted = Wanted {
                name,
                roles,
                hosts,
                expires,
            };
            authority.issue(&wanted, false)
        };
        issue(COORDINATOR, roles_of_coordinator(), hosts.to_vec())?;
        for role in Role::ALL {
            issue(role.name(), Roles::of(&[role]), Vec::new())?;
        }
        Tokens::default().write(&authority.tokens())?;
        Ok(authority)
    }

    /// Makes a CA, in a folder that is empty or not there.
    pub fn create(folder: &Path, cluster: &str, now: SystemTime) -> Result<Self, Error> {
        check_name(cluster)?;
        if folder.join(CA_KEY).exists() || folder.join(CA).exists() {
            return Err(Error::settings(format!(
                "{} has a CA already, which is never written over",
                folder.display()
            ))
            .hint(
                "name another folder; `dagrun cluster cert` makes more certificates with this one",
            ));
        }
        files::make_private_folder(folder)?;
        let key = KeyPair::generate().map_err(|error| cannot_make("the CA", &error))?;
        let mut params = CertificateParams::default();
        // Two CAs of clusters with one name are still told apart.
        let number = hex::<4>()?;
        params.distinguished_name = named(&format!("dagrun cluster {cluster} {number}"));
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.subject_alt_names = vec![uri(&identity_of_ca(cluster))?];
        live(&mut params, now, in_days(now, CA_DAYS));
        let certificate = params
            .self_signed(&key)
            .map_err(|error| cannot_make("the CA", &error))?;
        files::write_new(&folder.join(CA_KEY), &key.serialize_pem())?;
        files::write_new(&folder.join(CA), &certificate.pem())?;
        files::make_private_folder(&folder.join(CLIENTS))?;
        Self::open(folder)
    }

    /// Opens the folder of a CA.
    pub fn open(folder: &Path) -> Result<Self, Error> {
        let (file, key_file) = (folder.join(CA), folder.join(CA_KEY));
        if !key_file.exists() {
            return Err(Error::settings(format!(
                "there is no CA in {} (no {CA_KEY})",
                folder.display()
            ))
            .hint("`dagrun cluster init DIR` makes one; --dir DIR says where it is"));
        }
        let key = KeyPair::from_pem(&files::read_secret(&key_file)?).map_err(|_| {
            Error::settings(format!("{} has no private key in PEM", key_file.display()))
        })?;
        let certificate = certificates(&file)?.swap_remove(0);
        let bad = |why: String| Error::settings(format!("{}: {why}", file.display()));
        let (cluster, ends) = cluster_of_ca(&certificate).map_err(bad)?;
        let issuer =
            Issuer::from_ca_cert_der(&certificate, key).map_err(|error| bad(error.to_string()))?;
        Ok(Self {
            folder: folder.to_path_buf(),
            cluster,
            issuer,
            ends,
        })
    }

    /// When the CA itself ends, and with it all that it signed.
    pub fn ends(&self) -> SystemTime {
        self.ends
    }

    /// The cluster's name.
    pub fn cluster(&self) -> &str {
        &self.cluster
    }

    /// The folder that `dagrun serve --tls` takes.
    pub fn server_folder(&self) -> PathBuf {
        self.folder.join(SERVER)
    }

    /// The folder that `--tls` of this client takes.
    pub fn client_folder(&self, name: &str) -> PathBuf {
        self.folder.join(CLIENTS).join(name)
    }

    /// The coordinator's token file.
    pub fn tokens(&self) -> PathBuf {
        self.server_folder().join(TOKENS)
    }

    /// Makes a certificate and its folder; `renew` puts it in the place of the one that is there.
    pub fn issue(&self, wanted: &Wanted<'_>, renew: bool) -> Result<PathBuf, Error> {
        check_name(wanted.name)?;
        if wanted.roles.is_empty() {
            return Err(Error::settings(
                "a certificate without a role opens nothing",
            ));
        }
        if wanted.expires > self.ends {
            return Err(
                Error::settings(format!("the CA itself ends at {}", date(self.ends)))
                    .hint("fewer --days, or a new CA"),
            );
        }
        let (folder, pair) = self.place(wanted.name);
        let chain_file = folder.join(format!("{pair}.pem"));
        if !renew && chain_file.exists() {
            return Err(Error::settings(format!(
                "there is a certificate `{}` already",
                wanted.name
            ))
            .hint("--renew puts a new one in its place, or choose another name"));
        }
        let (certificate, key) = self.sign(wanted)?;
        self.note(wanted, &certificate)?;
        files::make_private_folder(&folder)?;
        let ca = files::read_public(&self.folder.join(CA))?;
        files::replace(&folder.join(CA), &ca)?;
        files::replace(&folder.join(format!("{pair}.key")), &key)?;
        files::replace(&chain_file, &certificate.pem())?;
        Ok(folder)
    }

    /// What the certificate of this name says now.
    pub fn facts(&self, name: &str) -> Result<Facts, Error> {
        check_name(name)?;
        let (folder, pair) = self.place(name);
        let file = folder.join(format!("{pair}.pem"));
        if !file.exists() {
            return Err(Error::settings(format!("there is no certificate `{name}`"))
                .hint(format!("known: {}", self.names().join(", "))));
        }
        let chain = certificates(&file)?;
        Facts::of(&chain[0]).map_err(|why| Error::settings(format!("{}: {why}", file.display())))
    }

    /// Revokes every certificate that was made for a name: their fingerprints go to the coordinator's list. How many they were.
    pub fn revoke(&self, name: &str) -> Result<usize, Error> {
        let issued = self.issued()?;
        let mine: Vec<_> = issued
            .iter()
            .filter(|line| line.split(' ').next() == Some(name))
            .filter_map(|line| line.split(' ').nth(3))
            .collect();
        if mine.is_empty() {
            return Err(Error::settings(format!("there is no certificate `{name}`"))
                .hint(format!("known: {}", self.names().join(", "))));
        }
        let file = self.server_folder().join(REVOKED);
        let before = if file.exists() {
            files::read_public(&file)?
        } else {
            "# FINGERPRINT NAME: certificates that are no longer believed\n".to_owned()
        };
        let new: Vec<_> = mine
            .iter()
            .filter(|mark| !before.contains(**mark))
            .collect();
        let lines: String = new.iter().map(|mark| format!("{mark} {name}\n")).collect();
        files::replace(&file, &format!("{before}{lines}"))?;
        Ok(new.len())
    }

    fn place(&self, name: &str) -> (PathBuf, &'static str) {
        if name == SERVER {
            (self.server_folder(), SERVER)
        } else {
            (self.client_folder(name), CLIENT)
        }
    }

    fn sign(&self, wanted: &Wanted<'_>) -> Result<(rcgen::Certificate, String), Error> {
        let what = format!("certificate `{}`", wanted.name);
        let key = KeyPair::generate().map_err(|error| cannot_make(&what, &error))?;
        let mut params = CertificateParams::default();
        params.distinguished_name = named(wanted.name);
        params.is_ca = IsCa::ExplicitNoCa;
        params.use_authority_key_identifier_extension = true;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        // A worker serves blobs to others, too.
        if wanted.name == SERVER || wanted.roles.iter().any(|role| role == Role::Worker) {
            params
                .extended_key_usages
                .push(ExtendedKeyUsagePurpose::ServerAuth);
        }
        for role in wanted.roles.iter() {
            let text = identity::uri(&self.cluster, role, wanted.name);
            params.subject_alt_names.push(uri(&text)?);
        }
        for host in &wanted.hosts {
            params.subject_alt_names.push(host_name(host)?);
        }
        live(&mut params, SystemTime::now(), wanted.expires);
        let certificate = params
            .signed_by(&key, &self.issuer)
            .map_err(|error| cannot_make(&what, &error))?;
        Ok((certificate, key.serialize_pem()))
    }

    /// What was signed is known before it can be used, so that it can be revoked.
    fn note(&self, wanted: &Wanted<'_>, certificate: &rcgen::Certificate) -> Result<(), Error> {
        let mut lines = self.issued()?.join("\n");
        if !lines.is_empty() {
            lines.push('\n');
        }
        let Wanted {
            name,
            roles,
            expires,
            ..
        } = wanted;
        let mark = blake3::hash(certificate.der()).to_hex();
        lines.push_str(&format!("{name} {roles} {} {mark}\n", date(*expires)));
        files::replace(&self.folder.join(ISSUED), &lines)
    }

    fn issued(&self) -> Result<Vec<String>, Error> {
        let file = self.folder.join(ISSUED);
        if !file.exists() {
            return Ok(Vec::new());
        }
        let text = files::read_public(&file)?;
        Ok(text.lines().map(str::to_owned).collect())
    }

    fn names(&self) -> Vec<String> {
        let lines = self.issued().unwrap_or_default();
        let mut names: Vec<_> = lines
            .iter()
            .filter_map(|line| Some(line.split(' ').next()?.to_owned()))
            .collect();
        names.sort();
        names.dedup();
        names
    }
}

/// The name under which the coordinator has its certificate.
pub const COORDINATOR: &str = SERVER;

/// What the coordinator may do at workers: read blobs.
pub fn roles_of_coordinator() -> Roles {
    Roles::of(&[Role::CacheRead])
}

/// 32 random bytes, of which a token is made.
pub fn random<const N: usize>() -> Result<[u8; N], Error> {
    let mut bytes = [0; N];
    provider()
        .secure_random
        .fill(&mut bytes)
        .map_err(|_| Error::settings("the system gives no random bytes"))?;
    Ok(bytes)
}

fn hex<const N: usize>() -> Result<String, Error> {
    let bytes = random::<N>()?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

fn identity_of_ca(cluster: &str) -> String {
    format!("dagrun-ca://{cluster}")
}

fn cluster_of_ca(
    certificate: &tokio_rustls::rustls::pki_types::CertificateDer<'_>,
) -> Result<(String, SystemTime), String> {
    use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};
    let facts = Facts::of(certificate)?;
    let (_, parsed) = X509Certificate::from_der(certificate).map_err(|error| error.to_string())?;
    let names = parsed
        .subject_alternative_name()
        .map_err(|error| error.to_string())?;
    let prefix = identity_of_ca("");
    let cluster = names.and_then(|names| {
        names
            .value
            .general_names
            .iter()
            .find_map(|name| match name {
                GeneralName::URI(uri) => uri.strip_prefix(&prefix).map(str::to_owned),
                _ => None,
            })
    });
    let cluster = cluster.ok_or("it is no CA that `dagrun cluster init` made")?;
    check_name(&cluster).map_err(|error| error.message)?;
    Ok((cluster, facts.not_after))
}

fn named(name: &str) -> DistinguishedName {
    let mut distinguished = DistinguishedName::new();
    distinguished.push(DnType::CommonName, name);
    distinguished
}

fn uri(text: &str) -> Result<SanType, Error> {
    let text = text
        .try_into()
        .map_err(|_| Error::settings(format!("`{text}` cannot be in a certificate")))?;
    Ok(SanType::URI(text))
}

fn host_name(host: &str) -> Result<SanType, Error> {
    if let Ok(ip) = host.parse::<IpAddr>() {
        return Ok(SanType::IpAddress(ip));
    }
    let bad = || Error::settings(format!("`{host}` is no name or address of a host"));
    tokio_rustls::rustls::pki_types::DnsName::try_from(host).map_err(|_| bad())?;
    Ok(SanType::DnsName(host.try_into().map_err(|_| bad())?))
}

fn live(params: &mut CertificateParams, now: SystemTime, ends: SystemTime) {
    let begins = now.checked_sub(SKEW).unwrap_or(SystemTime::UNIX_EPOCH);
    let at = |time: SystemTime| {
        let since = time
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default();
        rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs(since.as_secs())
    };
    params.not_before = at(begins);
    params.not_after = at(ends);
}

fn cannot_make(what: &str, error: &rcgen::Error) -> Error {
    Error::settings(format!("cannot make {what}: {error}"))
}
