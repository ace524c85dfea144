//! The commands that need neither a plan nor a store: `fmt`, `schema`, `init`, `completions`, `man`, `settings`.

use std::path::{Path, PathBuf};

use clap::CommandFactory;

use crate::{
    args::{Cli, FmtArgs, Global, InitArgs, SettingsArgs, Template},
    commands::project_of,
    error::{CliError, Context, Done},
    put, say,
    settings::Settings,
    term::{Style, table},
};

pub(crate) fn fmt(args: &FmtArgs, style: Style) -> Done {
    let mut would_change = false;
    for file in &args.files {
        let text = std::fs::read_to_string(file).map_err(|error| {
            CliError::invalid(format!("cannot read {}: {error}", file.display()))
        })?;
        let formatted = dagrun_dsl::fmt(&text).map_err(|diagnostics| {
            let mut sources = dagrun_model::Sources::default();
            sources.add(file.display().to_string(), text.clone());
            say!(
                "{}",
                dagrun_dsl::render(&diagnostics, &sources, style.color)
            );
            CliError::said(crate::error::Kind::Invalid)
        })?;
        if formatted == text {
            continue;
        }
        would_change = true;
        if args.check {
            say!("would reformat {}", file.display());
        } else {
            replace(file, &formatted)?;
            say!("reformatted {}", file.display());
        }
    }
    Ok(u8::from(args.check && would_change))
}

/// Writes beside the file and renames, so that a crash leaves the old or the new text.
fn replace(file: &Path, text: &str) -> Result<(), CliError> {
    let beside = file.with_extension("yaml.dagrun-fmt");
    std::fs::write(&beside, text).doing(|| format!("write {}", beside.display()))?;
    std::fs::rename(&beside, file).doing(|| format!("replace {}", file.display()))
}

pub(crate) fn schema() -> Done {
    put!(
        "{}",
        serde_json::to_string_pretty(&dagrun_dsl::json_schema())
            .expect("a JSON value can be written")
    );
    Ok(0)
}

pub(crate) fn init(args: &InitArgs) -> Done {
    let files: &[(&str, &str)] = match args.template {
        Template::Hello => &[("pipeline.yaml", include_str!("../../templates/hello.yaml"))],
        Template::Sweep => &[
            ("pipeline.yaml", include_str!("../../templates/sweep.yaml")),
            ("model.py", include_str!("../../templates/model.py")),
            ("summarise.py", include_str!("../../templates/summarise.py")),
        ],
        Template::Study => &[
            ("pipeline.yaml", include_str!("../../templates/study.yaml")),
            ("model.py", include_str!("../../templates/study-model.py")),
            ("score.py", include_str!("../../templates/study-score.py")),
            (
                "observed.json",
                include_str!("../../templates/study-observed.json"),
            ),
        ],
        Template::Ci => &[("pipeline.yaml", include_str!("../../templates/ci.yaml"))],
    };
    std::fs::create_dir_all(&args.dir).doing(|| format!("make {}", args.dir.display()))?;
    let there: Vec<&str> = files
        .iter()
        .map(|(name, _)| *name)
        .filter(|name| args.dir.join(name).exists())
        .collect();
    if !there.is_empty() {
        return Err(CliError::invalid(format!(
            "{} already has {}",
            args.dir.display(),
            there.join(", ")
        ))
        .hint("name another folder: `dagrun init sweep my-study`"));
    }
    for (name, text) in files {
        let path = args.dir.join(name);
        std::fs::write(&path, text).doing(|| format!("write {}", path.display()))?;
        say!("wrote {}", path.display());
    }
    let cd = if args.dir == Path::new(".") {
        String::new()
    } else {
        format!("cd {} && ", args.dir.display())
    };
    say!("now: {cd}dagrun plan    (what would run)\n     {cd}dagrun run     (run it)");
    Ok(0)
}

pub(crate) fn completions(shell: clap_complete::Shell) -> Done {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "dagrun", &mut script);
    put!("{}", String::from_utf8_lossy(&script).trim_end());
    Ok(0)
}

pub(crate) fn man(dir: &Path) -> Done {
    std::fs::create_dir_all(dir).doing(|| format!("make {}", dir.display()))?;
    clap_mangen::generate_to(Cli::command(), dir)
        .doing(|| format!("write man pages to {}", dir.display()))?;
    Ok(0)
}

pub(crate) fn settings(args: &SettingsArgs, global: &Global) -> Done {
    let project: PathBuf = project_of(&args.project.path);
    let settings = Settings::load(&project, &global.cache)?;
    if args.answer.json {
        let rows: serde_json::Map<_, _> = settings
            .rows(true)
            .into_iter()
            .map(|(name, value, origin)| {
                (
                    name.to_string(),
                    serde_json::json!({"value": value, "origin": origin}),
                )
            })
            .collect();
        put!("{}", serde_json::Value::Object(rows));
    } else {
        let rows: Vec<_> = settings
            .rows(false)
            .into_iter()
            .map(|(name, value, origin)| vec![name.into(), value, origin.into()])
            .collect();
        put!("{}", table(&["setting", "value", "from"], &rows).trim_end());
    }
    Ok(0)
}
