//! F61: the attempt of a trial's node straggles, a second one is faster, and both finish.

use std::{
    fs,
    sync::{Arc, Mutex},
};

use dagrun_events::{NodeOutcome, Record, RunEvent};
use dagrun_executor_api::{Executor, ExecutorEvent, WorkerInfo};
use dagrun_model::{
    Artifact, AttemptId, AttemptResult, AttemptSpec, HostIx, Outcome, Outputs, Resources, WorkerIx,
};
use dagrun_plan::{Facts, PlanOptions, StudyPlanner};
use dagrun_store::{Store, StoreOptions};
use dagrun_study::Definition;
use tokio::sync::mpsc::UnboundedSender;

use crate::{
    Progress, RunOptions, RunRequest, RunSummary, StudyMode, StudyRequest, Workspace,
    journal::load, run, stop_channel,
};

const STUDY: &str = "
name: s
study:
  space: {x: {int: [1, 8]}}
  sampler: grid
  minimize: ${{ jobs.sim.outputs.loss }}
jobs:
  sim:
    speculate: true
    outputs: {loss: {json: loss.json}}
    run: echo ${{ trial.x }} > loss.json
";
/// By then there are enough durations to know what is late.
const SLOW: &str = "sim[trial=6]";

/// Two hosts on which all attempts end at once, but the first one at `SLOW`: that one ends when it is told to, as if the word
/// had come too late.
struct Hosts {
    store: Store,
    events: Mutex<Option<UnboundedSender<ExecutorEvent>>>,
    late: Mutex<Option<AttemptId>>,
    /// What the late attempt writes; the others write 1.
    writes: &'static str,
}

impl Hosts {
    fn say(&self, event: ExecutorEvent) {
        let events = self.events.lock().unwrap();
        events.as_ref().unwrap().send(event).unwrap();
    }

    fn end(&self, attempt: AttemptId, text: &str) {
        let artifact = Artifact::Value {
            value: serde_json::from_str(text).unwrap(),
            file: self.store.put_bytes(text.as_bytes()).unwrap(),
        };
        let outputs = Outputs::from_iter([("loss".to_string(), artifact)]);
        let result = AttemptResult::bare(Outcome::Succeeded(outputs));
        self.say(ExecutorEvent::Ended(attempt, Box::new(result)));
    }
}

impl Executor for Hosts {
    fn start(&self, events: UnboundedSender<ExecutorEvent>) {
        *self.events.lock().unwrap() = Some(events);
        for at in 0..2 {
            self.say(ExecutorEvent::WorkerJoined(WorkerInfo {
                worker: WorkerIx(at),
                host: HostIx(at),
                host_name: format!("host {at}"),
                capacity: Resources {
                    cpu_milli: 1000,
                    memory: 1 << 30,
                    ..Resources::default()
                },
                profile: None,
                ahead: 0,
                speed: 1000,
                process: String::new(),
                held: Vec::new(),
            }));
        }
    }

    fn submit(&self, _worker: WorkerIx, attempts: Vec<AttemptSpec>) {
        for spec in attempts {
            self.say(ExecutorEvent::Started(spec.attempt));
            if spec.id == SLOW && spec.number == 1 {
                *self.late.lock().unwrap() = Some(spec.attempt);
            } else {
                self.end(spec.attempt, "1");
            }
        }
    }

    fn cancel(&self, attempts: &[AttemptId], _kill: bool) {
        let late = self.late.lock().unwrap().take();
        if let Some(late) = late.filter(|late| attempts.contains(late)) {
            self.end(late, self.writes);
        }
    }

    fn shutdown(&self) {}
}

/// Runs the study; the late attempt writes this.
fn race(writes: &'static str) -> (RunSummary, Vec<Record>) {
    let folder = tempfile::tempdir().unwrap();
    let project = folder.path().join("project");
    fs::create_dir(&project).unwrap();
    let workspace = Workspace::open(&project).unwrap();
    let store = Store::open(&folder.path().join("store"), StoreOptions::default()).unwrap();
    let parsed = dagrun_dsl::parse("pipeline.yaml", STUDY, &dagrun_dsl::NoFiles);
    let pipeline = Arc::new(parsed.pipeline.unwrap());
    let planner = StudyPlanner::new(Arc::clone(&pipeline), PlanOptions::default());
    let (plan, _) = planner
        .before()
        .and_then(|it| it.finish(Facts::default()))
        .unwrap();
    let study = pipeline.study.as_ref().unwrap();
    let definition = plan
        .with_params(|params| Definition::resolve(study, params))
        .unwrap();
    let hosts = Arc::new(Hosts {
        store: store.clone(),
        events: Mutex::default(),
        late: Mutex::default(),
        writes,
    });
    let summary = run(RunRequest {
        plan: Arc::new(plan),
        study: Some(StudyRequest {
            planner,
            definition,
            mode: StudyMode::Continue,
        }),
        warnings: Vec::new(),
        store,
        tier: None,
        lock: workspace.lock(&[]).unwrap(),
        workspace: workspace.clone(),
        options: RunOptions::default(),
        executor: Box::new(move |_| Ok(hosts)),
        subscribers: Vec::new(),
        progress: Arc::new(Progress::default()),
        stop: stop_channel().1,
    })
    .unwrap();
    let records = load(&workspace.journal_path(&summary.run)).unwrap().records;
    (summary, records)
}

fn count(records: &[Record], is: impl Fn(&RunEvent) -> bool) -> usize {
    records.iter().filter(|record| is(&record.event)).count()
}

#[test]
fn a_trial_of_which_two_attempts_finish_is_told_once() {
    let (summary, records) = race("1");
    let study = summary.study.as_ref().unwrap();
    assert_eq!((study.counts.told, study.counts.failed), (8, 0));
    assert_eq!((summary.exit_code, summary.executed), (0, 9));
    assert!(summary.warnings.is_empty(), "{:?}", summary.warnings);
    let of_slow = |name: &str| name == SLOW;
    let speculated = count(
        &records,
        |it| matches!(it, RunEvent::Speculated { node } if of_slow(node)),
    );
    assert_eq!(speculated, 1);
    // The cost of both is in the journal; the node is done once, and its trial told once.
    let ends = count(
        &records,
        |it| matches!(it, RunEvent::AttemptEnded { node, .. } if of_slow(node)),
    );
    assert_eq!(ends, 2);
    let done = |it: &RunEvent| matches!(it, RunEvent::NodeDone { node, end: NodeOutcome::Succeeded, .. } if of_slow(node));
    assert_eq!(count(&records, done), 1);
    for trial in 1..=8 {
        let told = count(
            &records,
            |it| matches!(it, RunEvent::TrialEnded { trial: of, .. } if *of == trial),
        );
        assert_eq!(told, 1, "trial {trial}");
    }
}

#[test]
fn attempts_of_a_trial_that_differ_are_told_and_the_first_one_counts() {
    let (summary, records) = race("2");
    assert_eq!(summary.exit_code, 0);
    let [warning] = &summary.warnings[..] else {
        panic!("{:?}", summary.warnings);
    };
    assert!(
        warning.contains(SLOW) && warning.contains("not deterministic"),
        "{warning}"
    );
    let values = records.iter().find_map(|record| match &record.event {
        RunEvent::TrialEnded {
            trial: 6, values, ..
        } => Some(values.clone()),
        _ => None,
    });
    assert_eq!(values, Some(vec![1.0]));
}
