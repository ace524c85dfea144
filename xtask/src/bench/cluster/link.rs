//! The same outputs over a link that is slower than the machine: a loopback of its own with a limit to its rate.

use std::process::{Command, Stdio};

use super::{
    page::Section,
    transfer::{Cargo, rows_of},
};
use crate::bench::{Bench, target, this_program};

/// Bits a second, as `tc` writes it and as a number.
const RATE: (&str, f64) = ("1gbit", 1e9);

const CARGO: Cargo = Cargo {
    name: "one file",
    files: 1,
    bytes: 4 << 30,
    goal: "goal: at least 0.9 of the link or of rsync",
};

pub(super) fn measure(bench: &Bench) -> Result<Section, String> {
    Ok(Section {
        part: "link",
        title: "outputs cross a link",
        what: format!(
            "As above, on a loopback of its own (`unshare --net`) that `tc` limits to {} (token bucket) for all that these processes \
             say to each other.",
            RATE.0
        ),
        columns: &["side", "MiB a second", "from - to", "dagrun / side", "note"],
        rows: rows(bench)?,
        notes: Vec::new(),
    })
}

fn rows(bench: &Bench) -> Result<Vec<Vec<String>>, String> {
    let script = format!(
        "ip link set lo up && tc qdisc add dev lo root tbf rate {} burst 256k latency 50ms && exec {} bench-link {}",
        RATE.0,
        this_program()?,
        if bench.quick { "--quick" } else { "" }
    );
    let output = Command::new("unshare")
        .args(["--net", "sh", "-c", &script])
        .stderr(Stdio::inherit())
        .output()
        .map_err(|error| format!("cannot start `unshare`: {error}"))?;
    if !output.status.success() {
        return Err("there is no limited loopback: root, `ip` and `tc` are needed".into());
    }
    // What is printed above the rows is of tools.
    let text = String::from_utf8_lossy(&output.stdout);
    let mut rows: Vec<Vec<String>> = text
        .lines()
        .last()
        .and_then(|line| serde_json::from_str(line).ok())
        .ok_or("the measurement said nothing")?;
    let own: f64 = rows[0][1].parse().map_err(|_| "no figure of dagrun")?;
    let link = RATE.1 / 8.0 / f64::from(1 << 20);
    rows.push(vec![
        format!("the link: {}", RATE.0),
        format!("{link:.0}"),
        String::new(),
        format!("{:.2}", own / link),
        "with the headers of TCP and IP".into(),
    ]);
    Ok(rows)
}

/// `bench-link [--quick]`, on the limited loopback: prints the rows as JSON.
pub(crate) fn on_link(args: &[&str]) -> Result<(), String> {
    let bench = Bench {
        dagrun: target().join("release/dagrun"),
        scratch: target().join("bench"),
        quick: args == ["--quick"],
    };
    let cargo = Cargo {
        bytes: bench.size(CARGO.bytes),
        ..CARGO
    };
    println!("{}", serde_json::json!(rows_of(&bench, &cargo)?));
    Ok(())
}
