//! Plans the parts of a pipeline with a study, one small plan after the other.

use std::sync::{Arc, Mutex};

use dagrun_model::{Diagnostic, Map, Pipeline};

use crate::{
    Expansion, Phase, PlanOptions, TrialPoint, expand,
    facts::{FactIndex, SharedFacts},
    layout::Core,
};

/// Makes the plans of a study: what runs before it, each of its trials, what runs after it. What all trials have in common
/// is worked out once, for all clones.
#[derive(Clone, Debug)]
pub struct StudyPlanner {
    pipeline: Arc<Pipeline>,
    options: PlanOptions,
    common: Arc<Mutex<Vec<Common>>>,
}

/// What all trials with one number of replicates have in common.
#[derive(Clone, Debug)]
struct Common {
    replicates: Option<u32>,
    core: Arc<Core>,
    index: Arc<FactIndex>,
    shared: Arc<SharedFacts>,
}

impl StudyPlanner {
    /// A planner of a pipeline; [`PlanOptions::phase`] does not matter.
    pub fn new(pipeline: Arc<Pipeline>, options: PlanOptions) -> Self {
        Self {
            pipeline,
            options,
            common: Arc::default(),
        }
    }

    /// The jobs that are no part of a trial and do not wait for the end of the study.
    ///
    /// # Errors
    /// As [`expand`].
    pub fn before(&self) -> Result<Expansion, Vec<Diagnostic>> {
        self.expand(Phase::Before)
    }

    /// The jobs of one trial, and what they need of those before. A trial of a study is planned whole, whatever is selected.
    /// Warnings come with the first trial.
    ///
    /// A trial that needs the same facts as one before it has them as [`Expansion::known_facts`].
    ///
    /// # Errors
    /// As [`expand`].
    pub fn trial(&self, point: TrialPoint) -> Result<Expansion, Vec<Diagnostic>> {
        if let Some(common) = self.common(point.replicates) {
            return Ok(Expansion {
                core: Core::clone(&common.core).at(point),
                index: common.index,
                warnings: Vec::new(),
                shared: Some(common.shared),
            });
        }
        let replicates = point.replicates;
        let options = PlanOptions {
            only: Vec::new(),
            until: Vec::new(),
            from: Vec::new(),
            phase: Phase::Trial(point),
            ..self.options.clone()
        };
        let mut expansion = expand(self.pipeline.clone(), options)?;
        if !expansion.index.of_trial
            && let Ok(mut known) = self.common.lock()
        {
            let shared = Arc::<SharedFacts>::default();
            expansion.shared = Some(shared.clone());
            known.push(Common {
                replicates,
                core: Arc::new(expansion.core.clone()),
                index: expansion.index.clone(),
                shared,
            });
        }
        Ok(expansion)
    }

    fn common(&self, replicates: Option<u32>) -> Option<Common> {
        let known = self.common.lock().ok()?;
        let mut known = known.iter();
        known.find(|it| it.replicates == replicates).cloned()
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
