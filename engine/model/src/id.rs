//! Typed ids. Dense indices are numbers with a type, never strings.

use std::fmt;

use serde::{Deserialize, Serialize};

macro_rules! dense_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
        pub struct $name(pub u32);

        impl $name {
            /// The position in a dense table.
            pub fn index(self) -> usize {
                self.0 as usize
            }

            /// The id of a position.
            ///
            /// # Panics
            /// When there are more than `u32::MAX` of them, which the planner's budget rules out.
            pub fn from_index(index: usize) -> Self {
                Self(u32::try_from(index).expect("the planner's budget keeps tables below 2^32"))
            }
        }
    };
}

dense_id!(
    /// A job of a pipeline, by its position in the file.
    JobIx
);
dense_id!(
    /// A distinct node of a plan, after deduplication.
    NodeIx
);
dense_id!(
    /// An input set of a plan.
    SetIx
);
dense_id!(
    /// A fused group of a plan.
    GroupIx
);
dense_id!(
    /// A host of a run: workers of one host share a blob store.
    HostIx
);
dense_id!(
    /// A worker of a run.
    WorkerIx
);

/// One try at a node, unique within a run and never used again.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct AttemptId(pub u64);

impl fmt::Display for AttemptId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a{}", self.0)
    }
}

/// The id of a run: sortable by start time, unique on a workspace, safe in file names.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct RunId(pub String);

impl fmt::Display for RunId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Writes the logical id of a node: `job[axis=value,...]`, or `job` where there is no axis.
///
/// Values of `[A-Za-z0-9_.+-]+` stand bare, others as JSON strings.
pub fn logical_id<'a, V: AsRef<str>>(
    job: &str,
    axes: impl IntoIterator<Item = (&'a str, V)>,
) -> String {
    let mut text = String::with_capacity(job.len() + 32);
    text.push_str(job);
    let mut open = false;
    for (axis, value) in axes {
        let value = value.as_ref();
        text.push(if open { ',' } else { '[' });
        open = true;
        text.push_str(axis);
        text.push('=');
        if is_bare(value) {
            text.push_str(value);
        } else {
            text.push_str(&serde_json::Value::from(value).to_string());
        }
    }
    if open {
        text.push(']');
    }
    text
}

fn is_bare(value: &str) -> bool {
    !value.is_empty()
        && value
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'+' | b'-'))
}

/// The job and the axes of a logical id; `None` where it is not written as one. A bare value may hold anything but what
/// would end it, as people write it.
pub fn parse_logical_id(id: &str) -> Option<(&str, Vec<(String, String)>)> {
    let Some((job, rest)) = id.split_once('[') else {
        return (!id.is_empty() && !id.contains(']')).then(|| (id, Vec::new()));
    };
    let mut rest = rest.strip_suffix(']').filter(|rest| !rest.is_empty())?;
    let mut axes = Vec::new();
    loop {
        let (axis, after) = rest.split_once('=')?;
        let quoted = after.starts_with('"');
        let length = match quoted {
            true => string_end(after),
            false => after.find(',').unwrap_or(after.len()),
        };
        let text = &after[..length];
        let closed = !quoted || (text.len() > 1 && text.ends_with('"'));
        let bare = quoted || !text.contains(['[', ']', '=', '"']);
        if job.is_empty() || axis.is_empty() || axis.contains([',', '"']) || !closed || !bare {
            return None;
        }
        axes.push((axis.to_owned(), unquote(text)));
        match &after[length..] {
            "" => return Some((job, axes)),
            more => rest = more.strip_prefix(',')?,
        }
    }
}

/// The length of a JSON string at the start of a text.
fn string_end(text: &str) -> usize {
    let mut escaped = false;
    for (ix, c) in text.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return ix + 1,
            _ => {}
        }
    }
    text.len()
}

/// The text of a JSON string, or the text as it is.
fn unquote(text: &str) -> String {
    let Some(inner) = text
        .strip_prefix('"')
        .and_then(|text| text.strip_suffix('"'))
    else {
        return text.to_owned();
    };
    let mut out = String::with_capacity(inner.len());
    let mut chars = inner.chars();
    while let Some(c) = chars.next() {
        if c != '\\' {
            out.push(c);
            continue;
        }
        match chars.next() {
            Some('n') => out.push('\n'),
            Some('t') => out.push('\t'),
            Some('r') => out.push('\r'),
            Some('b') => out.push('\u{8}'),
            Some('f') => out.push('\u{c}'),
            Some('u') => {
                let hex: String = chars.by_ref().take(4).collect();
                let code = u32::from_str_radix(&hex, 16).ok().and_then(char::from_u32);
                out.push(code.unwrap_or('\u{fffd}'));
            }
            Some(other) => out.push(other),
            None => {}
        }
    }
    out
}

/// A logical id or a part of one, as people type it: a job and some of its axes, in any order.
///
/// `fit[beta=0.1]` matches `fit[beta=0.1,replicate=3]`; `fit` matches every node of `fit`.
#[derive(Clone, Debug)]
pub struct NodePattern<'a> {
    job: &'a str,
    axes: Vec<(String, String)>,
}

impl<'a> NodePattern<'a> {
    /// Reads a pattern; `None` where it is not written like a logical id.
    pub fn parse(text: &'a str) -> Option<Self> {
        let (job, axes) = parse_logical_id(text)?;
        Some(Self { job, axes })
    }

    /// Whether a logical id is of the same job and has all of the axes with these values.
    pub fn matches(&self, id: &str) -> bool {
        let of_job = id
            .strip_prefix(self.job)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('['));
        of_job
            && parse_logical_id(id)
                .is_some_and(|(_, axes)| self.axes.iter().all(|axis| axes.contains(axis)))
    }
}

/// A logical id as a file name: percent-encoded, and beyond 200 bytes cut to a prefix and 8 hex digits of its digest.
pub fn id_file_name(id: &str) -> String {
    let mut name = String::with_capacity(id.len());
    for byte in id.bytes() {
        if byte.is_ascii_alphanumeric()
            || matches!(byte, b'_' | b'.' | b'+' | b'-' | b'=' | b',' | b'[' | b']')
        {
            name.push(byte as char);
        } else {
            name.push_str(&format!("%{byte:02X}"));
        }
    }
    if name.len() > 200 {
        let digest = crate::Digest::of(id.as_bytes()).to_string();
        name.truncate(191);
        name.push('-');
        name.push_str(&digest[..8]);
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logical_ids_quote_what_is_not_plain() {
        assert_eq!(logical_id("lint", [("", ""); 0]), "lint");
        assert_eq!(
            logical_id(
                "build",
                [("profile", "dev"), ("features", "tls,compression")]
            ),
            r#"build[profile=dev,features="tls,compression"]"#
        );
    }

    #[test]
    fn file_names_are_safe_and_bounded() {
        assert_eq!(id_file_name("a[b=\"x/y\"]"), "a[b=%22x%2Fy%22]");
        let long = id_file_name(&"x".repeat(500));
        assert_eq!(long.len(), 200);
        assert_ne!(long, id_file_name(&"x".repeat(501)));
    }

    #[test]
    fn ids_are_read_back() {
        let id = logical_id("build", [("a", "x,y"), ("b", "1.5"), ("c", "q\"=\n]")]);
        let (job, axes) = parse_logical_id(&id).expect("a logical id");
        assert_eq!(job, "build");
        let axes: Vec<(&str, &str)> = axes.iter().map(|(a, b)| (a.as_str(), b.as_str())).collect();
        assert_eq!(axes, [("a", "x,y"), ("b", "1.5"), ("c", "q\"=\n]")]);
    }

    #[test]
    fn what_is_no_id_is_none() {
        for bad in [
            "",
            "a[",
            "a]",
            "a[]",
            "a[x",
            "a[x]",
            "a[x=1",
            "a[x=1]y",
            "a[=1]",
            "[x=1]",
            "a[x=1,]",
            "a[x=1,,y=2]",
            "a[x=[1]]",
            "a[x=\"1]",
            "a[x=\"1\"y]",
            "a[x=1=2]",
            "a[x=\"]",
        ] {
            assert_eq!(parse_logical_id(bad), None, "{bad}");
        }
        for good in ["a", "m/a", "a[x=1]", "a[x=1/2 b]", "a[x=,y=\"]\"]"] {
            assert!(parse_logical_id(good).is_some(), "{good}");
        }
    }

    #[test]
    fn a_part_of_an_id_names_all_that_have_it() {
        let id = "fit[beta=0.1,case=\"x,y\",replicate=3]";
        for part in ["fit", "fit[replicate=3]", "fit[case=\"x,y\",beta=0.1]", id] {
            assert!(NodePattern::parse(part).unwrap().matches(id), "{part}");
        }
        for other in ["fi", "fitt", "fit[beta=0.10]", "fit[gamma=0.1]"] {
            assert!(!NodePattern::parse(other).unwrap().matches(id), "{other}");
        }
    }
}
