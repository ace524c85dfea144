//! `dagrun plan` of a study: what runs before it, one of its trials, what runs after it.

use std::sync::Arc;

use dagrun_model::{Map, Value};
use dagrun_plan::{FoundFile, Plan};
use dagrun_run::{Workspace, check_study};
use dagrun_study::Study;
use serde_json::json;

use super::plan::{Part, counted, job_rows};
use crate::{
    error::CliError,
    load::{Loaded, Planned, PlannedStudy},
    put,
    term::{Ink, Style, escape, plural},
    trial::{self, ShownTrial},
};

/// The plans of a study.
pub(crate) struct StudyPlan {
    /// One trial.
    pub(super) trial: Arc<Plan>,
    /// How many trials there are to be.
    pub(super) trials: u64,
    /// How many of them have not ended.
    pub(super) left: u64,
    shown: ShownTrial,
    /// What runs after it; none where that cannot be known yet, or nothing does.
    after: Option<Arc<Plan>>,
    /// The study has ended: what runs after it is known.
    over: bool,
    told: u64,
    failed: u64,
    name: String,
    sampler: String,
    order: String,
    parameters: usize,
}

impl StudyPlan {
    pub(crate) fn new(
        loaded: &Loaded,
        planned: &Planned,
        study: &PlannedStudy,
    ) -> Result<Self, CliError> {
        let name = loaded.study_name();
        let (mut shown, past) = stands(loaded, planned, study)?;
        let trial = study.planner.trial(shown.point.clone());
        let trial = loaded.finish(trial, &planned.workspace)?;
        let mut left = shown.open.len() as u64 + shown.to_come;
        if shown.trouble.is_none() {
            let records = study.records(name, &planned.workspace)?;
            let place = (name, &planned.workspace, &planned.store);
            match check_study(&study.planner, &study.definition, records, place) {
                // They fail again as they did, and nothing runs for it.
                Ok(failed) => shown.open.retain(|point| !failed.contains(&point.number)),
                Err(error) => shown.trouble = Some(error.to_string()),
            }
        }
        let counts = past.as_ref().map(Study::counts).unwrap_or_default();
        let trials = study.definition.trials;
        if shown.trouble.is_some() {
            // It is begun anew, with all of them before it.
            shown.open.clear();
            (left, shown.to_come) = (trials, trials);
        }
        let last_end = past.as_ref().and_then(Study::last_end);
        let context = context(name, past.as_ref(), &shown);
        let text = study.definition.text();
        Ok(Self {
            after: after(loaded, planned, study, context)?.map(Arc::new),
            trial: Arc::new(trial),
            trials,
            left,
            over: left == 0 && last_end.is_some(),
            shown,
            told: counts.told,
            failed: counts.failed,
            name: name.to_owned(),
            sampler: text.sampler,
            order: text.order,
            parameters: text.space.len(),
        })
    }

    /// What a run would go on with, in the order in which it runs.
    pub(super) fn parts(&self, loaded: &Loaded, planned: &Planned) -> Result<Vec<Part>, CliError> {
        let mut parts = vec![Part::new(Arc::clone(&planned.plan))];
        let open = &self.shown.open;
        if let Some(study) = &planned.study {
            for point in open {
                let plan = loaded.finish(study.planner.trial(point.clone()), &planned.workspace)?;
                parts.push(Part::new(Arc::new(plan)));
            }
        }
        if self.shown.to_come > 0 {
            parts.push(Part {
                times: self.shown.to_come,
                unasked: !open.is_empty(),
                ..Part::new(Arc::clone(&self.trial))
            });
        }
        parts.extend(self.after_part());
        Ok(parts)
    }

    /// The shape of the whole study: what runs before it, a trial with how many there are, and what runs after it.
    pub(super) fn outline(&self, planned: &Planned) -> Vec<Part> {
        let mut parts = vec![
            Part::new(Arc::clone(&planned.plan)),
            Part {
                times: self.trials,
                ..Part::new(Arc::clone(&self.trial))
            },
        ];
        parts.extend(self.after_part());
        parts
    }

    fn after_part(&self) -> Option<Part> {
        self.after.as_ref().map(|after| Part {
            later: !self.over,
            ..Part::new(Arc::clone(after))
        })
    }

    /// A row for each job: those of trials that are under way stand together, and apart from those to come.
    pub(super) fn job_rows(&self, parts: &[Part]) -> Vec<Vec<String>> {
        let kind = |part: &Part| match part.plan.trial() {
            None => 0,
            Some(_) if !part.unasked && self.is_open(part) => 1,
            Some(_) => 2,
        };
        let groups = parts.chunk_by(|a, b| kind(a) == kind(b) && kind(a) == 1);
        let rows = groups.flat_map(|group| {
            let last = match kind(&group[0]) {
                0 => String::new(),
                1 => format!(
                    "{} {}",
                    plural(group.len() as u64, "trial"),
                    self.shown.origin
                ),
                _ if group[0].unasked => {
                    format!("x {} to come", plural(group[0].times, "trial"))
                }
                _ => format!("x {}", plural(group[0].times, "trial")),
            };
            job_rows(group, Some(&last))
        });
        rows.collect()
    }

    fn is_open(&self, part: &Part) -> bool {
        let number = part.plan.trial().map(|point| point.number);
        let mut open = self.shown.open.iter();
        open.any(|point| Some(point.number) == number)
    }

    pub(super) fn as_json(&self) -> serde_json::Value {
        json!({
            "name": self.name,
            "sampler": self.sampler,
            "order": self.order,
            "trials": self.trials,
            "told": self.told,
            "failed": self.failed,
            "trial": {
                "number": self.shown.point.number,
                "params": Value::Map(Arc::clone(&self.shown.point.values)).to_json(),
                "origin": self.shown.origin,
            },
            "left": self.left,
            "over": self.over,
            "changed": self.shown.trouble,
        })
    }

    pub(super) fn print_head(&self, style: Style) {
        put!(
            "study: {} by {} over {}, order {}; {} ended{}",
            plural(self.trials, "trial"),
            self.sampler,
            plural(self.parameters as u64, "parameter"),
            self.order,
            self.told,
            if self.left == 0 {
                ", and it is over"
            } else {
                ""
            }
        );
        if let Some(trouble) = &self.shown.trouble {
            put!(
                "{} `dagrun run` will refuse: {}; say what is to become of its trials by `dagrun rescore`, `--study keep` or `--study new`",
                style.paint_out(Ink::Warn, "warning:"),
                escape(trouble)
            );
        }
    }

    pub(super) fn print_trial(&self) {
        match self.over {
            true => put!(""),
            false => self.print_point(),
        }
        put!("a trial: {}", counted(&self.trial.counts()));
    }

    fn print_point(&self) {
        let values = self.shown.point.values.iter();
        let values: Vec<String> = values
            .map(|(name, value)| format!("{name}={}", value.to_text()))
            .collect();
        put!(
            "\ntrial {} ({}): {}",
            self.shown.point.number,
            self.shown.origin,
            escape(&values.join(", "))
        );
    }
}

/// `study` as jobs after it will see it; where there is nothing yet, with the trial that is shown as its best.
fn context(name: &str, past: Option<&Study>, shown: &ShownTrial) -> Map {
    let counts = past.map(Study::counts).unwrap_or_default();
    let params = Value::Map(Arc::clone(&shown.point.values));
    let number = Value::Int(shown.point.number.cast_signed());
    let known = past.filter(|_| counts.told > counts.failed);
    let mut map = Map::new();
    map.insert("table".into(), Value::str(Workspace::study_table(name)));
    let best = known.map(Study::best_value).unwrap_or_else(|| {
        let mut best = Map::new();
        best.insert("trial".into(), number.clone());
        best.insert("value".into(), Value::Float(0.0));
        best.insert("params".into(), params.clone());
        Value::map(best)
    });
    map.insert("best".into(), best);
    let front = known.map(Study::front_value).unwrap_or_else(|| {
        let mut entry = Map::new();
        entry.insert("trial".into(), number);
        entry.insert("values".into(), Value::map(Map::new()));
        entry.insert("params".into(), params);
        Value::list([Value::map(entry)])
    });
    map.insert("front".into(), front);
    map.insert("trials".into(), Value::Int(counts.told.cast_signed()));
    map.insert("failed".into(), Value::Int(counts.failed.cast_signed()));
    map
}

/// The trial that a study goes on with, and what it has so far, where it can go on with that.
fn stands(
    loaded: &Loaded,
    planned: &Planned,
    study: &PlannedStudy,
) -> Result<(ShownTrial, Option<Study>), CliError> {
    let shown = loaded.next_trial(study, &planned.workspace)?;
    let past = match shown.trouble {
        None => {
            let name = loaded.study_name();
            trial::read(study.records(name, &planned.workspace)?, name)?
        }
        Some(_) => None,
    };
    Ok((shown, past))
}

/// The plan of what runs after the study, as the study stands now; none where nothing does.
pub(crate) fn plan_after(
    loaded: &Loaded,
    planned: &Planned,
    study: &PlannedStudy,
) -> Result<Option<Plan>, CliError> {
    let (shown, past) = stands(loaded, planned, study)?;
    let context = context(loaded.study_name(), past.as_ref(), &shown);
    after(loaded, planned, study, context)
}

/// The plan of what runs after the study.
fn after(
    loaded: &Loaded,
    planned: &Planned,
    study: &PlannedStudy,
    context: Map,
) -> Result<Option<Plan>, CliError> {
    let phases = dagrun_plan::job_phases(&loaded.pipeline);
    if !phases.contains(&dagrun_plan::JobPhase::After) {
        return Ok(None);
    }
    let expansion = study.planner.after(Arc::new(context));
    let expansion = expansion.map_err(|errors| loaded.refuse(&errors))?;
    let request = expansion.facts_needed();
    let mut facts = loaded.answer(&request, &planned.workspace)?;
    let table = Workspace::study_table(loaded.study_name());
    for (glob, found) in request.globs.iter().zip(&mut facts.globs) {
        if glob.pattern == table && found.is_empty() {
            found.push(FoundFile {
                path: table.clone(),
                blob: trial::no_table(),
            });
        }
    }
    let plan = expansion.finish(facts);
    Ok(Some(plan.map_err(|errors| loaded.refuse(&errors))?.0))
}
