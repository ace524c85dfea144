//! Settings of the shared cache: where it is, what may be done with it, and who is trusted.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use clap::ValueEnum;
use dagrun_model::parse_duration;
use dagrun_tier::{CacheOptions, Location, PublicKey, SigningKey};

use super::{From, expand_home};
use crate::{
    args::CacheMode,
    error::{CliError, Context},
};

/// Settings of the shared cache.
#[derive(Debug, Clone)]
pub(crate) struct Shared {
    /// Where it is.
    pub(crate) at: From<Option<Location>>,
    /// What may be done with it.
    pub(crate) mode: From<CacheMode>,
    /// Where the key is that entries are signed with.
    pub(crate) sign: From<Option<KeySource>>,
    /// Whose entries count; everybody's where none are named.
    pub(crate) trust: From<Vec<PublicKey>>,
    /// The time that all its failures together may cost a run.
    pub(crate) patience: From<Duration>,
}

/// Where a private key is read from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum KeySource {
    File(PathBuf),
    /// A variable of the environment: how CI has secrets.
    Variable(String),
}

impl std::fmt::Display for KeySource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::File(path) => write!(f, "{}", path.display()),
            Self::Variable(name) => write!(f, "env:{name}"),
        }
    }
}

/// Keys of `[cache]` besides `folder`.
pub(super) const KEYS: &[&str] = &["folder", "shared", "mode", "sign", "trust", "patience"];

impl Shared {
    pub(super) fn defaults() -> Self {
        Self {
            at: From::new(None, "default"),
            mode: From::new(CacheMode::Read, "default"),
            sign: From::new(None, "default"),
            trust: From::new(Vec::new(), "default"),
            patience: From::new(Duration::from_secs(20), "default"),
        }
    }

    /// Takes one of the keys of `[cache]` in a file.
    pub(super) fn apply(
        &mut self,
        file: &Path,
        key: &str,
        value: &toml::Value,
    ) -> Result<(), String> {
        let origin = file.display().to_string();
        let text = || {
            value
                .as_str()
                .ok_or_else(|| format!("`cache.{key}` must be a string"))
        };
        match key {
            "shared" => self.at = From::new(Some(Location::parse(text()?)?), origin),
            "mode" => {
                let mode = mode(text()?).map_err(|error| format!("`cache.mode` {error}"))?;
                self.mode = From::new(mode, origin);
            }
            "sign" => {
                let beside = file.parent().unwrap_or(Path::new("."));
                self.sign = From::new(Some(key_source(text()?, beside)), origin);
            }
            "trust" => {
                let keys = value
                    .as_array()
                    .ok_or("`cache.trust` must be a list of public keys")?;
                let keys = keys.iter().map(|key| {
                    let text = key.as_str().ok_or("a key in `cache.trust` is no string")?;
                    text.parse::<PublicKey>()
                });
                self.trust = From::new(keys.collect::<Result<_, String>>()?, origin);
            }
            "patience" => {
                self.patience = From::new(patience(text()?)?, origin);
            }
            unknown => {
                return Err(format!(
                    "unknown key `cache.{unknown}`; known keys: {}",
                    KEYS.join(", ")
                ));
            }
        }
        Ok(())
    }

    /// Takes what the environment says besides DAGRUN_CACHE.
    pub(super) fn apply_environment(&mut self) -> Result<(), CliError> {
        let named = |name: &'static str| {
            let value = std::env::var(name).ok().filter(|value| !value.is_empty());
            value.map(|value| (value, format!("environment {name}")))
        };
        let bad = |name: &str, error: String| CliError::environment(format!("{name} {error}"));
        if let Some((text, origin)) = named("DAGRUN_CACHE_MODE") {
            let mode = mode(&text).map_err(|error| bad("DAGRUN_CACHE_MODE", error))?;
            self.mode = From::new(mode, origin);
        }
        if let Some((text, origin)) = named("DAGRUN_CACHE_SIGN") {
            self.sign = From::new(Some(key_source(&text, Path::new("."))), origin);
        }
        if let Some((text, origin)) = named("DAGRUN_CACHE_TRUST") {
            let keys = text.split(',').map(str::parse);
            let keys = keys.collect::<Result<_, String>>().map_err(|error| {
                bad(
                    "DAGRUN_CACHE_TRUST",
                    format!("is not a list of keys: {error}"),
                )
            })?;
            self.trust = From::new(keys, origin);
        }
        Ok(())
    }

    pub(super) fn set_location(&mut self, text: &str, origin: &str) -> Result<(), CliError> {
        let at = Location::parse(text).map_err(CliError::invalid)?;
        self.at = From::new(Some(at), origin);
        Ok(())
    }

    /// How the shared cache is opened; `None` where there is none, or it is off.
    pub(crate) fn options(&self) -> Result<Option<CacheOptions>, CliError> {
        let Some(location) = self.at.value.clone() else {
            return Ok(None);
        };
        if self.mode.value == CacheMode::Off {
            return Ok(None);
        }
        let write = self.mode.value == CacheMode::ReadWrite;
        let key = match &self.sign.value {
            // Readers need no key, and should have none.
            Some(source) if write => Some(read_key(source)?),
            _ => None,
        };
        Ok(Some(CacheOptions {
            location,
            write,
            trust: self.trust.value.clone(),
            key,
            patience: self.patience.value,
        }))
    }

    pub(super) fn rows(&self) -> Vec<(&'static str, String, &str)> {
        let trust: Vec<String> = self.trust.value.iter().map(ToString::to_string).collect();
        let at = self.at.value.as_ref();
        let nobody = match (at, trust.is_empty()) {
            (Some(_), true) => "everybody who can write there",
            _ => "none",
        };
        let or_none = |text: Option<String>| text.unwrap_or_else(|| "none".into());
        vec![
            (
                "cache.shared",
                or_none(at.map(ToString::to_string)),
                &self.at.origin,
            ),
            ("cache.mode", self.mode.value.to_string(), &self.mode.origin),
            (
                "cache.sign",
                or_none(self.sign.value.as_ref().map(ToString::to_string)),
                &self.sign.origin,
            ),
            (
                "cache.trust",
                if trust.is_empty() {
                    nobody.into()
                } else {
                    trust.join(" ")
                },
                &self.trust.origin,
            ),
            (
                "cache.patience",
                humantime::format_duration(self.patience.value).to_string(),
                &self.patience.origin,
            ),
        ]
    }
}

/// Reads a mode.
fn mode(text: &str) -> Result<CacheMode, String> {
    CacheMode::from_str(text, false)
        .map_err(|_| format!("is `{text}`; write `off`, `read` or `read-write`"))
}

fn key_source(text: &str, beside: &Path) -> KeySource {
    match text.strip_prefix("env:") {
        Some(name) => KeySource::Variable(name.to_owned()),
        None => KeySource::File(beside.join(expand_home(text))),
    }
}

fn read_key(source: &KeySource) -> Result<SigningKey, CliError> {
    let text = match source {
        KeySource::File(path) => std::fs::read_to_string(path)
            .doing(|| format!("read the key of the cache from {}", path.display()))?,
        KeySource::Variable(name) => std::env::var(name).map_err(|_| {
            CliError::environment(format!(
                "`cache.sign` names the variable {name}, which is not set"
            ))
        })?,
    };
    SigningKey::from_text(&text).map_err(|error| CliError::environment(format!("{source} {error}")))
}

fn patience(text: &str) -> Result<Duration, String> {
    let time = parse_duration(text)?;
    if time < Duration::from_millis(100) || time > Duration::from_secs(3600) {
        return Err(format!(
            "`cache.patience` is `{text}`; write a time from 100ms to 1h"
        ));
    }
    Ok(time)
}
