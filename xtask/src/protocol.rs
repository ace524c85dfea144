//! The page on the protocol: a template by hand, filled in from the protobuf file and the comments in it.
//!
//! In `xtask/templates/protocol.md`, a line `{{calls}}` becomes the calls by service, `{{messages}}` all messages. The file is ours, so
//! what is understood of protobuf is what stands in it: one declaration a line, comments before it.

use crate::generated::File;

const TEMPLATE: &str = include_str!("../templates/protocol.md");
const PROTO: &str = include_str!("../../executors/proto/proto/dagrun/cluster/v1/cluster.proto");

/// The page.
pub(crate) fn page() -> Result<File, String> {
    let file = Proto::read(PROTO)?;
    let text = TEMPLATE
        .replace("{{calls}}\n", &file.calls)
        .replace("{{messages}}\n", &file.messages);
    Ok(File {
        path: "docs/reference/protocol.md",
        text,
    })
}

/// The two parts of the page, while the file is read.
#[derive(Default)]
struct Proto {
    calls: String,
    messages: String,
    /// What comments have said since the last declaration.
    said: Vec<String>,
    open: Vec<Open>,
}

/// A block that is not closed yet.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Open {
    Service,
    /// A message, and whether a field of it was seen.
    Message(bool),
    OneOf,
    Enum,
}

impl Proto {
    fn read(text: &str) -> Result<Self, String> {
        let mut file = Self::default();
        for (number, line) in text.lines().enumerate() {
            file.line(line.trim())
                .ok_or_else(|| format!("cluster.proto:{}: cannot read `{line}`", number + 1))?;
        }
        Ok(file)
    }

    fn line(&mut self, line: &str) -> Option<()> {
        if let Some(comment) = line.strip_prefix("//") {
            self.said.push(comment.trim().to_owned());
            return Some(());
        }
        if line.is_empty() || line.starts_with("syntax") || line.starts_with("package") {
            self.said.clear();
            return Some(());
        }
        let comment = std::mem::take(&mut self.said).join(" ");
        if line == "}" {
            self.open.pop().map(drop)
        } else if let Some(rest) = line.strip_prefix("rpc ") {
            self.call(rest, &comment)
        } else if let Some(head) = line.strip_suffix('{') {
            self.begin(head.trim(), &comment)
        } else if let Some(name) = line.strip_prefix("message ") {
            self.message(name.strip_suffix("{}")?.trim(), &comment);
            self.open.pop().map(drop)
        } else {
            self.field(line.strip_suffix(';')?, &comment)
        }
    }

    fn begin(&mut self, head: &str, comment: &str) -> Option<()> {
        let (kind, name) = head.split_once(' ')?;
        match kind {
            "service" => {
                self.calls
                    .push_str(&format!("\n### {name}\n\n{comment}\n\n"));
                self.calls
                    .push_str("| call | takes | answers | |\n|---|---|---|---|\n");
                self.open.push(Open::Service);
            }
            "message" => self.message(name, comment),
            "oneof" => self.open.push(Open::OneOf),
            "enum" => self.open.push(Open::Enum),
            _ => return None,
        }
        Some(())
    }

    fn message(&mut self, name: &str, comment: &str) {
        self.messages.push_str(&format!("\n### {name}\n\n"));
        if !comment.is_empty() {
            self.messages.push_str(&format!("{comment}\n\n"));
        }
        self.open.push(Open::Message(false));
    }

    /// `Name(stream Takes) returns (Answers);`
    fn call(&mut self, rest: &str, comment: &str) -> Option<()> {
        let (name, rest) = rest.split_once('(')?;
        let (takes, rest) = rest.split_once(") returns (")?;
        let answers = rest.strip_suffix(");")?;
        self.calls.push_str(&format!(
            "| `{name}` | {} | {} | {comment} |\n",
            linked(takes),
            linked(answers)
        ));
        Some(())
    }

    /// `type name = 1`, or a value of an enumeration.
    fn field(&mut self, line: &str, comment: &str) -> Option<()> {
        let (declared, number) = line.rsplit_once(" = ")?;
        match self.open.last()? {
            Open::Enum => {
                self.messages
                    .push_str(&format!("| | `{declared}` | {number} | {comment} |\n"));
            }
            _ => {
                let (of, name) = declared.rsplit_once(' ')?;
                self.table();
                self.messages.push_str(&format!(
                    "| `{name}` | {} | {number} | {comment} |\n",
                    linked(of)
                ));
            }
        }
        Some(())
    }

    /// Begins the table of the innermost message with its first field.
    fn table(&mut self) {
        let message = self.open.iter_mut().rev().find_map(|open| match open {
            Open::Message(has_fields) => Some(has_fields),
            _ => None,
        });
        if message.is_some_and(|has_fields| !std::mem::replace(has_fields, true)) {
            self.messages
                .push_str("| field | type | number | |\n|---|---|---|---|\n");
        }
    }
}

/// A type, as a link where it is a message.
fn linked(of: &str) -> String {
    let (how, name) = match of.rsplit_once(' ') {
        Some((how, name)) if !how.contains('<') => (format!("{how} "), name),
        _ => (String::new(), of),
    };
    if name.starts_with(|c: char| c.is_ascii_uppercase()) {
        return format!("{how}[{name}](#{})", name.to_lowercase());
    }
    format!("{how}`{name}`")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn declarations_become_rows() {
        let file = "// The world.\nservice Greeter {\n  // Says it.\n  rpc Hello(stream Word) returns (Words);\n}\n\
                    // A word.\nmessage Word {\n  oneof of {\n    // Its text.\n    string text = 1;\n    Words words = 2;\n  }\n}\nmessage Words {}\n";
        let read = Proto::read(file).expect("it can be read");
        assert!(
            read.calls
                .contains("| `Hello` | stream [Word](#word) | [Words](#words) | Says it. |")
        );
        assert!(
            read.messages
                .contains("| `text` | `string` | 1 | Its text. |")
        );
        assert!(
            read.messages
                .contains("| `words` | [Words](#words) | 2 |  |")
        );
        assert!(Proto::read("what is this\n").is_err());
    }
}
