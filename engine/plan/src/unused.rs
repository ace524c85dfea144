//! Axes of a job that make no difference to its nodes.

use dagrun_model::Diagnostic;

use crate::{axes::ATTRIBUTES, layout::Core};

/// Warns of each axis with several values in the matrix of a job that neither the job uses (`used`, a mask of its axes) nor
/// anything else: its points are the same node for each value, which is seldom what was meant.
pub(crate) fn unused_axes(core: &Core, ix: usize, used: u64) -> Vec<Diagnostic> {
    let (plan, job) = (&core.jobs[ix], &core.pipeline.jobs[ix]);
    // An `include` may set what is used instead of the axis.
    if used & ATTRIBUTES != 0 {
        return Vec::new();
    }
    let axes = job.matrix.axes.iter().filter_map(|(name, values)| {
        let axis = plan.points.axis(name)?;
        let idle = plan.points.axes[axis].len() > 1
            && used >> axis & 1 == 0
            && !chooses_inputs(core, ix, name)
            && !is_taken_over(core, name);
        idle.then_some((name, values))
    });
    axes.map(|(name, values)| {
        Diagnostic::warning(
            "unused-axis",
            values.span(),
            format!("job `{}` does not use its axis `{name}`: nodes that differ only in it run once", job.name.value),
        )
        .help(format!("use `${{{{ matrix.{name} }}}}` in its command, environment or inputs, or remove the axis"))
    })
    .collect()
}

/// Whether an axis decides which data of other jobs the job reads.
fn chooses_inputs(core: &Core, ix: usize, name: &str) -> bool {
    let mut needs = core.jobs[ix].needs.iter();
    needs.any(|need| {
        (need.data || need.points || need.result) && core.jobs[need.job].points.axis(name).is_some()
    })
}

/// Whether another job may take the axis over and use it.
fn is_taken_over(core: &Core, name: &str) -> bool {
    let mut jobs = core.pipeline.jobs.values();
    jobs.any(|job| job.for_each.iter().any(|axis| axis.value == name))
}
