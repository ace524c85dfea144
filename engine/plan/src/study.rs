//! Plans the parts of a pipeline with a study, one small plan after the other.

use std::sync::Arc;

use dagrun_model::{Diagnostic, Map, Pipeline};

use crate::{Expansion, Phase, PlanOptions, TrialPoint, expand};

/// Makes the plans of a study: what runs before it, each of its trials, what runs after it.
#[derive(Clone, Debug)]
pub struct StudyPlanner {
    pipeline: Arc<Pipeline>,
    options: PlanOptions,
}

impl StudyPlanner {
    /// A planner of a pipeline; [`PlanOptions::phase`] does not matter.
    pub fn new(pipeline: Arc<Pipeline>, options: PlanOptions) -> Self {
        Self { pipeline, options }
    }

    /// The jobs that are no part of a trial and do not wait for the end of the study.
    ///
    /// # Errors
    /// As [`expand`].
    pub fn before(&self) -> Result<Expansion, Vec<Diagnostic>> {
        self.expand(Phase::Before)
    }

    /// The jobs of one trial, and what they need of those before. A trial of a study is planned whole, whatever is selected.
    ///
    /// # Errors
    /// As [`expand`].
    pub fn trial(&self, point: TrialPoint) -> Result<Expansion, Vec<Diagnostic>> {
        let options = PlanOptions {
            only: Vec::new(),
            until: Vec::new(),
            from: Vec::new(),
            phase: Phase::Trial(point),
            ..self.options.clone()
        };
        expand(self.pipeline.clone(), options)
    }

    /// Those nodes of one trial that [`PlanOptions::only`] and its kin name: to run them again beside the study.
    ///
    /// # Errors
    /// As [`expand`].
    pub fn trial_part(&self, point: TrialPoint) -> Result<Expansion, Vec<Diagnostic>> {
        self.expand(Phase::Trial(point))
    }

    /// The jobs that read the finished study, whose context `study` is; and what they need of those before.
    ///
    /// # Errors
    /// As [`expand`].
    pub fn after(&self, study: Arc<Map>) -> Result<Expansion, Vec<Diagnostic>> {
        self.expand(Phase::After(study))
    }

    fn expand(&self, phase: Phase) -> Result<Expansion, Vec<Diagnostic>> {
        let options = PlanOptions {
            phase,
            ..self.options.clone()
        };
        expand(self.pipeline.clone(), options)
    }
}
