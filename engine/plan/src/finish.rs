//! The second step: static conditions, sets, keys, deduplication and fused groups.

use std::sync::Arc;

use dagrun_expr::eval;
use dagrun_model::{
    ContentHash, ContentHasher, Diagnostic, Digest, GroupIx, NodeIx, NodeKey, SetIx,
};
use rustc_hash::{FxHashMap, FxHashSet};

use crate::{
    Expansion, Facts, Plan,
    class::{Classes, class_of},
    context::CellContext,
    facts::FactTable,
    join::NONE,
    keys::{KeyTable, data_needs, data_shape, members, min_of, node_key_hasher, points_digest},
    layout::{Condition, Core, NeedPlan},
    memo::Memo,
    plan::{Counts, Nodes},
    recipe::{Findings, RecipeHasher},
    seeds::SeedPlan,
    sets::SetTable,
    unused::unused_axes,
    uses::{Scope, class_exprs},
};

impl Expansion {
    /// Makes the plan from the answers to [`Expansion::facts_needed`]; also gives warnings.
    ///
    /// # Errors
    /// Everything that is wrong with templates, inputs and resources of any node, each place once.
    pub fn finish(
        self,
        facts: impl Into<Arc<Facts>>,
    ) -> Result<(Plan, Vec<Diagnostic>), Vec<Diagnostic>> {
        let facts: Arc<Facts> = facts.into();
        let shared = self.shared.filter(|shared| {
            let first = shared.facts.get_or_init(|| facts.clone());
            Arc::ptr_eq(first, &facts)
        });
        let table = FactTable {
            facts,
            request: self.index,
            shared,
        };
        let answered = table.facts.globs.len() == self.core.patterns.len();
        if !answered {
            return Err(vec![Diagnostic::error(
                "facts",
                self.core.pipeline.name.span,
                format!(
                    "{} patterns were asked for and {} were answered",
                    self.core.patterns.len(),
                    table.facts.globs.len()
                ),
            )]);
        }
        let mut finisher = Finisher::new(&self.core, &table);
        for job in &self.core.order {
            finisher.job(*job);
        }
        let built = finisher.built()?;
        let mut warnings = self.warnings;
        warnings.extend(built.warnings);
        let mut core = self.core;
        for (job, sets) in built.need_sets {
            for (need, sets) in core.jobs[job].needs.iter_mut().zip(sets) {
                need.groups = sets;
            }
        }
        core.groupings = Vec::new();
        let plan = Plan::new(core, table, built.nodes, built.sets, built.counts);
        warnings.extend(plan.check_exports()?);
        Ok((plan, warnings))
    }
}

struct Built {
    nodes: Nodes,
    sets: SetTable,
    counts: Counts,
    need_sets: FxHashMap<usize, Vec<Vec<u32>>>,
    warnings: Vec<Diagnostic>,
}

struct Finisher<'p> {
    core: &'p Core,
    facts: &'p FactTable,
    nodes: Nodes,
    sets: SetTable,
    classes: Classes,
    keys: KeyTable,
    /// Nodes with a dynamic `if`: merged only where the `if` is the same too.
    conditional: FxHashMap<Digest, NodeIx>,
    /// For each grouping and `min`, the sets of its groups.
    group_sets: FxHashMap<(usize, u32), Vec<u32>>,
    /// Nodes that gather data: the digest of what they gather, shortened.
    gatherers: Vec<([u64; 2], NodeIx)>,
    /// By job: the sets of each need, by row.
    need_sets: FxHashMap<usize, Vec<Vec<u32>>>,
    /// Where nothing is shared: how many cells gather a cell.
    uses: FxHashMap<u32, u32>,
    findings: Findings,
}

/// What a row of a job comes to.
enum Row {
    Unselected,
    Skipped,
    Live,
}

impl<'p> Finisher<'p> {
    fn new(core: &'p Core, facts: &'p FactTable) -> Self {
        Self {
            core,
            facts,
            nodes: Nodes {
                cell_node: vec![NONE; core.cells],
                naive: vec![0; core.jobs.len()],
                ..Nodes::default()
            },
            sets: SetTable::default(),
            classes: Classes::default(),
            keys: KeyTable::new(core.cells),
            conditional: FxHashMap::default(),
            group_sets: FxHashMap::default(),
            gatherers: Vec::new(),
            need_sets: FxHashMap::default(),
            uses: FxHashMap::default(),
            findings: Findings::default(),
        }
    }

    fn job(&mut self, ix: usize) {
        let core = self.core;
        let plan = &core.jobs[ix];
        let live = (0..plan.points.len).any(|row| core.is_selected(plan.first_cell + row));
        let mut sets: Vec<Vec<u32>> = plan
            .needs
            .iter()
            .map(|need| vec![NONE; need.groups.len()])
            .collect();
        if live {
            self.rows(ix, &mut sets);
        }
        self.need_sets.insert(ix, sets);
    }

    fn rows(&mut self, ix: usize, sets: &mut [Vec<u32>]) {
        let core = self.core;
        let (plan, job) = (&core.jobs[ix], &core.pipeline.jobs[ix]);
        // Made for the first cell that is a node: what a skipped job lacks is no error.
        let mut recipe = None;
        let mut class = self.class_memo(ix);
        let mut condition = match plan.condition {
            Condition::Static(uses) => Memo::new(uses.axes, &plan.points),
            _ => Memo::Constant(Some(true)),
        };
        let (mut live, mut first, mut distinct) = (0usize, None, false);
        for row in 0..plan.points.len {
            let cell = plan.first_cell + row;
            match self.decide(ix, row, &mut condition, sets) {
                Row::Unselected => continue,
                Row::Skipped => {
                    self.nodes.skipped.push(cell as u32);
                    continue;
                }
                Row::Live => {}
            }
            if core.apart {
                self.copy_gathered(ix, row, sets);
            }
            let recipe = recipe
                .get_or_insert_with(|| RecipeHasher::new(core, ix, self.facts, &mut self.findings));
            let digest = recipe.digest(row, &mut self.findings);
            let class = class.get(&plan.points, row, || self.class(ix, row));
            let node = self.node(ix, row, digest, class, sets);
            self.nodes.cell_node[cell] = node.0;
            live += 1;
            distinct |= *first.get_or_insert(node) != node;
        }
        if core.is_own(ix) {
            self.add_naive(ix, live as u64);
        }
        if live > 1 && !distinct {
            self.findings.warnings.push(
                Diagnostic::warning(
                    "collapsed",
                    job.name.span,
                    format!("all {live} cells of job `{}` are the same node", job.name.value),
                )
                .help("its command uses none of its axes: use `${{ matrix.AXIS }}` in it, or remove the axes"),
            );
        } else if let Some(recipe) = recipe {
            let decided = match plan.condition {
                Condition::None => 0,
                Condition::Static(uses)
                | Condition::Succeeded(uses)
                | Condition::Terminal(uses) => uses.axes,
            };
            let used = recipe.axes() | self.class_axes(ix) | decided;
            self.findings.warnings.extend(unused_axes(core, ix, used));
        }
    }

    fn class_memo(&self, ix: usize) -> Memo<u32> {
        Memo::new(self.class_axes(ix), &self.core.jobs[ix].points)
    }

    /// The axes that resources and limits use.
    fn class_axes(&self, ix: usize) -> u64 {
        let (plan, job) = (&self.core.jobs[ix], &self.core.pipeline.jobs[ix]);
        let scope = Scope::new(
            job,
            &plan.points,
            plan.seeds.as_ref().is_some_and(SeedPlan::per_point),
        );
        let mut axes = 0;
        class_exprs(job, &mut |expr| axes |= scope.expr(expr).axes);
        axes
    }

    fn class(&mut self, ix: usize, row: usize) -> u32 {
        let ctx = CellContext::new(self.core, ix, row, Some(self.facts));
        match class_of(&self.core.pipeline.jobs[ix], &ctx) {
            Ok(class) => self.classes.add(class),
            Err(error) => {
                self.findings.error(error);
                self.classes.add(dagrun_model::NodeClass::default())
            }
        }
    }

    /// Whether a row becomes a node; sets what its needs give.
    fn decide(
        &mut self,
        ix: usize,
        row: usize,
        condition: &mut Memo<bool>,
        sets: &mut [Vec<u32>],
    ) -> Row {
        let plan = &self.core.jobs[ix];
        if !self.core.is_selected(plan.first_cell + row) {
            return Row::Unselected;
        }
        if !condition.get(&plan.points, row, || self.condition(ix, row)) {
            return Row::Skipped;
        }
        let anyhow = matches!(plan.condition, Condition::Terminal(_));
        for (need, sets) in plan.needs.iter().zip(sets) {
            let group = need.groups[row];
            if group == NONE {
                continue;
            }
            if !anyhow && self.all_skipped(need, group) {
                return Row::Skipped;
            }
            sets[row] = self.set(need, group).0;
        }
        Row::Live
    }

    fn condition(&mut self, ix: usize, row: usize) -> bool {
        let job = &self.core.pipeline.jobs[ix];
        let Some(expr) = &job.condition else {
            return true;
        };
        let ctx = CellContext::new(self.core, ix, row, Some(self.facts));
        match eval(expr, &ctx) {
            Ok(value) => value.truthy(),
            Err(error) => {
                let error = error.to_diagnostic(expr.span);
                self.findings.error(error);
                true
            }
        }
    }

    /// The members of a group that are nodes.
    fn members<'s>(
        &'s self,
        need: &'s NeedPlan,
        group: u32,
    ) -> impl Iterator<Item = (u32, NodeIx)> + use<'s, 'p> {
        members(self.core, &self.nodes.cell_node, need, group)
    }

    fn all_skipped(&self, need: &NeedPlan, group: u32) -> bool {
        self.members(need, group).next().is_none()
    }

    fn set(&mut self, need: &NeedPlan, group: u32) -> SetIx {
        let core = self.core;
        let key = (need.grouping, need.min.unwrap_or(NONE));
        let groups = core.groupings[need.grouping].len();
        let known = self
            .group_sets
            .entry(key)
            .or_insert_with(|| vec![NONE; groups]);
        if known[group as usize] != NONE {
            return SetIx(known[group as usize]);
        }
        let (sets, nodes) = (&mut self.sets, &self.nodes);
        let mut members = members(core, &nodes.cell_node, need, group);
        let set = if need.gather {
            sets.add_gather(
                members,
                |node| nodes.keys[node.index()],
                |len| min_of(core, need, len),
            )
        } else {
            sets.add_scalar(members.next())
        };
        known[group as usize] = set.0;
        set
    }

    fn node(
        &mut self,
        ix: usize,
        row: usize,
        recipe: Digest,
        class: u32,
        sets: &[Vec<u32>],
    ) -> NodeIx {
        let key = self.node_key(ix, row, recipe, sets);
        self.count_readers(ix, row, sets);
        let plan = &self.core.jobs[ix];
        let cell = plan.first_cell + row;
        let mine = || {
            sets.iter()
                .map(|sets| sets[row])
                .filter(|set| *set != NONE)
                .map(SetIx)
        };
        if let Condition::Succeeded(uses) | Condition::Terminal(uses) = plan.condition {
            let mut hasher = ContentHasher::new("conditional")
                .with(&key)
                .with(&(ix as u64));
            mine().for_each(|set| set.0.content_hash(&mut hasher));
            for (axis, value) in plan.points.row(row).iter().enumerate() {
                if uses.axes >> axis & 1 == 1 {
                    value.content_hash(&mut hasher);
                }
            }
            let same = hasher.finish();
            if let Some(node) = self.conditional.get(&same) {
                let node = *node;
                self.merge(node, cell, class);
                return node;
            }
            let node = self.nodes.add(key, recipe, cell, class);
            self.conditional.insert(same, node);
            self.finish_node(ix, row, node, sets);
            return node;
        }
        let slot = match self.keys.find(&key, &self.nodes.keys) {
            // What only one of them waits for, or forgives, must not decide about the other: such cells stay apart, and the
            // scheduler's single flight runs their action once all the same.
            Ok(node) if self.same_gate(node, ix, row, class, sets) => {
                self.merge(node, cell, class);
                return node;
            }
            Ok(_) => None,
            Err(slot) => Some(slot),
        };
        let node = self.nodes.add(key, recipe, cell, class);
        if let Some(slot) = slot {
            self.keys.insert(slot, node);
        }
        self.finish_node(ix, row, node, sets);
        node
    }

    /// Whether a cell waits for the same nodes, in the same way, as the first cell of a node.
    fn same_gate(
        &self,
        node: NodeIx,
        ix: usize,
        row: usize,
        class: u32,
        sets: &[Vec<u32>],
    ) -> bool {
        let forgives = |class: u32| self.classes.list[class as usize].continue_on_error;
        if forgives(class) != forgives(self.nodes.class[node.index()]) {
            return false;
        }
        let (job, first_row) = self.core.cell(self.nodes.first_cell[node.index()] as usize);
        let theirs = if job == ix {
            sets
        } else {
            &self.need_sets[&job]
        };
        self.gate(theirs, first_row) == self.gate(sets, row)
    }

    /// What a cell waits for: the members of each set and how many of them may fail.
    fn gate(&self, sets: &[Vec<u32>], row: usize) -> Vec<(&[NodeIx], Option<u32>)> {
        let waits = sets
            .iter()
            .map(|sets| sets[row])
            .filter(|set| *set != NONE)
            .map(SetIx);
        let mut gate: Vec<_> = waits
            .map(|set| {
                (
                    self.sets.members(set),
                    self.sets.gather(set).and_then(|gather| gather.min),
                )
            })
            .collect();
        gate.sort_unstable();
        gate.dedup();
        gate
    }

    /// Makes a cell one with a node that waits for the same nodes: only its limits can add anything.
    fn merge(&mut self, node: NodeIx, cell: usize, class: u32) {
        let merged = &mut self.nodes.class[node.index()];
        *merged = self.classes.merge(*merged, class);
        self.nodes.merged.push((node, cell as u32));
    }

    fn finish_node(&mut self, ix: usize, row: usize, node: NodeIx, sets: &[Vec<u32>]) {
        let plan = &self.core.jobs[ix];
        let mut keys: Vec<Digest> = Vec::new();
        let mut gathers = false;
        for need in data_needs(&plan.needs) {
            let set = sets[need][row];
            if set == NONE {
                continue;
            }
            let set = SetIx(set);
            gathers |= plan.needs[need].gather;
            keys.push(self.set_key(set));
        }
        // Nodes that only come along have their groups in the plan that they are of.
        if !gathers || !self.core.is_own(ix) {
            return;
        }
        keys.sort_unstable();
        keys.dedup();
        let executor = self.core.pipeline.jobs[ix]
            .executor
            .as_ref()
            .map(|executor| executor.value.clone());
        let digest = ContentHasher::new("group")
            .with(&keys)
            .with(&executor)
            .finish();
        let half = |at: usize| {
            u64::from_le_bytes(
                digest.0[at..at + 8]
                    .try_into()
                    .expect("eight bytes of a digest"),
            )
        };
        self.gatherers.push(([half(0), half(8)], node));
    }

    /// The key of a set: over all members of a gather, or the key of the one node.
    fn set_key(&self, set: SetIx) -> Digest {
        match self.sets.gather(set) {
            Some(gather) => gather.key,
            None => self
                .sets
                .nodes(set)
                .first()
                .map_or_else(Digest::empty, |node| self.nodes.keys[node.index()]),
        }
    }

    fn node_key(&mut self, ix: usize, row: usize, recipe: Digest, sets: &[Vec<u32>]) -> NodeKey {
        let core = self.core;
        let plan = &core.jobs[ix];
        let mut hasher = node_key_hasher().with(&recipe);
        for data in plan.data.iter() {
            let need = &plan.needs[data.need];
            let set = sets[data.need][row];
            data_shape(core, data, need, &mut hasher);
            match set {
                NONE => hasher.update(&[0]),
                set => {
                    hasher.update(&[1]);
                    self.set_key(SetIx(set)).content_hash(&mut hasher);
                }
            }
        }
        for (need, _) in plan
            .needs
            .iter()
            .enumerate()
            .filter(|(_, need)| need.points)
        {
            let set = sets[need][row];
            "points".content_hash(&mut hasher);
            match set {
                NONE => hasher.update(&[0]),
                set => self.points_digest(SetIx(set)).content_hash(&mut hasher),
            }
        }
        hasher.finish()
    }

    fn points_digest(&mut self, set: SetIx) -> Digest {
        if let Some(known) = self.sets.gather(set).and_then(|gather| gather.points) {
            return known;
        }
        let digest = points_digest(self.core, self.sets.cells(set).iter().copied());
        if let Some(gather) = self.sets.gather_mut(set) {
            gather.points = Some(digest);
        }
        digest
    }

    /// The needs of a cell by which it gathers data that is of this plan.
    fn gathered(&self, ix: usize, row: usize, sets: &[Vec<u32>]) -> Vec<(usize, SetIx)> {
        let core = self.core;
        let needs = &core.jobs[ix].needs;
        if !core.is_own(ix) {
            return Vec::new();
        }
        let data = data_needs(needs).map(|need| (need, SetIx(sets[need][row])));
        data.filter(|(need, set)| {
            set.0 != NONE && core.is_own(needs[*need].job) && self.sets.gather(*set).is_some()
        })
        .collect()
    }

    fn count_readers(&mut self, ix: usize, row: usize, sets: &[Vec<u32>]) {
        for (_, set) in self.gathered(ix, row, sets) {
            if let Some(gather) = self.sets.gather_mut(set) {
                gather.readers += 1;
            }
        }
    }

    /// Counts what would run without deduplication, where each gathering cell has its own copies of what it gathers.
    fn count_copies(&mut self) {
        let mut uses = vec![0u32; self.core.cells];
        for set in (0..self.sets.len()).map(SetIx::from_index) {
            let Some(gather) = self.sets.gather(set).filter(|it| it.readers > 0) else {
                continue;
            };
            let Some(first) = self.sets.cells(set).first() else {
                continue;
            };
            let job = self.core.cell(*first as usize).0;
            let mut copies = 0u64;
            for cell in self.sets.cells(set) {
                let uses = &mut uses[*cell as usize];
                // The first use of a cell needs no copy.
                copies += u64::from(gather.readers - u32::from(*uses == 0));
                *uses = uses.saturating_add(gather.readers);
            }
            self.add_naive(job, copies);
        }
    }

    /// Gives a cell its own copies of what it gathers, where others gather that already.
    fn copy_gathered(&mut self, ix: usize, row: usize, sets: &mut [Vec<u32>]) {
        for (need, set) in self.gathered(ix, row, sets) {
            let cells = self.sets.cells(set).to_vec();
            let mut members = Vec::with_capacity(cells.len());
            for cell in cells {
                let first = NodeIx(self.nodes.cell_node[cell as usize]);
                let uses = self.uses.entry(cell).or_default();
                let copy = std::mem::replace(uses, *uses + 1);
                let node = match copy {
                    0 => first,
                    copy => self.copy(cell, first, copy),
                };
                members.push((cell, node));
            }
            let nodes = &self.nodes;
            let min = self.sets.gather(set).and_then(|gather| gather.min);
            let own = self.sets.add_gather(
                members.into_iter(),
                |node| nodes.keys[node.index()],
                |_| min,
            );
            sets[need][row] = own.0;
        }
    }

    /// Another node that does the same as the node of a cell, and shares what that one gathers.
    fn copy(&mut self, cell: u32, of: NodeIx, copy: u32) -> NodeIx {
        let (job, row) = self.core.cell(cell as usize);
        let recipe = ContentHasher::new("dagrun.copy.v1")
            .with(&self.nodes.recipes[of.index()])
            .with(&u64::from(copy))
            .finish();
        let sets = std::mem::take(self.need_sets.entry(job).or_default());
        let key = self.node_key(job, row, recipe, &sets);
        self.need_sets.insert(job, sets);
        let class = self.nodes.class[of.index()];
        let node = self.nodes.add(key, recipe, cell as usize, class);
        self.nodes.copies.resize(self.nodes.keys.len(), 0);
        self.nodes.copies[node.index()] = copy;
        self.add_naive(job, 1);
        node
    }

    fn add_naive(&mut self, job: usize, nodes: u64) {
        let naive = &mut self.nodes.naive[job];
        *naive = naive.saturating_add(nodes);
    }

    fn built(mut self) -> Result<Built, Vec<Diagnostic>> {
        if !self.findings.errors.is_empty() {
            return Err(self.findings.errors);
        }
        self.nodes.merged.sort_unstable();
        if !self.core.apart {
            self.count_copies();
        }
        let groups = self.groups();
        let fused: usize = groups.iter().map(|group| group.len() - 1).sum();
        let nodes = self.own_nodes();
        if !groups.is_empty() {
            self.nodes.group_of = vec![NONE; self.nodes.keys.len()];
        }
        for (ix, group) in groups.iter().enumerate() {
            for node in group {
                self.nodes.group_of[node.index()] = GroupIx::from_index(ix).0;
            }
        }
        self.nodes.groups = groups;
        self.nodes.classes = std::mem::take(&mut self.classes.list).into();
        self.collect_sets();
        self.sets.shrink();
        self.nodes.shrink();
        Ok(Built {
            counts: Counts {
                naive: self
                    .nodes
                    .naive
                    .iter()
                    .copied()
                    .fold(0, u64::saturating_add),
                nodes,
                units: nodes - fused as u64,
            },
            nodes: self.nodes,
            sets: self.sets,
            need_sets: self.need_sets,
            warnings: self.findings.warnings,
        })
    }

    /// How many nodes the plan is about.
    fn own_nodes(&self) -> u64 {
        let mut included = self.core.included.iter().enumerate();
        let alone = included.all(|(ix, included)| !included || self.core.is_own(ix));
        let nodes = &self.nodes.first_cell;
        match alone {
            true => nodes.len() as u64,
            false => {
                let own = |cell: &&u32| self.core.is_own(self.core.cell(**cell as usize).0);
                nodes.iter().filter(own).count() as u64
            }
        }
    }

    /// Groups of two or more nodes that gather the same, in the order of their first members.
    fn groups(&mut self) -> Vec<Vec<NodeIx>> {
        self.gatherers.sort_unstable();
        let mut groups: Vec<Vec<NodeIx>> = self
            .gatherers
            .chunk_by(|a, b| a.0 == b.0)
            .filter(|run| run.len() > 1)
            .map(|run| run.iter().map(|(_, node)| *node).collect())
            .collect();
        groups.sort_unstable();
        self.gatherers = Vec::new();
        groups
    }

    /// The sets that each node waits for, one after the other.
    fn collect_sets(&mut self) {
        let nodes = &mut self.nodes;
        nodes.set_start = Vec::with_capacity(nodes.keys.len() + 1);
        let mut seen = FxHashSet::default();
        let mut job = 0;
        for cell in &nodes.first_cell {
            nodes.set_start.push(nodes.sets.len() as u32);
            let inside = |job: usize| {
                let plan = &self.core.jobs[job];
                (plan.first_cell..plan.first_cell + plan.points.len).contains(&(*cell as usize))
            };
            if !inside(job) {
                job = self.core.cell(*cell as usize).0;
            }
            let row = *cell as usize - self.core.jobs[job].first_cell;
            seen.clear();
            let sets = self.need_sets[&job]
                .iter()
                .map(|sets| sets[row])
                .filter(|set| *set != NONE);
            for set in sets {
                if seen.insert(set) {
                    nodes.sets.push(SetIx(set));
                }
            }
        }
        nodes.set_start.push(nodes.sets.len() as u32);
    }
}
