//! From a file's name to a plan: the steps that most commands share.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    sync::Arc,
};

use dagrun_model::{BlobRef, Diagnostic, Pipeline, RelPath, Sources, Value};
use dagrun_plan::{FactRequest, Facts, Origin, Plan, PlanOptions, StudyPlanner};
use dagrun_run::{GivenFacts, Workspace, load_study};
use dagrun_store::{FileHashes, Store, StoreOptions};
use dagrun_study::{Definition, StudyRecord};
use dagrun_tier::SharedCache;

use crate::{
    args::{self, Global, Selection},
    commands::project_of,
    error::{CliError, Context, Kind},
    say,
    settings::Settings,
    shared,
    term::Style,
    trial,
};

/// The greatest pipeline file that is read at all.
const MAX_BYTES: u64 = dagrun_dsl::MAX_BYTES as u64;

/// How nodes are kept apart on this machine: a clean folder and environment. It is in every key.
const ISOLATION: &str = "folder";

/// A pipeline and where it stands.
pub(crate) struct Loaded {
    pub(crate) pipeline: Arc<Pipeline>,
    /// The file as it was named.
    pub(crate) file: PathBuf,
    pub(crate) project: PathBuf,
    pub(crate) settings: Settings,
    /// Plans are made without deduplication.
    pub(crate) apart: bool,
    style: Style,
    modules: Vec<RelPath>,
    seen: RefCell<Seen>,
}

/// A plan with what it was made from.
pub(crate) struct Planned {
    pub(crate) plan: Arc<Plan>,
    /// Warnings, as one-line texts; they have been shown already.
    pub(crate) warnings: Vec<String>,
    pub(crate) workspace: Workspace,
    pub(crate) store: Store,
    /// The cache behind it.
    pub(crate) shared: Option<Arc<SharedCache>>,
    /// The study, where there is one and it is to run; `plan` is then what runs before it.
    pub(crate) study: Option<PlannedStudy>,
    /// The trial of which `plan` is a part.
    pub(crate) trial: Option<u64>,
}

/// A study with all its numbers known, and what makes the plans of its trials.
#[derive(Clone)]
pub(crate) struct PlannedStudy {
    pub(crate) planner: StudyPlanner,
    pub(crate) definition: Definition,
    /// The records of its log where it is looked at as it stands elsewhere.
    pub(crate) elsewhere: Option<Vec<StudyRecord>>,
}

impl PlannedStudy {
    /// The records of its log; none where nothing was asked yet.
    pub(crate) fn records(
        &self,
        name: &str,
        workspace: &Workspace,
    ) -> Result<Vec<StudyRecord>, CliError> {
        if let Some(records) = &self.elsewhere {
            return Ok(records.clone());
        }
        let log = load_study(workspace, name).map_err(crate::commands::run_error)?;
        Ok(log.map(|log| log.records).unwrap_or_default())
    }
}

impl Planned {
    /// The plan is needed to the end of the process, which takes its pages back faster than it can be dropped piece by piece. Not for
    /// a process that makes one plan after the other.
    pub(crate) fn keep_to_the_end(&self) {
        std::mem::forget(Arc::clone(&self.plan));
    }
}

impl Loaded {
    /// Reads and checks a pipeline file. All its errors are printed.
    pub(crate) fn new(file: &Path, global: &Global, style: Style) -> Result<Self, CliError> {
        let project = project_of(file);
        let settings = Settings::load(&project, &global.cache)?;
        let text = read(file, style)?;
        let includes = Includes {
            project: project.clone(),
            loaded: RefCell::default(),
        };
        let parsed = dagrun_dsl::parse(&file.display().to_string(), &text, &includes);
        let Some(pipeline) = parsed.pipeline else {
            return Err(refuse(&parsed.diagnostics, &parsed.sources, style));
        };
        if !parsed.diagnostics.is_empty() && !style.quiet {
            say!(
                "{}",
                dagrun_dsl::render(&parsed.diagnostics, &parsed.sources, style.color)
            );
        }
        Ok(Self {
            pipeline: Arc::new(pipeline),
            file: file.to_path_buf(),
            project,
            settings,
            apart: false,
            style,
            modules: includes.loaded.into_inner(),
            seen: RefCell::default(),
        })
    }

    /// What plans have asked of the outside so far: what a coordinator has to be given.
    pub(crate) fn seen(&self) -> Seen {
        let mut seen = self.seen.borrow().clone();
        seen.modules = self.modules.clone();
        seen
    }

    /// Opens the cache.
    pub(crate) fn store(&self) -> Result<Store, CliError> {
        open_store(&self.settings)
    }

    /// Makes the plan: expands the pipeline, answers what it asks about files and toolchains, makes the keys.
    pub(crate) fn plan(
        &self,
        args: &args::Params,
        selection: &Selection,
    ) -> Result<Planned, CliError> {
        let options = PlanOptions {
            apart: self.apart,
            ..options(args)?
        };
        let selected = PlanOptions {
            only: selection.only.clone(),
            until: selection.until.clone(),
            from: selection.from.clone(),
            ..options.clone()
        };
        let Some(trial) = trial::selected(&self.pipeline, selection)? else {
            let mut planned = self.plan_with(selected)?;
            if trial::is_before(&self.pipeline, selection) {
                planned.study = None;
            }
            return Ok(planned);
        };
        let mut planned = self.plan_with(options)?;
        if let Some(study) = planned.study.take() {
            let part = StudyPlanner::new(self.pipeline.clone(), selected);
            let plan = self.past_trial(&study, &planned.workspace, trial, Some(&part))?;
            planned.plan = Arc::new(plan);
            planned.trial = Some(trial);
        }
        Ok(planned)
    }

    fn plan_with(&self, options: PlanOptions) -> Result<Planned, CliError> {
        let store = self.store()?;
        let shared = shared::open(&self.settings, &store, self.style)?;
        let workspace =
            Workspace::open_to_look(&self.project).map_err(crate::commands::run_error)?;
        let sources = &self.pipeline.sources;
        let refused = |diagnostics: Vec<Diagnostic>| self.refuse(&diagnostics);
        let planner = StudyPlanner::new(self.pipeline.clone(), options.clone());
        let expansion = dagrun_plan::expand(self.pipeline.clone(), options).map_err(refused)?;
        let facts = self.answer(&expansion.facts_needed(), &workspace)?;
        let (plan, warnings) = expansion.finish(facts).map_err(refused)?;
        let study = match &self.pipeline.study {
            None => None,
            Some(study) => Some(PlannedStudy {
                planner,
                definition: plan
                    .with_params(|params| Definition::resolve(study, params))
                    .map_err(refused)?,
                elsewhere: None,
            }),
        };
        if !warnings.is_empty() && !self.style.quiet {
            say!(
                "{}",
                dagrun_dsl::render(&warnings, sources, self.style.color)
            );
        }
        let warnings = warnings
            .iter()
            .map(|w| format!("{}: {}", sources.locate(w.span), w.message))
            .collect();
        Ok(Planned {
            plan: Arc::new(plan),
            warnings,
            workspace,
            store,
            shared,
            study,
            trial: None,
        })
    }

    /// Finds out what a plan asks for.
    pub(crate) fn answer(
        &self,
        request: &FactRequest,
        workspace: &Workspace,
    ) -> Result<Facts, CliError> {
        let hashes = FileHashes::open(&workspace.hashes_path());
        let facts = dagrun_run::facts::answer(request, &hashes, workspace)
            .map_err(crate::commands::run_error)?;
        // What is remembered only saves work: a disk that is full must not stop a run here.
        if let Err(error) = hashes.save() {
            tracing::warn!("hashes of files are not remembered: {error}");
        }
        self.seen.borrow_mut().learn(request, &facts);
        Ok(facts)
    }

    /// Prints what is wrong with the pipeline.
    pub(crate) fn refuse(&self, diagnostics: &[Diagnostic]) -> CliError {
        refuse(diagnostics, &self.pipeline.sources, self.style)
    }
}

/// What a plan is made with, all of it.
fn options(args: &args::Params) -> Result<PlanOptions, CliError> {
    Ok(PlanOptions {
        params: parameters(args)?,
        os: std::env::consts::OS.into(),
        arch: std::env::consts::ARCH.into(),
        isolation: ISOLATION.into(),
        ..PlanOptions::default()
    })
}

/// Opens the cache of some settings.
pub(crate) fn open_store(settings: &Settings) -> Result<Store, CliError> {
    Store::open(&settings.cache.value, StoreOptions::default()).map_err(|error| {
        CliError::environment(error).hint(format!(
            "the cache is {} (from {}); `--cache DIR` or DAGRUN_CACHE names another",
            settings.cache.value.display(),
            settings.cache.origin
        ))
    })
}

fn refuse(diagnostics: &[Diagnostic], sources: &Sources, style: Style) -> CliError {
    say!("{}", dagrun_dsl::render(diagnostics, sources, style.color));
    CliError::said(Kind::Invalid)
}

fn read(file: &Path, style: Style) -> Result<String, CliError> {
    let size = match std::fs::metadata(file) {
        Ok(metadata) if metadata.is_dir() => {
            return Err(
                CliError::invalid(format!("{} is a folder", file.display())).hint(format!(
                    "name the pipeline file: `dagrun {}`",
                    file.join("pipeline.yaml").display()
                )),
            );
        }
        Ok(metadata) => metadata.len(),
        Err(error) => {
            let hint = match dagrun_run::facts::file_alike(file) {
                Some(near) => format!("did you mean `{}`?", file.with_file_name(near).display()),
                None => "`dagrun init` starts a pipeline from a template".into(),
            };
            return Err(
                CliError::invalid(format!("cannot read {}: {error}", file.display())).hint(hint),
            );
        }
    };
    if size > MAX_BYTES {
        return Err(CliError::invalid(format!(
            "{} has {size} bytes; a pipeline file may have {MAX_BYTES}",
            file.display()
        ))
        .hint("put data into files that jobs read, and many similar jobs into a matrix"));
    }
    let bytes = std::fs::read(file).doing(|| format!("read {}", file.display()))?;
    dagrun_dsl::decode_utf8(&file.display().to_string(), bytes)
        .map_err(|(diagnostic, sources)| refuse(&[*diagnostic], &sources, style))
}

/// Modules are read from the project folder and nowhere else.
struct Includes {
    project: PathBuf,
    /// Those that were read.
    loaded: RefCell<Vec<RelPath>>,
}

impl dagrun_dsl::Loader for Includes {
    fn load(&self, path: &RelPath) -> Result<String, String> {
        let full = self.project.join(path);
        let inside = full.canonicalize().map_err(|error| error.to_string())?;
        let project = self
            .project
            .canonicalize()
            .map_err(|error| error.to_string())?;
        if !inside.starts_with(&project) {
            return Err("it leads out of the project folder by a symbolic link".into());
        }
        if std::fs::metadata(&inside)
            .map_err(|error| error.to_string())?
            .len()
            > MAX_BYTES
        {
            return Err(format!("it has more than {MAX_BYTES} bytes"));
        }
        let text = std::fs::read_to_string(&inside).map_err(|error| error.to_string())?;
        self.loaded.borrow_mut().push(path.clone());
        Ok(text)
    }
}

/// What plans have asked of the outside.
#[derive(Clone, Debug, Default)]
pub(crate) struct Seen {
    /// Files that are inputs, by path.
    pub(crate) files: BTreeMap<String, BlobRef>,
    /// Files of `toolchain`.
    pub(crate) toolchain_files: BTreeSet<String>,
    /// Modules of the pipeline.
    pub(crate) modules: Vec<RelPath>,
    /// What belongs to these surroundings.
    pub(crate) given: GivenFacts,
}

impl Seen {
    fn learn(&mut self, request: &FactRequest, facts: &Facts) {
        let found = facts.globs.iter().flatten();
        self.files
            .extend(found.map(|file| (file.path.clone(), file.blob)));
        let files = request.files.iter().zip(&facts.files);
        let there = files.filter(|(_, found)| found.is_ok());
        self.toolchain_files
            .extend(there.map(|(path, _)| path.clone()));
        self.given.learn(request, facts);
    }
}

/// Parameters from files, then from flags; later ones win.
fn parameters(args: &args::Params) -> Result<Vec<(String, Value, Origin)>, CliError> {
    let mut params = Vec::new();
    for file in &args.params_file {
        let text = std::fs::read_to_string(file).map_err(|error| {
            CliError::invalid(format!("cannot read {}: {error}", file.display()))
        })?;
        let name = file.display().to_string();
        let value = dagrun_dsl::parse_value(&name, &text).map_err(CliError::invalid)?;
        let Value::Map(map) = value else {
            return Err(CliError::invalid(format!(
                "{name} must hold a map of parameters, such as `trials: 20`"
            )));
        };
        params.extend(
            map.iter()
                .map(|(key, value)| (key.to_string(), value.clone(), Origin::File(name.clone()))),
        );
    }
    for text in &args.params {
        let (name, value) = text.split_once('=').ok_or_else(|| {
            CliError::invalid(format!("`-p {text}` has no `=`; write `-p NAME=VALUE`"))
        })?;
        params.push((
            name.to_owned(),
            dagrun_dsl::parse_scalar(value),
            Origin::CommandLine,
        ));
    }
    Ok(params)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::{CacheFlags, When};

    #[test]
    fn a_plan_is_gone_with_whoever_made_it_unless_the_process_ends_with_it() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("p.yaml");
        std::fs::write(&file, "name: p\njobs: {a: {run: [\"true\"]}}\n").unwrap();
        let cache = folder.path().join("cache").display().to_string();
        let global = Global {
            color: When::Never,
            quiet: true,
            verbose: 0,
            cache: CacheFlags {
                cache: vec![cache],
                ..CacheFlags::default()
            },
        };
        let plan = |keep: bool| {
            let loaded = Loaded::new(&file, &global, Style::new(&global))
                .ok()
                .unwrap();
            let params = args::Params {
                params: Vec::new(),
                params_file: Vec::new(),
            };
            let planned = loaded.plan(&params, &Selection::default()).ok().unwrap();
            if keep {
                planned.keep_to_the_end();
            }
            Arc::downgrade(&planned.plan)
        };
        assert!(plan(false).upgrade().is_none());
        assert!(plan(true).upgrade().is_some());
    }
}
