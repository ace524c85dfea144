//! Outputs that have to go to another host: one large file, and many small ones.

use std::{fs, path::Path, process::Command, time::Instant};

use super::{
    copiers::{Copier, Rsync, Scp},
    page::{Section, span},
    stand::Stand,
};
use crate::bench::{Bench, measure::median, this_program};

/// What is sent.
pub(super) struct Cargo {
    pub(super) name: &'static str,
    pub(super) files: u64,
    /// Bytes of each file.
    pub(super) bytes: u64,
    pub(super) goal: &'static str,
}

impl Cargo {
    /// Removes what has arrived, unless that would slow down who comes next: for a minute and more, ext4 looks at all inodes that
    /// were freed before it gives one away, so that ten thousand files that are gone make the next ten thousand ten times as slow.
    fn dispose(&self, folder: &Path) -> Result<(), String> {
        if self.files > 1 {
            return Ok(());
        }
        fs::remove_dir_all(folder)
            .map_err(|error| format!("cannot clear {}: {error}", folder.display()))
    }
}

const CARGOES: &[Cargo] = &[
    Cargo {
        name: "one file",
        files: 1,
        bytes: 4 << 30,
        goal: "goal: at least 0.9 of rsync",
    },
    Cargo {
        name: "small files",
        files: 10_000,
        bytes: 4 << 10,
        goal: "goal: 5 times rsync",
    },
];

pub(super) fn measure(bench: &Bench) -> Result<Section, String> {
    let mut rows = Vec::new();
    for cargo in CARGOES {
        let cargo = match cargo.files {
            1 => Cargo {
                bytes: bench.size(cargo.bytes),
                ..*cargo
            },
            _ => Cargo {
                files: bench.size(cargo.files),
                ..*cargo
            },
        };
        rows.extend(rows_of(bench, &cargo)?);
    }
    Ok(Section {
        part: "transfer",
        title: "outputs go to another host",
        what: "An output (bytes that do not repeat) lies with the worker that made it; a node on another worker, which has a store of its own, reads it. Seconds \
               from the start of `dagrun run` to its end, in which the blobs are fetched, verified and staged and the node has run. Beside it \
               `rsync` from a daemon, and `scp` from an `sshd`, over the same loopback, into an empty folder. Sides took turns; medians."
            .into(),
        columns: &["side", "MiB a second", "from - to", "dagrun / side", "note"],
        rows,
        notes: Vec::new(),
    })
}

/// A row for dagrun, and one for each program that copies files.
pub(super) fn rows_of(bench: &Bench, cargo: &Cargo) -> Result<Vec<Vec<String>>, String> {
    let rounds = if bench.quick { 1 } else { 3 };
    let mut stand = Stand::start(
        bench,
        "cluster-transfer",
        &[
            &["--slots", "1", "--profile", "maker"],
            &["--slots", "1", "--profile", "reader"],
        ],
    )?;
    let project = stand.project(&pipeline(cargo)?)?;
    stand.run(&project, &["-p", "round=0"])?;
    // What the copiers send is what the worker has made.
    let source = bench.folder("cluster-transfer-source")?;
    fill(&source.join("o"), cargo.files, cargo.bytes, 0)?;
    let copiers: Vec<Result<Box<dyn Copier>, String>> = vec![
        Rsync::start(&source, false),
        Rsync::start(&source, true),
        Scp::start(&source),
    ];
    let mut own = Vec::new();
    let mut others: Vec<Result<Vec<f64>, String>> =
        copiers.iter().map(|_| Ok(Vec::new())).collect();
    for round in 1..=rounds {
        let taken = stand.renew_worker(1)?;
        cargo.dispose(&taken)?;
        settle()?;
        own.push(
            stand
                .run(&project, &["-p", &format!("round={round}")])?
                .wall,
        );
        for (side, (copier, times)) in copiers.iter().zip(&mut others).enumerate() {
            let Ok(taken) = times else { continue };
            let target = bench.folder(&format!("cluster-transfer-target/{side}-{round}"))?;
            settle()?;
            match copier
                .as_ref()
                .map_err(Clone::clone)
                .and_then(|it| timed(&**it, &target))
            {
                Ok(seconds) => taken.push(seconds),
                Err(error) => *times = Err(error),
            }
            cargo.dispose(&target)?;
        }
    }
    let mib = (cargo.files * cargo.bytes) as f64 / f64::from(1 << 20);
    let rates = |seconds: &[f64]| seconds.iter().map(|it| mib / it).collect::<Vec<_>>();
    let own = rates(&own);
    let label = format!(
        "{}, {} x {}",
        cargo.name,
        cargo.files,
        dagrun_model::format_bytes(cargo.bytes)
    );
    let mut rows = vec![vec![
        format!("dagrun: {label}"),
        format!("{:.0}", median(&own)),
        span(&own, 0),
        String::new(),
        cargo.goal.into(),
    ]];
    for (name, times) in ["rsync", "rsync --fsync", "scp"].iter().zip(others) {
        rows.push(match times {
            Ok(seconds) => {
                let other = rates(&seconds);
                vec![
                    format!("{name}: {label}"),
                    format!("{:.0}", median(&other)),
                    span(&other, 0),
                    format!("{:.2}", median(&own) / median(&other)),
                    String::new(),
                ]
            }
            Err(trouble) => vec![
                format!("{name}: {label}"),
                "missing".into(),
                String::new(),
                String::new(),
                trouble,
            ],
        });
    }
    for folder in [
        "cluster-transfer",
        "cluster-transfer-source",
        "cluster-transfer-target",
    ] {
        bench.folder(folder)?;
    }
    Ok(rows)
}

fn pipeline(cargo: &Cargo) -> Result<String, String> {
    let (program, Cargo { files, bytes, .. }) = (this_program()?, cargo);
    Ok(format!(
        "dagrun: 1\nname: transfer\nparams: {{round: {{type: int}}}}\njobs:\n  make:\n    executor: maker\n    outputs: {{o: o}}\n    \
         run: [{program}, bench-node, fill, o, \"{files}\", \"{bytes}\"]\n  read:\n    needs: make\n    executor: reader\n    \
         inputs: {{o: \"${{{{ needs.make.outputs.o }}}}\"}}\n    run: [\"true\", \"${{{{ inputs.o }}}}\", \"${{{{ params.round }}}}\"]\n"
    ))
}

fn timed(copier: &dyn Copier, target: &Path) -> Result<f64, String> {
    let began = Instant::now();
    let output = copier
        .command(target)
        .output()
        .map_err(|error| error.to_string())?;
    let seconds = began.elapsed().as_secs_f64();
    match output.status.success() {
        true => Ok(seconds),
        false => Err(String::from_utf8_lossy(&output.stderr)
            .trim()
            .replace('\n', " / ")),
    }
}

/// What was written before is on disk, and nobody's later business.
fn settle() -> Result<(), String> {
    let done = Command::new("sync").status();
    done.map(|_| ())
        .map_err(|error| format!("cannot sync: {error}"))
}

/// `bench-node fill PATH FILES BYTES`: one file, or a folder of many, with bytes that do not repeat.
pub(crate) fn fill(path: &Path, files: u64, bytes: u64, seed: u64) -> Result<(), String> {
    let failed = |error: std::io::Error| format!("cannot write {}: {error}", path.display());
    let mut bits = Bits(seed.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    if files == 1 {
        return bits.write(path, bytes).map_err(failed);
    }
    fs::create_dir(path).map_err(failed)?;
    for number in 0..files {
        bits.write(&path.join(number.to_string()), bytes)
            .map_err(failed)?;
    }
    Ok(())
}

/// Numbers that look random.
struct Bits(u64);

impl Bits {
    fn write(&mut self, path: &Path, bytes: u64) -> std::io::Result<()> {
        use std::io::Write as _;
        let mut file = fs::File::create(path)?;
        let mut block = vec![0; usize::try_from(bytes.min(1 << 20)).unwrap_or(1 << 20)];
        let mut left = bytes;
        while left > 0 {
            for word in block.chunks_mut(8) {
                self.0 = self.0.wrapping_mul(0xd134_2543_de82_ef95).wrapping_add(1);
                let bits = (self.0 ^ (self.0 >> 32)).to_le_bytes();
                word.copy_from_slice(&bits[..word.len()]);
            }
            let now = block.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            file.write_all(&block[..now])?;
            left -= now as u64;
        }
        Ok(())
    }
}
