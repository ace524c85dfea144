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
}
