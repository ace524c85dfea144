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
    shared::tell(&cache, style);
    let traffic = cache.traffic();
    if as_json {
        put!(
            "{}",
            json!({
                "at": cache.location().to_string(),
                "results": moved.results,
                "incomplete": moved.left,
                "blobs": traffic.blobs_out,
                "bytes": traffic.bytes_out,
                "complete": !moved.cut,
            })
        );
    } else {
        put!(
            "{} at {}; {} uploaded ({}){}",
            plural_of(moved.results, "result is", "results are"),
            cache.location(),
            plural(traffic.blobs_out, "blob"),
            format_bytes(traffic.bytes_out),
            left(moved, "lack a blob here and stay")
        );
    }
    concluded(moved, &cache)
}

pub(crate) fn pull(entries: bool, as_json: bool, global: &Global, style: Style) -> Done {
    let cache = opened(CacheMode::Read, global, style)?;
    let mut progress = Progress::new(style);
    let moved = cache.pull(!entries, &mut |step| progress.tell(step));
    shared::tell(&cache, style);
    let traffic = cache.traffic();
    if as_json {
        put!(
            "{}",
            json!({
                "at": cache.location().to_string(),
                "results": moved.results,
                "incomplete": moved.left,
                "blobs": traffic.blobs_in,
                "bytes": traffic.bytes_in,
                "complete": !moved.cut,
            })
        );
    } else {
        put!(
            "{} from {}; {} fetched ({}){}",
            plural_of(moved.results, "result is here", "results are here"),
            cache.location(),
            plural(traffic.blobs_in, "blob"),
            format_bytes(traffic.bytes_in),
            left(moved, "lack a blob there, or do not count")
        );
    }
    concluded(moved, &cache)
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

fn left(moved: Moved, why: &str) -> String {
    match moved.left {
        0 => String::new(),
        left => format!("; {left} {why}"),
    }
}

fn concluded(moved: Moved, cache: &SharedCache) -> Done {
    if moved.cut {
        return Err(CliError::environment(format!(
            "{} was not reached to the end; the same command goes on from there",
            cache.location()
        )));
    }
    Ok(0)
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
