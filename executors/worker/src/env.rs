//! The environment of a node: what is declared, a short list that is passed through, secrets, and what dagrun says of itself.

use std::{collections::BTreeMap, ffi::OsString};

use dagrun_model::{AttemptSpec, FailureCause};

use crate::spawner::tree::TOKEN;

/// Variables that every node gets and that are in no key.
const INHERITED: &[&str] = &[
    "PATH",
    "HOME",
    "USER",
    "LANG",
    "TZ",
    "TMPDIR",
    "CARGO_HOME",
    "RUSTUP_HOME",
    "VIRTUAL_ENV",
    "CONDA_PREFIX",
    // proxies
    "http_proxy",
    "https_proxy",
    "ftp_proxy",
    "all_proxy",
    "no_proxy",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "FTP_PROXY",
    "ALL_PROXY",
    "NO_PROXY",
    // certificates
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "CURL_CA_BUNDLE",
    "REQUESTS_CA_BUNDLE",
    "NODE_EXTRA_CA_CERTS",
    "GIT_SSL_CAINFO",
    "AWS_CA_BUNDLE",
    "PIP_CERT",
    "CARGO_HTTP_CAINFO",
];

/// What of `vars` every node gets. Values that are not UTF-8 are left out.
pub(crate) fn inherited(vars: impl Iterator<Item = (OsString, OsString)>) -> Vec<(String, String)> {
    let mut found: Vec<(String, String)> = vars
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .filter(|(name, _)| INHERITED.contains(&name.as_str()) || name.starts_with("LC_"))
        .collect();
    found.sort();
    found
}

/// What a node's environment holds besides what every node gets, and the values that must not be seen.
pub(crate) struct NodeEnv {
    pub(crate) vars: Vec<(String, String)>,
    pub(crate) secret_values: Vec<String>,
    pub(crate) token: String,
}

/// Puts the environment of an attempt together.
///
/// # Errors
/// When a secret is not set.
pub(crate) fn of_attempt(
    spec: &AttemptSpec,
    run: &str,
    session: &str,
    secrets: &BTreeMap<String, String>,
) -> Result<NodeEnv, FailureCause> {
    let action = &spec.action;
    let passed = action.pass_env.iter().filter_map(|name| {
        let value = std::env::var(name).ok()?;
        Some((name.clone(), value))
    });
    // What is declared wins over what is passed through.
    let mut vars: Vec<(String, String)> = passed.collect();
    vars.extend(action.env.iter().cloned());
    let mut secret_values = Vec::with_capacity(action.secrets.len());
    for name in &action.secrets {
        let value = secrets
            .get(name)
            .cloned()
            .or_else(|| std::env::var(name).ok());
        let value = value.ok_or_else(|| FailureCause::MissingSecret { name: name.clone() })?;
        secret_values.push(value.clone());
        vars.push((name.clone(), value));
    }
    let token = format!("{session}{}", spec.attempt);
    let own = [
        ("DAGRUN_ATTEMPT", spec.number.to_string()),
        ("DAGRUN_NODE", spec.id.clone()),
        ("DAGRUN_RUN", spec.run.as_deref().unwrap_or(run).to_owned()),
        (TOKEN, token.clone()),
    ];
    vars.extend(own.map(|(name, value)| (name.to_owned(), value)));
    Ok(NodeEnv {
        vars,
        secret_values,
        token,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_list_is_inherited() {
        let vars = ["LC_ALL", "SECRET", "PATH", "PYTHONPATH", "LC", "HOME"];
        let vars = vars.map(|name| (OsString::from(name), OsString::from("v")));
        let names: Vec<String> = inherited(vars.into_iter())
            .into_iter()
            .map(|(n, _)| n)
            .collect();
        assert_eq!(names, ["HOME", "LC_ALL", "PATH"]);
    }
}
