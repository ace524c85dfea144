//! What is laid into the working folder after a run.

use dagrun_model::{Diagnostic, NodeIx, RelPath, Span, id_file_name};
use rustc_hash::FxHashMap;

use crate::{Plan, context::CellContext, join::NONE, staging::file_name, wildcard::finds};

/// With how many patterns of inputs an export is compared.
const MAX_COMPARED: usize = 10_000;

/// An output of a node and the path in the working folder where it goes.
#[derive(Clone, Debug, PartialEq)]
pub struct PlannedExport {
    /// The path below the working folder.
    pub target: String,
    /// The node.
    pub node: NodeIx,
    /// The name of the output.
    pub output: String,
    /// Where the export is declared.
    pub span: Span,
}

impl Plan {
    /// Everything that is exported, in declared order and then in plan order. Nodes that are not part of the plan are left
    /// out.
    pub fn exports(&self) -> Vec<PlannedExport> {
        let all = self.core.pipeline.export.iter();
        all.flat_map(|export| self.export(export).ok().flatten().unwrap_or_default())
            .collect()
    }

    /// The folders that take files of all nodes of a job, with `/` at their ends; none where nodes were selected, because the
    /// plan does not know all files of such a folder then.
    pub fn export_folders(&self) -> Vec<String> {
        if self.core.selected.is_some() {
            return Vec::new();
        }
        let targets = self.core.pipeline.export.iter();
        targets
            .map(|export| export.target.value.clone())
            .filter(|target| target.ends_with('/'))
            .collect()
    }

    /// Checks exports; gives warnings.
    pub(crate) fn check_exports(&self) -> Result<Vec<Diagnostic>, Vec<Diagnostic>> {
        let mut errors = Vec::new();
        let mut warnings = Vec::new();
        let mut targets: FxHashMap<String, Span> = FxHashMap::default();
        for export in &self.core.pipeline.export {
            match self.export(export) {
                Ok(None) => {}
                Ok(Some(planned)) => {
                    if planned.is_empty() && self.core.selected.is_none() {
                        warnings.push(Diagnostic::warning(
                            "empty-export",
                            export.target.span,
                            format!(
                                "nothing is exported to `{}`: its nodes are skipped",
                                export.target.value
                            ),
                        ));
                    }
                    warnings.extend(self.exported_input(&planned));
                    for one in planned {
                        if let Some(first) = targets.insert(one.target.clone(), one.span) {
                            errors.push(
                                Diagnostic::error(
                                    "export-twice",
                                    one.span,
                                    format!("`{}` is exported twice", one.target),
                                )
                                .related(first, "first here"),
                            );
                        }
                    }
                }
                Err(error) => errors.push(error),
            }
        }
        if errors.is_empty() {
            Ok(warnings)
        } else {
            Err(errors)
        }
    }

    /// An export that is found as an input changes what made it, or what is beside it, with every run.
    fn exported_input(&self, planned: &[PlannedExport]) -> Option<Diagnostic> {
        // The files of one folder are named alike.
        let one = planned.first()?;
        let mut patterns = self.core.patterns.of_project().take(MAX_COMPARED);
        let (pattern, span) = patterns.find(|(pattern, _)| finds(pattern, &one.target))?;
        Some(
            Diagnostic::warning(
                "exported-input",
                one.span,
                format!(
                    "`{}` is exported, and the input `{pattern}` finds it: what reads it runs again after every run that changes it",
                    one.target
                ),
            )
            .related(span, "the input")
            .help("export to a folder that no input finds; what a job reads of another one is `${{ needs.JOB.outputs.NAME }}`"),
        )
    }

    /// The files of an export; none where its job is of another part of the pipeline.
    fn export(
        &self,
        export: &dagrun_model::Export,
    ) -> Result<Option<Vec<PlannedExport>>, Diagnostic> {
        let span = export.value.span;
        let path = export.value.as_path();
        let Some(["jobs", job, "outputs", output]) = path.as_deref() else {
            return Err(
                Diagnostic::error("bad-export", span, "an export is one output of a job")
                    .help("write `${{ jobs.JOB.outputs.NAME }}`"),
            );
        };
        let unknown = |what: String| Diagnostic::error("bad-export", span, what);
        let Some(job_ix) = self.core.pipeline.jobs.get_index_of(*job) else {
            return Err(unknown(format!("there is no job `{job}`")));
        };
        let Some(output_ix) = self.core.pipeline.jobs[job_ix]
            .outputs
            .get_index_of(*output)
        else {
            return Err(unknown(format!("job `{job}` has no output `{output}`")));
        };
        let target = &export.target.value;
        RelPath::new(target).map_err(|problem| {
            Diagnostic::error(
                "bad-export",
                export.target.span,
                format!("nothing can be exported there: {problem}"),
            )
        })?;
        if !self.core.is_own(job_ix) {
            return Ok(None);
        }
        let plan = &self.core.jobs[job_ix];
        let cells: Vec<usize> = (plan.first_cell..plan.first_cell + plan.points.len)
            .filter(|cell| self.nodes.cell_node[*cell] != NONE)
            .collect();
        let folder = target.ends_with('/');
        if cells.len() > 1 && !folder {
            return Err(Diagnostic::error(
                "export-many",
                export.target.span,
                format!(
                    "job `{job}` has {} nodes, which cannot all be `{target}`",
                    cells.len()
                ),
            )
            .help(format!(
                "write `{target}/`: it takes all files, named by their axes"
            )));
        }
        let planned = cells.into_iter().map(|cell| {
            let target = match folder {
                false => target.clone(),
                true => format!("{target}{}", self.export_name(job_ix, cell, output_ix)),
            };
            PlannedExport {
                target,
                node: NodeIx(self.nodes.cell_node[cell]),
                output: (*output).to_owned(),
                span: export.target.span,
            }
        });
        Ok(Some(planned.collect()))
    }

    /// The file name of a node's output: its axes, with the ending of the file; without axes the file's own name.
    fn export_name(&self, job: usize, cell: usize, output: usize) -> String {
        let plan = &self.core.jobs[job];
        let row = cell - plan.first_cell;
        let ctx = CellContext::new(&self.core, job, row, Some(&self.facts));
        let path = dagrun_expr::eval_text(&ctx.job.outputs[output].path, &ctx).unwrap_or_default();
        let file = file_name(&path);
        if plan.points.axes.is_empty() {
            return file.to_owned();
        }
        let labels = plan.points.labels(row);
        let axes: Vec<String> = labels
            .iter()
            .map(|(name, label)| format!("{name}={label}"))
            .collect();
        let ending = file
            .rfind('.')
            .filter(|at| *at > 0)
            .map_or("", |at| &file[at..]);
        format!("{}{ending}", id_file_name(&axes.join(",")))
    }
}
