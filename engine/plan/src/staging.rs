//! Where inputs stand in a node's folder.

use dagrun_model::{Artifact, RelPath};

use crate::{
    facts::{FactTable, FoundFile, is_glob},
    input::InputPlan,
    layout::Core,
};

/// The file that lists the paths of an input, one a line.
pub(crate) fn list_file(input: &str) -> String {
    format!("in/{input}.list")
}

/// Where an upstream output stands: `in/INPUT/FILE NAME`, with a position before the file name in lists.
pub(crate) fn upstream_path(input: &str, position: Option<usize>, file_name: &str) -> String {
    match position {
        Some(position) => format!("in/{input}/{position:06}/{file_name}"),
        None => format!("in/{input}/{file_name}"),
    }
}

/// The files of a pattern with the paths at which they are staged: their own ones in the project, and below `in/INPUT` for
/// external ones.
pub(crate) fn staged_files<'f>(
    input: &InputPlan,
    pattern: &str,
    position: Option<usize>,
    files: &'f [FoundFile],
) -> impl Iterator<Item = (String, &'f FoundFile)> {
    let root = input.external.then(|| {
        (
            external_cut(pattern, files),
            external_folder(input, position),
        )
    });
    files.iter().map(move |file| {
        let path = match &root {
            None => file.path.clone(),
            Some((cut, folder)) => {
                format!("{folder}/{}", file.path[*cut..].trim_start_matches('/'))
            }
        };
        (path, file)
    })
}

fn external_folder(input: &InputPlan, position: Option<usize>) -> String {
    let name = input.name.as_deref().unwrap_or("external");
    match position {
        Some(position) => format!("in/{name}/{position:06}"),
        None => format!("in/{name}"),
    }
}

/// How many bytes of the paths of external files are left out: a file or folder keeps its own name and what is below it,
/// and of what a glob finds what comes after the part without wildcards.
fn external_cut(pattern: &str, files: &[FoundFile]) -> usize {
    let Some(first) = files.first() else {
        return 0;
    };
    let fixed = match pattern.find(['*', '?', '[', '{']) {
        Some(at) => &pattern[..pattern[..at].rfind('/').map_or(0, |at| at + 1)],
        None => pattern.trim_end_matches('/'),
    };
    let shared = files.iter().fold(first.path.len(), |shared, file| {
        let same = first
            .path
            .bytes()
            .zip(file.path.bytes())
            .take_while(|(a, b)| a == b)
            .count();
        shared.min(same)
    });
    let shared = &first.path[..shared];
    // A relative pattern was resolved by who found the files: only its end is known.
    let known = fixed.trim_start_matches("../").trim_start_matches("./");
    let folder = match known.rfind('/') {
        _ if fixed.ends_with('/') => known.trim_end_matches('/'),
        Some(at) => &known[..at],
        None => "",
    };
    let last = known.rsplit('/').next().unwrap_or(known);
    let anchor = if fixed.ends_with('/') { folder } else { last };
    match shared.rfind(&format!("/{anchor}")) {
        Some(at) if fixed.ends_with('/') && !anchor.is_empty() => at + 1 + anchor.len(),
        Some(at) => at,
        None => shared.rfind('/').unwrap_or(0),
    }
}

/// The paths that `inputs.NAME` gives for a pattern of the project or of the machine.
pub(crate) fn project_paths(
    core: &Core,
    facts: &FactTable,
    input: &InputPlan,
    pattern: &str,
    position: Option<usize>,
) -> Vec<String> {
    if is_glob(pattern) {
        let found = core
            .patterns
            .find(pattern, input.external)
            .and_then(|ix| facts.facts.globs.get(ix))
            .map_or(&[][..], Vec::as_slice);
        return staged_files(input, pattern, position, found)
            .map(|(path, _)| path)
            .collect();
    }
    match input.external {
        false => vec![pattern.to_owned()],
        true => vec![format!(
            "{}/{}",
            external_folder(input, position),
            file_name(pattern)
        )],
    }
}

/// The artifact as it is staged: a JSON value as its file.
pub(crate) fn as_file(artifact: &Artifact) -> Artifact {
    match artifact {
        Artifact::Value { file, .. } => Artifact::File(*file),
        other => other.clone(),
    }
}

/// The last name of an output's path.
pub(crate) fn file_name(path: &str) -> &str {
    path.trim_end_matches('/')
        .rsplit('/')
        .next()
        .unwrap_or(path)
}

/// A path that was checked when the plan was made.
pub(crate) fn rel_path(path: &str) -> Result<RelPath, dagrun_model::FailureCause> {
    RelPath::new(path).map_err(|problem| dagrun_model::FailureCause::Staging {
        path: path.into(),
        reason: problem.to_string(),
        missing_blob: false,
    })
}
