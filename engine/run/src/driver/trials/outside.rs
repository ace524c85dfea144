//! What goes to a sampler in another process, and what it says.

use std::time::{Duration, Instant};

use dagrun_model::{SamplerKind, Value};
use dagrun_study::{Answer, StudyEvent};
use serde_json::json;

use super::{ASK_TIMEOUT, Ask, StudyRun};
use crate::{
    RunError,
    study::{ExternalSampler, Word, hello, optuna_command},
};

impl StudyRun<'_> {
    /// The next word of the sampler in another process.
    pub(in crate::driver) async fn word(&mut self) -> Word {
        match &mut self.sampler {
            Some(sampler) => sampler.next().await,
            None => std::future::pending().await,
        }
    }

    pub(in crate::driver) fn take_word(&mut self, word: Word) {
        let (trial, answer) = match (word, self.asked) {
            (Word::Answer { trial, params }, Some((asked, _))) if trial == asked => {
                let answer = match params {
                    Ok(params) => Answer::Point(params),
                    Err(error) => Answer::Failed(error),
                };
                (trial, answer)
            }
            (Word::UsedUp { trial }, Some((asked, _))) if trial == asked => (trial, Answer::UsedUp),
            (Word::Answer { trial, .. } | Word::UsedUp { trial }, Some((asked, _))) => {
                let name = self.sampler_name();
                let wrong = format!("`{name}` answered for trial {trial}, asked for trial {asked}");
                (asked, Answer::Failed(wrong))
            }
            // What it says when nobody asked it changes nothing.
            (Word::Answer { .. } | Word::UsedUp { .. }, None) => return,
            (Word::Gone(why), Some((asked, _))) => (asked, Answer::Failed(why)),
            (Word::Gone(why), None) => {
                self.gone = Some(why);
                return;
            }
        };
        self.asked = None;
        self.events.push(StudyEvent::Answered { trial, answer });
    }

    pub(super) fn sampler_name(&self) -> &str {
        self.sampler.as_ref().map_or("", ExternalSampler::name)
    }

    pub(super) fn ask_timeout(&self) -> Duration {
        let timeout = self.core.definition().options.get("timeout");
        let seconds = timeout.and_then(dagrun_study::seconds);
        seconds.map_or(ASK_TIMEOUT, Duration::from_secs_f64)
    }

    pub(super) fn sampler(&mut self) -> Result<&ExternalSampler, String> {
        if self.sampler.is_none() {
            self.sampler = Some(self.start_sampler().map_err(|error| error.to_string())?);
        }
        Ok(self.sampler.as_ref().expect("it was just started"))
    }

    pub(super) fn start_sampler(&self) -> Result<ExternalSampler, RunError> {
        let definition = self.core.definition();
        let text = |name: &str| definition.options.get(name).map(Value::to_text);
        let (name, command) = match definition.sampler {
            SamplerKind::Optuna => {
                let python = text("python").unwrap_or_else(|| "python3".into());
                ("optuna".to_owned(), optuna_command(&python))
            }
            _ => {
                let words = definition.options.get("command");
                let words = words.and_then(Value::as_list).unwrap_or_default();
                let command: Vec<String> = words.iter().map(Value::to_text).collect();
                (command.first().cloned().unwrap_or_default(), command)
            }
        };
        let constrained = study_has_constraints(self.growing.pipeline());
        let hello = hello(self.core.definition(), &self.name, constrained);
        ExternalSampler::start(
            &name,
            &command,
            &self.project,
            &self.folder.join("sampler.log"),
            &json!({ "hello": hello }),
        )
    }

    /// Tells the sampler what it has missed, and asks. All that it is told is durable.
    pub(super) fn ask(&mut self) {
        let Some(Ask {
            trial,
            new_told,
            pending,
        }) = self.to_ask.take()
        else {
            return;
        };
        let fresh = self.sampler.is_none();
        let ready = match self.gone.take() {
            Some(why) => Err(why),
            None => self.sampler().map(|_| ()),
        };
        if let Err(why) = ready {
            let answer = Answer::Failed(why);
            self.events.push(StudyEvent::Answered { trial, answer });
            return;
        }
        let sampler = self.sampler.as_ref().expect("it was just started");
        let space = &self.core.definition().space;
        for told in self
            .core
            .history()
            .iter()
            .take(new_told.end)
            .skip(new_told.start)
        {
            let row = self.core.row(told.trial).expect("a told trial has a row");
            let result = match &row.values {
                Some(values) => Ok(values.as_slice()),
                None => Err(row.reason.unwrap_or("failed")),
            };
            sampler.tell(
                told.trial,
                &space.values(told.point),
                result,
                told.violation,
            );
        }
        if fresh {
            for number in pending {
                if let Some(values) = self.core.values(number) {
                    sampler.pending(number, &values);
                }
            }
        }
        sampler.ask(trial);
        self.asked = Some((trial, Instant::now() + self.ask_timeout()));
    }
}

fn study_has_constraints(pipeline: &dagrun_model::Pipeline) -> bool {
    let study = pipeline.study.as_ref();
    study.is_some_and(|study| !study.constraints.is_empty())
}
