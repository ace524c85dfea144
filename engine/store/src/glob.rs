//! Glob patterns over the workspace: `*`, `**`, `?`, `[..]`, `{a,b}`.
//!
//! Wildcards match neither a leading dot nor `.git`. A last name without wildcards may be a folder and stands for all files
//! below it; a last name with wildcards stands for files, and for folders only with a `/` after it. Knows nothing of
//! hashes.

use std::{
    fs::Metadata,
    path::{Component, Path, PathBuf},
};

use rustc_hash::FxHashMap;

use crate::hashes::{FileError, is_loop};

/// Patterns that one with braces stands for.
const MAX_ALTERNATIVES: usize = 1000;
/// Folders inside each other, against endless chains of symlinks.
const MAX_DEPTH: usize = 200;

/// A file that a pattern stands for.
#[derive(Debug)]
pub(crate) struct Found {
    /// What it is known by.
    pub(crate) name: String,
    /// Where it is.
    pub(crate) path: PathBuf,
    /// How it looks, where that had to be asked anyway.
    pub(crate) meta: Option<Metadata>,
}

/// Whether a text is a pattern rather than a plain path.
pub(crate) fn has_wildcard(text: &str) -> bool {
    text.contains(['*', '?', '[', '{'])
}

/// Expands patterns below one root, and remembers which folders really lie in it.
pub(crate) struct Walk {
    root: PathBuf,
    /// The root, for looks at files from there: their paths are shorter.
    folder: Option<std::fs::File>,
    external: bool,
    found: Vec<(String, PathBuf)>,
    /// Whether something really lies in the root, by its path.
    inside: FxHashMap<PathBuf, bool>,
    /// Whether a folder is reached from the root without a symlink, by its path relative to it.
    straight: FxHashMap<String, bool>,
}

impl Walk {
    pub(crate) fn new(root: &Path) -> std::io::Result<Self> {
        let root = root.canonicalize()?;
        Ok(Self {
            folder: std::fs::File::open(&root).ok(),
            root,
            external: false,
            found: Vec::new(),
            inside: FxHashMap::default(),
            straight: FxHashMap::default(),
        })
    }

    /// The files that a pattern stands for, sorted, each once.
    pub(crate) fn expand(
        &mut self,
        pattern: &str,
        external: bool,
    ) -> Result<Vec<Found>, FileError> {
        if let Some(found) = self.plain_file(pattern) {
            return Ok(vec![found]);
        }
        let alternatives = braces(pattern).map_err(|why| FileError::Pattern {
            pattern: pattern.into(),
            why,
        })?;
        let plain = alternatives.len() == 1 && !has_wildcard(pattern);
        self.external = external;
        self.found.clear();
        for alternative in &alternatives {
            self.pattern(alternative, plain)?;
        }
        let mut found = std::mem::take(&mut self.found);
        found.sort_unstable();
        found.dedup();
        let found = found.into_iter().map(|(name, path)| Found {
            name,
            path,
            meta: None,
        });
        Ok(found.collect())
    }

    /// Whether a pattern is a relative path with no symlink on its way.
    fn is_plain(&mut self, pattern: &str) -> bool {
        let is_name = |name: &str| !matches!(name, "" | "." | "..");
        if has_wildcard(pattern) || !pattern.split('/').all(is_name) {
            return false;
        }
        match pattern.rsplit_once('/') {
            Some((folder, _)) => self.is_straight(folder),
            None => true,
        }
    }

    /// How a regular file looks that a plain pattern names; `None` also where that has to be found out another way.
    pub(crate) fn look(&mut self, pattern: &str) -> Option<rustix::fs::Stat> {
        if !self.is_plain(pattern) {
            return None;
        }
        let flags = rustix::fs::AtFlags::SYMLINK_NOFOLLOW;
        let stat = rustix::fs::statat(self.folder.as_ref()?, pattern, flags).ok()?;
        let kind = rustix::fs::FileType::from_raw_mode(stat.st_mode);
        (kind == rustix::fs::FileType::RegularFile).then_some(stat)
    }

    /// The common case with one look at the disk: a relative path to a regular file, with no symlink on its way.
    fn plain_file(&mut self, pattern: &str) -> Option<Found> {
        if !self.is_plain(pattern) {
            return None;
        }
        let path = self.root.join(pattern);
        let meta = std::fs::symlink_metadata(&path)
            .ok()
            .filter(Metadata::is_file)?;
        Some(Found {
            name: pattern.into(),
            path,
            meta: Some(meta),
        })
    }

    fn is_straight(&mut self, folder: &str) -> bool {
        if let Some(known) = self.straight.get(folder) {
            return *known;
        }
        let mut ends = folder
            .match_indices('/')
            .map(|(at, _)| at)
            .collect::<Vec<_>>();
        ends.push(folder.len());
        let is_folder = |end: usize| {
            std::fs::symlink_metadata(self.root.join(&folder[..end])).is_ok_and(|m| m.is_dir())
        };
        let straight = ends.into_iter().all(is_folder);
        self.straight.insert(folder.into(), straight);
        straight
    }

    fn pattern(&mut self, pattern: &str, plain: bool) -> Result<(), FileError> {
        let folders = pattern.ends_with('/');
        let pattern = self.normal(pattern)?;
        let names: Vec<&str> = pattern.split('/').filter(|n| !n.is_empty()).collect();
        let (start, known_as) = if pattern.starts_with('/') {
            (PathBuf::from("/"), String::from("/"))
        } else {
            (self.root.clone(), String::new())
        };
        let before = self.found.len();
        self.step(&start, &known_as, &names, folders, 0)?;
        if plain && self.found.len() == before {
            let path = start.join(names.join("/"));
            // An empty folder is a folder all the same.
            if !path.is_dir() {
                return Err(FileError::Missing { path: pattern });
            }
        }
        Ok(())
    }

    /// The pattern without `.` and `..`, relative to the root or absolute.
    fn normal(&self, pattern: &str) -> Result<String, FileError> {
        let escapes = || FileError::Outside {
            path: pattern.into(),
        };
        let mut path = PathBuf::new();
        let mut outside = false;
        if pattern.starts_with('/') {
            outside = true;
        }
        for component in Path::new(pattern).components() {
            match component {
                Component::CurDir => {}
                Component::RootDir | Component::Prefix(_) => path.push("/"),
                Component::Normal(name) => path.push(name),
                Component::ParentDir => {
                    if !outside && path.as_os_str().is_empty() {
                        outside = true;
                        path = self.root.clone();
                    }
                    path.pop();
                }
            }
        }
        if outside && !self.external {
            return Err(escapes());
        }
        path.into_os_string().into_string().map_err(|_| escapes())
    }

    fn step(
        &mut self,
        folder: &Path,
        known_as: &str,
        names: &[&str],
        folders: bool,
        depth: usize,
    ) -> Result<(), FileError> {
        let Some((name, rest)) = names.split_first() else {
            return self.below(folder, known_as, depth);
        };
        if depth > MAX_DEPTH {
            return Err(FileError::Loop {
                path: folder.to_path_buf(),
            });
        }
        if *name == "**" {
            self.step_or_files(folder, known_as, rest, folders, depth)?;
            for (child, is_folder, is_link) in self.children(folder)? {
                if is_folder && !is_link && !child.starts_with('.') {
                    let next = join(known_as, &child);
                    self.step(&folder.join(&child), &next, names, folders, depth + 1)?;
                }
            }
            return Ok(());
        }
        if !has_wildcard(name) {
            let path = folder.join(name);
            let next = join(known_as, name);
            return match std::fs::metadata(&path) {
                Ok(meta) if meta.is_dir() => {
                    self.check(&path)?;
                    self.step(&path, &next, rest, folders, depth + 1)
                }
                Ok(_) if rest.is_empty() && !folders => {
                    let is_link = path.is_symlink();
                    self.file(&path, next, is_link)
                }
                Ok(_) => Ok(()),
                Err(error) if missing(&error) => Ok(()),
                Err(error) => Err(FileError::io(&path, error)),
            };
        }
        for (child, is_folder, is_link) in self.children(folder)? {
            let hidden = child.starts_with('.') && !name.starts_with('.');
            if hidden || child == ".git" || !matches(name, &child) {
                continue;
            }
            let path = folder.join(&child);
            let next = join(known_as, &child);
            if is_folder {
                if !rest.is_empty() || folders {
                    self.check(&path)?;
                    self.step(&path, &next, rest, folders, depth + 1)?;
                }
            } else if rest.is_empty() && !folders {
                self.file(&path, next, is_link)?;
            }
        }
        Ok(())
    }

    /// What `**` matches without going deeper.
    fn step_or_files(
        &mut self,
        folder: &Path,
        known_as: &str,
        rest: &[&str],
        folders: bool,
        depth: usize,
    ) -> Result<(), FileError> {
        if !rest.is_empty() {
            return self.step(folder, known_as, rest, folders, depth);
        }
        for (child, is_folder, is_link) in self.children(folder)? {
            if !is_folder && !child.starts_with('.') {
                self.file(&folder.join(&child), join(known_as, &child), is_link)?;
            }
        }
        Ok(())
    }

    /// All files below a folder that was named itself: dotfiles too, but not `.git`.
    fn below(&mut self, folder: &Path, known_as: &str, depth: usize) -> Result<(), FileError> {
        for (child, is_folder, is_link) in self.children(folder)? {
            let path = folder.join(&child);
            let next = join(known_as, &child);
            if child == ".git" || child == ".dagrun" {
                continue;
            }
            if !is_folder {
                self.file(&path, next, is_link)?;
            } else if depth > MAX_DEPTH || (is_link && leads_up(&path, folder)) {
                return Err(FileError::Loop { path });
            } else {
                if is_link {
                    self.check(&path)?;
                }
                self.below(&path, &next, depth + 1)?;
            }
        }
        Ok(())
    }

    fn file(&mut self, path: &Path, known_as: String, is_link: bool) -> Result<(), FileError> {
        if is_link {
            self.check(path)?;
        }
        self.found.push((known_as, path.to_path_buf()));
        Ok(())
    }

    /// Refuses what leads out of the root by a symlink.
    fn check(&mut self, path: &Path) -> Result<(), FileError> {
        if self.external {
            return Ok(());
        }
        if let Some(inside) = self.inside.get(path) {
            match inside {
                true => return Ok(()),
                false => return Err(outside(path)),
            }
        }
        let real = path.canonicalize();
        if let Err(error) = &real
            && is_loop(error)
        {
            return Err(FileError::Loop {
                path: path.to_path_buf(),
            });
        }
        let inside = real.is_ok_and(|real| real.starts_with(&self.root));
        self.inside.insert(path.to_path_buf(), inside);
        if inside {
            return Ok(());
        }
        Err(outside(path))
    }

    /// Names in a folder, sorted: whether each is a folder, and whether it is a symlink.
    fn children(&self, folder: &Path) -> Result<Vec<(String, bool, bool)>, FileError> {
        let mut children = Vec::new();
        let entries = match std::fs::read_dir(folder) {
            Ok(entries) => entries,
            Err(error) if missing(&error) => return Ok(children),
            Err(error) => return Err(FileError::io(folder, error)),
        };
        for entry in entries {
            let entry = entry.map_err(|e| FileError::io(folder, e))?;
            let path = entry.path();
            let Ok(name) = entry.file_name().into_string() else {
                return Err(FileError::Name { path });
            };
            if name.chars().any(char::is_control) {
                return Err(FileError::Name { path });
            }
            let kind = entry.file_type().map_err(|e| FileError::io(&path, e))?;
            let is_link = kind.is_symlink();
            // A symlink that leads nowhere is a file, and fails when it is hashed.
            let is_folder = kind.is_dir() || (is_link && path.is_dir());
            children.push((name, is_folder, is_link));
        }
        children.sort_unstable();
        Ok(children)
    }
}

fn outside(path: &Path) -> FileError {
    FileError::Outside {
        path: path.display().to_string(),
    }
}

/// Whether a symlink leads to the folder that it stands in, or to one above that.
fn leads_up(link: &Path, folder: &Path) -> bool {
    match (link.canonicalize(), folder.canonicalize()) {
        (Ok(target), Ok(folder)) => folder.starts_with(target),
        _ => false,
    }
}

fn missing(error: &std::io::Error) -> bool {
    use std::io::ErrorKind as Kind;
    matches!(error.kind(), Kind::NotFound | Kind::NotADirectory)
}

fn join(known_as: &str, name: &str) -> String {
    if known_as.is_empty() || known_as.ends_with('/') {
        format!("{known_as}{name}")
    } else {
        format!("{known_as}/{name}")
    }
}

/// The patterns without braces that one stands for.
fn braces(pattern: &str) -> Result<Vec<String>, String> {
    let mut done = Vec::new();
    let mut open = vec![pattern.to_owned()];
    while let Some(text) = open.pop() {
        let Some((before, parts, after)) = first_braces(&text)? else {
            done.push(text);
            continue;
        };
        for part in parts {
            open.push(format!("{before}{part}{after}"));
        }
        if open.len() + done.len() > MAX_ALTERNATIVES {
            return Err(format!(
                "stands for more than {MAX_ALTERNATIVES} patterns; use a wildcard"
            ));
        }
    }
    Ok(done)
}

type Braces<'a> = (&'a str, Vec<&'a str>, &'a str);

/// The outermost first pair of braces: what is before it, its parts, what is after it.
fn first_braces(text: &str) -> Result<Option<Braces<'_>>, String> {
    let Some(start) = text.find('{') else {
        return Ok(None);
    };
    let mut depth = 0;
    let mut part = start + 1;
    let mut parts = Vec::new();
    for (at, c) in text[start..].char_indices() {
        let at = at + start;
        match c {
            '{' => depth += 1,
            ',' if depth == 1 => {
                parts.push(&text[part..at]);
                part = at + 1;
            }
            '}' => {
                depth -= 1;
                if depth == 0 {
                    parts.push(&text[part..at]);
                    return Ok(Some((&text[..start], parts, &text[at + 1..])));
                }
            }
            _ => {}
        }
    }
    Err("has a `{` without its `}`; close it".into())
}

/// Whether a name matches a pattern without braces and slashes.
pub(crate) fn matches(pattern: &str, name: &str) -> bool {
    let pattern: Vec<char> = pattern.chars().collect();
    let name: Vec<char> = name.chars().collect();
    let (mut p, mut n) = (0, 0);
    // Where to go on when a star has to take one more character.
    let mut star = None;
    while n < name.len() {
        if pattern.get(p) == Some(&'*') {
            star = Some((p, n));
            p += 1;
            continue;
        }
        match one(&pattern[p..], name[n]) {
            Some(used) => {
                p += used;
                n += 1;
            }
            None => match star {
                Some((at, taken)) => {
                    star = Some((at, taken + 1));
                    p = at + 1;
                    n = taken + 1;
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|c| *c == '*')
}

/// How many characters of the pattern match one character of the name, if they do.
fn one(pattern: &[char], c: char) -> Option<usize> {
    match pattern.first()? {
        '?' => Some(1),
        '[' => match set(pattern, c) {
            Some((hit, used)) => hit.then_some(used),
            // Without its end it is an ordinary character.
            None => (c == '[').then_some(1),
        },
        plain => (*plain == c).then_some(1),
    }
}

/// Whether `c` is in the set at the start of the pattern, and how long the set is.
fn set(pattern: &[char], c: char) -> Option<(bool, usize)> {
    let negated = matches!(pattern.get(1), Some('!' | '^'));
    let first = 1 + usize::from(negated);
    let end = first + 1 + pattern.get(first + 1..)?.iter().position(|c| *c == ']')?;
    let (mut at, mut hit) = (first, false);
    while at < end {
        if at + 2 < end && pattern[at + 1] == '-' {
            hit |= (pattern[at]..=pattern[at + 2]).contains(&c);
            at += 3;
        } else {
            hit |= pattern[at] == c;
            at += 1;
        }
    }
    Some((hit != negated, end + 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_match_patterns() {
        for (pattern, yes, no) in [
            ("*", &["a", "a.b"][..], &[][..]),
            ("*.rs", &["a.rs", ".rs"], &["a.r", "a.rsx"]),
            ("a?c", &["abc", "aüc"], &["ac", "abbc"]),
            ("[a-c]x", &["ax", "cx"], &["dx", "x"]),
            ("[!a]x", &["bx"], &["ax"]),
            ("[]]", &["]"], &["a"]),
            ("[a", &["[a"], &["a"]),
            ("*a*b*", &["ab", "xaxbx", "aab"], &["ba"]),
            (
                "a*a*a*a*a*b",
                &[],
                &["aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"],
            ),
        ] {
            for name in yes {
                assert!(matches(pattern, name), "{pattern} {name}");
            }
            for name in no {
                assert!(!matches(pattern, name), "{pattern} {name}");
            }
        }
    }

    #[test]
    fn braces_stand_for_alternatives() {
        let mut found = braces("a{b,c{d,e}}f{,g}").unwrap();
        found.sort_unstable();
        assert_eq!(found, ["abf", "abfg", "acdf", "acdfg", "acef", "acefg"]);
        assert!(braces("a{b").is_err());
        assert!(braces(&"{a,b}".repeat(11)).is_err());
    }

    fn expand(
        root: &Path,
        pattern: &str,
        external: bool,
    ) -> Result<Vec<(String, PathBuf)>, FileError> {
        let found = Walk::new(root).unwrap().expand(pattern, external)?;
        Ok(found.into_iter().map(|f| (f.name, f.path)).collect())
    }

    fn check(pattern: &str, expected: &[&str]) {
        let folder = tempfile::tempdir().unwrap();
        for file in [
            "Cargo.toml",
            "Cargo.lock",
            ".env",
            ".git/config",
            "a/Cargo.toml",
            "a/src/lib.rs",
            "a/src/.hidden",
            "a/src/deep/x.rs",
            "b/Cargo.toml",
            ".github/ci.yml",
        ] {
            let path = folder.path().join(file);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "x").unwrap();
        }
        let found = expand(folder.path(), pattern, false).unwrap();
        let names: Vec<_> = found.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, expected, "{pattern}");
    }

    #[test]
    fn patterns_find_files() {
        check("Cargo.{toml,lock}", &["Cargo.lock", "Cargo.toml"]);
        check("*/Cargo.toml", &["a/Cargo.toml", "b/Cargo.toml"]);
        check("a/src/**", &["a/src/deep/x.rs", "a/src/lib.rs"]);
        check("**/*.rs", &["a/src/deep/x.rs", "a/src/lib.rs"]);
        check(
            "**/Cargo.toml",
            &["Cargo.toml", "a/Cargo.toml", "b/Cargo.toml"],
        );
        check("*", &["Cargo.lock", "Cargo.toml"]);
        check(
            "a/src",
            &["a/src/.hidden", "a/src/deep/x.rs", "a/src/lib.rs"],
        );
        check("./a//src/lib.rs", &["a/src/lib.rs"]);
        check("b/../a/src/lib.rs", &["a/src/lib.rs"]);
        check(".github/*", &[".github/ci.yml"]);
        check(".e*", &[".env"]);
        check("*.none", &[]);
        check("{a,none}/Cargo.toml", &["a/Cargo.toml"]);
        check(
            "?/",
            &[
                "a/Cargo.toml",
                "a/src/.hidden",
                "a/src/deep/x.rs",
                "a/src/lib.rs",
                "b/Cargo.toml",
            ],
        );
    }

    #[test]
    fn what_is_missing_or_outside_is_an_error() {
        let outer = tempfile::tempdir().unwrap();
        let root = outer.path().join("root");
        std::fs::create_dir(&root).unwrap();
        std::fs::write(outer.path().join("secret"), "x").unwrap();
        std::os::unix::fs::symlink("../secret", root.join("link")).unwrap();
        std::os::unix::fs::symlink("..", root.join("up")).unwrap();
        let fails = |pattern: &str| expand(&root, pattern, false).unwrap_err();
        assert!(matches!(fails("nothing"), FileError::Missing { .. }));
        for outside in ["../secret", "/etc/passwd", "link", "up/secret", "l*", "up"] {
            assert!(
                matches!(fails(outside), FileError::Outside { .. }),
                "{outside}"
            );
        }
        let real = outer.path().canonicalize().unwrap().join("secret");
        for (target, link) in [("l2", "l1"), ("l1", "l2"), (".", "here")] {
            std::os::unix::fs::symlink(target, root.join(link)).unwrap();
        }
        std::fs::create_dir_all(root.join("data/deep")).unwrap();
        std::os::unix::fs::symlink("../..", root.join("data/deep/back")).unwrap();
        std::os::unix::fs::symlink("deep", root.join("data/twice")).unwrap();
        for (pattern, at) in [
            ("l1", "root/l1"),
            ("l[12]", "root/l1"),
            ("data", "root/data/deep/back"),
            ("here/data/deep/", "root/here/data/deep/back"),
        ] {
            match fails(pattern) {
                FileError::Loop { path } => assert!(path.ends_with(at), "{pattern}: {path:?}"),
                other => panic!("{pattern}: {other}"),
            }
        }
        let found = expand(&root, "../secret", true).unwrap();
        assert_eq!(found, [(real.display().to_string(), real)]);
    }

    /// What a walk remembers of folders must not let a later pattern out.
    #[test]
    fn one_walk_refuses_the_same_as_many() {
        let outer = tempfile::tempdir().unwrap();
        let root = outer.path().join("root");
        std::fs::create_dir_all(root.join("a/b")).unwrap();
        for file in ["root/a/b/f", "root/a/f", "secret"] {
            std::fs::write(outer.path().join(file), "x").unwrap();
        }
        std::os::unix::fs::symlink("..", root.join("up")).unwrap();
        std::os::unix::fs::symlink("a", root.join("in")).unwrap();
        std::os::unix::fs::symlink("../../../secret", root.join("a/b/link")).unwrap();
        let mut walk = Walk::new(&root).unwrap();
        for _ in 0..2 {
            for (pattern, expected) in [
                ("a/b/f", Some("a/b/f")),
                ("in/b/f", Some("in/b/f")),
                ("a/f", Some("a/f")),
                ("up/secret", None),
                ("up/root/a/f", None),
                ("a/b/link", None),
                ("a/../../secret", None),
            ] {
                let found = walk.expand(pattern, false);
                let names = found.map(|f| f.iter().map(|f| f.name.clone()).collect::<Vec<_>>());
                match expected {
                    Some(name) => assert_eq!(names.unwrap(), [name]),
                    None => assert!(matches!(names, Err(FileError::Outside { .. })), "{pattern}"),
                }
            }
            assert_eq!(walk.expand("up/secret", true).unwrap().len(), 1);
        }
    }
}
