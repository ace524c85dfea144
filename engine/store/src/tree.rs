//! Trees: folders as a manifest that is itself a blob.
//!
//! A manifest is text, so that people can read it, and canonical, so that equal folders have equal digests: the line
//! `dagrun-tree 1`, then one line for each entry, sorted by path, with fields between tabs: `d`, path; `f` or `x`
//! (executable), digest, size, path; `l`, target, path. Names can hold neither tabs nor line ends.

use std::path::Path;

use dagrun_model::{Artifact, BlobRef, Digest, RelPath};

use crate::{
    PutMode, Store,
    error::{At, StoreError},
    lease::Use,
};

/// The first line of a manifest.
const HEADER: &str = "dagrun-tree 1";

/// An entry of a tree.
#[derive(Clone, Debug, PartialEq)]
pub struct TreeEntry {
    /// Below the tree's folder.
    pub path: RelPath,
    /// What it is.
    pub kind: TreeKind,
}

/// What an entry of a tree is.
#[derive(Clone, Debug, PartialEq)]
pub enum TreeKind {
    /// A folder; listed before what it holds, also where it is empty.
    Folder,
    /// A file.
    File(BlobRef),
    /// A relative symlink that stays inside the tree.
    Symlink(String),
}

impl Store {
    /// Puts a folder with all that is in it.
    ///
    /// # Errors
    /// When something in it cannot be stored: a special file, a symlink that leaves the folder, a name that is not plain
    /// UTF-8 text.
    pub fn put_tree(&self, path: &Path, mode: PutMode) -> Result<Artifact, StoreError> {
        let meta = std::fs::symlink_metadata(path).at("read", path)?;
        if !meta.is_dir() {
            return Err(refused(path, "is not a folder; store it as a file"));
        }
        let root = path.canonicalize().at("resolve", path)?;
        let mut entries = Vec::new();
        self.put_folder(&root, &root, None, mode, &mut entries)?;
        entries.sort_unstable_by(|a, b| a.path.as_str().cmp(b.path.as_str()));
        let manifest = self.put_bytes(print(&entries).as_bytes())?;
        self.note(&[(Use::Tree, manifest.digest)])?;
        let (files, size) = totals(&entries);
        Ok(Artifact::Tree {
            digest: manifest.digest,
            size,
            files,
        })
    }

    /// The entries of a tree, sorted by path.
    ///
    /// # Errors
    /// When the manifest cannot be had, or is not one.
    pub fn read_tree(&self, digest: &Digest) -> Result<Vec<TreeEntry>, StoreError> {
        self.note(&[(Use::Tree, *digest)])?;
        parse(&self.read(digest)?).map_err(|why| StoreError::BadTree {
            digest: *digest,
            why,
        })
    }

    fn put_folder(
        &self,
        root: &Path,
        folder: &Path,
        below: Option<&RelPath>,
        mode: PutMode,
        entries: &mut Vec<TreeEntry>,
    ) -> Result<(), StoreError> {
        for entry in std::fs::read_dir(folder).at("list", folder)? {
            let entry = entry.at("list", folder)?;
            let full = entry.path();
            let path = plain_name(&full, below)?;
            let kind = entry.file_type().at("read", &full)?;
            let kind = if kind.is_dir() {
                self.put_folder(root, &full, Some(&path), mode, entries)?;
                TreeKind::Folder
            } else if kind.is_symlink() {
                TreeKind::Symlink(link_target(root, &full, &path)?)
            } else {
                TreeKind::File(self.put_file(&full, mode)?)
            };
            entries.push(TreeEntry { path, kind });
        }
        Ok(())
    }
}

/// How many files, and their bytes together.
pub(crate) fn totals(entries: &[TreeEntry]) -> (u64, u64) {
    let sizes = entries.iter().filter_map(|e| match &e.kind {
        TreeKind::File(blob) => Some(blob.size),
        _ => None,
    });
    sizes.fold((0, 0), |(files, bytes), size| {
        (files + 1, bytes.saturating_add(size))
    })
}

/// The text of a manifest.
pub(crate) fn print(entries: &[TreeEntry]) -> String {
    use std::fmt::Write;
    let mut text = String::with_capacity(16 + entries.len() * 100);
    text.push_str(HEADER);
    text.push('\n');
    for TreeEntry { path, kind } in entries {
        let line = match kind {
            TreeKind::Folder => writeln!(text, "d\t{path}"),
            TreeKind::File(blob) => {
                let kind = if blob.executable { 'x' } else { 'f' };
                writeln!(text, "{kind}\t{}\t{}\t{path}", blob.digest, blob.size)
            }
            TreeKind::Symlink(target) => writeln!(text, "l\t{target}\t{path}"),
        };
        line.expect("writing to a string cannot fail");
    }
    text
}

/// Reads a manifest, which may come from anywhere: only what [`print`] can have written is accepted.
pub(crate) fn parse(bytes: &[u8]) -> Result<Vec<TreeEntry>, String> {
    let text = std::str::from_utf8(bytes).map_err(|_| "it is not text".to_owned())?;
    let mut lines = text.strip_suffix('\n').unwrap_or(text).split('\n');
    if lines.next() != Some(HEADER) {
        return Err(format!("it does not begin with `{HEADER}`"));
    }
    let mut entries: Vec<TreeEntry> = Vec::new();
    for line in lines {
        let entry = parse_line(line).ok_or_else(|| format!("bad line {line:?}"))?;
        if entries
            .last()
            .is_some_and(|last| last.path.as_str() >= entry.path.as_str())
        {
            return Err(format!("`{}` is out of order", entry.path));
        }
        entries.push(entry);
    }
    check_parents(&entries)?;
    if print(&entries).as_bytes() == bytes {
        Ok(entries)
    } else {
        Err("it is not in canonical form".into())
    }
}

/// Every entry lies in a folder that is listed: nothing can be written through a symlink.
fn check_parents(entries: &[TreeEntry]) -> Result<(), String> {
    let folders: rustc_hash::FxHashSet<&str> = entries
        .iter()
        .filter(|e| e.kind == TreeKind::Folder)
        .map(|e| e.path.as_str())
        .collect();
    for entry in entries {
        if let Some(parent) = entry.path.parent()
            && !folders.contains(parent.as_str())
        {
            return Err(format!("`{}` is not in a folder of the tree", entry.path));
        }
    }
    Ok(())
}

fn parse_line(line: &str) -> Option<TreeEntry> {
    let fields: Vec<&str> = line.split('\t').collect();
    let (kind, path) = match *fields {
        ["d", path] => (TreeKind::Folder, path),
        [kind @ ("f" | "x"), digest, size, path] => (
            TreeKind::File(BlobRef {
                digest: digest.parse().ok()?,
                size: size.parse().ok()?,
                executable: kind == "x",
            }),
            path,
        ),
        ["l", target, path] => {
            let at = RelPath::new(path).ok()?;
            stays_inside(&at, target).then_some(())?;
            (TreeKind::Symlink(target.to_owned()), path)
        }
        _ => return None,
    };
    Some(TreeEntry {
        path: RelPath::new(path).ok()?,
        kind,
    })
}

/// Whether a symlink at `path` with this target stays in the tree, by its text.
fn stays_inside(path: &RelPath, target: &str) -> bool {
    if target.is_empty() || target.starts_with('/') || target.chars().any(char::is_control) {
        return false;
    }
    let mut depth = path.as_str().matches('/').count();
    for name in target.split('/') {
        match name {
            "" | "." => {}
            ".." if depth == 0 => return false,
            ".." => depth -= 1,
            _ => depth += 1,
        }
    }
    true
}

fn link_target(root: &Path, full: &Path, path: &RelPath) -> Result<String, StoreError> {
    let target = std::fs::read_link(full).at("read", full)?;
    // The text alone does not decide: `a/../b` is elsewhere where `a` is itself a symlink.
    let escapes = full
        .canonicalize()
        .is_ok_and(|real| !real.starts_with(root));
    target
        .to_str()
        .filter(|target| !escapes && stays_inside(path, target))
        .map(str::to_owned)
        .ok_or_else(|| {
            let why = format!(
                "is a symlink to {} that leaves its output folder; copy the file instead",
                target.display()
            );
            refused(full, &why)
        })
}

fn plain_name(full: &Path, below: Option<&RelPath>) -> Result<RelPath, StoreError> {
    let name = full
        .file_name()
        .and_then(|name| name.to_str())
        .ok_or_else(|| refused(full, "has a name that is not UTF-8; rename it"))?;
    let name = RelPath::new(name)
        .map_err(|_| refused(full, "has a control character in its name; rename it"))?;
    Ok(match below {
        Some(below) => below.join(&name),
        None => name,
    })
}

fn refused(path: &Path, why: &str) -> StoreError {
    StoreError::Refused {
        path: path.into(),
        why: why.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest(lines: &str) -> Result<Vec<TreeEntry>, String> {
        parse(format!("{HEADER}\n{lines}").as_bytes())
    }

    #[test]
    fn manifests_round_trip() {
        let digest = Digest::of(b"x");
        let text = format!("d\ta\nf\t{digest}\t1\ta/b\nl\t../c\ta/l\nx\t{digest}\t1\tc\n");
        let entries = manifest(&text).unwrap();
        assert_eq!(entries.len(), 4);
        assert_eq!(totals(&entries), (2, 2));
        assert_eq!(print(&entries), format!("{HEADER}\n{text}"));
        assert_eq!(manifest("").unwrap(), []);
    }

    #[test]
    fn hostile_manifests_are_refused() {
        let digest = Digest::of(b"x");
        for bad in [
            "d\t../a\n".to_owned(),
            "d\t/a\n".into(),
            "d\tb\nd\ta\n".into(),
            "d\ta\nd\ta\n".into(),
            "l\t/etc\ta\n".into(),
            "l\t../x\ta\n".into(),
            "l\tb/../../x\ta\n".into(),
            format!("l\t.\ta\nf\t{digest}\t1\ta/b\n"),
            format!("f\t{digest}\t01\ta\n"),
            format!("f\t{digest}\ta\n"),
            "d\ta\n\n".into(),
            "d\ta//b\n".into(),
            "d\ta".into(),
            "z\n".into(),
        ] {
            assert!(manifest(&bad).is_err(), "{bad:?}");
        }
        assert!(parse(b"").is_err());
    }
}
