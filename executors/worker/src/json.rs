//! Reading a JSON output: the file, the pointer, the type.

use dagrun_model::{JsonType, format_bytes};
use serde_json::Value;

/// The largest JSON file that is read for a value.
pub(crate) const MAX_SIZE: u64 = 64 << 20;
/// The largest value that is kept, as text: values travel through keys, journals and reports.
const MAX_VALUE: usize = 1 << 20;

/// Takes the value at `pointer` out of a file's bytes; the error says what is wrong, for a message that names the output.
pub(crate) fn extract(bytes: &[u8], pointer: &str, ty: JsonType) -> Result<Value, String> {
    let mut whole: Value = serde_json::from_slice(bytes)
        .or_else(|error| serde_json::from_slice(&quote_non_finite(bytes)).map_err(|_| error))
        .map_err(|error| explain(bytes, &error))?;
    let place = whole
        .pointer_mut(pointer)
        .ok_or_else(|| nothing_at(bytes, pointer))?;
    let value = place.take();
    if !fits(&value, ty) {
        return Err(format!(
            "expected {} at pointer `{pointer}`, found {}; change what the node writes or the output's `type`",
            with_article(ty),
            kind(&value)
        ));
    }
    if is_container(&value) && value.to_string().len() > MAX_VALUE {
        return Err(format!(
            "the value at `{pointer}` is larger than {}; make the file an output of its own",
            format_bytes(MAX_VALUE as u64)
        ));
    }
    Ok(value)
}

/// Floats that JSON has no form for, as they are kept; Python and JavaScript write them without quotes.
const NON_FINITE: [&str; 3] = ["NaN", "Infinity", "-Infinity"];

/// The text with quotes around what many libraries write for floats that are not finite.
fn quote_non_finite(bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(bytes.len() + 16);
    let (mut at, mut in_string) = (0, false);
    while at < bytes.len() {
        let word = NON_FINITE.iter().find(|word| {
            let ends = bytes
                .get(at + word.len())
                .is_none_or(|b| !b.is_ascii_alphanumeric());
            !in_string && ends && bytes[at..].starts_with(word.as_bytes())
        });
        if let Some(word) = word {
            out.extend_from_slice(format!("\"{word}\"").as_bytes());
            at += word.len();
            continue;
        }
        match bytes[at] {
            b'\\' if in_string => {
                out.push(b'\\');
                at += 1;
            }
            b'"' => in_string = !in_string,
            _ => {}
        }
        out.extend(bytes.get(at));
        at += 1;
    }
    out
}

fn is_container(value: &Value) -> bool {
    matches!(value, Value::Array(_) | Value::Object(_) | Value::String(_))
}

fn fits(value: &Value, ty: JsonType) -> bool {
    match ty {
        JsonType::Number => {
            value.is_number()
                || value
                    .as_str()
                    .is_some_and(|text| NON_FINITE.contains(&text))
        }
        JsonType::Integer => value.is_i64() || value.is_u64(),
        JsonType::String => value.is_string(),
        JsonType::Bool => value.is_boolean(),
        JsonType::List => value.is_array(),
        JsonType::Map => value.is_object(),
        JsonType::Any => true,
    }
}

fn with_article(ty: JsonType) -> &'static str {
    match ty {
        JsonType::Number => "a number",
        JsonType::Integer => "an integer",
        JsonType::String => "a string",
        JsonType::Bool => "true or false",
        JsonType::List => "a list",
        JsonType::Map => "a map",
        JsonType::Any => "any value",
    }
}

fn kind(value: &Value) -> String {
    match value {
        Value::Null => "null".into(),
        Value::Bool(b) => b.to_string(),
        Value::Number(n) => format!("the number {n}"),
        Value::String(s) if s.chars().count() <= 40 => {
            format!("the string {}", Value::from(s.as_str()))
        }
        Value::String(_) => "a string".into(),
        Value::Array(_) => "a list".into(),
        Value::Object(_) => "a map".into(),
    }
}

fn nothing_at(bytes: &[u8], pointer: &str) -> String {
    let mut text = format!("nothing stands at pointer `{pointer}`");
    if let Ok(Value::Object(map)) = serde_json::from_slice(bytes)
        && !map.is_empty()
    {
        let names: Vec<String> = map.keys().take(10).map(|name| format!("/{name}")).collect();
        text.push_str(&format!("; at the top there are {}", names.join(", ")));
    }
    text
}

fn explain(bytes: &[u8], error: &serde_json::Error) -> String {
    if bytes.iter().all(u8::is_ascii_whitespace) {
        return "the file is empty".into();
    }
    let at = offset(bytes, error.line(), error.column());
    let around = String::from_utf8_lossy(&bytes[at.saturating_sub(10)..bytes.len().min(at + 10)]);
    for word in ["NaN", "Infinity", "nan", "inf"] {
        if around.contains(word) {
            return format!(
                "`{word}` at line {} is not JSON; write null or a string instead, and give the output a `type` that takes it",
                error.line()
            );
        }
    }
    format!("it is not JSON: {error}")
}

fn offset(bytes: &[u8], line: usize, column: usize) -> usize {
    let before = bytes
        .split_inclusive(|b| *b == b'\n')
        .take(line.saturating_sub(1));
    let start: usize = before.map(<[u8]>::len).sum();
    (start + column).min(bytes.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, pointer: &str, ty: JsonType, expected: &str) {
        let got = match extract(text.as_bytes(), pointer, ty) {
            Ok(value) => value.to_string(),
            Err(error) => error,
        };
        assert!(got.contains(expected), "{text} {pointer}: {got}");
    }

    #[test]
    fn values_are_taken_by_pointer_and_type() {
        check(
            r#"{"a": {"b": [1, 2.5]}}"#,
            "/a/b/1",
            JsonType::Number,
            "2.5",
        );
        check("7", "", JsonType::Integer, "7");
        check("[1]", "", JsonType::List, "[1]");
        check("{}", "", JsonType::Map, "{}");
        check("null", "", JsonType::Any, "null");
    }

    #[test]
    fn floats_that_are_not_finite_are_values() {
        check("{\n\"loss\": NaN}", "/loss", JsonType::Number, "\"NaN\"");
        check(
            r#"{"a": -Infinity, "b": "x \" NaN"}"#,
            "/a",
            JsonType::Number,
            "\"-Infinity\"",
        );
        check(
            r#"{"a": Infinity, "b": "x \" NaN"}"#,
            "/b",
            JsonType::String,
            r#""x \" NaN""#,
        );
        check(r#"{"a": NaNs}"#, "/a", JsonType::Number, "is not JSON");
    }

    #[test]
    fn what_is_wrong_is_said() {
        check(
            r#"{"a": 1}"#,
            "/b",
            JsonType::Number,
            "at the top there are /a",
        );
        check(
            r#"{"a": "x"}"#,
            "/a",
            JsonType::Number,
            r#"expected a number at pointer `/a`, found the string "x""#,
        );
        check("1.5", "", JsonType::Integer, "expected an integer");
        check(
            "{\n\"loss\": nan}",
            "/loss",
            JsonType::Number,
            "`nan` at line 2 is not JSON",
        );
        check(
            r#"{"a": NaN}"#,
            "/a",
            JsonType::Integer,
            r#"found the string "NaN""#,
        );
        check(" \n", "", JsonType::Any, "the file is empty");
        check("{\"a\": 1,}", "", JsonType::Any, "it is not JSON");
    }
}
