//! Clocks that jump: order and timeouts go by monotonic time.

use std::{path::PathBuf, time::Duration};

use dagrun_testkit::{Unavailable, skip};

use crate::kit::{Project, said};

/// The library that shifts the wall clock of a process, and leaves its monotonic clock alone.
pub(crate) fn libfaketime() -> Result<PathBuf, Unavailable> {
    ["x86_64-linux-gnu", "aarch64-linux-gnu"]
        .map(|arch| PathBuf::from(format!("/usr/lib/{arch}/faketime/libfaketime.so.1")))
        .into_iter()
        .find(|path| path.exists())
        .ok_or_else(|| Unavailable("needs the Debian package faketime".into()))
}

#[test]
fn a_wall_clock_that_jumps_changes_nothing() {
    let library = skip!("a_wall_clock_that_jumps_changes_nothing", libfaketime());
    for jump in ["-3600", "+3600"] {
        let project = Project::new("");
        let dir = project.dir().display().to_string();
        project.write(
            "pipeline.yaml",
            &format!(
                "dagrun: 1\nname: clock\njobs:\n  a:\n    matrix: {{i: [1, 2, 3]}}\n    timeout: 30s\n    \
                 outputs: {{o: o.txt}}\n    run: echo > {dir}/started; sleep 0.6; echo ${{{{ matrix.i }}}} > ${{{{ outputs.o }}}}\n"
            ),
        );
        project.write("shift", "+0\n");
        let child = project
            .command(&["run", "-j", "1"])
            .env("LD_PRELOAD", &library)
            .env("FAKETIME_DONT_FAKE_MONOTONIC", "1")
            .env("FAKETIME_NO_CACHE", "1")
            .env("FAKETIME_TIMESTAMP_FILE", project.dir().join("shift"))
            .stdout(std::process::Stdio::piped())
            .stderr(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        project.wait_for("started");
        std::thread::sleep(Duration::from_millis(200));
        project.write("shift", &format!("{jump}\n"));
        let said = said(child.wait_with_output().unwrap());
        assert_eq!(said.code, 0, "{jump}: {said:?}");
        assert_eq!(project.counts(), [3, 0, 0, 0, 0], "{jump}");
        // Ids of runs only grow, so the last run is found though the clock went back.
        project.ok(&["run"]);
        assert_eq!(project.executed(), 0, "{jump}");
    }
}
