//! Whether a path is one that a pattern of inputs would find. Knows the language's globs and no files.

use crate::facts::is_glob;

/// How many alternatives of braces are looked at.
const MAX_ALTERNATIVES: usize = 64;

/// Whether a pattern finds a path of the project: `*`, `**`, `?`, `[..]` and `{a,b}`; a plain path also finds what is below it.
pub(crate) fn finds(pattern: &str, path: &str) -> bool {
    if !is_glob(pattern) {
        let rest = path.strip_prefix(pattern.trim_end_matches('/'));
        return rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
    }
    let mut alternatives = Vec::new();
    braces(pattern, &mut alternatives);
    let path: Vec<&str> = path.split('/').collect();
    alternatives.iter().any(|alternative| {
        let names: Vec<&str> = alternative.split('/').filter(|n| !n.is_empty()).collect();
        find_names(&names, &path, alternative.ends_with('/'))
    })
}

fn braces(pattern: &str, out: &mut Vec<String>) {
    let inner = pattern
        .find('}')
        .and_then(|close| Some((pattern[..close].rfind('{')?, close)));
    match inner {
        None => out.push(pattern.to_owned()),
        Some((open, close)) => {
            for choice in pattern[open + 1..close].split(',') {
                if out.len() < MAX_ALTERNATIVES {
                    braces(
                        &format!("{}{choice}{}", &pattern[..open], &pattern[close + 1..]),
                        out,
                    );
                }
            }
        }
    }
}

/// `below`: the pattern ends in `/` and stands for all that is in the folders that it finds.
fn find_names(names: &[&str], path: &[&str], below: bool) -> bool {
    match (names, path) {
        ([], []) => !below,
        ([], _) => below,
        (["**"], [_, ..]) => path.iter().all(|name| !name.starts_with('.')),
        (["**", rest @ ..], [first, deeper @ ..]) => {
            find_names(rest, path, below)
                || (!first.starts_with('.') && find_names(names, deeper, below))
        }
        ([name, rest @ ..], [first, deeper @ ..]) => {
            let hidden = first.starts_with('.') && !name.starts_with('.');
            let name: Vec<char> = name.chars().collect();
            let first: Vec<char> = first.chars().collect();
            !hidden && find_name(&name, &first) && find_names(rest, deeper, below)
        }
        (_, []) => false,
    }
}

/// One name, with a way back to the last `*` only.
fn find_name(pattern: &[char], name: &[char]) -> bool {
    let (mut p, mut n) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while n < name.len() {
        match pattern.get(p) {
            Some('*') => {
                star = Some((p, n));
                p += 1;
                continue;
            }
            Some(_) => {
                if let Some(next) = one(pattern, p, name[n]) {
                    (p, n) = (next, n + 1);
                    continue;
                }
            }
            None => {}
        }
        let Some((at, from)) = star else {
            return false;
        };
        star = Some((at, from + 1));
        (p, n) = (at + 1, from + 1);
    }
    pattern[p..].iter().all(|c| *c == '*')
}

/// The place after what matches one character, where it does.
fn one(pattern: &[char], at: usize, c: char) -> Option<usize> {
    match pattern[at] {
        '?' => Some(at + 1),
        '[' => {
            let negated = matches!(pattern.get(at + 1), Some('!' | '^'));
            let first = at + 1 + usize::from(negated);
            // A bracket that comes first is one of the characters.
            let length = pattern.get(first + 1..)?.iter().position(|c| *c == ']')?;
            let set = &pattern[first..first + 1 + length];
            let mut found = false;
            let mut ix = 0;
            while ix < set.len() {
                match set[ix..] {
                    [low, '-', high, ..] => {
                        found |= (low..=high).contains(&c);
                        ix += 3;
                    }
                    _ => {
                        found |= set[ix] == c;
                        ix += 1;
                    }
                }
            }
            (found != negated).then_some(first + length + 2)
        }
        literal => (literal == c).then_some(at + 1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_find_paths() {
        for (pattern, yes, no) in [
            ("a.txt", &["a.txt"][..], &["b/a.txt", "a.txt2"][..]),
            ("data/", &["data/x", "data/y/z"], &["data2/x"]),
            (
                "*.txt",
                &["a.txt", ".txt.txt.txt"][..1],
                &["b/a.txt", ".a.txt", "a.csv"],
            ),
            ("**", &["a", "b/c"], &["b/.c", ".b/c"]),
            (
                "r/**/*.csv",
                &["r/a.csv", "r/b/c/a.csv"],
                &["r/a.txt", "a.csv"],
            ),
            ("r/*/", &["r/a/b"], &["r/a"]),
            (
                "{a,b{c,d}}?.x",
                &["a1.x", "bc1.x", "bd1.x"],
                &["b1.x", "a.x"],
            ),
            ("[a-c][!x]", &["ab", "cc"], &["ax", "db"]),
            ("[]a]", &["]", "a"], &["b"]),
            ("*a*b*", &["ab", "xaxbx"], &["ba"]),
        ] {
            for path in yes {
                assert!(finds(pattern, path), "{pattern} {path}");
            }
            for path in no {
                assert!(!finds(pattern, path), "{pattern} {path}");
            }
        }
    }
}
