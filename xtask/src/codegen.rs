//! Protobuf to Rust: `cargo xtask codegen` writes `executors/proto/src/generated`, with `--check` it compares.
//!
//! The generated code is checked in, so that nobody needs a protobuf compiler to build dagrun.

use std::path::Path;

use prost::Message;

use crate::tools::root;

const PROTO: &str = "executors/proto/proto";
const FILES: &[&str] = &["dagrun/cluster/v1/cluster.proto"];
const GENERATED: &str = "executors/proto/src/generated";

/// Writes the generated files, or names those that differ.
pub(crate) fn codegen(check: bool) -> Result<(), String> {
    let target = root().join(GENERATED);
    let fresh = if check {
        root().join("target/codegen")
    } else {
        target.clone()
    };
    generate(&fresh)?;
    if !check {
        return Ok(());
    }
    for entry in list(&fresh)? {
        let (made, kept) = (read(&fresh.join(&entry))?, read(&target.join(&entry))?);
        if made != kept {
            return Err(format!(
                "{GENERATED}/{entry} is not what the protobuf files give; run `cargo xtask codegen`"
            ));
        }
    }
    Ok(())
}

fn generate(folder: &Path) -> Result<(), String> {
    std::fs::create_dir_all(folder).map_err(|error| error.to_string())?;
    let files = FILES.iter().map(|file| root().join(PROTO).join(file));
    let set = protox::compile(files, [root().join(PROTO)]).map_err(|error| format!("{error:?}"))?;
    let mut listed = set.clone();
    for file in &mut listed.file {
        // Positions of comments are no part of what lists the calls.
        file.source_code_info = None;
    }
    std::fs::write(folder.join("descriptors.bin"), listed.encode_to_vec())
        .map_err(|error| error.to_string())?;
    tonic_prost_build::configure()
        .out_dir(folder)
        .bytes(".")
        .btree_map(".")
        .emit_rerun_if_changed(false)
        .compile_fds(set)
        .map_err(|error| error.to_string())
}

fn list(folder: &Path) -> Result<Vec<String>, String> {
    let entries = std::fs::read_dir(folder).map_err(|error| error.to_string())?;
    Ok(entries
        .filter_map(|entry| Some(entry.ok()?.file_name().to_string_lossy().into_owned()))
        .collect())
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    std::fs::read(path).map_err(|error| format!("cannot read {}: {error}", path.display()))
}
