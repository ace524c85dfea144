//! Runs seeds of the simulator on two threads, and says what went wrong.
//!
//! `simulate --seeds 100000 [--from 0] [--threads 2] [--check-every 16]` runs a range; `simulate --seed 7 --trace` shows
//! one seed, made as small as it still fails; `simulate --mutants` shows how soon each bug that can be switched on is found.

#![expect(clippy::print_stdout, reason = "a command line program")]

use std::{process::ExitCode, time::Instant};

use dagrun_sched::sim::{SimOptions, SimReport, shrink, simulate_caught};

struct Arguments {
    seeds: u64,
    from: u64,
    threads: u64,
    check_every: u32,
    seed: Option<u64>,
    trace: bool,
    mutants: bool,
}

#[derive(Default)]
struct Totals {
    nodes: u64,
    events: u64,
    faults: u64,
    violations: Vec<(u64, String)>,
}

fn main() -> ExitCode {
    let arguments = match read_arguments() {
        Ok(arguments) => arguments,
        Err(text) => {
            println!("{text}");
            return ExitCode::from(2);
        }
    };
    if arguments.mutants {
        return show_mutants(arguments.seeds);
    }
    if let Some(seed) = arguments.seed {
        return show(seed, arguments.trace);
    }
    let begin = Instant::now();
    let totals = run(&arguments);
    let seconds = begin.elapsed().as_secs_f64();
    for (seed, text) in totals.violations.iter().take(20) {
        println!("seed {seed}: {text}");
    }
    println!(
        "{{\"seeds\": {}, \"nodes\": {}, \"events\": {}, \"faults\": {}, \"violations\": {}, \"seconds\": {seconds:.1}}}",
        arguments.seeds,
        totals.nodes,
        totals.events,
        totals.faults,
        totals.violations.len(),
    );
    ExitCode::from(u8::from(!totals.violations.is_empty()))
}

fn read_arguments() -> Result<Arguments, String> {
    let mut arguments = Arguments {
        seeds: 1000,
        from: 0,
        threads: 2,
        check_every: 16,
        seed: None,
        trace: false,
        mutants: false,
    };
    let mut given = std::env::args().skip(1);
    while let Some(name) = given.next() {
        match name.as_str() {
            "--trace" => {
                arguments.trace = true;
                continue;
            }
            "--mutants" => {
                arguments.mutants = true;
                continue;
            }
            _ => {}
        }
        let value = given.next().and_then(|text| text.parse::<u64>().ok());
        let value = value.ok_or_else(|| format!("`{name}` needs a number"))?;
        match name.as_str() {
            "--seeds" => arguments.seeds = value,
            "--from" => arguments.from = value,
            "--threads" => arguments.threads = value.max(1),
            "--check-every" => arguments.check_every = value.clamp(1, 1 << 20) as u32,
            "--seed" => arguments.seed = Some(value),
            _ => return Err(format!("unknown argument `{name}`")),
        }
    }
    Ok(arguments)
}

fn run(arguments: &Arguments) -> Totals {
    std::panic::set_hook(Box::new(|_| {}));
    let threads = arguments.threads;
    let parts = std::thread::scope(|scope| {
        let spawn = |part| scope.spawn(move || run_part(arguments, part));
        let handles: Vec<_> = (0..threads).map(spawn).collect();
        let join = |handle: std::thread::ScopedJoinHandle<'_, Totals>| {
            handle.join().expect("panics of a seed are caught")
        };
        handles.into_iter().map(join).collect::<Vec<_>>()
    });
    let mut totals = Totals::default();
    for part in parts {
        totals.nodes += part.nodes;
        totals.events += part.events;
        totals.faults += part.faults;
        totals.violations.extend(part.violations);
    }
    totals.violations.sort();
    totals
}

fn run_part(arguments: &Arguments, part: u64) -> Totals {
    let mut totals = Totals::default();
    let last = arguments.from + arguments.seeds;
    for seed in (arguments.from + part..last).step_by(arguments.threads as usize) {
        let options = SimOptions {
            check_every: arguments.check_every,
            ..SimOptions::of(seed)
        };
        let SimReport {
            nodes,
            events,
            faults,
            violation,
            ..
        } = simulate_caught(&options);
        totals.nodes += nodes;
        totals.events += events;
        totals.faults += faults;
        totals
            .violations
            .extend(violation.map(|v| (seed, format!("{}: {}", v.invariant, v.text))));
    }
    totals
}

fn show(seed: u64, trace: bool) -> ExitCode {
    let whole = SimOptions {
        trace,
        ..SimOptions::of(seed)
    };
    let failed = simulate_caught(&whole).violation.is_some();
    let options = if failed { shrink(&whole) } else { whole };
    println!(
        "seed {seed} with at most {} nodes and troubles {:#x}",
        options.nodes, options.faults
    );
    let report = simulate_caught(&options);
    for line in &report.trace {
        println!("{line}");
    }
    println!(
        "{} events, {} faults, hash {:#018x}",
        report.events, report.faults, report.hash
    );
    match report.violation {
        Some(violation) => {
            println!("{}: {}", violation.invariant, violation.text);
            ExitCode::FAILURE
        }
        None => ExitCode::SUCCESS,
    }
}

/// For each bug the first seed that finds it, and how many do.
#[cfg(feature = "mutants")]
fn show_mutants(seeds: u64) -> ExitCode {
    std::panic::set_hook(Box::new(|_| {}));
    let mut survivors = 0;
    for mutant in dagrun_sched::Mutant::ALL {
        let fails = |seed: &u64| {
            let options = SimOptions {
                mutant: Some(mutant),
                check_every: u32::MAX,
                ..SimOptions::of(*seed)
            };
            simulate_caught(&options).violation.is_some()
        };
        let failing: Vec<u64> = (0..seeds).filter(fails).collect();
        survivors += u32::from(failing.is_empty());
        let first = failing.first().map_or("null".to_owned(), u64::to_string);
        println!(
            "{{\"mutant\": \"{mutant:?}\", \"first\": {first}, \"failing\": {}, \"seeds\": {seeds}}}",
            failing.len()
        );
    }
    ExitCode::from(u8::from(survivors > 0))
}

#[cfg(not(feature = "mutants"))]
fn show_mutants(_: u64) -> ExitCode {
    println!("build with the feature `mutants` to switch bugs on");
    ExitCode::from(2)
}
