//! TLS from a folder of PEM files: what both sides show and whom they believe. TLS 1.3 on ring, HTTP/2 only, no resumption: a
//! certificate that ended or was revoked must not come back with an old session.
//!
//! A folder has `ca.pem`; `server.pem` and `server.key` for a coordinator, or `client.pem` and `client.key` for all others. A worker
//! serves blobs with its client certificate, and a coordinator reads them with its server certificate.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::SystemTime,
};

use tokio_rustls::rustls::{
    ClientConfig, DigitallySignedStruct, RootCertStore, ServerConfig, SignatureScheme,
    client::{
        Resumption, WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        verify_server_cert_signed_by_trust_anchor,
    },
    crypto::{CryptoProvider, ring},
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject},
    server::{NoServerSessionStorage, ParsedCertificate, WebPkiClientVerifier},
    sign::CertifiedKey,
    version::TLS13,
};

use super::{
    error::Error,
    files::{read_public, read_secret},
    identity::{Facts, date},
    roles::Role,
};

/// The CA's certificate in a folder.
pub(super) const CA: &str = "ca.pem";
/// Names of pairs of certificate and key, without their endings.
pub(super) const SERVER: &str = "server";
/// Likewise.
pub(super) const CLIENT: &str = "client";
/// A client's token in its folder.
pub(super) const TOKEN: &str = "token";

/// The provider of all cryptography.
pub(super) fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

/// What a server shows, and what it believes.
pub(super) struct ServerTls {
    pub(super) config: Arc<ServerConfig>,
    /// What its own certificate says.
    pub(super) facts: Facts,
}

impl ServerTls {
    /// The files that it is made from.
    pub(super) fn files(folder: &Path) -> Vec<PathBuf> {
        files(folder, [SERVER, CLIENT])
    }

    pub(super) fn read(folder: &Path) -> Result<Self, Error> {
        let own = Own::read(folder, [SERVER, CLIENT])?.ok_or_else(|| no_pair(folder, SERVER))?;
        let roots = roots(&folder.join(CA))?;
        let builder = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&TLS13])
            .map_err(|error| Error::settings(format!("TLS is not usable: {error}")))?;
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider())
            .allow_unauthenticated()
            .build()
            .map_err(|error| Error::settings(format!("{}: {error}", folder.join(CA).display())))?;
        let mut config = builder
            .with_client_cert_verifier(verifier)
            .with_cert_resolver(Arc::new(
                tokio_rustls::rustls::sign::SingleCertAndKey::from(own.key),
            ));
        config.alpn_protocols = vec![b"h2".to_vec()];
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(Self {
            config: Arc::new(config),
            facts: own.facts,
        })
    }
}

/// What a client shows, and what it believes.
pub(super) struct ClientTls {
    /// For a server whose certificate names its host.
    pub(super) by_host: Arc<ClientConfig>,
    /// For workers, whose certificates name their role: hosts come and go, and one certificate may serve many.
    pub(super) by_role: Option<Arc<ClientConfig>>,
    /// What its own certificate says.
    pub(super) facts: Option<Facts>,
}

impl ClientTls {
    pub(super) fn files(folder: &Path) -> Vec<PathBuf> {
        files(folder, [CLIENT, SERVER])
    }

    pub(super) fn read(folder: &Path) -> Result<Self, Error> {
        let own = Own::read(folder, [CLIENT, SERVER])?;
        let roots = Arc::new(roots(&folder.join(CA))?);
        let by_host = WebPkiServerVerifier::builder_with_provider(Arc::clone(&roots), provider())
            .build()
            .map_err(|error| Error::settings(format!("{}: {error}", folder.join(CA).display())))?;
        let cluster = own.as_ref().and_then(|own| own.facts.cluster.clone());
        let by_role = cluster.map(|cluster| {
            let verifier = WorkersOf {
                cluster,
                roots,
                provider: provider(),
            };
            client_config(Arc::new(verifier), own.as_ref())
        });
        Ok(Self {
            by_host: client_config(by_host, own.as_ref())?,
            by_role: by_role.transpose()?,
            facts: own.map(|own| own.facts),
        })
    }
}

fn client_config(
    verifier: Arc<dyn ServerCertVerifier>,
    own: Option<&Own>,
) -> Result<Arc<ClientConfig>, Error> {
    let builder = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])
        .map_err(|error| Error::settings(format!("TLS is not usable: {error}")))?
        .dangerous()
        .with_custom_certificate_verifier(verifier);
    let mut config = match own {
        Some(own) => builder.with_client_cert_resolver(Arc::new(
            tokio_rustls::rustls::sign::SingleCertAndKey::from(own.key.clone()),
        )),
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    config.resumption = Resumption::disabled();
    Ok(Arc::new(config))
}

/// Believes workers of a cluster: whom its CA signed as such, whatever their host is called.
#[derive(Debug)]
struct WorkersOf {
    cluster: String,
    roots: Arc<RootCertStore>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for WorkersOf {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, tokio_rustls::rustls::Error> {
        let parsed = ParsedCertificate::try_from(end_entity)?;
        let algorithms = self.provider.signature_verification_algorithms.all;
        verify_server_cert_signed_by_trust_anchor(
            &parsed,
            &self.roots,
            intermediates,
            now,
            algorithms,
        )?;
        let facts = Facts::of(end_entity).map_err(tokio_rustls::rustls::Error::General)?;
        if facts.cluster.as_deref() != Some(&self.cluster) || !facts.roles.allow(Role::Worker) {
            return Err(tokio_rustls::rustls::Error::General(format!(
                "its certificate is not that of a worker of cluster `{}`",
                self.cluster
            )));
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, tokio_rustls::rustls::Error> {
        // TLS 1.3 alone is spoken; a check that is never asked for must still be one.
        let algorithms = &self.provider.signature_verification_algorithms;
        tokio_rustls::rustls::crypto::verify_tls12_signature(message, cert, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, tokio_rustls::rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        tokio_rustls::rustls::crypto::verify_tls13_signature(message, cert, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}

/// A certificate with its key, and what it says.
struct Own {
    key: CertifiedKey,
    facts: Facts,
}

impl Own {
    /// The first pair of these names that the folder has.
    fn read(folder: &Path, names: [&str; 2]) -> Result<Option<Self>, Error> {
        if !folder.is_dir() {
            return Err(no_folder(folder));
        }
        let pair = |name: &&&str| folder.join(format!("{name}.pem")).exists();
        let Some(name) = names.iter().find(pair) else {
            return Ok(None);
        };
        let (chain_file, key_file) = (
            folder.join(format!("{name}.pem")),
            folder.join(format!("{name}.key")),
        );
        let chain = certificates(&chain_file)?;
        let key = PrivateKeyDer::from_pem_slice(read_secret(&key_file)?.as_bytes()).map_err(
            // The parser's error could quote the file.
            |_| Error::settings(format!("{} has no private key in PEM", key_file.display())),
        )?;
        let facts = Facts::of(&chain[0])
            .map_err(|why| Error::settings(format!("{}: {why}", chain_file.display())))?;
        let key = CertifiedKey::from_der(chain, key, &ring::default_provider()).map_err(|_| {
            Error::settings(format!(
                "{} is not the key of {}",
                key_file.display(),
                chain_file.display()
            ))
        })?;
        check_life(&chain_file, &facts, SystemTime::now())?;
        Ok(Some(Self { key, facts }))
    }
}

/// What has ended is an error here, where its owner sees it, not a riddle on the other side.
fn check_life(file: &Path, facts: &Facts, now: SystemTime) -> Result<(), Error> {
    let renew = if facts.name.is_empty() {
        "ask its issuer for a new one".to_owned()
    } else {
        format!(
            "make a new one where the CA is: dagrun cluster cert {} --renew",
            facts.name
        )
    };
    if now < facts.not_before {
        return Err(Error::settings(format!(
            "the certificate {} begins only at {}",
            file.display(),
            date(facts.not_before)
        ))
        .hint("look at this machine's clock"));
    }
    if !facts.lives(now) {
        let ended = date(facts.not_after);
        return Err(Error::settings(format!(
            "the certificate {} expired at {ended}",
            file.display()
        ))
        .hint(renew));
    }
    if facts.ends_soon(now).is_some() {
        let ends = date(facts.not_after);
        tracing::warn!(file = %file.display(), %ends, "a certificate expires soon; {renew}");
    }
    Ok(())
}

fn files(folder: &Path, names: [&str; 2]) -> Vec<PathBuf> {
    let pairs = names
        .iter()
        .flat_map(|name| [format!("{name}.pem"), format!("{name}.key")]);
    std::iter::once(CA.to_owned())
        .chain(pairs)
        .map(|file| folder.join(file))
        .collect()
}

fn no_folder(folder: &Path) -> Error {
    Error::settings(format!(
        "there is no folder {} with certificates",
        folder.display()
    ))
    .hint("`dagrun cluster init DIR` makes them")
}

fn no_pair(folder: &Path, name: &str) -> Error {
    let error = Error::settings(format!(
        "{} has no {name}.pem with {name}.key",
        folder.display()
    ));
    let inside = folder.join(name);
    if inside.is_dir() {
        error.hint(format!("did you mean --tls {}?", inside.display()))
    } else {
        error.hint("`dagrun cluster init DIR` makes those of a new cluster, `dagrun cluster cert NAME --role ROLE` makes one more")
    }
}

/// The certificates of a PEM file; at least one.
pub(super) fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, Error> {
    let text = read_public(file)?;
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(text.as_bytes()).collect();
    match all {
        Ok(all) if !all.is_empty() => Ok(all),
        _ => Err(Error::settings(format!(
            "{} has no certificate in PEM",
            file.display()
        ))),
    }
}

fn roots(file: &Path) -> Result<RootCertStore, Error> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(file)? {
        roots.add(certificate).map_err(|error| {
            Error::settings(format!(
                "{} has no certificate of a CA: {error}",
                file.display()
            ))
        })?;
    }
    Ok(roots)
}
