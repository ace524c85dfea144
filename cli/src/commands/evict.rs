//! `dagrun cache evict`: results of a machine that is not to be believed any more.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use dagrun_model::{ActionDigest, parse_duration};
use dagrun_store::{ActionEntry, MadeBy};
use serde_json::json;

use super::cache::open;
use crate::{
    args::{EvictArgs, Global},
    error::{CliError, Done},
    put, say,
    term::{escape, plural_of, table},
};

/// Rows that are listed.
const LISTED: usize = 20;

pub(crate) fn evict(args: &EvictArgs, global: &Global) -> Done {
    let since = match &args.since {
        Some(text) => millis(since(text, SystemTime::now())?),
        None => 0,
    };
    let (_, store) = open(global)?;
    let is_of = |entry: &ActionEntry| {
        is_on(&entry.made_by.host, &args.host) && entry.made_by.time_ms >= since
    };
    let found = if args.dry_run {
        store.entries_that(&|_, entry| is_of(entry))
    } else {
        store.evict(&|_, entry| is_of(entry))
    };
    let found = found.map_err(CliError::environment)?;
    tell(args, &found);
    Ok(0)
}

fn tell(args: &EvictArgs, found: &[(ActionDigest, MadeBy)]) {
    if args.answer.json {
        let rows: Vec<_> = found
            .iter()
            .map(|(action, by)| json!({"action": action.to_string(), "node": by.node, "run": by.run, "host": by.host, "made_ms": by.time_ms}))
            .collect();
        return put!(
            "{}",
            json!({"dry_run": args.dry_run, "entries": found.len(), "rows": rows})
        );
    }
    let rows: Vec<Vec<String>> = found
        .iter()
        .take(LISTED)
        .map(|(_, by)| [&by.node, &by.host, &by.run].map(|it| escape(it)).to_vec())
        .collect();
    if !rows.is_empty() {
        put!("{}", table(&["node", "made on", "run"], &rows).trim_end());
    }
    if found.len() > LISTED {
        put!("... and {} more", found.len() - LISTED);
    }
    let count = plural_of(found.len() as u64, "result", "results");
    if args.dry_run {
        put!("would forget {count}");
    } else {
        put!("forgot {count}");
        say!("their nodes run again when they are needed; `dagrun gc` removes the bytes");
    }
}

/// Whether a result was made on a host: by it, or by a worker of a run there.
fn is_on(made_on: &str, host: &str) -> bool {
    match made_on.strip_prefix(host) {
        Some(rest) => rest.is_empty() || rest.starts_with('/'),
        None => false,
    }
}

/// A point in time, or so long before now.
fn since(text: &str, now: SystemTime) -> Result<SystemTime, CliError> {
    if let Ok(ago) = parse_duration(text) {
        return Ok(now.checked_sub(ago).unwrap_or(UNIX_EPOCH));
    }
    humantime::parse_rfc3339_weak(text).map_err(|_| {
        CliError::invalid(format!("`--since {text}` is no time"))
            .hint("write one such as `2026-11-30T18:00:00Z`, in UTC, or so long ago, such as `3d`")
    })
}

fn millis(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_have_workers() {
        assert!(is_on("node1", "node1"));
        assert!(is_on("node1/worker2", "node1"));
        assert!(is_on("node1/worker2", "node1/worker2"));
        assert!(!is_on("node10", "node1"));
        assert!(!is_on("node", "node1"));
    }

    #[test]
    fn times_are_points_or_spans() {
        let now = UNIX_EPOCH + Duration::from_secs(1_000_000);
        let hour = Duration::from_secs(3600);
        assert_eq!(since("1h", now).ok(), Some(now - hour));
        let point = since("1970-01-01T01:00:00Z", now).ok();
        assert_eq!(point, Some(UNIX_EPOCH + hour));
        assert!(since("yesterday", now).is_err());
    }
}
