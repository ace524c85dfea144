//! Where a shared cache is: `s3://bucket/prefix`, `gs://`, `az://` or `file:///folder`.
//!
//! Owns the words and the making of clients. Credentials come from the environment, as each provider's own tools take them;
//! none is read or kept here.

use std::{fmt, sync::Arc, time::Duration};

use object_store::{
    BackoffConfig, ClientOptions, ObjectStore, RetryConfig, aws::AmazonS3Builder,
    azure::MicrosoftAzureBuilder, gcp::GoogleCloudStorageBuilder, local::LocalFileSystem,
    path::Path,
};
use url::Url;

/// The address of a shared cache.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Location {
    url: Url,
    kind: Kind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    S3,
    Gcs,
    Azure,
    Folder,
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.url.as_str().trim_end_matches('/'))
    }
}

impl Location {
    /// Whether a text is meant as the address of a shared cache, and not as a folder.
    pub fn is_meant(text: &str) -> bool {
        text.contains("://")
    }

    /// Reads an address.
    ///
    /// # Errors
    /// When it is none of the known kinds, names no bucket, or carries a password.
    pub fn parse(text: &str) -> Result<Self, String> {
        let url: Url = text
            .parse()
            .map_err(|error| format!("`{text}` is no address of a cache: {error}; {FORMS}"))?;
        let kind = match url.scheme() {
            "s3" => Kind::S3,
            "gs" => Kind::Gcs,
            "az" => Kind::Azure,
            "file" => Kind::Folder,
            other => return Err(format!("caches at `{other}://` are not known; {FORMS}")),
        };
        if !url.username().is_empty() || url.password().is_some() || url.query().is_some() {
            return Err(format!(
                "the address of a cache at {}:// must hold no user, password or query; credentials come from the environment",
                url.scheme()
            ));
        }
        let host = url.host_str().unwrap_or_default();
        match kind {
            Kind::Folder if !host.is_empty() || url.path().len() < 2 => Err(format!(
                "`{text}` names no folder; write `file:///shared/folder`"
            )),
            Kind::Folder => Ok(Self { url, kind }),
            _ if host.is_empty() => Err(format!(
                "`{text}` names no bucket; write `{}://bucket/prefix`",
                url.scheme()
            )),
            _ => Ok(Self { url, kind }),
        }
    }

    /// Whether it is a folder of this machine or of its network.
    pub fn is_folder(&self) -> bool {
        self.kind == Kind::Folder
    }

    /// Makes a client, and the path below which everything lies. Nothing is asked of the network. A shared folder that is not
    /// there is made where results go to it.
    ///
    /// # Errors
    /// When the environment is not enough, or a shared folder is not there.
    pub(crate) fn open(
        &self,
        write: bool,
        connect: Duration,
    ) -> Result<(Arc<dyn ObjectStore>, Path), String> {
        let text = |error: object_store::Error| format!("cannot use {self}: {error}");
        let prefix = Path::from_url_path(self.url.path())
            .map_err(|error| format!("{self} has a bad path: {error}"))?;
        let client = ClientOptions::new()
            // Large blobs take longer than any limit on a whole request; pieces have limits of their own.
            .with_timeout_disabled()
            .with_connect_timeout(connect)
            .with_user_agent(object_store::HeaderValue::from_static(concat!(
                "dagrun/",
                env!("CARGO_PKG_VERSION")
            )));
        // Retries are counted and bounded in one place: see `health.rs`. Parts of large uploads alone need some of their own.
        let retry = RetryConfig {
            backoff: BackoffConfig {
                init_backoff: Duration::from_millis(50),
                max_backoff: Duration::from_secs(1),
                base: 2.0,
            },
            max_retries: 1,
            retry_timeout: connect,
        };
        let bucket = self.url.host_str().unwrap_or_default();
        let store: Arc<dyn ObjectStore> = match self.kind {
            Kind::S3 => {
                let endpoint = endpoint_of(&["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"]);
                let mut builder = AmazonS3Builder::from_env()
                    .with_bucket_name(bucket)
                    .with_retry(retry)
                    .with_client_options(client.with_allow_http(allows_http(endpoint.as_deref())));
                if std::env::var_os("AWS_REGION").is_none()
                    && std::env::var_os("AWS_DEFAULT_REGION").is_none()
                {
                    builder = builder.with_region("us-east-1");
                }
                Arc::new(builder.build().map_err(text)?)
            }
            Kind::Gcs => Arc::new(
                GoogleCloudStorageBuilder::from_env()
                    .with_bucket_name(bucket)
                    .with_retry(retry)
                    .with_client_options(client)
                    .build()
                    .map_err(text)?,
            ),
            Kind::Azure => {
                let endpoint = endpoint_of(&["AZURE_STORAGE_ENDPOINT", "AZURE_ENDPOINT"]);
                Arc::new(
                    MicrosoftAzureBuilder::from_env()
                        .with_container_name(bucket)
                        .with_retry(retry)
                        .with_client_options(
                            client.with_allow_http(allows_http(endpoint.as_deref())),
                        )
                        .build()
                        .map_err(text)?,
                )
            }
            Kind::Folder => {
                let folder = self
                    .url
                    .to_file_path()
                    .map_err(|()| format!("{self} is no path of this machine"))?;
                if write {
                    std::fs::create_dir_all(&folder)
                        .map_err(|error| format!("cannot make the folder of {self}: {error}"))?;
                }
                let store = LocalFileSystem::new_with_prefix(&folder).map_err(text)?;
                // The folder itself is the root, so nothing outside of it can be named.
                return Ok((Arc::new(store.with_fsync(true)), Path::default()));
            }
        };
        Ok((store, prefix))
    }
}

const FORMS: &str = "write `s3://bucket/prefix`, `gs://bucket/prefix`, `az://container/prefix` or `file:///shared/folder`";

fn endpoint_of(names: &[&str]) -> Option<String> {
    names.iter().find_map(|name| std::env::var(name).ok())
}

/// Whether requests may go without TLS: to this machine, or where the user says so as object stores' own tools do.
fn allows_http(endpoint: Option<&str>) -> bool {
    let told = ["AWS_ALLOW_HTTP", "AZURE_ALLOW_HTTP"]
        .iter()
        .any(|name| std::env::var(name).is_ok_and(|value| value == "true" || value == "1"));
    told || endpoint
        .and_then(|endpoint| endpoint.parse::<Url>().ok())
        .is_some_and(|url| matches!(url.host_str(), Some("localhost" | "127.0.0.1" | "[::1]")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_and_shown() {
        for text in [
            "s3://bucket/a/prefix",
            "s3://bucket",
            "gs://b/p",
            "az://container/p",
            "file:///shared/folder",
        ] {
            assert_eq!(Location::parse(text).unwrap().to_string(), text);
        }
        assert_eq!(
            Location::parse("s3://b/p/").unwrap().to_string(),
            "s3://b/p"
        );
        assert!(Location::is_meant("s3://x") && !Location::is_meant("/a/folder"));
    }

    #[test]
    fn bad_addresses_say_what_to_write() {
        for (text, word) in [
            ("s4://bucket", "s3://bucket/prefix"),
            ("s3:///prefix", "names no bucket"),
            ("file://host/folder", "file:///shared/folder"),
            ("file:///", "names no folder"),
            ("s3://key:secret@bucket/p", "credentials come from"),
            ("az://c/p?sig=secret", "credentials come from"),
            ("://", "is no address"),
        ] {
            let error = Location::parse(text).unwrap_err();
            assert!(error.contains(word), "{text}: {error}");
            assert!(!error.contains("key:secret") && !error.contains("sig="));
        }
    }

    #[test]
    fn plain_http_is_for_this_machine() {
        assert!(allows_http(Some("http://127.0.0.1:9000")));
        assert!(allows_http(Some("http://localhost:9000")));
        assert!(!allows_http(Some("http://minio.example.org")));
        assert!(!allows_http(Some("http://localhost.example.org")));
        assert!(!allows_http(None));
    }
}
