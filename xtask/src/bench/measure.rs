//! Whole processes: wall time by a monotonic clock, CPU time as the kernel accounts for ended children.

use std::{
    path::Path,
    process::{Command, Stdio},
    time::Instant,
};

use super::Figures;

/// A command line to be timed, and what has to be done before each run of it.
pub(crate) struct Side<'a> {
    pub(crate) program: String,
    pub(crate) args: Vec<String>,
    pub(crate) folder: &'a Path,
    pub(crate) env: Vec<(String, String)>,
    /// Not timed: brings the folder into the state in which the run begins. Gets the number of the run.
    pub(crate) prepare: Box<dyn Fn(usize) -> Result<(), String> + 'a>,
}

impl<'a> Side<'a> {
    pub(crate) fn new(program: impl Into<String>, args: &[&str], folder: &'a Path) -> Self {
        Self {
            program: program.into(),
            args: args.iter().map(|arg| (*arg).to_string()).collect(),
            folder,
            env: Vec::new(),
            prepare: Box::new(|_| Ok(())),
        }
    }

    pub(crate) fn env(mut self, name: &str, value: impl Into<String>) -> Self {
        self.env.push((name.into(), value.into()));
        self
    }

    pub(crate) fn prepare(mut self, prepare: impl Fn(usize) -> Result<(), String> + 'a) -> Self {
        self.prepare = Box::new(prepare);
        self
    }

    /// Runs it once, untimed, and fails if it fails.
    pub(crate) fn run(&self) -> Result<(), String> {
        self.once().map(|_| ())
    }

    fn once(&self) -> Result<(f64, f64), String> {
        let cpu_before = children_cpu()?;
        let started = Instant::now();
        let output = Command::new(&self.program)
            .args(&self.args)
            .current_dir(self.folder)
            .envs(self.env.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .output()
            .map_err(|error| format!("cannot start `{}`: {error}", self.program))?;
        let wall = started.elapsed().as_secs_f64();
        let cpu = children_cpu()? - cpu_before;
        if !output.status.success() {
            let stderr = String::from_utf8_lossy(&output.stderr);
            let tail: Vec<&str> = stderr.lines().rev().take(5).collect();
            return Err(format!(
                "`{} {}` failed: {}: {}",
                self.program,
                self.args.join(" "),
                output.status,
                tail.join(" / ")
            ));
        }
        Ok((wall, cpu))
    }
}

/// Runs the sides in turn, one uncounted warm-up each, then `runs` counted ones. A side that fails gives its message.
pub(crate) fn in_turn(sides: &[Side<'_>], runs: usize) -> Vec<Result<Figures, String>> {
    let mut measured: Vec<Result<Vec<(f64, f64)>, String>> =
        sides.iter().map(|_| Ok(Vec::new())).collect();
    for round in 0..=runs {
        for (side, results) in sides.iter().zip(&mut measured) {
            let Ok(done) = results else { continue };
            match (side.prepare)(round).and_then(|()| side.once()) {
                Ok(figures) if round > 0 => done.push(figures),
                Ok(_) => {}
                Err(error) => *results = Err(error),
            }
        }
    }
    measured
        .into_iter()
        .map(|results| results.map(|results| figures(&results)))
        .collect()
}

fn figures(runs: &[(f64, f64)]) -> Figures {
    let walls: Vec<f64> = runs.iter().map(|run| run.0).collect();
    Figures {
        wall: median(&walls),
        cpu: median(&runs.iter().map(|run| run.1).collect::<Vec<_>>()),
        range: (
            walls.iter().copied().fold(f64::INFINITY, f64::min),
            walls.iter().copied().fold(0.0, f64::max),
        ),
        runs: runs.len(),
    }
}

/// The median; the mean of the two in the middle where there is no single one.
pub(crate) fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => f64::NAN,
        n if n % 2 == 1 => sorted[middle],
        _ => (sorted[middle - 1] + sorted[middle]) / 2.0,
    }
}

/// CPU seconds of all children that ended and were waited for: fields 16 and 17 of `/proc/self/stat`.
pub(super) fn children_cpu() -> Result<f64, String> {
    let stat = std::fs::read_to_string("/proc/self/stat")
        .map_err(|error| format!("cannot read /proc/self/stat: {error}"))?;
    let after_name = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let fields: Vec<&str> = after_name.split_whitespace().collect();
    let ticks = |ix: usize| {
        fields
            .get(ix)
            .and_then(|field| field.parse::<f64>().ok())
            .unwrap_or(0.0)
    };
    // Linux has counted in hundredths of a second for user space on every architecture since 2.6.
    Ok((ticks(13) + ticks(14)) / 100.0)
}
