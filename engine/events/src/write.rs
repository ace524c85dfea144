//! Records as JSON, straight into a buffer.
//!
//! Hits come by the ten thousand, so their record is written by hand; all others by serde. The text is the same.

use std::io::Write;

use crate::{CachedNode, Record, RunEvent};

impl Record {
    /// Appends the JSON text of the record to `out`: what [`Record::to_json`] gives.
    ///
    /// # Errors
    /// As there.
    pub fn append_json(&self, out: &mut Vec<u8>) -> Result<(), serde_json::Error> {
        let RunEvent::NodesCached { nodes } = &self.event else {
            return serde_json::to_writer(out, self);
        };
        out.extend_from_slice(b"{\"at\":");
        serde_json::to_writer(&mut *out, &self.at)?;
        out.extend_from_slice(b",\"event\":\"nodes_cached\",\"nodes\":[");
        for (ix, node) in nodes.iter().enumerate() {
            if ix > 0 {
                out.push(b',');
            }
            cached_node(node, out)?;
        }
        out.extend_from_slice(b"]}");
        Ok(())
    }
}

fn cached_node(node: &CachedNode, out: &mut Vec<u8>) -> Result<(), serde_json::Error> {
    out.extend_from_slice(b"{\"n\":");
    text(&node.node, out)?;
    if !node.also.is_empty() {
        out.extend_from_slice(b",\"a\":");
        serde_json::to_writer(&mut *out, &node.also)?;
    }
    for (ix, (name, row)) in node.outputs.iter().enumerate() {
        out.extend_from_slice(if ix == 0 { b",\"o\":{" } else { b"," });
        text(name, out)?;
        match &row.digest {
            Some(digest) => {
                out.extend_from_slice(b":{\"digest\":\"");
                out.extend_from_slice(&digest.hex());
                out.extend_from_slice(b"\",\"size\":");
            }
            None => out.extend_from_slice(b":{\"digest\":null,\"size\":"),
        }
        write!(out, "{}}}", row.size).map_err(serde_json::Error::io)?;
    }
    if !node.outputs.is_empty() {
        out.push(b'}');
    }
    out.push(b'}');
    Ok(())
}

/// A string: most have nothing to escape.
fn text(text: &str, out: &mut Vec<u8>) -> Result<(), serde_json::Error> {
    let plain = |byte: u8| byte >= b' ' && byte != b'"' && byte != b'\\';
    if !text.bytes().all(plain) {
        return serde_json::to_writer(out, text);
    }
    out.push(b'"');
    out.extend_from_slice(text.as_bytes());
    out.push(b'"');
    Ok(())
}

#[cfg(test)]
mod tests {
    use dagrun_model::Digest;

    use crate::OutputRow;

    use super::*;

    fn check(event: RunEvent) {
        let record = Record { at: 12.0625, event };
        let mut text = b"before".to_vec();
        record.append_json(&mut text).unwrap();
        let expected = record.to_json().unwrap();
        assert_eq!(
            String::from_utf8_lossy(&text),
            format!("before{}", String::from_utf8_lossy(&expected))
        );
        assert_eq!(Record::from_json(&expected).unwrap(), record);
    }

    fn node(name: &str, also: &[&str], outputs: &[(&str, Option<&[u8]>, u64)]) -> CachedNode {
        let row = |digest: Option<&[u8]>, size| OutputRow {
            digest: digest.map(Digest::of),
            size,
        };
        CachedNode {
            node: name.into(),
            also: also.iter().map(|id| (*id).into()).collect(),
            outputs: outputs
                .iter()
                .map(|(name, digest, size)| ((*name).into(), row(*digest, *size)))
                .collect(),
        }
    }

    #[test]
    fn what_is_written_by_hand_is_what_serde_writes() {
        check(RunEvent::Rewound { node: "a".into() });
        check(RunEvent::NodesCached { nodes: Vec::new() });
        let nodes = vec![
            node("a", &[], &[]),
            node(
                "a[x=1,y=\u{e9}\u{1f600}]",
                &["b", "c\"d"],
                &[("o", Some(b"1"), 7)],
            ),
            node(
                "q\"\\\n\u{1}\u{7f}",
                &[],
                &[("gone", None, 0), ("n\t", Some(b""), u64::MAX)],
            ),
        ];
        check(RunEvent::NodesCached { nodes });
    }
}
