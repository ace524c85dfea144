//! The digest of a cell's recipe: the command with its values, environment, toolchain, outputs, files of the project.
//!
//! A recipe is a constant part and *holes*. A hole is a template whose value differs between cells; it is evaluated once
//! for each combination of the axes that it uses. What depends on upstream results enters by the shape of the expression;
//! the results themselves enter keys as input sets.

use std::cell::{Cell, RefCell};

use dagrun_expr::{eval, eval_text, eval_words};
use dagrun_model::{
    CachePolicy, Command, ContentHash, ContentHasher, Diagnostic, Digest, Expr, Job, Quoting,
    Recipe, RelPath, ScriptPart, Shell, Span, Template, Toolchain,
};

use crate::{
    KEY_VERSION,
    context::CellContext,
    facts::{ConstantPart, FactTable, FoundFile, must_exist},
    input::{DataInput, InputPlan, Item, Stage},
    layout::{Core, JobPlan},
    memo::Memo,
    places::{OutputPlace, apart, reaches_in},
    seeds::SeedPlan,
    staging,
    uses::{Scope, Uses},
};
use rustc_hash::FxHashSet;

/// The recipe of a job, ready to be hashed for each of its cells.
pub(crate) struct RecipeHasher<'p> {
    pub(crate) core: &'p Core,
    facts: &'p FactTable,
    ix: usize,
    pub(crate) plan: &'p JobPlan,
    pub(crate) job: &'p Job,
    pub(crate) scope: Scope<'p>,
    constant: ContentHasher,
    holes: Vec<Hole<'p>>,
    groups: Vec<Group>,
    /// Outputs whose paths are the same for all cells.
    fixed_outputs: Vec<OutputPlace<'p>>,
    /// Inputs may meet in `in/`.
    meeting: Cell<bool>,
    /// Bytes of the command and its variables so far, and the large values that are counted in it.
    pub(crate) bytes: Cell<usize>,
    pub(crate) counted: RefCell<FxHashSet<Digest>>,
    first: bool,
}

struct Hole<'p> {
    kind: HoleKind<'p>,
    uses: Uses,
    span: Span,
    failed: bool,
}

/// Holes that use the same axes: hashed together.
struct Group {
    memo: Memo<Digest>,
    holes: Vec<usize>,
}

#[derive(Clone, Copy)]
enum HoleKind<'p> {
    Words(&'p Template),
    Text(&'p Template),
    Script(&'p Expr),
    Condition(&'p Expr),
    Output(&'p Template),
    /// Not hashed: output paths must not lie in each other.
    OutputPaths,
    /// Not hashed: paths of outputs that vary must not be those of inputs.
    OutputsAndInputs,
    Input(usize),
    /// Those of which the order cannot be seen.
    Unordered,
    Seed,
    LogicalId,
}

/// What is said while recipes are hashed, each thing once.
#[derive(Default)]
pub(crate) struct Findings {
    pub(crate) errors: Vec<Diagnostic>,
    pub(crate) warnings: Vec<Diagnostic>,
    reported: rustc_hash::FxHashSet<usize>,
}

impl Findings {
    /// Jobs that share a place by an anchor or `defaults` are told of it once.
    pub(crate) fn error(&mut self, error: Diagnostic) {
        if !self.errors.contains(&error) {
            self.errors.push(error);
        }
    }
}

impl<'p> RecipeHasher<'p> {
    pub(crate) fn new(
        core: &'p Core,
        ix: usize,
        facts: &'p FactTable,
        findings: &mut Findings,
    ) -> Self {
        let (plan, job) = (&core.jobs[ix], &core.pipeline.jobs[ix]);
        let per_point = plan.seeds.as_ref().is_some_and(SeedPlan::per_point);
        let mut recipe = Self {
            core,
            facts,
            ix,
            plan,
            job,
            scope: Scope::new(job, &plan.points, per_point),
            constant: ContentHasher::new("dagrun.recipe.v1"),
            holes: Vec::new(),
            groups: Vec::new(),
            fixed_outputs: Vec::new(),
            meeting: Cell::new(meeting(plan)),
            bytes: Cell::new(0),
            counted: RefCell::default(),
            first: true,
        };
        recipe.platform();
        recipe.command(findings);
        recipe.environment(findings);
        recipe.toolchain(findings);
        recipe.outputs(findings);
        recipe.inputs(findings);
        if plan.own_replicates {
            let uses = Uses {
                axes: match per_point {
                    true => plan.points.all_axes(),
                    false => 1 << plan.points.axis(crate::axes::REPLICATE).unwrap_or(0),
                },
                ..Uses::default()
            };
            recipe.hole(HoleKind::Seed, uses, job.span, findings);
        }
        if job.cache == CachePolicy::Never || core.apart {
            let uses = Uses {
                axes: plan.points.all_axes(),
                ..Uses::default()
            };
            recipe.hole(HoleKind::LogicalId, uses, job.span, findings);
        }
        recipe.group();
        if plan.points.len > 1 {
            recipe.constant.settle();
        }
        recipe
    }

    /// The axes that it uses itself; those by which it tells what it gets from others are not among them.
    pub(crate) fn axes(&self) -> u64 {
        self.holes
            .iter()
            .fold(0, |axes, hole| axes | hole.uses.axes)
    }

    /// The digest of the recipe at a row.
    pub(crate) fn digest(&mut self, row: usize, findings: &mut Findings) -> Digest {
        let mut hasher = self.constant.clone();
        let mut groups = std::mem::take(&mut self.groups);
        for group in &mut groups {
            // A digest for each group, also where nothing is remembered: which axes have several values must not be seen in
            // a key.
            let digest = group.memo.get(&self.plan.points, row, || {
                let mut hasher = ContentHasher::new("dagrun.recipe-part.v1");
                self.fill(&group.holes, row, &mut hasher, findings);
                hasher.finish()
            });
            digest.content_hash(&mut hasher);
        }
        self.groups = groups;
        self.check_places(row, findings);
        hasher.finish()
    }

    /// What can only be said of a cell as a whole.
    fn check_places(&mut self, row: usize, findings: &mut Findings) {
        // The holes of the first cell were all evaluated just now; later cells take from what is remembered.
        if std::mem::take(&mut self.first)
            && let Err(error) = self.check_length()
        {
            findings.error(error);
        }
        if self.meeting.get() {
            let ctx = CellContext::new(self.core, self.ix, row, Some(self.facts));
            if let Err(error) = self.check_inputs(&ctx) {
                findings.error(error);
                self.meeting.set(false);
            }
        }
    }

    fn fill(
        &mut self,
        holes: &[usize],
        row: usize,
        hasher: &mut ContentHasher,
        findings: &mut Findings,
    ) {
        for ix in holes {
            if self.holes[*ix].failed {
                continue;
            }
            let hole = &self.holes[*ix];
            if let Err(error) =
                self.hash_hole(hole.kind, hole.uses, hole.span, row, hasher, findings)
            {
                findings.error(error);
                self.holes[*ix].failed = true;
            }
        }
    }

    fn put<T: ContentHash + ?Sized>(&mut self, value: &T) {
        value.content_hash(&mut self.constant);
    }

    /// Adds a hole; one that is the same for all cells is hashed at once.
    fn hole(&mut self, kind: HoleKind<'p>, uses: Uses, span: Span, findings: &mut Findings) {
        if uses.axes == 0 && !uses.upstream && self.plan.points.len > 0 {
            let mut constant = self.constant.clone();
            if let Err(error) = self.hash_hole(kind, uses, span, 0, &mut constant, findings) {
                findings.error(error);
            }
            self.constant = constant;
            return;
        }
        self.put("hole");
        self.holes.push(Hole {
            kind,
            uses,
            span,
            failed: false,
        });
    }

    fn group(&mut self) {
        let mut masks: Vec<u64> = Vec::new();
        for (ix, hole) in self.holes.iter().enumerate() {
            match masks.iter().position(|mask| *mask == hole.uses.axes) {
                Some(at) => self.groups[at].holes.push(ix),
                None => {
                    masks.push(hole.uses.axes);
                    self.groups.push(Group {
                        memo: Memo::new(hole.uses.axes, &self.plan.points),
                        holes: vec![ix],
                    });
                }
            }
        }
    }

    fn platform(&mut self) {
        self.put(&KEY_VERSION);
        for part in &self.core.platform {
            self.put(part);
        }
    }

    fn words(&mut self, template: &'p Template, findings: &mut Findings) {
        let uses = self.scope.template(template);
        self.hole(HoleKind::Words(template), uses, template.span, findings);
    }

    fn text(&mut self, template: &'p Template, findings: &mut Findings) {
        let uses = self.scope.template(template);
        self.hole(HoleKind::Text(template), uses, template.span, findings);
    }

    fn command(&mut self, findings: &mut Findings) {
        match &self.job.recipe {
            Recipe::Run(command) => {
                self.put("run");
                self.one_command(command, findings);
            }
            Recipe::Steps(steps) => {
                self.put("steps");
                self.put(&(steps.len() as u64));
                for step in steps {
                    self.put(&step.condition.is_some());
                    if let Some(condition) = &step.condition {
                        let uses = self.scope.expr(condition);
                        self.hole(
                            HoleKind::Condition(condition),
                            uses,
                            condition.span,
                            findings,
                        );
                    }
                    self.variables(step.env.iter(), findings);
                    self.one_command(&step.command, findings);
                }
            }
        }
    }

    fn one_command(&mut self, command: &'p Command, findings: &mut Findings) {
        match command {
            Command::Argv(words, _) => {
                self.put("argv");
                self.put(&(words.len() as u64));
                words.iter().for_each(|word| self.words(word, findings));
            }
            Command::Script(script) => {
                self.put("script");
                match &script.shell {
                    Shell::Bash => self.put("bash"),
                    Shell::Sh => self.put("sh"),
                    Shell::Other(words) => {
                        self.put("other");
                        self.put(words);
                    }
                }
                self.put(&(script.parts.len() as u64));
                for part in &script.parts {
                    match part {
                        ScriptPart::Text(text) => self.put(&**text),
                        ScriptPart::Value { expr, place } => {
                            self.put(match place {
                                Quoting::Bare => "bare",
                                Quoting::Double => "double",
                                Quoting::Single => "single",
                            });
                            let uses = self.scope.expr(expr);
                            self.hole(HoleKind::Script(expr), uses, expr.span, findings);
                        }
                    }
                }
            }
        }
    }

    /// Sorted by name: the order in which variables are declared is not seen by anything.
    fn variables(
        &mut self,
        env: impl Iterator<Item = (&'p String, &'p Template)>,
        findings: &mut Findings,
    ) {
        let mut env: Vec<_> = env.collect();
        env.sort_by_key(|(name, _)| *name);
        self.put(&(env.len() as u64));
        for (name, template) in env {
            self.put(name);
            self.text(template, findings);
        }
    }

    fn environment(&mut self, findings: &mut Findings) {
        self.variables(self.job.env.iter(), findings);
        let mut secrets: Vec<&str> = self
            .job
            .secrets
            .iter()
            .map(|secret| secret.value.as_str())
            .collect();
        secrets.sort_unstable();
        self.put(&secrets);
        self.put(&self.job.threads.is_some());
        if let Some(threads) = &self.job.threads {
            self.text(threads, findings);
        }
        if let CachePolicy::Env(names) = &self.job.cache {
            self.put(&(names.len() as u64));
            for name in names {
                let at = self.facts.request.env.get_index_of(name);
                let value = at
                    .and_then(|at| self.facts.facts.env.get(at))
                    .cloned()
                    .flatten();
                self.put(name);
                self.put(&value);
            }
        } else {
            self.put(&0u64);
        }
    }

    fn toolchain(&mut self, findings: &mut Findings) {
        self.put(&(self.job.toolchain.len() as u64));
        for toolchain in &self.job.toolchain {
            match toolchain {
                Toolchain::Command(command) => {
                    let at = self.facts.request.commands.get_index_of(&command.value);
                    self.put("command");
                    self.put(&command.value);
                    match at.and_then(|at| self.facts.facts.commands.get(at)) {
                        Some(Ok(output)) => self.put(output),
                        failed => findings.error(toolchain_error(
                            &command.value.join(" "),
                            failed,
                            command.span,
                        )),
                    }
                }
                Toolchain::File(file) => {
                    let at = self.facts.request.files.get_index_of(&file.value);
                    self.put("file");
                    self.put(&file.value);
                    match at.and_then(|at| self.facts.facts.files.get(at)) {
                        Some(Ok(digest)) => self.put(digest),
                        failed => {
                            findings
                                .errors
                                .push(toolchain_error(&file.value, failed, file.span))
                        }
                    }
                }
            }
        }
    }

    /// Sorted by name, as variables.
    fn outputs(&mut self, findings: &mut Findings) {
        let mut outputs: Vec<_> = self
            .job
            .outputs
            .iter()
            .zip(&self.plan.output_uses)
            .collect();
        outputs.sort_by_key(|((name, _), _)| *name);
        self.put(&(outputs.len() as u64));
        for ((name, output), uses) in outputs {
            self.put(name);
            self.put(&output.optional);
            let json = output.json.as_ref();
            self.put(&json.map(|json| (json.pointer.clone(), format!("{:?}", json.ty))));
            self.hole(
                HoleKind::Output(&output.path),
                *uses,
                output.path.span,
                findings,
            );
            if uses.axes == 0 && self.plan.points.len > 0 {
                let ctx = CellContext::new(self.core, self.ix, 0, Some(self.facts));
                let path = eval_text(&output.path, &ctx).ok();
                // What is wrong with a path is said where it is hashed.
                if let Some(path) = path.and_then(|path| RelPath::new(&path).ok()) {
                    self.fixed_outputs.push(OutputPlace {
                        path,
                        name,
                        span: output.span,
                    });
                }
            }
        }
        if self.job.outputs.len() > 1 {
            let all = self
                .plan
                .output_uses
                .iter()
                .fold(Uses::default(), |all, uses| all.join(*uses));
            self.hole(HoleKind::OutputPaths, all, self.job.span, findings);
        }
        self.put(&self.job.stdout.as_ref().map(|stdout| stdout.value.clone()));
    }

    fn inputs(&mut self, findings: &mut Findings) {
        let plan = self.plan;
        let shared = self.facts.shared.as_ref();
        let known = shared.and_then(|shared| shared.constant(self.ix));
        let errors = findings.errors.len();
        // Files that are the same for all cells are in the constant part, which another trial has hashed already.
        let hashed = |uses: Uses| known.is_some() && uses.axes == 0;
        let mut unordered: Option<Uses> = None;
        for (ix, input) in plan.inputs.iter().enumerate() {
            let uses = Uses {
                upstream: false,
                ..input.uses
            };
            if input.unordered {
                unordered = Some(unordered.unwrap_or_default().join(uses));
            } else if !hashed(uses) {
                self.hole(HoleKind::Input(ix), uses, input.span, findings);
            }
        }
        if let Some(uses) = unordered.filter(|uses| !hashed(*uses)) {
            self.hole(HoleKind::Unordered, uses, self.job.span, findings);
        }
        let varying = plan.output_uses.iter().filter(|uses| uses.axes != 0);
        let varying = varying.fold(Uses::default(), |all, uses| all.join(*uses));
        if varying.axes != 0 && !plan.inputs.is_empty() {
            let inputs = plan.inputs.iter().map(|input| input.uses);
            let uses = Uses {
                upstream: false,
                ..inputs.fold(varying, Uses::join)
            };
            self.hole(HoleKind::OutputsAndInputs, uses, self.job.span, findings);
        }
        match (known, shared) {
            (Some(known), _) => {
                self.constant = known.hasher;
                self.meeting.set(known.meeting);
            }
            (None, Some(shared)) if findings.errors.len() == errors => {
                let hasher = self.constant.clone();
                let meeting = self.meeting.get();
                shared.add_constant(self.ix, ConstantPart { hasher, meeting });
            }
            _ => {}
        }
    }

    fn hash_hole(
        &self,
        kind: HoleKind<'p>,
        uses: Uses,
        span: Span,
        row: usize,
        hasher: &mut ContentHasher,
        findings: &mut Findings,
    ) -> Result<(), Diagnostic> {
        let ctx = CellContext::new(self.core, self.ix, row, Some(self.facts));
        let deferred = uses.upstream || uses.volatile;
        let failed = |error: dagrun_expr::EvalError| error.to_diagnostic(span);
        match kind {
            HoleKind::Words(template) | HoleKind::Text(template) if deferred => {
                self.deferred_template(template, &ctx, hasher)?;
            }
            HoleKind::Script(expr) | HoleKind::Condition(expr) if deferred => {
                self.deferred(expr, &ctx, hasher)?
            }
            HoleKind::Words(template) => {
                let words = eval_words(template, &ctx).map_err(failed)?;
                self.measure_words(&words, span)?;
                words.content_hash(hasher);
            }
            HoleKind::Text(template) => {
                let text = eval_text(template, &ctx).map_err(failed)?;
                self.measure_words(std::slice::from_ref(&text), span)?;
                text.content_hash(hasher);
            }
            HoleKind::Script(expr) => {
                let value = eval(expr, &ctx).map_err(failed)?;
                self.measure_value(&value, span)?;
                value.content_hash(hasher);
            }
            HoleKind::Condition(expr) => eval(expr, &ctx)
                .map_err(failed)?
                .truthy()
                .content_hash(hasher),
            HoleKind::Output(template) => {
                let path = eval_text(template, &ctx).map_err(failed)?;
                let path = RelPath::new(&path).map_err(|problem| {
                    Diagnostic::error(
                        "bad-path",
                        span,
                        format!("an output cannot be there: {problem}"),
                    )
                    .help("an output lies below the node's folder, such as `out/result.csv`")
                })?;
                if path.as_str().split('/').next() == Some("in") {
                    return Err(Diagnostic::error(
                        "bad-path",
                        span,
                        format!("an output cannot be at `{path}`: inputs are staged in `in/`"),
                    )
                    .help("write it to another folder, such as `out/`"));
                }
                path.content_hash(hasher);
            }
            HoleKind::OutputPaths => self.check_outputs(&ctx)?,
            HoleKind::OutputsAndInputs => self.check_staged(&ctx)?,
            HoleKind::Input(input) => self.input(input, &ctx, hasher, findings)?,
            HoleKind::Unordered => self.unordered(&ctx, hasher, findings)?,
            HoleKind::Seed => ctx.seed().map_err(failed)?.content_hash(hasher),
            HoleKind::LogicalId => self
                .core
                .logical_id(self.plan.first_cell + row)
                .content_hash(hasher),
        }
        Ok(())
    }

    /// Named inputs of the project, whatever their order.
    fn unordered(
        &self,
        ctx: &CellContext<'_>,
        hasher: &mut ContentHasher,
        findings: &mut Findings,
    ) -> Result<(), Diagnostic> {
        let mut digests = Vec::with_capacity(self.plan.inputs.len());
        let mut failed = None;
        for (ix, input) in self.plan.inputs.iter().enumerate() {
            if !input.unordered {
                continue;
            }
            let mut own = ContentHasher::new("dagrun.input.v1");
            match self.input(ix, ctx, &mut own, findings) {
                Ok(()) => digests.push(own.finish()),
                Err(error) => findings.errors.extend(failed.replace(error)),
            }
        }
        digests.sort_unstable();
        digests.content_hash(hasher);
        failed.map_or(Ok(()), Err)
    }

    /// The files of a pattern.
    pub(crate) fn found(&self, pattern: &str, external: bool) -> &'p [FoundFile] {
        self.found_at(self.core.patterns.find(pattern, external))
    }

    /// The files of the pattern of a number.
    fn found_at(&self, ix: Option<usize>) -> &'p [FoundFile] {
        let files = ix.and_then(|ix| self.facts.facts.globs.get(ix));
        files.map_or(&[], Vec::as_slice)
    }

    /// Files of the project by content and staged path; outputs of other jobs only by their place.
    fn input(
        &self,
        input: usize,
        ctx: &CellContext<'_>,
        hasher: &mut ContentHasher,
        findings: &mut Findings,
    ) -> Result<(), Diagnostic> {
        let asked = self.plan.asked(input, ctx.row);
        let input = &self.plan.inputs[input];
        if let Some(ix) = asked {
            1u64.content_hash(hasher);
            if input.list_file {
                input.name.as_deref().content_hash(hasher);
            }
            let pattern = self.core.patterns.get(ix);
            return self.files(input, pattern, Some(ix), None, hasher, findings);
        }
        let gathered = |data: usize| self.plan.needs[self.plan.data[data].need].gather;
        let resolved = input.resolve(ctx, &gathered)?;
        (resolved.items.len() as u64).content_hash(hasher);
        // The list is at a path that has the name in it.
        if input.list_file {
            input.name.as_deref().content_hash(hasher);
        }
        if resolved
            .items
            .iter()
            .any(|item| matches!(item, Item::Upstream(_)))
        {
            resolved.list.content_hash(hasher);
        }
        for (position, item) in resolved.items.iter().enumerate() {
            let Item::Pattern(pattern) = item else {
                hasher.update(b"u");
                continue;
            };
            let ix = self.core.patterns.find(pattern, input.external);
            let position = resolved.list.then_some(position);
            self.files(input, pattern, ix, position, hasher, findings)?;
        }
        Ok(())
    }

    /// The files of a pattern of an input; `ix` is its number.
    fn files(
        &self,
        input: &InputPlan,
        pattern: &str,
        ix: Option<usize>,
        position: Option<usize>,
        hasher: &mut ContentHasher,
        findings: &mut Findings,
    ) -> Result<(), Diagnostic> {
        hasher.update(b"f");
        let files = self.found_at(ix);
        if !input.external {
            apart(&self.fixed_outputs, files, input.span)?;
            self.meeting.set(self.meeting.get() || reaches_in(files));
        }
        if files.is_empty() && findings.reported.insert(ix.unwrap_or(usize::MAX)) {
            match must_exist(pattern) {
                true => findings.error(self.missing_input(pattern, input.span)),
                false => findings.warnings.push(
                    Diagnostic::warning(
                        "empty-glob",
                        input.span,
                        format!("`{pattern}` matches no file"),
                    )
                    .help("globs skip dotfiles and `.git`; paths start at the project folder"),
                ),
            }
        }
        (files.len() as u64).content_hash(hasher);
        for (path, file) in staging::staged_files(input, pattern, position, files) {
            path.content_hash(hasher);
            file.blob.digest.content_hash(hasher);
            file.blob.executable.content_hash(hasher);
        }
        Ok(())
    }

    fn missing_input(&self, pattern: &str, span: Span) -> Diagnostic {
        let error = Diagnostic::error(
            "missing-input",
            span,
            format!("there is no file `{pattern}`"),
        );
        match self.facts.facts.alike.get(pattern) {
            Some(near) => error.help(format!("did you mean `{near}`?")),
            None => error.help("paths start at the project folder; an output of another job is `${{ needs.JOB.outputs.NAME }}`"),
        }
    }
}

/// Whether inputs may meet in `in/` whatever files there are: external ones without names, and lists that are named like an
/// output.
fn meeting(plan: &JobPlan) -> bool {
    let unnamed = |input: &&InputPlan| input.external && input.name.is_none();
    let list = |input: &InputPlan| input.list_file;
    plan.inputs.iter().filter(unnamed).count() > 1
        || (plan.inputs.iter().any(list) && plan.data.iter().any(is_implicit))
}

fn is_implicit(data: &DataInput) -> bool {
    matches!(data.stage, Stage::Files { input: None, .. })
}

fn toolchain_error<T>(what: &str, failed: Option<&Result<T, String>>, span: Span) -> Diagnostic {
    let reason = match failed {
        Some(Err(reason)) => reason.as_str(),
        _ => "it was not looked up",
    };
    Diagnostic::error(
        "toolchain",
        span,
        format!("`{what}` of `toolchain` cannot be used: {reason}"),
    )
    .help("its result is part of every key; install it, or remove it from `toolchain`")
}
