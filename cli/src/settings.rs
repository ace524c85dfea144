//! Settings from `dagrun.toml` (user, then project), the environment and flags. Every value knows where it came from.

mod shared;

use std::{
    collections::BTreeMap,
    ffi::OsStr,
    path::{Path, PathBuf},
    time::Duration,
};

use dagrun_model::{did_you_mean, format_bytes, parse_bytes, parse_duration};
use dagrun_tier::Location;

use crate::{
    args::CacheFlags,
    error::{CliError, Context},
};
pub(crate) use shared::Shared;

/// A value and where it came from.
#[derive(Debug, Clone)]
pub(crate) struct From<T> {
    pub(crate) value: T,
    pub(crate) origin: String,
}

impl<T> From<T> {
    fn new(value: T, origin: impl Into<String>) -> Self {
        Self {
            value,
            origin: origin.into(),
        }
    }
}

/// All settings.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    /// The cache folder.
    pub(crate) cache: From<PathBuf>,
    /// The cache behind it.
    pub(crate) shared: Shared,
    /// Slots of the local executor.
    pub(crate) jobs: From<usize>,
    /// Bytes of memory for nodes; 0: what the machine has.
    pub(crate) memory: From<u64>,
    /// How blobs are staged: by reflink or copy, or by hard link with a check after the node.
    pub(crate) hard_links: From<bool>,
    /// The time between TERM and KILL.
    pub(crate) grace: From<Duration>,
    /// Bytes kept of each log.
    pub(crate) log_cap: From<u64>,
    /// Named resources of this machine.
    pub(crate) resources: From<BTreeMap<String, u64>>,
    /// Files that hold secrets, by name.
    pub(crate) secrets: From<BTreeMap<String, PathBuf>>,
    /// The coordinator that `--on` and `--connect` mean when nobody names one.
    pub(crate) cluster_on: From<Option<String>>,
    /// The folder with certificates.
    pub(crate) cluster_tls: From<Option<PathBuf>>,
    /// The file with a token.
    pub(crate) cluster_token: From<Option<PathBuf>>,
    /// What `dagrun gc` goes by when no flag says it.
    pub(crate) gc_max_age: From<Option<Duration>>,
    /// Likewise.
    pub(crate) gc_max_size: From<Option<u64>>,
}

const KEYS: &[&str] = &[
    "cache",
    "jobs",
    "memory",
    "staging",
    "grace",
    "log_cap",
    "resources",
    "secrets",
    "cluster",
    "gc",
];

impl Settings {
    /// Reads the user's and the project's `dagrun.toml`, then the environment, then flags.
    pub(crate) fn load(project: &Path, flags: &CacheFlags) -> Result<Self, CliError> {
        let mut settings = Self::defaults();
        for file in [user_file(), Some(project.join("dagrun.toml"))]
            .into_iter()
            .flatten()
        {
            if file.is_file() {
                settings.apply_file(&file)?;
            }
        }
        if let Some(jobs) = std::env::var_os("DAGRUN_JOBS") {
            let text = jobs.to_string_lossy();
            let jobs = text.parse().ok().filter(|jobs| *jobs > 0).ok_or_else(|| {
                CliError::environment(format!("DAGRUN_JOBS is `{text}`; write a number above 0"))
            })?;
            settings.jobs = From::new(jobs, "environment DAGRUN_JOBS");
        }
        settings.shared.apply_environment()?;
        let from_environment = std::env::var_os("DAGRUN_CACHE").filter(|cache| !cache.is_empty());
        if let Some(cache) = from_environment {
            settings.set_cache(&cache, "environment DAGRUN_CACHE")?;
        }
        for cache in &flags.cache {
            settings.set_cache(cache.as_ref(), "flag --cache")?;
        }
        if let Some(mode) = flags.cache_mode {
            settings.shared.mode = From::new(mode, "flag --cache-mode");
        }
        if settings.cache.value.is_relative() {
            let here = std::env::current_dir().doing(|| "find the current folder".into())?;
            settings.cache.value = here.join(&settings.cache.value);
        }
        Ok(settings)
    }

    /// Takes a folder, or the address of a shared cache: each replaces its own kind.
    fn set_cache(&mut self, cache: &OsStr, origin: &str) -> Result<(), CliError> {
        match cache.to_str().filter(|text| Location::is_meant(text)) {
            Some(text) => self.shared.set_location(text, origin),
            None => {
                self.cache = From::new(PathBuf::from(cache), origin);
                Ok(())
            }
        }
    }

    fn defaults() -> Self {
        let cpus = std::thread::available_parallelism().map_or(1, usize::from);
        Self {
            cache: From::new(default_cache(), "default"),
            shared: Shared::defaults(),
            jobs: From::new(cpus, "default: the number of CPUs"),
            memory: From::new(0, "default"),
            hard_links: From::new(false, "default"),
            grace: From::new(Duration::from_secs(5), "default"),
            log_cap: From::new(16 << 20, "default"),
            resources: From::new(BTreeMap::new(), "default"),
            secrets: From::new(BTreeMap::new(), "default"),
            cluster_on: From::new(None, "default"),
            cluster_tls: From::new(None, "default"),
            cluster_token: From::new(None, "default"),
            gc_max_age: From::new(None, "default"),
            gc_max_size: From::new(None, "default"),
        }
    }

    fn apply_file(&mut self, file: &Path) -> Result<(), CliError> {
        let text = std::fs::read_to_string(file).doing(|| format!("read {}", file.display()))?;
        let table: toml::Table = text.parse().map_err(|error| {
            CliError::environment(format!("{} is not valid TOML: {error}", file.display()))
        })?;
        for (key, value) in &table {
            self.apply(file, key, value).map_err(|message| {
                CliError::environment(format!("{}: {message}", file.display()))
            })?;
        }
        Ok(())
    }

    fn apply(&mut self, file: &Path, key: &str, value: &toml::Value) -> Result<(), String> {
        let origin = file.display().to_string();
        let text = || {
            value
                .as_str()
                .map(str::to_owned)
                .ok_or_else(|| format!("`{key}` must be a string"))
        };
        let size = |value: &toml::Value| match value {
            toml::Value::Integer(bytes) => {
                u64::try_from(*bytes).map_err(|_| format!("`{key}` must not be negative"))
            }
            toml::Value::String(text) => parse_bytes(text),
            _ => Err(format!("`{key}` must be a size such as \"8GiB\"")),
        };
        let beside = |path: &str| {
            file.parent()
                .unwrap_or(Path::new("."))
                .join(expand_home(path))
        };
        match key {
            "cache" => match value {
                toml::Value::Table(table) => {
                    for (key, value) in table {
                        match (key.as_str(), value.as_str()) {
                            ("folder", Some(folder)) => {
                                self.cache = From::new(beside(folder), origin.clone());
                            }
                            ("folder", None) => {
                                return Err("`cache.folder` must be a string".into());
                            }
                            (key, _) => self.shared.apply(file, key, value)?,
                        }
                    }
                }
                toml::Value::String(text) if Location::is_meant(text) => {
                    self.shared.apply(file, "shared", value)?;
                }
                _ => self.cache = From::new(beside(&text()?), origin),
            },
            "jobs" => {
                let jobs = value
                    .as_integer()
                    .and_then(|jobs| usize::try_from(jobs).ok())
                    .filter(|jobs| *jobs > 0);
                self.jobs = From::new(jobs.ok_or("`jobs` must be a number above 0")?, origin);
            }
            "memory" => self.memory = From::new(size(value)?, origin),
            "log_cap" => self.log_cap = From::new(size(value)?, origin),
            "grace" => self.grace = From::new(parse_duration(&text()?)?, origin),
            "staging" => {
                let hard = match text()?.as_str() {
                    "auto" => false,
                    "hardlink" => true,
                    other => {
                        return Err(format!(
                            "`staging` is `{other}`; write `auto` or `hardlink`"
                        ));
                    }
                };
                self.hard_links = From::new(hard, origin);
            }
            "resources" => {
                let table = value
                    .as_table()
                    .ok_or("`resources` must be a table of amounts")?;
                let amounts = table.iter().map(|(name, amount)| {
                    let meant = match dagrun_model::meant_resource(name) {
                        Some("memory") => Some("memory"),
                        Some(_) => Some("jobs"),
                        None => None,
                    };
                    if let Some(meant) = meant {
                        return Err(format!(
                            "`{name}` is no name for a resource of its own: write `{meant}` at the top of the file"
                        ));
                    }
                    let amount = amount
                        .as_float()
                        .or_else(|| amount.as_integer().map(|n| n as f64));
                    let amount = amount
                        .filter(|n| *n >= 0.0)
                        .ok_or(format!("resource `{name}` must be a number"))?;
                    Ok((name.clone(), (amount * 1000.0).round() as u64))
                });
                self.resources = From::new(amounts.collect::<Result<_, String>>()?, origin);
            }
            "secrets" => {
                let table = value
                    .as_table()
                    .ok_or("`secrets` must be a table of files")?;
                let files = table.iter().map(|(name, file)| {
                    let file = file
                        .as_str()
                        .ok_or(format!("secret `{name}` must be the path of a file"))?;
                    Ok((name.clone(), beside(file)))
                });
                self.secrets = From::new(files.collect::<Result<_, String>>()?, origin);
            }
            "cluster" => {
                let table = value
                    .as_table()
                    .ok_or("`cluster` must be a table with on, tls and token_file")?;
                for (key, value) in table {
                    match (key.as_str(), value.as_str()) {
                        ("on", Some(on)) => {
                            self.cluster_on = From::new(Some(on.to_owned()), origin.clone());
                        }
                        ("tls", Some(tls)) => {
                            self.cluster_tls = From::new(Some(beside(tls)), origin.clone());
                        }
                        ("token_file", Some(file)) => {
                            self.cluster_token = From::new(Some(beside(file)), origin.clone());
                        }
                        ("token", _) => {
                            return Err(
                                "a token does not belong into settings; write token_file, the path of a file that holds it"
                                    .into(),
                            );
                        }
                        _ => {
                            return Err(format!(
                                "unknown key `cluster.{key}`; write on, tls or token_file, as strings"
                            ));
                        }
                    }
                }
            }
            "gc" => {
                let table = value
                    .as_table()
                    .ok_or("`gc` must be a table with max_age and max_size")?;
                for (key, value) in table {
                    match (key.as_str(), value.as_str()) {
                        ("max_age", Some(age)) => {
                            self.gc_max_age = From::new(Some(parse_duration(age)?), origin.clone())
                        }
                        ("max_size", Some(size)) => {
                            self.gc_max_size = From::new(Some(parse_bytes(size)?), origin.clone())
                        }
                        _ => {
                            return Err(format!(
                                "unknown key `gc.{key}`; write max_age or max_size, as strings"
                            ));
                        }
                    }
                }
            }
            unknown => {
                let meant = did_you_mean(unknown, KEYS.iter().copied()).map_or_else(
                    || format!("known keys: {}", KEYS.join(", ")),
                    |near| format!("did you mean `{near}`?"),
                );
                return Err(format!("unknown key `{unknown}`; {meant}"));
            }
        }
        Ok(())
    }

    /// How blobs get into folders of nodes.
    pub(crate) fn staging(&self) -> dagrun_store::Staging {
        if self.hard_links.value {
            dagrun_store::Staging::HardLink
        } else {
            dagrun_store::Staging::Auto
        }
    }

    /// The secrets that files hold, without the newline at their end.
    pub(crate) fn secret_values(&self) -> Result<BTreeMap<String, String>, String> {
        self.secrets
            .value
            .iter()
            .map(|(name, path)| {
                let text = std::fs::read_to_string(path).map_err(|error| {
                    format!(
                        "cannot read secret `{name}` from {}: {error}",
                        path.display()
                    )
                })?;
                Ok((name.clone(), text.trim_end_matches(['\r', '\n']).to_owned()))
            })
            .collect()
    }

    /// Rows of (name, value, origin); sizes for people, or in bytes.
    pub(crate) fn rows(&self, bytes: bool) -> Vec<(&'static str, String, &str)> {
        let size = |size: u64| {
            if bytes {
                size.to_string()
            } else {
                format_bytes(size)
            }
        };
        let age = |age: Option<Duration>| {
            age.map_or("none".into(), |age| {
                humantime::format_duration(age).to_string()
            })
        };
        let path = |path: &Option<PathBuf>| {
            path.as_ref()
                .map_or("none".into(), |path| path.display().to_string())
        };
        let mut rows = vec![(
            "cache",
            self.cache.value.display().to_string(),
            self.cache.origin.as_str(),
        )];
        rows.extend(self.shared.rows());
        rows.extend([
            (
                "jobs",
                self.jobs.value.to_string(),
                self.jobs.origin.as_str(),
            ),
            (
                "memory",
                match self.memory.value {
                    0 if !bytes => "what the machine has".into(),
                    memory => size(memory),
                },
                self.memory.origin.as_str(),
            ),
            (
                "staging",
                if self.hard_links.value {
                    "hardlink".into()
                } else {
                    "auto".into()
                },
                self.hard_links.origin.as_str(),
            ),
            (
                "grace",
                humantime::format_duration(self.grace.value).to_string(),
                self.grace.origin.as_str(),
            ),
            (
                "log_cap",
                size(self.log_cap.value),
                self.log_cap.origin.as_str(),
            ),
            (
                "resources",
                self.resources
                    .value
                    .iter()
                    .map(|(n, a)| format!("{n}={}", *a as f64 / 1000.0))
                    .collect::<Vec<_>>()
                    .join(" "),
                self.resources.origin.as_str(),
            ),
            (
                "secrets",
                self.secrets
                    .value
                    .keys()
                    .cloned()
                    .collect::<Vec<_>>()
                    .join(" "),
                self.secrets.origin.as_str(),
            ),
            (
                "cluster.on",
                self.cluster_on.value.clone().unwrap_or("none".into()),
                self.cluster_on.origin.as_str(),
            ),
            (
                "cluster.tls",
                path(&self.cluster_tls.value),
                self.cluster_tls.origin.as_str(),
            ),
            (
                "cluster.token_file",
                path(&self.cluster_token.value),
                self.cluster_token.origin.as_str(),
            ),
            (
                "gc.max_age",
                age(self.gc_max_age.value),
                self.gc_max_age.origin.as_str(),
            ),
            (
                "gc.max_size",
                self.gc_max_size.value.map_or("none".into(), size),
                self.gc_max_size.origin.as_str(),
            ),
        ]);
        rows
    }
}

fn user_file() -> Option<PathBuf> {
    let folder = std::env::var_os("XDG_CONFIG_HOME")
        .map(PathBuf::from)
        .filter(|path| path.is_absolute())
        .or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".config")))?;
    Some(folder.join("dagrun/dagrun.toml"))
}

fn default_cache() -> PathBuf {
    std::env::var_os("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .filter(|path| path.is_absolute())
        .or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache")))
        .unwrap_or_else(std::env::temp_dir)
        .join("dagrun")
}

fn expand_home(path: &str) -> PathBuf {
    match (path.strip_prefix("~/"), std::env::var_os("HOME")) {
        (Some(rest), Some(home)) => PathBuf::from(home).join(rest),
        _ => PathBuf::from(path),
    }
}
