//! The command line, as clap sees it. Words only: no behaviour.

use std::{num::NonZeroUsize, path::PathBuf};

use clap::{
    Args, Parser, Subcommand, ValueEnum,
    builder::{OsStr, Resettable},
};

/// Runs simulation studies and other pipelines that are declared in one YAML file.
///
/// `dagrun FILE` is short for `dagrun run FILE`.
#[derive(Debug, Parser)]
#[command(
    name = "dagrun",
    version,
    arg_required_else_help = true,
    after_help = exit_codes()
)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// The exit code of what a person or a signal has stopped.
pub(crate) const INTERRUPTED: u8 = 130;

/// The exit codes of every command and what they mean.
pub(crate) const EXIT_CODES: &[(u8, &str)] = &[
    (0, "all that was asked for is there"),
    (
        1,
        "nodes failed, an export was kept back, or a check found something",
    ),
    (
        2,
        "the pipeline or the command line is not valid, or names a file, run or node that is not there",
    ),
    (
        3,
        "the machine is in the way: no space, no rights, another run in this project, a damaged journal, a node that asks for more than there is",
    ),
    (INTERRUPTED, "interrupted"),
];

fn exit_codes() -> String {
    let mut text = String::from("Exit codes:");
    for (code, meaning) in EXIT_CODES {
        text.push_str(&format!("\n  {code:>3}  {meaning}"));
    }
    text
}

/// Flags that every command takes.
#[derive(Debug, Args, Clone)]
pub(crate) struct Global {
    /// When to use colour; `NO_COLOR` is respected
    #[arg(long, value_enum, default_value_t = When::Auto, global = true, value_name = "WHEN")]
    pub(crate) color: When,
    /// Say less: only failures and warnings, and the end where not all went well
    #[arg(short, long, global = true)]
    pub(crate) quiet: bool,
    /// Say more; twice for the engine's own log
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub(crate) verbose: u8,
    #[command(flatten)]
    pub(crate) cache: CacheFlags,
}

/// Which cache.
#[derive(Debug, Args, Clone, Default)]
pub(crate) struct CacheFlags {
    /// The cache folder, or a shared cache behind it: `s3://bucket/prefix`, `gs://`, `az://`, `file:///folder`
    ///
    /// May be given twice, for both. DAGRUN_CACHE says the same for all commands.
    #[arg(long, global = true, value_name = "WHERE")]
    pub(crate) cache: Vec<String>,
    /// What may be done with the shared cache; default: `read`
    #[arg(long, value_enum, global = true, value_name = "MODE")]
    pub(crate) cache_mode: Option<CacheMode>,
}

/// What may be done with a shared cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum CacheMode {
    /// Leave it out
    Off,
    /// Take results from there
    Read,
    /// Also upload results that are made here
    ReadWrite,
}

impl std::fmt::Display for CacheMode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Off => "off",
            Self::Read => "read",
            Self::ReadWrite => "read-write",
        })
    }
}

/// When to do something that a terminal may want and a file may not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum When {
    Auto,
    Always,
    Never,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run a pipeline (also `dagrun FILE`)
    ///
    /// Ctrl-C (also SIGTERM, SIGHUP) starts nothing new and sends TERM to running nodes, and KILL after the grace time; a second one
    /// sends KILL at once. What was done is done: the same command goes on from there. With `--on`, a terminal that is closed leaves
    /// the run to the coordinator.
    Run(RunArgs),
    /// Tell the trials of a study again after a change of its objectives or scoring jobs
    ///
    /// From stored simulations: only the jobs that the objectives read may run. Nothing new is asked for; `dagrun FILE` goes on.
    Rescore(RescoreArgs),
    /// Show what would run, what is a hit, and why
    ///
    /// It runs no node. It executes the commands of `toolchain` and nothing else.
    Plan(PlanArgs),
    /// Say why a node ran or would run, or why it does not start
    ///
    /// As the difference of its key to the nearest former one; who made the result that is a hit; and which nodes it waits for.
    /// `-v` lists all parts of the key.
    Explain(ExplainArgs),
    /// Draw the graph
    Graph(GraphArgs),
    /// Print what a node wrote
    ///
    /// In the last run in which it ran; of a result that was only ever found in the cache, what it wrote when it was made. Control
    /// characters are made visible on a terminal.
    Log(LogArgs),
    /// List the runs of this workspace
    Runs(RunsArgs),
    /// Show how a run went (the last one by default)
    Show(ShowArgs),
    /// Report where the time of a run went, as text or as a page of HTML
    ///
    /// Jobs with median and 95 % times, CPU, memory and bytes; the critical path; the slowest attempts; what slots did and
    /// what they waited for, the greatest first; what hits saved; failures. The page has a time line of every slot too, needs no network and runs no script.
    Report(ReportArgs),
    /// Compare runs by what they did a slot-minute
    ///
    /// Trials (nodes, where there is no study) a slot-minute with a 95 % interval, beside what the same attempts would give if no slot ever
    /// waited; the least wall time they allow; how busy slots were; the median time of each job. Changes are against the first run.
    Compare(CompareArgs),
    /// Run nodes for a coordinator on another host
    ///
    /// Until it is told to stop: SIGTERM (also Ctrl-C) takes nothing new, finishes what began within `--leave-within`, and hands the
    /// rest back; a second one ends at once. A broken connection is made again, and what runs goes on meanwhile. Secrets, the grace
    /// time and named resources are those of this host's dagrun.toml.
    Worker(WorkerArgs),
    /// Run pipelines for others: a coordinator, which workers join and clients submit to
    ///
    /// Keeps what it took over restarts: runs that were not over go on. Ctrl-C or SIGTERM ends it at once; workers go on with what they have, and
    /// the next start takes it over.
    Serve(ServeArgs),
    /// Follow a run on a coordinator
    ///
    /// With the pipeline's file its exports are laid out here at the end, as by the command that submitted it. Ctrl-C (also SIGTERM)
    /// leaves the run running; `dagrun cancel` stops it.
    Attach(AttachArgs),
    /// Stop a run on a coordinator
    Cancel(CancelArgs),
    /// Look at a cluster and look after it
    #[command(subcommand)]
    Cluster(ClusterCommand),
    /// Look at studies, also while a run goes on with one, here or on a coordinator
    ///
    /// From a study's own log: the pipeline is not looked at, and nothing runs. Of a run on the coordinator that `--on`, DAGRUN_ON or
    /// dagrun.toml names, and that goes on there or was left to it, the study is shown as it is there.
    #[command(subcommand)]
    Study(StudyCommand),
    /// Copy an output of a node, or all, out of the cache
    ///
    /// Each lies in the folder by its own name, without the folders that the node wrote it in, and never over what is there. It is a copy:
    /// dagrun looks at it no more. What `export` of the pipeline names is laid by `dagrun run` itself.
    Get(GetArgs),
    /// Open a shell in a node's folder with its inputs and environment
    Shell(ShellArgs),
    /// Run a node several times and compare what it makes
    ///
    /// With each other and with the cache, which is not changed. Exit 1 where bytes differ.
    Check(CheckArgs),
    /// Run a node with several numbers of threads and compare the times
    ///
    /// `OMP_NUM_THREADS` and its like are set as `threads` in a job does. Nothing is cached. Says with how many one node alone is fastest,
    /// and with how many a machine full of such nodes does the most.
    Probe(ProbeArgs),
    /// Delete old results from the cache
    ///
    /// What a live run uses stays. Without limits only leftovers go: blobs of no result, and work folders of runs that are over, both
    /// when they are older than an hour. A limit given by a flag also takes results of the last hour while no run is live; one from
    /// dagrun.toml leaves those, and says how many stay.
    Gc(GcArgs),
    /// Look after the cache
    #[command(subcommand)]
    Cache(CacheCommand),
    /// Look after the journals of runs
    #[command(subcommand)]
    Journal(JournalCommand),
    /// Give pipeline files their one spelling; comments and anchors stay
    Fmt(FmtArgs),
    /// Print the JSON Schema of the pipeline language
    Schema,
    /// Start a pipeline from a template; never overwrites
    Init(InitArgs),
    /// Print every setting and where it comes from
    Settings(SettingsArgs),
    /// Print the completion script of a shell
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Write man pages
    Man {
        /// The folder to write them to
        dir: PathBuf,
    },
}

/// Parameters of a pipeline.
#[derive(Debug, Args, Clone)]
pub(crate) struct Params {
    /// Set a parameter: NAME=VALUE
    #[arg(short = 'p', long = "param", value_name = "NAME=VALUE")]
    pub(crate) params: Vec<String>,
    /// Read parameters from a YAML or JSON file; `-p` wins
    #[arg(long, value_name = "FILE")]
    pub(crate) params_file: Vec<PathBuf>,
}

/// Which pipeline, and with which parameters.
#[derive(Debug, Args, Clone)]
pub(crate) struct Pipeline {
    /// The pipeline file
    #[arg(default_value = "pipeline.yaml")]
    pub(crate) file: PathBuf,
    #[command(flatten)]
    pub(crate) params: Params,
}

/// Likewise, for commands whose first word is something else.
#[derive(Debug, Args, Clone)]
pub(crate) struct PipelineFlag {
    /// The pipeline file
    #[arg(short, long, default_value = "pipeline.yaml", value_name = "FILE")]
    pub(crate) file: PathBuf,
    #[command(flatten)]
    pub(crate) params: Params,
}

/// Which project.
#[derive(Debug, Args, Clone)]
pub(crate) struct Project {
    /// The pipeline file, or the folder with `.dagrun` in it
    #[arg(default_value = ".", value_name = "PATH")]
    pub(crate) path: PathBuf,
}

/// Likewise, for commands whose first word is something else.
#[derive(Debug, Args, Clone)]
pub(crate) struct ProjectFlag {
    /// The pipeline file, or the folder with `.dagrun` in it
    #[arg(short = 'f', long = "file", default_value = ".", value_name = "PATH")]
    pub(crate) path: PathBuf,
}

/// How to answer.
#[derive(Debug, Args, Clone, Copy)]
pub(crate) struct Answer {
    /// Answer in JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// Which part of the graph.
#[derive(Debug, Args, Clone, Default)]
pub(crate) struct Selection {
    /// Only these jobs or nodes, and what they need that is not cached
    #[arg(long, value_name = "NODE")]
    pub(crate) only: Vec<String>,
    /// Up to these jobs or nodes: the same as --only, in the words of make and Snakemake
    #[arg(long, value_name = "NODE")]
    pub(crate) until: Vec<String>,
    /// These jobs or nodes and all that comes after them
    ///
    /// With `--until`: what lies between the two.
    #[arg(long, value_name = "NODE")]
    pub(crate) from: Vec<String>,
}

/// What to run.
#[derive(Debug, Args)]
pub(crate) struct Work {
    #[command(flatten)]
    pub(crate) pipeline: Pipeline,
    #[command(flatten)]
    pub(crate) selection: Selection,
    /// Run again although cached: all nodes, or these jobs or nodes; `=` is needed
    #[arg(long, value_name = "NODE", num_args = 0.., require_equals = true)]
    pub(crate) force: Option<Vec<String>>,
}

#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    #[command(flatten)]
    pub(crate) work: Work,
    /// CPUs for nodes: so many nodes of one CPU run at once; default: `jobs` in dagrun.toml, else the number of CPUs. On a coordinator: of
    /// all workers together; default: all that there are
    #[arg(short, long, value_name = "N")]
    pub(crate) jobs: Option<usize>,
    /// Run nodes in so many worker processes on this machine, as a cluster does on many; they share `-j`, each with one slot at least
    #[arg(long, value_name = "N")]
    pub(crate) workers: Option<usize>,
    /// Start nothing new after the first failure; default: go on with what does not depend on it
    #[arg(long)]
    pub(crate) fail_fast: bool,
    /// Keep the folders of failed nodes, for `dagrun shell --keep-failed`
    #[arg(long)]
    pub(crate) keep_failed: bool,
    /// Print the report of the run as JSON
    #[arg(long)]
    pub(crate) json: bool,
    /// Write every event to a file as JSON lines; `-` for standard output
    #[arg(long, value_name = "FILE")]
    pub(crate) events: Option<PathBuf>,
    /// Write a Chrome trace of the run, for ui.perfetto.dev
    #[arg(long, value_name = "FILE")]
    pub(crate) profile: Option<PathBuf>,
    /// Overwrite files at export targets that dagrun did not write
    #[arg(long)]
    pub(crate) overwrite: bool,
    /// What becomes of a former study that was another one: `new` puts it aside and begins anew, `keep` begins anew and knows its
    /// trials that ended; default: go on with it, and refuse where it was another one
    #[arg(long, value_enum, value_name = "HOW")]
    pub(crate) study: Option<StudyChoice>,
    /// Run it on a coordinator; exports and the journal come here at the end
    #[command(flatten)]
    pub(crate) coordinator: Coordinator,
    /// Submit it and leave; `dagrun attach` follows it
    #[arg(long)]
    pub(crate) detach: bool,
    /// Runs of a higher priority go first on a coordinator
    #[arg(
        long,
        default_value_t = 0,
        value_name = "N",
        allow_hyphen_values = true
    )]
    pub(crate) priority: i32,
    #[command(flatten)]
    pub(crate) without: Without,
}

/// What benches switch off to see what it is worth.
#[derive(Debug, Args, Clone, Copy)]
pub(crate) struct Without {
    /// For benches only: place nodes without looking at where their inputs are
    #[arg(long)]
    pub(crate) no_locality: bool,
    /// For benches only: place each node of a group by itself, not the group at once
    #[arg(long)]
    pub(crate) no_fuse: bool,
    /// For benches only: each node that gathers has its own copies of what it gathers, and no two nodes share a result
    #[arg(long)]
    pub(crate) no_dedup: bool,
}

/// Which coordinator.
#[derive(Debug, Args, Clone)]
pub(crate) struct Coordinator {
    /// The coordinator, as HOST:PORT or unix:PATH
    #[arg(
        long,
        env = Self::variable(),
        value_name = "HOST:PORT",
        hide_env_values = true
    )]
    pub(crate) on: Option<String>,
    #[command(flatten)]
    pub(crate) credentials: Credentials,
}

impl Coordinator {
    pub(crate) const VARIABLE: &str = "DAGRUN_ON";

    /// The variable, where it says something: one that is empty is as one that is not set.
    fn variable() -> Resettable<OsStr> {
        match std::env::var_os(Self::VARIABLE) {
            Some(said) if said.is_empty() => Resettable::Reset,
            _ => Resettable::Value(Self::VARIABLE.into()),
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct ServeArgs {
    /// Where to listen, as HOST:PORT or unix:PATH
    #[arg(long, default_value = "127.0.0.1:7460", value_name = "HOST:PORT")]
    pub(crate) listen: String,
    /// Where it keeps what it took; default: `$XDG_STATE_HOME/dagrun/serve`, else `~/.local/state/dagrun/serve`
    #[arg(long, value_name = "DIR")]
    pub(crate) state: Option<PathBuf>,
    /// A worker that says nothing for so long is lost, and its nodes start elsewhere
    #[arg(long, value_name = "TIME", default_value = "10s")]
    pub(crate) lease: String,
    /// Runs that go on at the same time; further ones wait, and those of higher priority begin first
    #[arg(long, value_name = "N", default_value = "64")]
    pub(crate) runs: NonZeroUsize,
    #[command(flatten)]
    pub(crate) credentials: Credentials,
}

#[derive(Debug, Args)]
pub(crate) struct AttachArgs {
    /// The number of the run
    pub(crate) run: String,
    #[command(flatten)]
    pub(crate) coordinator: Coordinator,
    /// The pipeline file, to lay out exports and keep the journal here at the end
    #[arg(short, long, value_name = "FILE")]
    pub(crate) file: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct CancelArgs {
    /// The number of the run
    pub(crate) run: String,
    #[command(flatten)]
    pub(crate) coordinator: Coordinator,
    /// Kill its nodes at once; default: TERM, and KILL after the grace time
    #[arg(long)]
    pub(crate) kill: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ClusterCommand {
    /// Show workers, runs, and who waits for what
    ///
    /// Workers with the same `store` share a cache. `speed` is that of one CPU when the worker started, where 1.00 is a reference machine; it is
    /// shown where workers differ by a quarter or more, and nodes that others wait for go to faster ones. Workers that were lost are told of for
    /// an hour.
    Status {
        #[command(flatten)]
        coordinator: Coordinator,
        /// Also runs that are over
        #[arg(long)]
        all: bool,
        #[command(flatten)]
        answer: Answer,
    },
    /// Let a worker finish or hand back what it has, and leave
    Drain {
        /// Its name or number, as `dagrun cluster status` shows it
        worker: String,
        #[command(flatten)]
        coordinator: Coordinator,
    },
    #[command(flatten)]
    Credentials(CredentialsCommand),
}

#[derive(Debug, Args)]
pub(crate) struct WorkerArgs {
    /// The coordinator, as HOST:PORT or unix:PATH
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) connect: String,
    #[command(flatten)]
    pub(crate) credentials: Credentials,
    /// CPUs for nodes; default: `jobs` in dagrun.toml, else the number of CPUs
    #[arg(long, value_name = "N")]
    pub(crate) slots: Option<usize>,
    /// Memory for nodes; default: `memory` in dagrun.toml, else what the machine has free
    #[arg(long, value_name = "SIZE")]
    pub(crate) memory: Option<String>,
    /// A named resource that it has besides those in dagrun.toml: NAME=AMOUNT
    #[arg(long = "resource", value_name = "NAME=AMOUNT")]
    pub(crate) resources: Vec<String>,
    /// Something to know of it: NAME=VALUE
    #[arg(long = "label", value_name = "NAME=VALUE")]
    pub(crate) labels: Vec<String>,
    /// The executor profile that it serves: jobs with `executor: NAME` go nowhere else
    #[arg(long, value_name = "NAME")]
    pub(crate) profile: Option<String>,
    /// What it is called; default: the name of the host
    #[arg(long, value_name = "NAME")]
    pub(crate) name: Option<String>,
    /// Where others get blobs from it, as HOST:PORT or unix:PATH; default: a free port of the address by which it reaches the
    /// coordinator
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) blobs: Option<String>,
    /// How much its cache may hold: what was not used for longest goes, and nothing that is needed; default: no bound
    #[arg(long, value_name = "SIZE")]
    pub(crate) cache_size: Option<String>,
    /// How long what runs may take to end once it is told to stop
    #[arg(long, value_name = "DURATION", default_value = "30s")]
    pub(crate) leave_within: String,
    /// How long to try to reach the coordinator at first
    #[arg(long, value_name = "DURATION", default_value = "10s")]
    pub(crate) reach_within: String,
    /// It is part of a run on this machine, of the process with this id: ends with it, and keeps quiet
    #[arg(long, value_name = "PID", hide = true)]
    pub(crate) part_of: Option<u32>,
    /// The name of its work folder
    #[arg(long, value_name = "NAME", hide = true)]
    pub(crate) work_name: Option<String>,
}

/// What becomes of a former study of the same name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum StudyChoice {
    /// Put it aside and begin anew
    New,
    /// Put it aside and begin anew, knowing its trials that ended
    Keep,
}

#[derive(Debug, Args)]
pub(crate) struct RescoreArgs {
    #[command(flatten)]
    pub(crate) run: RunArgs,
    /// Also run simulations that failed, or whose results are gone from the cache
    #[arg(long)]
    pub(crate) run_missing: bool,
}

#[derive(Debug, Args)]
pub(crate) struct PlanArgs {
    #[command(flatten)]
    pub(crate) work: Work,
    /// Plan a run on a coordinator: by the results and the study that are there
    #[command(flatten)]
    pub(crate) coordinator: Coordinator,
    #[command(flatten)]
    pub(crate) answer: Answer,
    /// Only count: nothing is looked up
    #[arg(long)]
    pub(crate) counts: bool,
}

/// A node of a pipeline.
#[derive(Debug, Args, Clone)]
pub(crate) struct NodeOf {
    /// The node, such as `score[target=curve]`; axes may be left out where only one node is meant
    pub(crate) node: String,
    #[command(flatten)]
    pub(crate) of: PipelineFlag,
}

#[derive(Debug, Args)]
pub(crate) struct ExplainArgs {
    #[command(flatten)]
    pub(crate) node: NodeOf,
    #[command(flatten)]
    pub(crate) coordinator: Coordinator,
    #[command(flatten)]
    pub(crate) answer: Answer,
}

#[derive(Debug, Args)]
pub(crate) struct GraphArgs {
    #[command(flatten)]
    pub(crate) pipeline: Pipeline,
    /// How to write it
    #[arg(long, value_enum, default_value_t = GraphFormat::Dot)]
    pub(crate) format: GraphFormat,
    /// A box for each node instead of each job
    #[arg(long)]
    pub(crate) nodes: bool,
    /// Where to write it; default: standard output
    #[arg(short, long, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum GraphFormat {
    Dot,
    Mermaid,
    Svg,
    Json,
}

#[derive(Debug, Args)]
pub(crate) struct LogArgs {
    /// The node; axes may be left out where only one node is meant
    pub(crate) node: String,
    /// The run, also by its number on a coordinator; default: the last one in which the node ran
    #[arg(long, value_name = "RUN")]
    pub(crate) run: Option<String>,
    #[command(flatten)]
    pub(crate) project: ProjectFlag,
    #[command(flatten)]
    pub(crate) coordinator: Coordinator,
    /// Standard output only
    #[arg(long, conflicts_with = "stderr")]
    pub(crate) stdout: bool,
    /// Standard error only
    #[arg(long)]
    pub(crate) stderr: bool,
    /// The bytes as they are, also control characters, also to a terminal
    #[arg(long)]
    pub(crate) raw: bool,
}

#[derive(Debug, Args)]
pub(crate) struct RunsArgs {
    #[command(flatten)]
    pub(crate) project: Project,
    /// List all runs, also where a terminal would get the last ones only
    #[arg(long)]
    pub(crate) all: bool,
    #[command(flatten)]
    pub(crate) answer: Answer,
}

#[derive(Debug, Args)]
pub(crate) struct ShowArgs {
    /// The run: its id or the start of it; default: the last one
    pub(crate) run: Option<String>,
    #[command(flatten)]
    pub(crate) project: ProjectFlag,
    #[command(flatten)]
    pub(crate) answer: Answer,
    /// Write a Chrome trace, for ui.perfetto.dev
    #[arg(long, value_name = "FILE")]
    pub(crate) trace: Option<PathBuf>,
    /// List everything, also where a terminal would get the first rows only
    #[arg(long)]
    pub(crate) all: bool,
    /// Write a JUnit file
    #[arg(long, value_name = "FILE")]
    pub(crate) junit: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct ReportArgs {
    /// The run: its id or the start of it; default: the last one
    pub(crate) run: Option<String>,
    #[command(flatten)]
    pub(crate) project: ProjectFlag,
    #[command(flatten)]
    pub(crate) answer: Answer,
    /// Write a page to a file instead; `-` for standard output
    #[arg(long, value_name = "FILE")]
    pub(crate) html: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct CompareArgs {
    /// The runs: ids or the starts of ids; one alone is compared with the last run
    #[arg(required = true)]
    pub(crate) runs: Vec<String>,
    /// Also compare what is not alike: other parameters, replicates, jobs, data
    #[arg(long)]
    pub(crate) force: bool,
    #[command(flatten)]
    pub(crate) project: ProjectFlag,
    #[command(flatten)]
    pub(crate) answer: Answer,
}

/// Which study.
#[derive(Debug, Args, Clone)]
pub(crate) struct StudyOf {
    /// The pipeline file, or the study's name; default: the only study of the folder
    ///
    /// `NAME@1` is the first one of that name that was put aside.
    #[arg(value_name = "FILE|NAME")]
    pub(crate) study: Option<String>,
    #[command(flatten)]
    pub(crate) project: ProjectFlag,
    #[command(flatten)]
    pub(crate) coordinator: Coordinator,
}

#[derive(Debug, Subcommand)]
pub(crate) enum StudyCommand {
    /// Show how a study stands
    ///
    /// Trials, the best one with its parameters (the Pareto front where there are several objectives), pace, what hits saved, reasons
    /// of failures, and the curve of the best so far.
    Show {
        #[command(flatten)]
        of: StudyOf,
        #[command(flatten)]
        answer: Answer,
    },
    /// Print the best trial with its parameters
    ///
    /// With several objectives: all trials of the Pareto front. Exit 1 where no trial has a value.
    Best {
        #[command(flatten)]
        of: StudyOf,
        #[command(flatten)]
        answer: Answer,
        /// Only the parameters, as YAML for `--params-file`
        #[arg(long, conflicts_with = "json")]
        params: bool,
        /// This trial instead of the best one
        #[arg(long, value_name = "N")]
        trial: Option<u64>,
    },
    /// List trials
    Trials {
        #[command(flatten)]
        of: StudyOf,
        #[command(flatten)]
        answer: Answer,
        /// The best ones first; trials without a value come last
        #[arg(long)]
        sort: bool,
        /// Only the best N; implies `--sort`
        #[arg(long, value_name = "N")]
        top: Option<usize>,
        /// Only those that failed, with their reasons
        #[arg(long, conflicts_with = "top")]
        failed: bool,
        /// List all, also where a terminal would get the last ones only
        #[arg(long)]
        all: bool,
    },
    /// Write a table with a row for each trial
    ///
    /// With number, state, parameters, objectives, violation of constraints, replicates, seconds, nodes, hits, how many told trials its ask
    /// saw, and the reason of a failure.
    Export {
        #[command(flatten)]
        of: StudyOf,
        /// The format; default: that of the ending of --output, else csv
        #[arg(long, value_enum)]
        format: Option<TableFormat>,
        /// Where to write it; default: standard output
        #[arg(short, long, value_name = "FILE")]
        output: Option<PathBuf>,
    },
    /// List the studies of a folder
    List {
        #[command(flatten)]
        project: Project,
        #[command(flatten)]
        coordinator: Coordinator,
        #[command(flatten)]
        answer: Answer,
    },
}

/// The format of a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum TableFormat {
    /// Comma-separated values with a header
    Csv,
    /// One list of objects
    Json,
    /// An object a line
    Jsonl,
    /// Apache Parquet
    Parquet,
}

#[derive(Debug, Args)]
pub(crate) struct GetArgs {
    /// NODE or NODE:OUTPUT
    pub(crate) what: String,
    /// The folder to put it in, made where it is not there; `.` is the one that you are in
    #[arg(default_value = ".")]
    pub(crate) dir: PathBuf,
    #[command(flatten)]
    pub(crate) of: PipelineFlag,
    /// Overwrite what is there
    #[arg(long)]
    pub(crate) force: bool,
    #[command(flatten)]
    pub(crate) coordinator: Coordinator,
}

#[derive(Debug, Args)]
pub(crate) struct ShellArgs {
    #[command(flatten)]
    pub(crate) node: NodeOf,
    /// Use the folder that a failed attempt of the last run left behind (`dagrun run --keep-failed`)
    #[arg(long)]
    pub(crate) keep_failed: bool,
    #[command(flatten)]
    pub(crate) coordinator: Coordinator,
    /// A command instead of an interactive shell
    #[arg(last = true)]
    pub(crate) command: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct CheckArgs {
    #[command(flatten)]
    pub(crate) node: NodeOf,
    /// How many times
    #[arg(long, default_value_t = 2, value_name = "N")]
    pub(crate) repeat: u32,
    #[command(flatten)]
    pub(crate) answer: Answer,
}

#[derive(Debug, Args)]
pub(crate) struct ProbeArgs {
    #[command(flatten)]
    pub(crate) node: NodeOf,
    /// The numbers of threads
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "1,2,4",
        value_name = "N,..."
    )]
    pub(crate) threads: Vec<u32>,
    /// How many times each
    #[arg(long, default_value_t = 3, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(crate) repeat: u32,
    #[command(flatten)]
    pub(crate) answer: Answer,
}

#[derive(Debug, Args)]
pub(crate) struct GcArgs {
    /// Delete what was not used for this long, such as `30d`
    #[arg(long, value_name = "AGE")]
    pub(crate) max_age: Option<String>,
    /// Delete what was used longest ago until the cache is at most this large, such as `20GiB`
    #[arg(long, value_name = "SIZE")]
    pub(crate) max_size: Option<String>,
    /// Delete nothing; say what would go and who made it
    #[arg(long)]
    pub(crate) dry_run: bool,
    #[command(flatten)]
    pub(crate) answer: Answer,
}

#[derive(Debug, Subcommand)]
pub(crate) enum CacheCommand {
    /// Hash every blob and look at every entry; exit 1 where something is wrong
    Verify {
        /// Move corrupt blobs to quarantine; what made them runs again when it is needed
        #[arg(long)]
        fix: bool,
        #[command(flatten)]
        answer: Answer,
    },
    /// Sizes and counts, of the shared cache too where there is one
    Stat {
        #[command(flatten)]
        answer: Answer,
    },
    /// Forget the results that a machine made, so that their nodes run again: it was found to be broken
    Evict(EvictArgs),
    /// Print where the cache is
    Dir,
    /// Upload every result of the local cache that the shared one lacks
    ///
    /// Naming the command is leave to write: `--cache-mode` is not needed.
    Push {
        #[command(flatten)]
        answer: Answer,
    },
    /// Bring every result of the shared cache here
    Pull {
        /// Only what the results are: their bytes come when they are needed
        #[arg(long)]
        entries: bool,
        #[command(flatten)]
        answer: Answer,
    },
    /// Make a pair of keys: who has `cache.key` signs results, who trusts `cache.pub` takes them
    Keygen {
        /// The folder to write them to
        dir: PathBuf,
    },
}

#[derive(Debug, Args)]
pub(crate) struct EvictArgs {
    /// The host, or a worker on it, as `dagrun explain` and `dagrun cluster status` name it
    #[arg(long, value_name = "NAME")]
    pub(crate) host: String,
    /// Only what it made since then: a time such as `2026-11-30T18:00:00Z`, or so long ago, such as `3d`
    #[arg(long, value_name = "TIME")]
    pub(crate) since: Option<String>,
    /// Change nothing; say what would go
    #[arg(long)]
    pub(crate) dry_run: bool,
    #[command(flatten)]
    pub(crate) answer: Answer,
}

#[derive(Debug, Subcommand)]
pub(crate) enum JournalCommand {
    /// Rewrite a damaged journal with all records that can be read; the damaged one is kept beside it
    Repair {
        /// The run, or the name of a study; default: the last run
        run: Option<String>,
        #[command(flatten)]
        project: ProjectFlag,
    },
}

#[derive(Debug, Args)]
pub(crate) struct FmtArgs {
    /// The files
    #[arg(default_value = "pipeline.yaml")]
    pub(crate) files: Vec<PathBuf>,
    /// Change nothing; exit 1 where something would change
    #[arg(long)]
    pub(crate) check: bool,
}

#[derive(Debug, Args)]
pub(crate) struct InitArgs {
    /// The template
    #[arg(value_enum, default_value_t = Template::Sweep)]
    pub(crate) template: Template,
    /// The folder to start in; it is made where it is not there
    #[arg(default_value = ".")]
    pub(crate) dir: PathBuf,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Template {
    /// One job
    Hello,
    /// A parameter sweep with replicates and a table
    Sweep,
    /// A study: a model is fitted to data by trials; also `calibrate`
    #[value(alias = "calibrate")]
    Study,
    /// Continuous integration
    Ci,
}

#[derive(Debug, Args)]
pub(crate) struct SettingsArgs {
    #[command(flatten)]
    pub(crate) project: Project,
    #[command(flatten)]
    pub(crate) answer: Answer,
}

/// Who may do what in a cluster.
#[derive(Debug, Subcommand)]
pub(crate) enum CredentialsCommand {
    /// Make the CA, certificates and token file of a new cluster; never overwrites
    ///
    /// Says what goes where, and with which commands. `DIR/ca.key` signs certificates and is not needed to run the cluster.
    Init {
        /// A folder that is not there yet
        dir: PathBuf,
        /// The cluster's name
        #[arg(long, default_value = "dagrun", value_name = "NAME")]
        name: String,
        /// A name or address by which the coordinator is reached; may be repeated. Default: this host's name; this machine's loopback always
        #[arg(long = "host", value_name = "HOST")]
        hosts: Vec<String>,
    },
    /// Make a certificate for somebody, or renew one
    Cert {
        /// Whose it is; `server` is the coordinator
        name: String,
        /// What its holder may do; may be repeated
        #[arg(long = "role", value_name = "ROLE")]
        roles: Vec<RoleName>,
        /// Another name or address of the coordinator; may be repeated
        #[arg(long = "host", value_name = "HOST", requires = "renew")]
        hosts: Vec<String>,
        /// Put a new one in the place of the old one, with its roles and hosts
        #[arg(long)]
        renew: bool,
        /// How long it lives
        #[arg(long, value_name = "N", default_value_t = 398, value_parser = clap::value_parser!(u32).range(1..))]
        days: u32,
        #[command(flatten)]
        of: AuthorityDir,
    },
    /// Revoke all certificates that were made for a name
    ///
    /// Their connections end within a second once the coordinator has the file `revoked`.
    Revoke {
        /// Whose they are
        name: String,
        #[command(flatten)]
        of: AuthorityDir,
    },
    /// Make, list and revoke tokens
    #[command(subcommand)]
    Token(TokenCommand),
}

/// Tokens of a cluster.
#[derive(Debug, Subcommand)]
pub(crate) enum TokenCommand {
    /// Make a token and print it, this once: the cluster keeps only its hash
    Add {
        /// Whose it is
        name: String,
        /// What its holder may do; may be repeated
        #[arg(long = "role", value_name = "ROLE", required = true)]
        roles: Vec<RoleName>,
        /// The only run that it is for
        #[arg(long, value_name = "RUN")]
        run: Option<String>,
        /// How long it lives
        #[arg(long, value_name = "N", default_value_t = 90, value_parser = clap::value_parser!(u32).range(1..))]
        days: u32,
        #[command(flatten)]
        of: AuthorityDir,
    },
    /// Show who has tokens, with roles and expiry
    List {
        #[command(flatten)]
        of: AuthorityDir,
        #[command(flatten)]
        answer: Answer,
    },
    /// Take a token back; its connections end within a second
    Revoke {
        /// Whose it is
        name: String,
        #[command(flatten)]
        of: AuthorityDir,
    },
}

/// Which cluster's credentials.
#[derive(Debug, Args)]
pub(crate) struct AuthorityDir {
    /// The folder that `dagrun cluster init` made
    #[arg(long, default_value = ".", value_name = "DIR")]
    pub(crate) dir: PathBuf,
}

/// The roles of a cluster, by the names that they have everywhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum RoleName {
    /// Look at runs and workers
    Viewer,
    /// Submit and cancel runs
    Submit,
    /// Run nodes
    Worker,
    /// Read blobs
    CacheRead,
    /// Add blobs
    CacheWrite,
    /// Everything
    Admin,
}

/// How this side shows who it is.
#[derive(Debug, Args, Clone, Default)]
pub(crate) struct Credentials {
    /// The folder with certificates, as `dagrun cluster init` or `cert` made it; default: `cluster.tls` in dagrun.toml
    #[arg(long, value_name = "DIR")]
    pub(crate) tls: Option<PathBuf>,
    /// A file that holds a token; default: DAGRUN_TOKEN, else `cluster.token_file` in dagrun.toml, else `token` in the folder of --tls
    #[arg(long, value_name = "FILE")]
    pub(crate) token_file: Option<PathBuf>,
}
