//! `dagrun gc` and `dagrun cache`: what is in the cache, whose it is, whether it is whole.

use dagrun_model::{format_bytes, parse_bytes, parse_duration};
use dagrun_store::{GcOptions, Store};
use serde_json::json;

use crate::{
    args::{GcArgs, Global},
    error::{CliError, Done},
    load::open_store,
    put, say,
    settings::Settings,
    term::{Ink, Style, table},
};

fn open(global: &Global) -> Result<(Settings, Store), CliError> {
    let settings = Settings::load(std::path::Path::new("."), global.cache.as_deref())?;
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
        ..GcOptions::default()
    };
    let report = store.gc(&options).map_err(CliError::environment)?;
    if args.json {
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
                format_bytes(row.bytes),
                days(row.unused.as_secs_f64()),
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
        "{} {} entries and {} blobs, {}; {} stay",
        if args.dry_run {
            "would delete"
        } else {
            "deleted"
        },
        report.entries,
        report.blobs,
        format_bytes(report.bytes),
        format_bytes(report.kept_bytes)
    );
    if report.guarded > 0 {
        put!(
            "{} more blobs are in use by {} live runs",
            report.guarded,
            report.leases
        );
    }
    if options.max_age.is_none() && options.max_bytes.is_none() {
        say!(
            "no limit was given, so only leftovers go: --max-age 30d, --max-size 20GiB, or [gc] in dagrun.toml"
        );
    }
    Ok(0)
}

fn days(seconds: f64) -> String {
    let days = seconds / 86_400.0;
    if days >= 1.0 {
        format!("{days:.0} d")
    } else {
        format!("{:.1} h", seconds / 3600.0)
    }
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
                "; {} outputs were collected and are made again when they are read",
                report.missing.len()
            )
        };
        put!(
            "{} blobs ({}) and {} entries looked at; {problems} problems{missing}",
            report.blobs,
            format_bytes(report.bytes),
            report.entries
        );
        if problems > 0 && !fix {
            say!(
                "`dagrun cache verify --fix` moves what is corrupt to quarantine; what is missing then runs again"
            );
        }
    }
    Ok(u8::from(!report.is_sound() && !fix))
}

pub(crate) fn stat(as_json: bool, global: &Global) -> Done {
    let (settings, store) = open(global)?;
    let stat = store.stat().map_err(CliError::environment)?;
    if as_json {
        put!(
            "{}",
            json!({"dir": settings.cache.value, "blobs": stat.blobs, "bytes": stat.bytes, "entries": stat.entries})
        );
    } else {
        put!(
            "{}\n{} blobs, {}; {} entries",
            settings.cache.value.display(),
            stat.blobs,
            format_bytes(stat.bytes),
            stat.entries
        );
    }
    Ok(0)
}

pub(crate) fn dir(global: &Global) -> Done {
    let settings = Settings::load(std::path::Path::new("."), global.cache.as_deref())?;
    put!("{}", settings.cache.value.display());
    Ok(0)
}
