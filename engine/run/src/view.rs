//! What the driver asks of a plan: the border at which tests put plans made by hand.

use dagrun_events::PlanCounts;
use dagrun_model::{Action, ActionDigest, FailureCause, NodeIx, NodeKey, PlanDelta};
use dagrun_plan::{Plan, PlannedExport};

use crate::{KeyRow, board::Board};

/// A plan as the driver sees it.
pub(crate) trait View {
    /// The whole plan once more, for a further round; nothing where parts of it are gone.
    fn again(&self) -> Option<PlanDelta> {
        None
    }
    /// What a plan that grows has come to.
    fn grown(&self) -> Option<PlanCounts> {
        None
    }
    fn len(&self) -> usize;
    fn key(&self, node: NodeIx) -> NodeKey;
    fn pipeline_name(&self) -> &str;
    fn job_name(&self, node: NodeIx) -> &str;
    fn id(&self, node: NodeIx) -> String;
    fn also(&self, node: NodeIx) -> Vec<String>;
    fn condition(&self, node: NodeIx, board: &Board) -> Result<bool, FailureCause>;
    fn action_digest(
        &self,
        node: NodeIx,
        board: &Board,
    ) -> Result<Option<ActionDigest>, FailureCause>;
    fn action(&self, node: NodeIx, board: &Board) -> Result<Action, FailureCause>;
    fn manifest(&self, node: NodeIx, board: &Board) -> Vec<KeyRow>;
    /// The nodes that a node needs, each once.
    fn producers(&self, node: NodeIx) -> Vec<NodeIx>;
    fn exports(&self) -> Vec<PlannedExport>;
    /// Folders of which the exports are all files.
    fn export_folders(&self) -> Vec<String> {
        Vec::new()
    }
}

impl View for Plan {
    fn again(&self) -> Option<PlanDelta> {
        Some(Plan::delta(self))
    }

    fn len(&self) -> usize {
        Plan::len(self)
    }

    fn key(&self, node: NodeIx) -> NodeKey {
        Plan::key(self, node)
    }

    fn pipeline_name(&self) -> &str {
        &self.pipeline().name.value
    }

    fn job_name(&self, node: NodeIx) -> &str {
        &self.pipeline().job(self.job(node)).name.value
    }

    fn id(&self, node: NodeIx) -> String {
        Plan::id(self, node)
    }

    fn also(&self, node: NodeIx) -> Vec<String> {
        self.further_ids(node)
    }

    fn condition(&self, node: NodeIx, board: &Board) -> Result<bool, FailureCause> {
        Plan::condition(self, node, board)
    }

    fn action_digest(
        &self,
        node: NodeIx,
        board: &Board,
    ) -> Result<Option<ActionDigest>, FailureCause> {
        Plan::action_digest(self, node, board)
    }

    fn action(&self, node: NodeIx, board: &Board) -> Result<Action, FailureCause> {
        Plan::action(self, node, board)
    }

    fn manifest(&self, node: NodeIx, board: &Board) -> Vec<KeyRow> {
        key_rows(Plan::manifest(self, node, board))
    }

    fn producers(&self, node: NodeIx) -> Vec<NodeIx> {
        self.upstream(node).collect()
    }

    fn exports(&self) -> Vec<PlannedExport> {
        Plan::exports(self)
    }

    fn export_folders(&self) -> Vec<String> {
        Plan::export_folders(self)
    }
}

pub(crate) fn key_rows(manifest: dagrun_plan::KeyManifest) -> Vec<KeyRow> {
    manifest
        .parts
        .into_iter()
        .map(|part| KeyRow {
            kind: part.kind.name().to_owned(),
            name: part.name,
            value: part.value,
        })
        .collect()
}
