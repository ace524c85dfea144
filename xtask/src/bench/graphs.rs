//! The same graphs in each engine's own language.

use std::{fmt::Write as _, fs, path::Path};

fn write(path: &Path, text: &str) -> Result<(), String> {
    fs::write(path, text).map_err(|error| format!("cannot write {}: {error}", path.display()))
}

/// `levels` levels of `width` nodes; each copies the file of the node before it and adds its level, the first level copies
/// `src/I.txt`. Without the added level, equal copies of equal bytes would be one action to an engine that goes by content.
pub(crate) struct Levels {
    pub(crate) levels: u64,
    pub(crate) width: u64,
    /// Each node also reads a file of its own, `src/LEVEL/I.txt`: for dagrun, ninja and make.
    pub(crate) own_files: bool,
}

impl Levels {
    pub(crate) fn nodes(&self) -> u64 {
        self.levels * self.width
    }

    /// The inputs of the first level, or of all.
    pub(crate) fn sources(&self, folder: &Path) -> Result<(), String> {
        let in_folder = |name: &str, prefix: &str| {
            let folder = folder.join(name);
            fs::create_dir_all(&folder).map_err(|error| error.to_string())?;
            (0..self.width).try_for_each(|i| {
                write(&folder.join(format!("{i}.txt")), &format!("{prefix}{i}\n"))
            })
        };
        match self.own_files {
            false => in_folder("src", ""),
            true => (0..self.levels)
                .try_for_each(|level| in_folder(&format!("src/{level}"), &format!("{level} "))),
        }
    }

    pub(crate) fn dagrun(&self, folder: &Path) -> Result<(), String> {
        let last = self.width - 1;
        let mut text = String::from("dagrun: 1\nname: levels\njobs:\n");
        for level in 0..self.levels {
            let _ = write!(
                text,
                "  l{level}:\n    matrix: {{i: \"${{{{ range(0, {last}) }}}}\"}}\n"
            );
            let mut inputs = Vec::new();
            if self.own_files {
                inputs.push(("own", format!("src/{level}/${{{{ matrix.i }}}}.txt")));
            } else if level == 0 {
                inputs.push(("up", "src/${{ matrix.i }}.txt".to_owned()));
            }
            if level > 0 {
                let before = level - 1;
                let _ = writeln!(text, "    needs: l{before}");
                inputs.push(("up", format!("${{{{ needs.l{before}.outputs.f }}}}")));
            }
            let paths: Vec<String> = inputs
                .iter()
                .map(|(name, path)| format!("{name}: \"{path}\""))
                .collect();
            let words: Vec<String> = inputs
                .iter()
                .map(|(name, _)| format!("\"${{{{ inputs.{name} }}}}\""))
                .collect();
            let _ = writeln!(text, "    inputs: {{{}}}", paths.join(", "));
            text.push_str("    outputs: {f: f.txt}\n");
            let _ = writeln!(
                text,
                "    run: [sh, -c, 'to=\"$0\"; cat \"$@\" > \"$to\" && echo {level} >> \"$to\"', \"${{{{ outputs.f }}}}\", {}]",
                words.join(", ")
            );
        }
        write(&folder.join("pipeline.yaml"), &text)
    }

    pub(crate) fn ninja(&self, folder: &Path) -> Result<(), String> {
        let mut text =
            String::from("rule add\n  command = cat $in > $out && echo $level >> $out\n");
        self.each(|level, i, up| {
            let _ = writeln!(text, "build l{level}_{i}.txt: add {up}\n  level = {level}");
        });
        write(&folder.join("build.ninja"), &text)
    }

    pub(crate) fn make(&self, folder: &Path) -> Result<(), String> {
        let last = self.levels - 1;
        let targets: Vec<String> = (0..self.width)
            .map(|i| format!("l{last}_{i}.txt"))
            .collect();
        let mut text = format!("MAKEFLAGS += -rR\nall: {}\n", targets.join(" "));
        self.each(|level, i, up| {
            let _ = write!(
                text,
                "l{level}_{i}.txt: {up}\n\tcat {up} > $@ && echo {level} >> $@\n"
            );
        });
        write(&folder.join("Makefile"), &text)
    }

    pub(crate) fn snakemake(&self, folder: &Path) -> Result<(), String> {
        let (levels, width) = (self.levels, self.width);
        let last = levels - 1;
        let text = format!(
            "rule all:\n    input: expand(\"l{last}_{{i}}.txt\", i=range({width}))\n\n\
             rule first:\n    input: \"src/{{i}}.txt\"\n    output: \"l0_{{i}}.txt\"\n    shell: \"cp {{input}} {{output}}\"\n\n\
             rule next:\n    input: lambda w: f\"l{{int(w.level) - 1}}_{{w.i}}.txt\"\n    output: \"l{{level,[1-9][0-9]*}}_{{i}}.txt\"\n    \
             shell: \"cp {{input}} {{output}}\"\n"
        );
        write(&folder.join("Snakefile"), &text)
    }

    pub(crate) fn dvc(&self, folder: &Path) -> Result<(), String> {
        let mut text = String::from("stages:\n");
        self.each(|level, i, up| {
            let _ = write!(
                text,
                "  l{level}_{i}:\n    cmd: cp {up} l{level}_{i}.txt\n    deps: [{up}]\n    outs: [l{level}_{i}.txt]\n"
            );
        });
        write(&folder.join("dvc.yaml"), &text)
    }

    pub(crate) fn redun(&self, folder: &Path) -> Result<(), String> {
        let (levels, width) = (self.levels, self.width);
        let text = format!(
            "from redun import File, task\nimport shutil\n\nredun_namespace = \"bench\"\n\n\n\
             @task()\ndef copy(source: File, target: str) -> File:\n    shutil.copyfile(source.path, target)\n    return File(target)\n\n\n\
             @task()\ndef main() -> list:\n    files = [File(f\"src/{{i}}.txt\") for i in range({width})]\n    \
             for level in range({levels}):\n        files = [copy(f, f\"l{{level}}_{{i}}.txt\") for i, f in enumerate(files)]\n    return files\n"
        );
        write(&folder.join("workflow.py"), &text)
    }

    fn each(&self, mut node: impl FnMut(u64, u64, &str)) {
        for level in 0..self.levels {
            for i in 0..self.width {
                let before = level.wrapping_sub(1);
                let up = match (self.own_files, level) {
                    (false, 0) => format!("src/{i}.txt"),
                    (false, _) => format!("l{before}_{i}.txt"),
                    (true, 0) => format!("src/0/{i}.txt"),
                    (true, _) => format!("src/{level}/{i}.txt l{before}_{i}.txt"),
                };
                node(level, i, &up);
            }
        }
    }
}

/// `n` independent nodes of `true I`.
pub(crate) fn trues_dagrun(folder: &Path, n: u64) -> Result<(), String> {
    let last = n - 1;
    write(
        &folder.join("pipeline.yaml"),
        &format!(
            "dagrun: 1\nname: trues\njobs:\n  t:\n    matrix: {{i: \"${{{{ range(0, {last}) }}}}\"}}\n    \
             run: [\"true\", \"${{{{ matrix.i }}}}\"]\n"
        ),
    )
}

/// Likewise for ninja; the outputs are never made, so every run runs all.
pub(crate) fn trues_ninja(folder: &Path, n: u64) -> Result<(), String> {
    let mut text = String::from("rule t\n  command = true $i\n");
    for i in 0..n {
        let _ = write!(text, "build t{i}: t\n  i = {i}\n");
    }
    write(&folder.join("build.ninja"), &text)
}

/// Likewise for make.
pub(crate) fn trues_make(folder: &Path, n: u64) -> Result<(), String> {
    let targets: Vec<String> = (0..n).map(|i| format!("t{i}")).collect();
    let mut text = format!(
        "MAKEFLAGS += -rR\n.PHONY: {0}\nall: {0}\n",
        targets.join(" ")
    );
    for i in 0..n {
        let _ = write!(text, "t{i}:\n\t@/bin/true {i}\n");
    }
    write(&folder.join("Makefile"), &text)
}

/// Likewise for HyperQueue's Python client with its local cluster; the journal makes it keep a record.
pub(crate) fn trues_hyperqueue(folder: &Path, n: u64) -> Result<(), String> {
    write(
        &folder.join("hq.py"),
        &format!(
            "from hyperqueue import Client, Job, LocalCluster\nfrom hyperqueue.cluster import WorkerConfig\n\n\
             with LocalCluster() as cluster:\n    cluster.start_worker(WorkerConfig(cores=2))\n    client = cluster.client()\n    \
             job = Job()\n    for i in range({n}):\n        job.program([\"true\", str(i)])\n    \
             client.wait_for_jobs([client.submit(job)])\n"
        ),
    )
}

/// A sweep of `n` points with a score for each: `2 n` nodes, for planning only.
pub(crate) fn plan_dagrun(folder: &Path, nodes: u64) -> Result<(), String> {
    let side = nodes / 2 / 100 - 1;
    write(
        &folder.join("pipeline.yaml"),
        &format!(
            "dagrun: 1\nname: plan\njobs:\n  simulate:\n    matrix: {{a: \"${{{{ range(0, {side}) }}}}\", b: \"${{{{ range(0, 99) }}}}\"}}\n    \
             outputs: {{f: f.txt}}\n    run: [sim, \"${{{{ matrix.a }}}}\", \"${{{{ matrix.b }}}}\", \"${{{{ outputs.f }}}}\"]\n  \
             score:\n    needs: simulate\n    for_each: [a, b]\n    inputs: {{f: \"${{{{ needs.simulate.outputs.f }}}}\"}}\n    \
             outputs: {{s: s.txt}}\n    run: [score, \"${{{{ inputs.f }}}}\", \"${{{{ outputs.s }}}}\"]\n"
        ),
    )
}

/// Likewise for ninja.
pub(crate) fn plan_ninja(folder: &Path, nodes: u64) -> Result<(), String> {
    let mut text =
        String::from("rule sim\n  command = sim $a $out\nrule score\n  command = score $in $out\n");
    for i in 0..nodes / 2 {
        let _ = write!(text, "build f{i}: sim\n  a = {i}\nbuild s{i}: score f{i}\n");
    }
    write(&folder.join("build.ninja"), &text)
}

/// Likewise for Snakemake.
pub(crate) fn plan_snakemake(folder: &Path, nodes: u64) -> Result<(), String> {
    let n = nodes / 2;
    write(
        &folder.join("Snakefile"),
        &format!(
            "rule all:\n    input: expand(\"s{{i}}\", i=range({n}))\n\n\
             rule sim:\n    output: \"f{{i}}\"\n    shell: \"sim {{wildcards.i}} {{output}}\"\n\n\
             rule score:\n    input: \"f{{i}}\"\n    output: \"s{{i}}\"\n    shell: \"score {{input}} {{output}}\"\n"
        ),
    )
}
