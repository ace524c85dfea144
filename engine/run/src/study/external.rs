//! A sampler in a process of its own that speaks JSON lines; `docs/reference/samplers.md` describes them.
//!
//! What is told goes out by a thread, so that a sampler that does not read never holds up the run; what it says comes back
//! by a channel. The process dies with this one's end of its pipes, and is killed where that does not end it.

use std::{
    fs::File,
    io::{BufRead, BufReader, Read, Write},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::mpsc::{Sender, channel},
    time::{Duration, Instant},
};

use dagrun_model::{Direction, Map, Value};
use dagrun_study::{Definition, Distribution, Parameter};
use serde_json::{Value as Json, json};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use crate::RunError;

/// The script that drives Optuna.
const OPTUNA: &str = include_str!("optuna_sampler.py");
/// Lines beyond this are nonsense.
const LONGEST_LINE: u64 = 1 << 20;
/// How long a sampler that was told to end may take.
const END_WAIT: Duration = Duration::from_secs(2);

/// What a sampler says.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Word {
    /// The point of an ask.
    Answer {
        /// The trial.
        trial: u64,
        /// Its parameters, or why there are none.
        params: Result<Map, String>,
    },
    /// It has no point for this ask, nor for later ones.
    UsedUp {
        /// The trial.
        trial: u64,
    },
    /// It will say nothing more: why.
    Gone(String),
}

/// A sampler that runs.
#[derive(Debug)]
pub(crate) struct ExternalSampler {
    child: Child,
    lines: Option<Sender<String>>,
    words: UnboundedReceiver<Word>,
    name: String,
}

/// The command of the sampler `optuna`: the script is carried by this program.
pub(crate) fn optuna_command(python: &str) -> Vec<String> {
    vec![python.into(), "-u".into(), "-c".into(), OPTUNA.into()]
}

/// The first line: what the study is.
pub(crate) fn hello(definition: &Definition, name: &str, constraints: bool) -> Json {
    let parameters = definition.space.parameters.iter();
    let space: Vec<Json> = parameters.map(parameter).collect();
    let objectives: Vec<Json> = (definition.objectives.iter())
        .map(|goal| {
            let direction = match goal.direction {
                Direction::Minimize => "minimize",
                Direction::Maximize => "maximize",
            };
            json!({"name": &*goal.name, "direction": direction})
        })
        .collect();
    json!({
        "version": 1,
        "name": name,
        "trials": definition.trials,
        "space": space,
        "objectives": objectives,
        "constraints": constraints,
        "options": Value::map(definition.options.clone()).to_json(),
    })
}

fn parameter(parameter: &Parameter) -> Json {
    let number = |f: f64| Value::Float(f).to_json();
    let (kind, arguments): (&str, Vec<Json>) = match &parameter.distribution {
        Distribution::Uniform { low, high } => ("uniform", vec![number(*low), number(*high)]),
        Distribution::LogUniform { low, high } => {
            ("log_uniform", vec![number(*low), number(*high)])
        }
        Distribution::Int { low, high } => ("int", vec![json!(low), json!(high)]),
        Distribution::LogInt { low, high } => ("log_int", vec![json!(low), json!(high)]),
        Distribution::Choice(values) => ("choice", values.iter().map(Value::to_json).collect()),
        Distribution::Normal { mean, sd } => ("normal", vec![number(*mean), number(*sd)]),
        Distribution::Beta { alpha, beta } => ("beta", vec![number(*alpha), number(*beta)]),
        Distribution::Steps {
            low, step, count, ..
        } => {
            let high = low + step * f64::from(count.saturating_sub(1));
            ("steps", vec![number(*low), number(high), number(*step)])
        }
    };
    json!({
        "name": &*parameter.name,
        "kind": kind,
        "arguments": arguments,
        "digits": parameter.digits,
        "conditional": parameter.when.is_some(),
    })
}

impl ExternalSampler {
    /// Starts a sampler in the project folder and greets it. `name` is how messages call it; its standard error goes to `log`.
    ///
    /// # Errors
    /// When the program cannot be started.
    pub(crate) fn start(
        name: &str,
        command: &[String],
        project: &Path,
        log: &Path,
        hello: &Json,
    ) -> Result<Self, RunError> {
        let failed = |error: std::io::Error| {
            RunError::Study(format!(
                "cannot start the sampler `{name}`: {error}; see `study.sampler`"
            ))
        };
        let program = command.first().map_or("", String::as_str);
        // A relative program is one of the project, as in `run`.
        let program = match program.contains('/') && !program.starts_with('/') {
            true => project.join(program),
            false => PathBuf::from(program),
        };
        let mut child = Command::new(program)
            .args(&command[1..])
            .current_dir(project)
            // What is typed at the terminal is for the run: trials under way are still told.
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(File::create(log).map_err(RunError::io("make", log))?)
            // Ctrl-C at the terminal is for the run: a sampler that it ended would end the study.
            .process_group(0)
            .spawn()
            .map_err(failed)?;
        let mut stdin = child.stdin.take().expect("the pipe was asked for");
        let stdout = child.stdout.take().expect("the pipe was asked for");
        let (lines, to_write) = channel::<String>();
        let (say, words) = unbounded_channel();
        let _ = lines.send(hello.to_string());
        std::thread::Builder::new()
            .name("to the sampler".into())
            .spawn(move || {
                while let Ok(line) = to_write.recv() {
                    // One that does not read has ended, or will be told so by its silence.
                    if stdin.write_all(line.as_bytes()).is_err()
                        || stdin.write_all(b"\n").is_err()
                        || stdin.flush().is_err()
                    {
                        return;
                    }
                }
            })
            .map_err(failed)?;
        let log = log.to_path_buf();
        let called = name.to_owned();
        std::thread::Builder::new()
            .name("from the sampler".into())
            .spawn(move || listen(stdout, &called, &log, &say))
            .map_err(failed)?;
        Ok(Self {
            child,
            lines: Some(lines),
            words,
            name: name.into(),
        })
    }

    /// Tells what a trial came to: its objectives as written, or why it failed.
    pub(crate) fn tell(&self, trial: u64, params: &Map, result: Result<&[f64], &str>, broken: f64) {
        let mut line = json!({"trial": trial, "params": params_json(params)});
        match result {
            Ok(values) => {
                line["values"] = values.iter().map(|v| Value::Float(*v).to_json()).collect();
                line["violation"] = json!(broken);
            }
            Err(reason) => line["failed"] = json!(reason),
        }
        self.send(&json!({ "tell": line }));
    }

    /// Tells of a trial that is under way, after a restart.
    pub(crate) fn pending(&self, trial: u64, params: &Map) {
        self.send(&json!({"pending": {"trial": trial, "params": params_json(params)}}));
    }

    /// Asks for the point of a trial.
    pub(crate) fn ask(&self, trial: u64) {
        self.send(&json!({"ask": {"trial": trial}}));
    }

    /// The next word; pends for ever once the last was said.
    pub(crate) async fn next(&mut self) -> Word {
        match self.words.recv().await {
            Some(word) => word,
            None => std::future::pending().await,
        }
    }

    /// How messages call it.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    fn send(&self, line: &Json) {
        if let Some(lines) = &self.lines {
            // A writer that has ended is followed by the word that it is gone.
            let _ = lines.send(line.to_string());
        }
    }
}

impl Drop for ExternalSampler {
    fn drop(&mut self) {
        // The thread that writes ends with this, and closes the pipe.
        self.lines = None;
        let until = Instant::now() + END_WAIT;
        while Instant::now() < until {
            if matches!(self.child.try_wait(), Ok(Some(_)) | Err(_)) {
                return;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Parameters that are active, as JSON.
fn params_json(params: &Map) -> Json {
    let active = params
        .iter()
        .filter(|(_, value)| !matches!(value, Value::Null));
    Json::Object(
        active
            .map(|(name, value)| (name.to_string(), value.to_json()))
            .collect(),
    )
}

fn listen(stdout: impl Read, name: &str, log: &Path, say: &UnboundedSender<Word>) {
    let mut reader = BufReader::new(stdout);
    let gone = loop {
        let mut line = Vec::new();
        match (&mut reader)
            .take(LONGEST_LINE)
            .read_until(b'\n', &mut line)
        {
            Ok(0) => break format!("the sampler `{name}` ended{}", tail(log)),
            Ok(n) if n as u64 == LONGEST_LINE => {
                break format!(
                    "the sampler `{name}` wrote a line of more than {LONGEST_LINE} bytes"
                );
            }
            Ok(_) => {}
            Err(error) => break format!("the sampler `{name}` cannot be read: {error}"),
        }
        let text = String::from_utf8_lossy(&line);
        if text.trim().is_empty() {
            continue;
        }
        match parse(text.trim()) {
            Ok(word) => {
                if say.send(word).is_err() {
                    return;
                }
            }
            Err(why) => {
                break format!(
                    "the sampler `{name}` answered nonsense ({why}): {}",
                    text.trim().chars().take(200).collect::<String>()
                );
            }
        }
    };
    let _ = say.send(Word::Gone(gone));
}

/// The last lines that the sampler wrote to its standard error.
fn tail(log: &Path) -> String {
    let text = std::fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().rev().take(8).collect();
    if lines.is_empty() {
        return format!("; its standard error is in {}", log.display());
    }
    let lines: Vec<&str> = lines.into_iter().rev().collect();
    format!("; the end of its standard error:\n  {}", lines.join("\n  "))
}

fn parse(line: &str) -> Result<Word, String> {
    let json: Json = serde_json::from_str(line).map_err(|error| error.to_string())?;
    let trial = json
        .get("trial")
        .and_then(Json::as_u64)
        .ok_or("`trial` is missing or no number")?;
    if let Some(error) = json.get("error") {
        let error = error.as_str().map_or_else(|| error.to_string(), Into::into);
        return Ok(Word::Answer {
            trial,
            params: Err(error),
        });
    }
    if json.get("end").and_then(Json::as_bool) == Some(true) {
        return Ok(Word::UsedUp { trial });
    }
    let Some(Value::Map(params)) = json.get("params").map(Value::from_json) else {
        return Err("`params` is missing or no map".into());
    };
    Ok(Word::Answer {
        trial,
        params: Ok((*params).clone()),
    })
}
