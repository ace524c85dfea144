//! Random plans, and what can go wrong in a run: the whole scene follows from a seed.

use std::time::Duration;

use dagrun_model::{NodeClass, NodeIx, PlanDelta, Resources, RetryCause, SetIx};

use super::{PlanBuilder, rng::Rng};

/// What a node's own `if` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Condition {
    /// It has none, or it is true.
    True,
    False,
    /// `always()`, `failure()`, `success()`: asked when its needs have ended.
    Always,
    Failure,
    Success,
}

/// What a node is and does.
#[derive(Clone, Debug)]
pub(crate) struct SimNode {
    pub(crate) class: u32,
    pub(crate) sets: Vec<SetIx>,
    pub(crate) group: Option<u32>,
    /// Nodes with equal recipes and inputs are equal actions.
    pub(crate) recipe: u64,
    pub(crate) condition: Condition,
    pub(crate) unrunnable: bool,
    /// The cache had its action before the run.
    pub(crate) cached: bool,
    pub(crate) micros: u64,
    /// Chance of a failure in percent.
    pub(crate) fails: u64,
    pub(crate) cause: Option<RetryCause>,
    /// An attempt with less memory than this is killed.
    pub(crate) memory: u64,
    pub(crate) bytes: u64,
    /// Its outputs vanish whenever they were made.
    pub(crate) cursed: bool,
    /// Its worker dies of it.
    pub(crate) poison: bool,
    /// No disk has room for it.
    pub(crate) huge: bool,
}

#[derive(Clone, Debug)]
pub(crate) struct SimSet {
    pub(crate) members: Vec<NodeIx>,
    pub(crate) gather: bool,
    pub(crate) min: Option<u32>,
}

/// A kind of trouble, which a seed has or has not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum Fault {
    Loss,
    Zombie,
    Drain,
    Join,
    Duplicate,
    Delay,
    Straggle,
    Failure,
    OutOfMemory,
    Evict,
    Curse,
    SpuriousMissing,
    Condition,
    Unrunnable,
    Hit,
    Equal,
    Stop,
    Crash,
    FailFast,
    CommitFails,
    Profiles,
    Groups,
    Replicas,
    Crowd,
    /// Nodes are so short that workers get them ahead.
    Short,
    /// Some nodes kill their workers.
    Poison,
    /// Outputs vanish all the time.
    Storm,
    /// All workers die at once.
    Burst,
    /// Disks of workers fill up.
    Full,
    /// Others have some of the workers, now and then.
    Others,
}

/// How many kinds there are.
pub const FAULT_KINDS: u32 = Fault::Others as u32 + 1;

/// The scene of a seed.
#[derive(Clone, Debug)]
pub(crate) struct Scene {
    pub(crate) nodes: Vec<SimNode>,
    pub(crate) sets: Vec<SimSet>,
    pub(crate) groups: Vec<Vec<NodeIx>>,
    pub(crate) classes: Vec<NodeClass>,
    pub(crate) deltas: Vec<PlanDelta>,
    pub(crate) faults: u32,
    pub(crate) high_failure: bool,
}

impl Scene {
    pub(crate) fn has(&self, fault: Fault) -> bool {
        self.faults & (1 << fault as u32) != 0
    }
}

/// Makes the scene of a seed, with at most `limit` nodes and only the faults of `mask`.
pub(crate) fn scene(rng: &mut Rng, limit: u32, mask: u32) -> Scene {
    let faults = (rng.next() as u32 | 1 << rng.below(u64::from(Fault::Storm as u32)) as u32) & mask;
    let high_failure = rng.percent(25);
    let many = rng.percent(2) && faults & (1 << Fault::Crowd as u32) != 0;
    let most = if many {
        rng.range(100, 610)
    } else {
        rng.range(10, 70)
    };
    let mut scene = Scene {
        nodes: Vec::new(),
        sets: Vec::new(),
        groups: Vec::new(),
        classes: Vec::new(),
        deltas: Vec::new(),
        faults,
        high_failure,
    };
    scene.classes = (0..rng.range(2, 6)).map(|_| class(rng, &scene)).collect();
    let mut builder = PlanBuilder::new();
    for class in &scene.classes {
        builder.class(class.clone());
    }
    let most = most.min(u64::from(limit)).max(1) as usize;
    let parts = rng.range(1, 4) as usize;
    for part in 1..=parts {
        let until = most * part / parts;
        while scene.nodes.len() < until {
            add_some(rng, &mut scene, &mut builder, until);
        }
        scene.deltas.push(builder.delta());
    }
    scene
}

fn class(rng: &mut Rng, scene: &Scene) -> NodeClass {
    let mut resources = Resources {
        cpu_milli: rng.pick(&[500, 1000, 1000, 1000, 2000]),
        memory: rng.pick(&[0, 0, 100, 200, 400]),
        ..Resources::none()
    };
    if rng.percent(10) {
        resources.named.insert("licence".into(), 1000);
    }
    let causes = [
        RetryCause::Exit,
        RetryCause::OutOfMemory,
        RetryCause::Timeout,
    ];
    NodeClass {
        resources,
        timeout: None,
        max_retries: rng.below(4) as u32,
        retry_when: match rng.percent(30) {
            true => causes.into_iter().filter(|_| rng.percent(60)).collect(),
            false => Vec::new(),
        },
        backoff: Duration::from_millis(rng.pick(&[0, 10, 100])),
        memory_percent: rng.pick(&[100, 150, 200]) as u32,
        continue_on_error: rng.percent(12),
        speculate: rng.percent(60),
        never_cache: rng.percent(10),
        executor: (scene.has(Fault::Profiles) && rng.percent(30)).then(|| "gpu".into()),
    }
}

/// Adds a node, a chain, or a trial of replicates and what gathers them.
fn add_some(rng: &mut Rng, scene: &mut Scene, builder: &mut PlanBuilder, until: usize) {
    match rng.below(10) {
        0..=2 if scene.nodes.len() + 6 < until => add_trial(rng, scene, builder, until),
        3 => {
            let mut needs = Vec::new();
            for _ in 0..rng.range(2, 6).min((until - scene.nodes.len()) as u64) {
                let node = add_node(rng, scene, builder, &needs);
                needs = vec![add_set(scene, builder, vec![node], false, None)];
            }
        }
        _ => {
            let mut needs = Vec::new();
            for _ in 0..rng.below(4) {
                if let Some(set) = some_set(rng, scene, builder) {
                    needs.push(set);
                }
            }
            needs.sort();
            needs.dedup();
            add_node(rng, scene, builder, &needs);
        }
    }
}

fn some_set(rng: &mut Rng, scene: &mut Scene, builder: &mut PlanBuilder) -> Option<SetIx> {
    if scene.nodes.is_empty() {
        return None;
    }
    if !scene.sets.is_empty() && rng.percent(30) {
        return Some(SetIx(rng.below(scene.sets.len() as u64) as u32));
    }
    let gather = rng.percent(50);
    let most = if gather {
        rng.range(1, 9)
    } else {
        1 + u64::from(rng.percent(10))
    };
    let mut members: Vec<NodeIx> = (0..most)
        .map(|_| NodeIx(rng.below(scene.nodes.len() as u64) as u32))
        .collect();
    members.sort();
    members.dedup();
    let min = (gather && rng.percent(40)).then(|| rng.range(1, members.len() as u64 + 1) as u32);
    Some(add_set(scene, builder, members, gather, min))
}

fn add_trial(rng: &mut Rng, scene: &mut Scene, builder: &mut PlanBuilder, until: usize) {
    let room = (until - scene.nodes.len()) as u64;
    let first_need: Vec<SetIx> = some_set(rng, scene, builder).into_iter().collect();
    let replicates: Vec<NodeIx> = (0..rng.range(2, room.min(12) - 2))
        .map(|_| add_node(rng, scene, builder, &first_need))
        .collect();
    let min = rng
        .percent(30)
        .then(|| rng.range(1, replicates.len() as u64 + 1) as u32);
    let set = add_set(scene, builder, replicates, true, min);
    let targets: Vec<NodeIx> = (0..rng.range(2, 5))
        .map(|_| add_node(rng, scene, builder, &[set]))
        .collect();
    // Members of a group are of one executor.
    let profile = |n: &NodeIx| {
        scene.classes[scene.nodes[n.index()].class as usize]
            .executor
            .clone()
    };
    let same = targets.iter().all(|n| profile(n) == profile(&targets[0]));
    if scene.has(Fault::Groups) && same {
        let group = builder.group(&targets);
        for member in &targets {
            scene.nodes[member.index()].group = Some(group.0);
        }
        scene.groups.push(targets);
    }
}

fn add_set(
    scene: &mut Scene,
    builder: &mut PlanBuilder,
    members: Vec<NodeIx>,
    gather: bool,
    min: Option<u32>,
) -> SetIx {
    let set = builder.set(&members, gather, min);
    scene.sets.push(SimSet {
        members,
        gather,
        min,
    });
    set
}

fn add_node(
    rng: &mut Rng,
    scene: &mut Scene,
    builder: &mut PlanBuilder,
    needs: &[SetIx],
) -> NodeIx {
    let class = rng.below(scene.classes.len() as u64) as u32;
    let node = builder.node_of(class, class, needs);
    let declared = scene.classes[class as usize].resources.memory;
    let condition = match rng.below(20) {
        0 if scene.has(Fault::Condition) => Condition::False,
        1 => Condition::Always,
        2 => Condition::Failure,
        3 => Condition::Success,
        _ => Condition::True,
    };
    if matches!(
        condition,
        Condition::Always | Condition::Failure | Condition::Success
    ) {
        builder.terminal(node);
    }
    let never = scene.classes[class as usize].never_cache;
    let own = 1_000_000 + u64::from(node.0);
    let equal = scene.has(Fault::Equal) && rng.percent(50) && !never;
    let recipe = if equal { rng.below(3) } else { own };
    let often = if scene.high_failure { 60 } else { 15 };
    let fails = if scene.has(Fault::Failure) {
        rng.pick(&[0, 0, 0, often, 100])
    } else {
        0
    };
    let hungry = scene.has(Fault::OutOfMemory) && declared > 0 && rng.percent(30);
    scene.nodes.push(SimNode {
        class,
        sets: needs.to_vec(),
        group: None,
        recipe,
        condition,
        unrunnable: scene.has(Fault::Unrunnable) && rng.percent(3),
        cached: scene.has(Fault::Hit) && rng.percent(20) && !never,
        micros: if scene.has(Fault::Short) {
            rng.range(500, 20_000)
        } else {
            rng.range(5_000, 200_000)
        },
        fails: if fails == 100 && rng.percent(70) {
            0
        } else {
            fails
        },
        cause: rng.pick(&[
            Some(RetryCause::Exit),
            Some(RetryCause::Exit),
            Some(RetryCause::Signal),
            Some(RetryCause::Timeout),
            None,
        ]),
        memory: if hungry {
            declared * rng.range(101, 300) / 100
        } else {
            0
        },
        bytes: rng.pick(&[0, 1 << 10, 1 << 20, 1 << 30]),
        cursed: scene.has(Fault::Curse) && rng.percent(3),
        poison: scene.has(Fault::Poison) && rng.percent(3),
        huge: scene.has(Fault::Full) && rng.percent(3),
    });
    node
}
