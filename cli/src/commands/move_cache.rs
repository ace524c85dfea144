//! `dagrun cache push`, `pull` and `keygen`: whole caches from here to there, and who vouches for them.

use std::{
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use dagrun_model::format_bytes;
use dagrun_tier::{Moved, SharedCache, SigningKey, Step};
use serde_json::json;

use crate::{
    args::{CacheMode, Global},
    commands::cache::open,
    error::{CliError, Done},
    put, say, shared,
    term::{Style, plural, plural_of},
};

pub(crate) fn push(as_json: bool, global: &Global, style: Style) -> Done {
    let cache = opened(CacheMode::ReadWrite, global, style)?;
    let mut progress = Progress::new(style);
    let moved = cache
        .push(&mut |step| progress.tell(step))
        .map_err(CliError::environment)?;
    let traffic = cache.traffic();
    Report {
        moved,
        blobs: traffic.blobs_out,
        bytes: traffic.bytes_out,
        done: ("result is at", "results are at"),
        how: "uploaded",
        left: "lack a blob here and stay",
    }
    .tell(&cache, as_json, style)
}

pub(crate) fn pull(entries: bool, as_json: bool, global: &Global, style: Style) -> Done {
    let cache = opened(CacheMode::Read, global, style)?;
    let mut progress = Progress::new(style);
    let moved = cache.pull(!entries, &mut |step| progress.tell(step));
    let traffic = cache.traffic();
    Report {
        moved,
        blobs: traffic.blobs_in,
        bytes: traffic.bytes_in,
        done: ("result is here from", "results are here from"),
        how: "fetched",
        left: "lack a blob there, or do not count",
    }
    .tell(&cache, as_json, style)
}

/// What went from one cache to the other.
struct Report {
    moved: Moved,
    blobs: u64,
    bytes: u64,
    /// One result, and several.
    done: (&'static str, &'static str),
    how: &'static str,
    /// Of results that did not go.
    left: &'static str,
}

impl Report {
    fn tell(&self, cache: &SharedCache, as_json: bool, style: Style) -> Done {
        shared::tell(cache, style);
        let at = cache.location();
        if as_json {
            put!(
                "{}",
                json!({
                    "at": at.to_string(),
                    "results": self.moved.results,
                    "incomplete": self.moved.left,
                    "blobs": self.blobs,
                    "bytes": self.bytes,
                    "complete": !self.moved.cut,
                })
            );
        } else {
            let left = match self.moved.left {
                0 => String::new(),
                left => format!("; {left} {}", self.left),
            };
            put!(
                "{} {at}; {} {} ({}){left}",
                plural_of(self.moved.results, self.done.0, self.done.1),
                plural(self.blobs, "blob"),
                self.how,
                format_bytes(self.bytes),
            );
        }
        if self.moved.cut {
            return Err(CliError::environment(format!(
                "{at} was not reached to the end; the same command goes on from there"
            )));
        }
        Ok(0)
    }
}

pub(crate) fn keygen(dir: &Path) -> Done {
    let public = SigningKey::generate(dir).map_err(CliError::environment)?;
    put!("{public}");
    say!(
        "{} signs: keep it secret, and name it by `sign` in `[cache]` where results are made\nthe line above is for everybody: add it to `trust` in `[cache]`",
        dir.join("cache.key").display()
    );
    Ok(0)
}

/// The shared cache of the settings; the command itself is leave to use it.
fn opened(mode: CacheMode, global: &Global, style: Style) -> Result<Arc<SharedCache>, CliError> {
    let (mut settings, store) = open(global)?;
    settings.shared.mode.value = mode;
    if settings.shared.at.value.is_none() {
        return Err(CliError::invalid("there is no shared cache").hint(
            "name one: `--cache s3://bucket/prefix`, DAGRUN_CACHE, or `shared` in `[cache]` of dagrun.toml",
        ));
    }
    shared::open(&settings, &store, style)?
        .ok_or_else(|| CliError::environment("the shared cache cannot be used"))
}

/// A line now and then while a whole cache moves.
struct Progress {
    style: Style,
    told: Instant,
}

/// Between two lines.
const NOW_AND_THEN: Duration = Duration::from_secs(5);

impl Progress {
    fn new(style: Style) -> Self {
        Self {
            style,
            told: Instant::now(),
        }
    }

    fn tell(&mut self, step: Step) {
        if !self.style.quiet && self.told.elapsed() > NOW_AND_THEN {
            self.told = Instant::now();
            say!("{} of {}", step.done, plural(step.all, "result"));
        }
    }
}
