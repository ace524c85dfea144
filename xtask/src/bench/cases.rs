//! What is measured. Each case gives one table.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::atomic::{AtomicU64, Ordering},
    time::Instant,
};

use super::{
    Bench, Figures, Row, Table,
    graphs::{self, Levels},
    measure::{Side, in_turn},
    peers,
};
use crate::tools::output;

/// The cases in the order in which they run.
pub(crate) const NAMES: &[&str] = &[
    "noop",
    "noop-files",
    "noop-peers",
    "trues",
    "one-changed",
    "plan",
    "scheduler",
    "store",
];

/// Runs one case.
pub(crate) fn run(bench: &Bench, name: &str) -> Result<Table, String> {
    match name {
        "noop" => Ok(Table {
            name: "noop",
            what: "A re-run in which nothing has changed: nodes in levels of 100, of which the first reads a file each.",
            goal: "not slower than ninja",
            rows: noop(bench, "noop", false)?,
        }),
        "noop-files" => Ok(Table {
            name: "noop-files",
            what: "The same where each node also reads a file of its own.",
            goal: "not slower than ninja",
            rows: noop(bench, "noop-files", true)?,
        }),
        "noop-peers" => noop_peers(bench),
        "trues" => trues(bench),
        "one-changed" => one_changed(bench),
        "plan" => plan(bench),
        "scheduler" => scheduler(),
        "store" => store(bench),
        other => Err(format!("unknown bench `{other}`")),
    }
}

/// A side with a name and the size that it works on.
struct Named<'a> {
    name: &'a str,
    size: u64,
    side: Option<Side<'a>>,
    note: &'a str,
}

/// Measures all sides in turn; the first is dagrun and the others' ratios are per unit of size.
fn compare(named: Vec<Named<'_>>, runs: usize) -> Vec<Row> {
    let (present, absent): (Vec<_>, Vec<_>) =
        named.into_iter().partition(|named| named.side.is_some());
    let (labels, sides): (Vec<_>, Vec<_>) = present
        .into_iter()
        .filter_map(|n| Some(((n.name, n.size, n.note), n.side?)))
        .unzip();
    let measured = in_turn(&sides, runs);
    let own = measured
        .first()
        .and_then(|first| first.as_ref().ok())
        .map(|first| first.wall / labels[0].1 as f64);
    let mut rows: Vec<Row> = labels
        .iter()
        .zip(measured)
        .enumerate()
        .map(|(ix, ((name, size, note), result))| match result {
            Ok(figures) => Row {
                side: (*name).into(),
                size: *size,
                figures: Some(figures),
                ratio: own
                    .filter(|_| ix > 0)
                    .map(|own| own / (figures.wall / *size as f64)),
                note: (*note).into(),
            },
            Err(error) => Row {
                side: (*name).into(),
                size: *size,
                figures: None,
                ratio: None,
                note: error.replace('|', "/"),
            },
        })
        .collect();
    rows.extend(absent.into_iter().map(|named| Row {
        side: named.name.into(),
        size: named.size,
        figures: None,
        ratio: None,
        note: "not installed: cargo xtask bench --peers".into(),
    }));
    rows
}

fn dagrun<'a>(bench: &Bench, folder: &'a Path, args: &[&str]) -> Side<'a> {
    let args: Vec<&str> = args
        .iter()
        .copied()
        .chain(["--color", "never", "--quiet"])
        .collect();
    Side::new(bench.dagrun.display().to_string(), &args, folder)
        .env("DAGRUN_CACHE", folder.join("cache").display().to_string())
}

/// Folders with the same levels for each engine, built once.
struct Built {
    dagrun: PathBuf,
    ninja: PathBuf,
    make: PathBuf,
}

fn build_levels(bench: &Bench, name: &str, levels: &Levels) -> Result<Built, String> {
    let folder = |engine: &str| bench.folder(&format!("{name}-{engine}"));
    let built = Built {
        dagrun: folder("dagrun")?,
        ninja: folder("ninja")?,
        make: folder("make")?,
    };
    for path in [&built.dagrun, &built.ninja, &built.make] {
        levels.sources(path)?;
    }
    levels.dagrun(&built.dagrun)?;
    levels.ninja(&built.ninja)?;
    levels.make(&built.make)?;
    dagrun(bench, &built.dagrun, &["run", "pipeline.yaml", "-j", "2"]).run()?;
    if let Some(ninja) = peers::program("ninja") {
        Side::new(ninja, &["-j2"], &built.ninja).run()?;
    }
    if let Some(make) = peers::program("make") {
        Side::new(make, &["-j2"], &built.make).run()?;
    }
    // What is younger than two seconds is hashed again by design: let the clock pass, as it does between two commands.
    std::thread::sleep(std::time::Duration::from_secs(3));
    Ok(built)
}

fn noop(bench: &Bench, name: &str, own_files: bool) -> Result<Vec<Row>, String> {
    let levels = Levels {
        levels: bench.size(100),
        width: 100,
        own_files,
    };
    let built = build_levels(bench, name, &levels)?;
    let n = levels.nodes();
    let named = vec![
        Named {
            name: "dagrun",
            size: n,
            side: Some(dagrun(
                bench,
                &built.dagrun,
                &["run", "pipeline.yaml", "-j", "2"],
            )),
            note: "by content",
        },
        Named {
            name: "ninja",
            size: n,
            side: peers::program("ninja").map(|p| Side::new(p, &["-j2"], &built.ninja)),
            note: "by mtime",
        },
        Named {
            name: "make",
            size: n,
            side: peers::program("make").map(|p| Side::new(p, &["-j2"], &built.make)),
            note: "by mtime",
        },
    ];
    Ok(compare(named, 11))
}

/// The engines that take a minute for ten thousand nodes, at a tenth of them.
fn noop_peers(bench: &Bench) -> Result<Table, String> {
    let levels = Levels {
        levels: bench.size(10),
        width: 100,
        own_files: false,
    };
    let built = build_levels(bench, "noop-peers", &levels)?;
    let folder = |engine: &str| bench.folder(&format!("noop-peers-{engine}"));
    let (snakemake, dvc, redun) = (folder("snakemake")?, folder("dvc")?, folder("redun")?);
    // Its first run of a thousand stages takes more than a quarter of an hour, and grows faster than the stages do.
    let fewer = Levels {
        levels: 1,
        ..levels
    };
    for path in [&snakemake, &redun] {
        levels.sources(path)?;
    }
    fewer.sources(&dvc)?;
    levels.snakemake(&snakemake)?;
    fewer.dvc(&dvc)?;
    levels.redun(&redun)?;
    if let Some(program) = peers::python_program("dvc") {
        let _ = Side::new("git", &["init", "-q"], &dvc).run();
        let _ = Side::new(program, &["init", "-q"], &dvc).run();
    }
    // The first run of each makes what the counted ones find: it is in their warm-up.
    let n = levels.nodes();
    let side = |name: &str, args: &[&str], folder| {
        peers::python_program(name).map(|p| Side::new(p, args, folder))
    };
    let named = vec![
        Named {
            name: "dagrun",
            size: n,
            side: Some(dagrun(
                bench,
                &built.dagrun,
                &["run", "pipeline.yaml", "-j", "2"],
            )),
            note: "",
        },
        Named {
            name: "snakemake",
            size: n,
            side: side("snakemake", &["-c2", "--quiet", "all"], &snakemake),
            note: "",
        },
        Named {
            name: "dvc",
            size: fewer.nodes(),
            side: side("dvc", &["repro", "--quiet"], &dvc).map(|s| s.env("DVC_NO_ANALYTICS", "1")),
            note: "",
        },
        Named {
            name: "redun",
            size: n,
            side: side("redun", &["run", "workflow.py", "main"], &redun),
            note: "",
        },
    ];
    Ok(Table {
        name: "noop-peers",
        what: "The same beside engines for data and science.",
        goal: "faster than each",
        rows: compare(named, 3),
    })
}

/// The ratio of a row that was measured apart, per unit of size.
fn per_unit(mut row: Row, own: Option<Figures>, own_size: u64) -> Row {
    if let (Some(own), Some(figures)) = (own, row.figures) {
        row.ratio = Some((own.wall / own_size as f64) / (figures.wall / row.size as f64));
    }
    row
}

fn trues(bench: &Bench) -> Result<Table, String> {
    let n = bench.size(10_000);
    let (own, ninja, make, hq) = (
        bench.folder("trues-dagrun")?,
        bench.folder("trues-ninja")?,
        bench.folder("trues-make")?,
        bench.folder("trues-hq")?,
    );
    graphs::trues_dagrun(&own, n)?;
    graphs::trues_ninja(&ninja, n)?;
    graphs::trues_make(&make, n)?;
    graphs::trues_hyperqueue(&hq, n)?;
    let fresh = |folder: PathBuf| {
        move |_| {
            for name in [".dagrun", "cache", ".ninja_log", ".ninja_deps"] {
                let path = folder.join(name);
                let gone = if path.is_dir() {
                    fs::remove_dir_all(&path)
                } else {
                    fs::remove_file(&path)
                };
                if let Err(error) = gone
                    && error.kind() != std::io::ErrorKind::NotFound
                {
                    return Err(format!("cannot clear {}: {error}", path.display()));
                }
            }
            Ok(())
        }
    };
    let me = std::env::current_exe()
        .map_err(|error| error.to_string())?
        .display()
        .to_string();
    let count = n.to_string();
    let named = vec![
        Named {
            name: "dagrun",
            size: n,
            side: Some(
                dagrun(bench, &own, &["run", "pipeline.yaml", "-j", "2"])
                    .prepare(fresh(own.clone())),
            ),
            note: "journal, action cache, clean folders",
        },
        Named {
            name: "bare posix_spawn, 2 wide",
            size: n,
            side: Some(Side::new(me, &["bench-spawn", &count], &own)),
            note: "the bound: keeps no record; goal 1.3",
        },
        Named {
            name: "ninja",
            size: n,
            side: peers::program("ninja")
                .map(|p| Side::new(p, &["-j2"], &ninja).prepare(fresh(ninja.clone()))),
            note: "runs each by `sh -c`; log without fsync",
        },
        Named {
            name: "make",
            size: n,
            side: peers::program("make").map(|p| Side::new(p, &["-j2", "-s"], &make)),
            note: "keeps no record",
        },
        Named {
            name: "hyperqueue",
            size: n,
            side: peers::python_with("hyperqueue").map(|p| Side::new(p, &["hq.py"], &hq)),
            note: "2 cores, LocalCluster",
        },
    ];
    Ok(Table {
        name: "trues",
        what: "Independent nodes of `true N`, all different, with 2 slots, from an empty cache.",
        goal: "within 1.3 of the bare loop; faster than all peers that keep a record",
        rows: compare(named, if bench.quick { 3 } else { 5 }),
    })
}

/// `cargo xtask bench-spawn N`: the bare loop, two threads that spawn and wait.
pub(crate) fn bare_spawn_loop(n: u64) -> Result<(), String> {
    let next = AtomicU64::new(0);
    let worker = || -> Result<(), String> {
        loop {
            let i = next.fetch_add(1, Ordering::Relaxed);
            if i >= n {
                return Ok(());
            }
            Command::new("true")
                .arg(i.to_string())
                .stdin(Stdio::null())
                .status()
                .map_err(|error| format!("cannot start `true`: {error}"))?;
        }
    };
    std::thread::scope(|scope| {
        let threads = [scope.spawn(worker), scope.spawn(worker)];
        threads
            .into_iter()
            .try_for_each(|thread| thread.join().map_err(|_| "a thread panicked".to_string())?)
    })
}

fn one_changed(bench: &Bench) -> Result<Table, String> {
    let levels = Levels {
        levels: bench.size(100),
        width: 100,
        own_files: false,
    };
    let built = build_levels(bench, "one-changed", &levels)?;
    let change = |folder: PathBuf| {
        move |round: usize| {
            let stamp = std::process::id();
            fs::write(folder.join("src/7.txt"), format!("{stamp} {round}\n"))
                .map_err(|error| error.to_string())
        }
    };
    let n = levels.nodes();
    let named = vec![
        Named {
            name: "dagrun",
            size: n,
            side: Some(
                dagrun(bench, &built.dagrun, &["run", "pipeline.yaml", "-j", "2"])
                    .prepare(change(built.dagrun.clone())),
            ),
            note: "every result durable before the next node starts",
        },
        Named {
            name: "ninja",
            size: n,
            side: peers::program("ninja")
                .map(|p| Side::new(p, &["-j2"], &built.ninja).prepare(change(built.ninja.clone()))),
            note: "",
        },
    ];
    Ok(Table {
        name: "one-changed",
        what: "One changed input: a chain of 100 of the nodes runs again, one after the other.",
        goal: "not slower than ninja",
        rows: compare(named, 7),
    })
}

fn plan(bench: &Bench) -> Result<Table, String> {
    let (many, most, few) = (
        bench.size(100_000),
        bench.size(1_000_000),
        bench.size(10_000),
    );
    let folder = |name: &str| bench.folder(&format!("plan-{name}"));
    let (own, own_most, ninja, ninja_most, snakemake) = (
        folder("dagrun")?,
        folder("dagrun-most")?,
        folder("ninja")?,
        folder("ninja-most")?,
        folder("snakemake")?,
    );
    graphs::plan_dagrun(&own, many)?;
    graphs::plan_dagrun(&own_most, most)?;
    graphs::plan_ninja(&ninja, many)?;
    graphs::plan_ninja(&ninja_most, most)?;
    graphs::plan_snakemake(&snakemake, few)?;
    let peak = |folder: &Path, nodes: u64| {
        peak_bytes(bench, folder).map(|bytes| format!("{} bytes a node", bytes / nodes))
    };
    let (note, note_most) = (peak(&own, many)?, peak(&own_most, most)?);
    let counts = ["plan", "pipeline.yaml", "--counts"];
    let mut rows = compare(
        vec![
            Named {
                name: "dagrun plan",
                size: many,
                side: Some(dagrun(bench, &own, &counts)),
                note: &note,
            },
            Named {
                name: "dagrun plan, most",
                size: most,
                side: Some(dagrun(bench, &own_most, &counts)),
                note: &note_most,
            },
            Named {
                name: "ninja -n",
                size: many,
                side: peers::program("ninja").map(|p| Side::new(p, &["-n"], &ninja)),
                note: "",
            },
            Named {
                name: "ninja -n, most",
                size: most,
                side: peers::program("ninja").map(|p| Side::new(p, &["-n"], &ninja_most)),
                note: "",
            },
        ],
        3,
    );
    rows[1].ratio = None;
    let own = rows[0].figures;
    let slow = compare(
        vec![Named {
            name: "snakemake -n",
            size: few,
            side: peers::python_program("snakemake")
                .map(|p| Side::new(p, &["-n", "--quiet", "all"], &snakemake)),
            note: "per node",
        }],
        1,
    );
    rows.extend(slow.into_iter().map(|row| per_unit(row, own, many)));
    Ok(Table {
        name: "plan",
        what: "A cold plan of simulations with a score each.",
        goal: "< 1 s for 100,000 nodes, < 10 s for 1,000,000, <= 500 bytes a node",
        rows,
    })
}

/// The greatest resident memory of a planning process.
fn peak_bytes(bench: &Bench, folder: &Path) -> Result<u64, String> {
    let mut child = Command::new(&bench.dagrun)
        .args(["plan", "pipeline.yaml", "--counts", "--quiet"])
        .current_dir(folder)
        .env("DAGRUN_CACHE", folder.join("cache"))
        .stdout(Stdio::null())
        .spawn()
        .map_err(|error| format!("cannot start dagrun: {error}"))?;
    let status = format!("/proc/{}/status", child.id());
    let mut peak = 0;
    while child
        .try_wait()
        .map_err(|error| error.to_string())?
        .is_none()
    {
        let text = fs::read_to_string(&status).unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kib = line.and_then(|line| {
            line.trim()
                .trim_end_matches("kB")
                .trim()
                .parse::<u64>()
                .ok()
        });
        peak = kib.map_or(peak, |kib| kib * 1024);
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
    Ok(peak)
}

fn scheduler() -> Result<Table, String> {
    let text = output(
        "cargo",
        &[
            "run",
            "--release",
            "--quiet",
            "-p",
            "dagrun-sched",
            "--features",
            "sim",
            "--example",
            "sched_bench",
        ],
    )?;
    let mut rows = Vec::new();
    let measured: Vec<serde_json::Value> = serde_json::from_str(&text)
        .map_err(|error| format!("sched_bench printed bad JSON: {error}"))?;
    for row in measured {
        let (events, ns) = (
            row["events"].as_u64().unwrap_or(0),
            row["ns_per_event"].as_f64().unwrap_or(f64::NAN),
        );
        let wall = events as f64 * ns / 1e9;
        rows.push(Row {
            side: format!(
                "{} at {} hosts",
                row["shape"].as_str().unwrap_or("graph"),
                row["hosts"]
            ),
            size: row["nodes"].as_u64().unwrap_or(0),
            figures: Some(Figures {
                wall,
                cpu: wall,
                range: (wall, wall),
                runs: 1,
            }),
            ratio: None,
            note: format!("{events} events, {:.2} microseconds an event", ns / 1e3),
        });
    }
    Ok(Table {
        name: "scheduler",
        what: "The scheduler core alone, fed with its own events.",
        goal: "<= 2 microseconds an event at 8 hosts, flat to a million nodes",
        rows,
    })
}

fn store(bench: &Bench) -> Result<Table, String> {
    let bytes = bench.size(4 << 30);
    let source = bench.folder("store-source")?;
    fill(&source.join("output.bin"), bytes)?;
    let own = bench.folder("store-own")?;
    fs::write(
        own.join("pipeline.yaml"),
        "dagrun: 1\nname: store\nparams: {from: {type: string}}\njobs:\n  big:\n    cache: never\n    outputs: {o: o.bin}\n    \
         run: [mv, \"${{ params.from }}\", \"${{ outputs.o }}\"]\n",
    )
    .map_err(|error| error.to_string())?;
    let parked = bench.scratch.join("store-source/parked.bin");
    let copy = bench.folder("store-copy")?;
    // A fresh copy each time, settled on disk, so that both sides hash and flush bytes that are not yet theirs.
    let renew = {
        let (source, parked) = (source.join("output.bin"), parked.clone());
        move |folder: &Path| -> Result<(), String> {
            for name in [".dagrun", "cache"] {
                let _ = fs::remove_dir_all(folder.join(name));
            }
            let _ = fs::remove_file(folder.join("copy.bin"));
            let _ = fs::remove_file(&parked);
            fs::copy(&source, &parked).map_err(|error| error.to_string())?;
            Command::new("sync")
                .status()
                .map_err(|error| error.to_string())
                .map(|_| ())
        }
    };
    let from = format!("from={}", parked.display());
    let script = format!(
        "b3sum '{0}' && cp '{0}' copy.bin && sync copy.bin",
        parked.display()
    );
    let (renew_own, renew_copy) = (renew.clone(), renew);
    let (own_folder, copy_folder) = (own.clone(), copy.clone());
    let sides = vec![
        Named {
            name: "dagrun",
            size: bytes,
            side: Some(
                dagrun(bench, &own, &["run", "pipeline.yaml", "-p", &from])
                    .prepare(move |_| renew_own(&own_folder)),
            ),
            note: "output of one node, moved into the cache, flushed",
        },
        Named {
            name: "b3sum + cp + sync",
            size: bytes,
            side: peers::program("b3sum").map(|_| {
                Side::new("sh", &["-c", &script], &copy).prepare(move |_| renew_copy(&copy_folder))
            }),
            note: "goal 1.2",
        },
    ];
    let rows = compare(sides, 3);
    for folder in [&source, &own, &copy] {
        let _ = fs::remove_dir_all(folder);
    }
    Ok(Table {
        name: "store",
        what: "Hash and store outputs of 4 GiB.",
        goal: "within 1.2 of b3sum + cp + sync",
        rows,
    })
}

/// Bytes that do not repeat, made fast.
fn fill(path: &Path, bytes: u64) -> Result<(), String> {
    use std::io::Write as _;
    let started = Instant::now();
    let mut file =
        std::io::BufWriter::new(fs::File::create(path).map_err(|error| error.to_string())?);
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut block = vec![0_u8; 1 << 20];
    for _ in 0..bytes >> 20 {
        for word in block.chunks_exact_mut(8) {
            state = state.wrapping_mul(0xd134_2543_de82_ef95).wrapping_add(1);
            word.copy_from_slice(&state.to_le_bytes());
        }
        file.write_all(&block).map_err(|error| error.to_string())?;
    }
    file.flush().map_err(|error| error.to_string())?;
    println!(
        "made {} MiB in {:.1} s",
        bytes >> 20,
        started.elapsed().as_secs_f64()
    );
    Ok(())
}
