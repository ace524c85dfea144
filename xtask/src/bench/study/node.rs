//! The program that every engine runs as its nodes in the benches with real processes: `xtask bench-node ...`.
//!
//! It waits as long as a fixed table says and does next to nothing else, so that what is left over is the engine's. Nothing of
//! any engine is known here.

use std::{fs, time::Duration};

use serde_json::{Value, json};

use super::exact::table_of_durations;

/// `wait TRIAL SCALE FILE`: one node a trial, as long as the table has it for this trial.
/// `simulate PARAMS REPLICATE SCALE FILE`: a replicate, as long as the table has it for a place that comes from both.
/// `stamp FILE SECONDS`: writes down when it began, and takes so long.
/// `fill PATH FILES BYTES`: one file, or a folder of many, with bytes that do not repeat.
/// `output TRIAL REPLICATE SCALE BYTES FILE`: a replicate, as long as the table has it for its place, with an output of some size.
/// `gathered TARGET FILE...`: writes `loss.json` at once.
/// `score TARGET FILE...`: writes `loss.json` from files of `simulate`.
///
/// `SCALE` is by how much the table's seconds are divided; 0 waits for nothing.
pub(crate) fn run(args: &[&str]) -> Result<(), String> {
    match args {
        ["wait", trial, scale, file] => {
            let trial = number::<u64>(trial)?;
            pause(trial, number(scale)?);
            write(file, &json!({ "loss": trial }))
        }
        ["simulate", params, replicate, scale, file] => {
            let replicate = number::<u64>(replicate)?;
            // Threes go round all sixteen places, so the replicates of a trial take nearly the same time together in all trials.
            pause(1 + (sum_of(params) + 3 * replicate) % 16, number(scale)?);
            write(
                file,
                &json!({ "value": value(params)? + replicate as f64 / 100.0 }),
            )
        }
        ["score", target, files @ ..] if !files.is_empty() => {
            let mut sum = 0.0;
            for file in files {
                let text = fs::read_to_string(file).map_err(|error| format!("{file}: {error}"))?;
                let read: Value =
                    serde_json::from_str(&text).map_err(|error| format!("{file}: {error}"))?;
                sum += read["value"].as_f64().ok_or("a simulation has no value")?;
            }
            let weight = if *target == "age" { 1.0 } else { 0.5 };
            write(
                "loss.json",
                &json!({ "loss": weight * sum / files.len() as f64 }),
            )
        }
        ["output", trial, replicate, scale, bytes, path, ..] => {
            let place = number::<u64>(trial)? * 16 + number::<u64>(replicate)?;
            pause(place, number(scale)?);
            crate::bench::fill(path.as_ref(), 1, number(bytes)?, place)
        }
        ["gathered", target, files @ ..] => write(
            "loss.json",
            &json!({ "loss": files.len(), "target": target }),
        ),
        ["fill", path, files, bytes] => {
            crate::bench::fill(path.as_ref(), number(files)?, number(bytes)?, 0)
        }
        ["stamp", file, seconds, ..] => crate::bench::stamp(file, seconds),
        other => Err(format!("bench-node cannot `{}`", other.join(" "))),
    }
}

fn number<T: std::str::FromStr>(text: &str) -> Result<T, String> {
    text.parse()
        .map_err(|_| format!("`{text}` is not a number"))
}

fn pause(place: u64, scale: f64) {
    if scale > 0.0 {
        std::thread::sleep(Duration::from_secs_f64(table_of_durations(place) / scale));
    }
}

/// A bowl over all parameters.
fn value(params: &str) -> Result<f64, String> {
    let params: Value =
        serde_json::from_str(params).map_err(|error| format!("bad parameters: {error}"))?;
    let params = params.as_object().ok_or("parameters are an object")?;
    Ok(params
        .values()
        .filter_map(Value::as_f64)
        .map(|x| (x - 0.3).powi(2))
        .sum())
}

/// FNV-1a.
fn sum_of(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |sum, byte| {
        (sum ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    }) >> 8
}

fn write(file: &str, value: &Value) -> Result<(), String> {
    fs::write(file, value.to_string()).map_err(|error| format!("{file}: {error}"))
}
