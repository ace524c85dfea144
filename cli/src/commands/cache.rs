//! `dagrun gc` and `dagrun cache`: what is in the cache, whose it is, whether it is whole.

use std::{path::Path, time::Duration};

use dagrun_model::{format_bytes, parse_bytes, parse_duration};
use dagrun_store::{GcOptions, Store};
use serde_json::json;

use crate::{
    args::{GcArgs, Global},
    error::{CliError, Done},
    load::open_store,
    put, say,
    settings::Settings,
    shared,
    term::{Ink, Style, plural, plural_of, table},
};

/// Work folders younger than this stay.
const WORK_AGE: Duration = Duration::from_secs(3600);

pub(super) fn open(global: &Global) -> Result<(Settings, Store), CliError> {
    let settings = Settings::load(Path::new("."), &global.cache)?;
    let store = open_store(&settings)?;
    Ok((settings, store))
}

pub(crate) fn gc(args: &GcArgs, global: &Global) -> Done {
    let (settings, store) = open(global)?;
    let age = args
        .max_age
        .as_deref()
        .map(parse_duration)
        .transpose()
        .map_err(CliError::invalid)?;
    let size = args
        .max_size
        .as_deref()
        .map(parse_bytes)
        .transpose()
        .map_err(CliError::invalid)?;
    let options = GcOptions {
        max_age: age.or(settings.gc_max_age.value),
        max_bytes: size.or(settings.gc_max_size.value),
        dry_run: args.dry_run,
        // Who names a limit means it also for what was made within the hour.
        now: age.is_some() || size.is_some(),
        ..GcOptions::default()
    };
    let report = store.gc(&options).map_err(CliError::environment)?;
    let folders = sweep_work(&store.root().join("work"), report.leases > 0, args.dry_run);
    if args.answer.json {
        let rows: Vec<_> = report
            .rows
            .iter()
            .map(|row| json!({"node": row.node, "run": row.run, "bytes": row.bytes, "unused_s": row.unused.as_secs(), "entry": row.entry}))
            .collect();
        put!(
            "{}",
            json!({
                "dry_run": args.dry_run,
                "entries": report.entries,
                "blobs": report.blobs,
                "bytes": report.bytes,
                "kept_blobs": report.kept_blobs,
                "kept_bytes": report.kept_bytes,
                "guarded": report.guarded,
                "young": report.young,
                "young_bytes": report.young_bytes,
                "work_folders": folders,
                "leases": report.leases,
                "rows": rows,
            })
        );
        return Ok(0);
    }
    let rows: Vec<Vec<String>> = report
        .rows
        .iter()
        .take(if args.dry_run { usize::MAX } else { 20 })
        .map(|row| {
            vec![
                row.node.clone(),
                row.run.clone(),
                if row.bytes > 0 {
                    format_bytes(row.bytes)
                } else {
                    "-".into()
                },
                about(row.unused.as_secs_f64()),
            ]
        })
        .collect();
    if !rows.is_empty() {
        put!(
            "{}",
            table(&["node", "run", ">bytes", ">unused for"], &rows).trim_end()
        );
    }
    put!(
        "{} {} and {}, {}; {} stay",
        if args.dry_run {
            "would delete"
        } else {
            "deleted"
        },
        plural_of(report.entries, "entry", "entries"),
        plural(report.blobs, "blob"),
        format_bytes(report.bytes),
        format_bytes(report.kept_bytes)
    );
    if report.guarded > 0 {
        put!(
            "{} more in use by {}",
            plural(report.guarded, "blob"),
            plural(report.leases, "live run")
        );
    }
    if report.young > 0 {
        put!(
            "{} ({}) younger than 1 h and stay: {}",
            plural_of(report.young, "blob is", "blobs are"),
            format_bytes(report.young_bytes),
            if report.leases > 0 {
                "runs are live that may use them"
            } else {
                "name the limit by a flag to delete them now"
            }
        );
    }
    if folders > 0 {
        put!(
            "{} {} of runs that are over",
            if args.dry_run {
                "would remove"
            } else {
                "removed"
            },
            plural(folders, "work folder")
        );
    }
    if options.max_age.is_none() && options.max_bytes.is_none() {
        say!(
            "no limit was given, so only leftovers go: --max-age 30d, --max-size 20GiB, or [gc] in dagrun.toml"
        );
    }
    Ok(0)
}

/// Removes the work folders of runs that are over: older than an hour, and no run live; those of a shell whose process is
/// gone, at once. Gives how many.
fn sweep_work(work: &Path, live: bool, dry_run: bool) -> u64 {
    let entries = std::fs::read_dir(work).into_iter().flatten().flatten();
    let mut removed = 0;
    for entry in entries {
        let path = entry.path();
        let name = entry.file_name().to_string_lossy().into_owned();
        let old = entry
            .metadata()
            .and_then(|meta| meta.modified())
            .is_ok_and(|at| at.elapsed().is_ok_and(|age| age > WORK_AGE));
        let goes = match name
            .strip_prefix("shell-")
            .and_then(|pid| pid.parse::<u32>().ok())
        {
            Some(pid) => !Path::new("/proc").join(pid.to_string()).exists(),
            None => old && !live,
        };
        if goes && path.is_dir() && (dry_run || std::fs::remove_dir_all(&path).is_ok()) {
            removed += 1;
        }
    }
    removed
}

/// A time in the one unit that says enough.
fn about(seconds: f64) -> String {
    for (unit, length) in [("d", 86_400.0), ("h", 3600.0), ("min", 60.0)] {
        if seconds >= length {
            return format!("{:.0} {unit}", (seconds / length).floor());
        }
    }
    format!("{seconds:.0} s")
}

pub(crate) fn verify(fix: bool, as_json: bool, global: &Global, style: Style) -> Done {
    let (_, store) = open(global)?;
    let report = store.verify(fix).map_err(CliError::environment)?;
    let problems = report.corrupt.len() + report.damaged.len();
    if as_json {
        put!(
            "{}",
            json!({
                "blobs": report.blobs,
                "bytes": report.bytes,
                "entries": report.entries,
                "corrupt": report.corrupt,
                "damaged": report.damaged,
                "missing": report.missing.len(),
                "saved": report.saved,
                "fixed": report.fixed,
            })
        );
    } else {
        for digest in &report.corrupt {
            put!(
                "{} blob {digest} has other bytes than its name says",
                style.paint_out(Ink::Bad, "bad:")
            );
        }
        for damage in &report.damaged {
            put!("{} {damage}", style.paint_out(Ink::Bad, "bad:"));
        }
        let missing = if report.missing.is_empty() {
            String::new()
        } else {
            format!(
                "; {} collected and made again when read",
                plural_of(report.missing.len() as u64, "output was", "outputs were")
            )
        };
        put!(
            "{} ({}) and {} looked at; {}{missing}",
            plural(report.blobs, "blob"),
            format_bytes(report.bytes),
            plural_of(report.entries, "entry", "entries"),
            plural(problems as u64, "problem")
        );
        if problems > 0 && !fix {
            say!(
                "`dagrun cache verify --fix` moves what is corrupt to quarantine; what is missing then runs again"
            );
        }
    }
    Ok(u8::from(!report.is_sound() && !fix))
}

pub(crate) fn stat(as_json: bool, global: &Global, style: Style) -> Done {
    let (settings, store) = open(global)?;
    let stat = store.stat().map_err(CliError::environment)?;
    let cache = shared::open(&settings, &store, style)?;
    let afar = cache.as_ref().and_then(|cache| cache.stat());
    if let Some(cache) = &cache {
        shared::tell(cache, style);
    }
    if as_json {
        let mut row = json!({"dir": settings.cache.value, "blobs": stat.blobs, "bytes": stat.bytes, "entries": stat.entries});
        if let (Some(cache), Some(afar)) = (&cache, afar) {
            row["shared"] = json!({"at": cache.location().to_string(), "blobs": afar.blobs, "bytes": afar.bytes, "entries": afar.entries, "trusted": afar.trusted});
        }
        put!("{row}");
        return Ok(0);
    }
    let counts = |blobs, bytes, entries| {
        format!(
            "{}, {}; {}",
            plural(blobs, "blob"),
            format_bytes(bytes),
            plural_of(entries, "entry", "entries")
        )
    };
    put!(
        "{}\n{}",
        settings.cache.value.display(),
        counts(stat.blobs, stat.bytes, stat.entries)
    );
    if let (Some(cache), Some(afar)) = (&cache, afar) {
        let trusted = match afar.trusted == afar.entries {
            true => String::new(),
            false => format!(", {} of them by keys that are trusted", afar.trusted),
        };
        put!(
            "{}\n{}{trusted}",
            cache.location(),
            counts(afar.blobs, afar.bytes, afar.entries)
        );
    }
    Ok(0)
}

pub(crate) fn dir(global: &Global) -> Done {
    let settings = Settings::load(Path::new("."), &global.cache)?;
    put!("{}", settings.cache.value.display());
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_one_unit() {
        for (seconds, text) in [
            (0.2, "0 s"),
            (59.0, "59 s"),
            (60.0, "1 min"),
            (3599.0, "59 min"),
            (7300.0, "2 h"),
            (200_000.0, "2 d"),
        ] {
            assert_eq!(about(seconds), text);
        }
    }
}
