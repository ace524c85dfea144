//! Studies driven by hand and by chance.

mod chance;
mod records;
mod resolving;
mod spaces;
mod stories;

use std::{collections::BTreeMap, sync::Arc};

use dagrun_model::{Digest, Direction, Map, SamplerKind, Value};

use crate::{
    Answer, Definition, Distribution, Goal, History, Order, Parameter, Scores, Space, Stop, Study,
    StudyAction, StudyEnd, StudyEvent, StudyRecord, TrialEnd,
    sampler::{Sampler, draw},
};

/// SplitMix64, as far as tests need it.
pub(crate) struct Chance(pub(crate) u64);

impl Chance {
    pub(crate) fn unit(&mut self) -> f64 {
        self.0 += 1;
        draw(self.0, 0, 0)
    }

    pub(crate) fn below(&mut self, bound: usize) -> usize {
        (self.unit() * bound as f64) as usize
    }
}

/// Proposes points that depend on every bit that it is shown, and on the order in which it is shown.
#[derive(Debug)]
pub(crate) struct Mixer;

impl Sampler for Mixer {
    fn ask(
        &mut self,
        space: &Space,
        ask: u64,
        history: &History,
        pending: &[&[f64]],
    ) -> Option<Vec<f64>> {
        let mut state = ask;
        let mut mix = |x: u64| state = draw(state, x, 0).to_bits();
        for told in history.iter() {
            mix(told.trial);
            told.point.iter().for_each(|x| mix(x.to_bits()));
            let values = told.values.unwrap_or(&[0.5]);
            values.iter().for_each(|x| mix(x.to_bits()));
        }
        for point in pending {
            point.iter().for_each(|x| mix(!x.to_bits()));
        }
        let parameters = space.parameters.iter().zip(0..);
        Some(
            parameters
                .map(|(it, at)| it.from_unit(draw(state, 1, at)))
                .collect(),
        )
    }
}

pub(crate) fn mixer(definition: &Definition, _: u64) -> Option<Box<dyn Sampler>> {
    match definition.sampler {
        SamplerKind::Exec => None,
        _ => Some(Box::new(Mixer)),
    }
}

pub(crate) fn parameter(name: &str, distribution: Distribution) -> Parameter {
    Parameter {
        name: name.into(),
        distribution,
        digits: None,
        when: None,
    }
}

pub(crate) fn space() -> Space {
    let seasons: Arc<[Value]> = [Value::str("flat"), Value::str("monsoon")].into();
    Space {
        parameters: vec![
            parameter(
                "beta",
                Distribution::LogUniform {
                    low: 0.05,
                    high: 1.0,
                },
            ),
            parameter(
                "share",
                Distribution::Uniform {
                    low: 0.0,
                    high: 1.0,
                },
            ),
            parameter("carriers", Distribution::Int { low: 0, high: 20 }),
            parameter("season", Distribution::Choice(seasons)),
        ],
    }
}

pub(crate) fn definition(order: Order, trials: u64) -> Definition {
    Definition {
        space: space(),
        sampler: SamplerKind::Random,
        options: Map::from_iter([(Arc::from("seed"), Value::Int(7))]),
        trials,
        in_flight: Some(4),
        order,
        objectives: vec![Goal {
            name: "loss".into(),
            direction: Direction::Minimize,
        }],
        stop: Stop::for_trials(trials),
        enqueued: Vec::new(),
    }
}

pub(crate) fn end(result: Result<(f64, f64), &str>) -> TrialEnd {
    TrialEnd {
        result: result
            .map(|(value, violation)| Scores {
                values: vec![value],
                violation,
            })
            .map_err(str::to_owned),
        replicates: 5,
        seconds: 1.5,
        hits: 2,
        nodes: 7,
        key: Digest::of(b"key"),
        targets: vec![("a.loss".into(), 0.25), ("b.loss".into(), f64::INFINITY)],
    }
}

/// What a model makes of a point: now and then it fails, or breaks a constraint.
pub(crate) fn outcome(values: &Map) -> TrialEnd {
    let beta = values["beta"].as_f64().expect("a number");
    let share = values["share"].as_f64().expect("a number");
    let value = (beta.ln() + 1.2).powi(2) + (share - 0.3).powi(2);
    match draw(beta.to_bits(), 0, 0) {
        luck if luck < 0.1 => end(Err("the model went out of bounds")),
        luck if luck < 0.15 => end(Ok((f64::NAN, 0.0))),
        luck if luck < 0.25 => end(Ok((value, 0.5))),
        _ => end(Ok((value, 0.0))),
    }
}

/// Carries out actions as a driver would, and checks what every driver relies on.
pub(crate) struct Driver {
    pub(crate) study: Study,
    pub(crate) log: Vec<StudyRecord>,
    pub(crate) live: BTreeMap<u64, Arc<Map>>,
    pub(crate) asked: Option<u64>,
    pub(crate) end: Option<StudyEnd>,
    pub(crate) most_live: usize,
}

impl Driver {
    pub(crate) fn new(definition: Definition) -> Self {
        Self::of(Study::with_maker(definition, mixer), Vec::new())
    }

    pub(crate) fn of(study: Study, log: Vec<StudyRecord>) -> Self {
        Self {
            study,
            log,
            live: BTreeMap::new(),
            asked: None,
            end: None,
            most_live: 0,
        }
    }

    /// What a driver finds after it was killed.
    pub(crate) fn resumed(definition: Definition, log: &[StudyRecord]) -> Self {
        let fresh = Study::with_maker(definition, mixer);
        let study = Study::replay_into(fresh, log.to_vec()).expect("the log is whole");
        Self::of(study, log.to_vec())
    }

    pub(crate) fn slots(&mut self) -> String {
        self.handle(StudyEvent::Slots {
            slots: 4,
            nodes_per_trial: 1,
        })
    }

    pub(crate) fn tell(&mut self, trial: u64, result: Result<f64, &str>) -> String {
        let end = end(result.map(|value| (value, 0.0)));
        self.handle(StudyEvent::Ended { trial, end })
    }

    /// Tells what the model makes of a live trial.
    pub(crate) fn run(&mut self, trial: u64) -> String {
        let end = outcome(&self.live[&trial]);
        self.handle(StudyEvent::Ended { trial, end })
    }

    pub(crate) fn answer(&mut self, trial: u64, answer: Answer) -> String {
        self.handle(StudyEvent::Answered { trial, answer })
    }

    /// Handles an event and gives the actions in words.
    pub(crate) fn handle(&mut self, event: StudyEvent) -> String {
        assert!(self.end.is_none(), "a driver stops at the end");
        if let StudyEvent::Ended { trial, .. } = &event {
            self.live.remove(trial);
        }
        let mut actions = Vec::new();
        self.study.handle(event, &mut actions);
        let words: Vec<String> = actions.into_iter().map(|it| self.carry_out(it)).collect();
        words.join("; ")
    }

    fn carry_out(&mut self, action: StudyAction) -> String {
        assert!(self.end.is_none(), "nothing comes after the end");
        match action {
            StudyAction::Append(record) => {
                let words = match &record {
                    StudyRecord::Opened { .. } => "opened".to_owned(),
                    StudyRecord::Asked { trial, seen, .. } => format!("asked {trial} seen {seen}"),
                    StudyRecord::Told { trial, .. } => format!("told {trial}"),
                    StudyRecord::Ended { reason } => format!("ended: {reason}"),
                    other => format!("{other:?}"),
                };
                self.log.push(record);
                words
            }
            StudyAction::Start { trial, values } => {
                let known = self.log.iter().any(
                    |it| matches!(it, StudyRecord::Asked { trial: asked, .. } if *asked == trial),
                );
                assert!(known, "trial {trial} is recorded before it starts");
                let before = self.live.insert(trial, values);
                assert!(before.is_none(), "trial {trial} is started once");
                self.most_live = self.most_live.max(self.live.len());
                format!("start {trial}")
            }
            StudyAction::Ask {
                trial,
                new_told,
                pending,
            } => {
                self.asked = Some(trial);
                format!("ask {trial} told {new_told:?} pending {pending:?}")
            }
            StudyAction::Drain => "drain".to_owned(),
            StudyAction::Finish(end) => {
                assert!(self.live.is_empty(), "nothing runs at the end");
                let words = format!(
                    "finish, best {:?}",
                    end.best.map(|best| (best.trial, best.value))
                );
                self.end = Some(end);
                words
            }
        }
    }

    /// Runs to the end, with completions in an order of chance.
    pub(crate) fn finish(&mut self, chance: &mut Chance) {
        if self.study.limit().is_none() {
            self.slots();
        }
        while self.end.is_none() {
            assert!(!self.live.is_empty(), "a study that goes on runs something");
            let trial = *self
                .live
                .keys()
                .nth(chance.below(self.live.len()))
                .expect("it is below the length");
            self.run(trial);
        }
    }

    /// All points, bit by bit.
    pub(crate) fn points(&self) -> Vec<Vec<u64>> {
        let rows = self.study.rows();
        rows.map(|row| row.point.iter().map(|x| x.to_bits()).collect())
            .collect()
    }
}

/// All that a study shows of itself.
pub(crate) fn picture(study: &Study) -> String {
    let rows: Vec<String> = study.rows().map(|row| format!("{row:?}")).collect();
    format!(
        "{}\n{:?} {:?} {:?}",
        rows.join("\n"),
        study.best(),
        study.counts(),
        study.pending().collect::<Vec<_>>(),
    )
}
