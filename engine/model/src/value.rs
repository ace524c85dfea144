//! The values of the pipeline language.

use std::{fmt, sync::Arc};

use indexmap::IndexMap;

use crate::{ContentHash, ContentHasher};

/// An ordered map from names to values.
pub type Map = IndexMap<Arc<str>, Value>;

/// A value of the pipeline language: JSON's types with integers apart from floats, and scalars that keep their spelling.
///
/// Equality follows the language: the typed value decides and the spelling does not (`3.10` equals `3.1`); an integer
/// equals a float of the same number; otherwise types must agree. Use [`Value::to_text`] where the spelling matters.
#[derive(Clone, Debug)]
pub enum Value {
    /// `null`.
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// An integer.
    Int(i64),
    /// A float; it may be NaN or infinite only as the result of a computation or of an output.
    Float(f64),
    /// A string.
    Str(Arc<str>),
    /// A list.
    List(Arc<[Value]>),
    /// A map in source order.
    Map(Arc<Map>),
    /// A scalar whose source text is not what [`Value::to_text`] would print for it: `3.10`, `012`, `0x1F`, `~`.
    Spelled(Arc<Spelled>),
}

/// A scalar and its spelling in the source.
#[derive(Clone, Debug)]
pub struct Spelled {
    /// The typed scalar; never itself `Spelled`, a list or a map.
    pub value: Value,
    /// The source text.
    pub text: Arc<str>,
}

impl Value {
    /// A string value.
    pub fn str(text: impl Into<Arc<str>>) -> Self {
        Self::Str(text.into())
    }

    /// A list value.
    pub fn list(items: impl IntoIterator<Item = Value>) -> Self {
        Self::List(items.into_iter().collect())
    }

    /// A map value.
    pub fn map(map: Map) -> Self {
        Self::Map(Arc::new(map))
    }

    /// A scalar with its spelling; the spelling is dropped where it is what would be printed anyway.
    pub fn spelled(value: Value, text: &str) -> Self {
        if value.to_text() == text {
            value
        } else {
            Self::Spelled(Arc::new(Spelled {
                value,
                text: text.into(),
            }))
        }
    }

    /// The typed value, without spelling.
    pub fn typed(&self) -> &Value {
        match self {
            Self::Spelled(spelled) => &spelled.value,
            other => other,
        }
    }

    /// The text of a scalar as it enters scripts, argv, labels and keys; lists and maps as compact JSON.
    ///
    /// Spelled scalars give their source text. Computed floats print the shortest text that reads back equal, with
    /// `.0` kept on whole numbers.
    pub fn to_text(&self) -> String {
        match self {
            Self::Null => "null".into(),
            Self::Bool(b) => b.to_string(),
            Self::Int(i) => i.to_string(),
            Self::Float(f) => float_text(*f),
            Self::Str(s) => s.to_string(),
            Self::Spelled(s) => s.text.to_string(),
            Self::List(_) | Self::Map(_) => self.to_json().to_string(),
        }
    }

    /// The name of the type, for messages.
    pub fn type_name(&self) -> &'static str {
        match self.typed() {
            Self::Null => "null",
            Self::Bool(_) => "boolean",
            Self::Int(_) => "integer",
            Self::Float(_) => "float",
            Self::Str(_) => "string",
            Self::List(_) => "list",
            Self::Map(_) => "map",
            Self::Spelled(_) => unreachable!("typed() never gives a spelled scalar"),
        }
    }

    /// The string, where this is one.
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Self::Str(s) => Some(s),
            _ => None,
        }
    }

    /// The integer, where this is one.
    pub fn as_i64(&self) -> Option<i64> {
        match self.typed() {
            Self::Int(i) => Some(*i),
            _ => None,
        }
    }

    /// The number as a float, where this is a number.
    pub fn as_f64(&self) -> Option<f64> {
        match self.typed() {
            Self::Int(i) => Some(*i as f64),
            Self::Float(f) => Some(*f),
            _ => None,
        }
    }

    /// The boolean, where this is one.
    pub fn as_bool(&self) -> Option<bool> {
        match self.typed() {
            Self::Bool(b) => Some(*b),
            _ => None,
        }
    }

    /// The items, where this is a list.
    pub fn as_list(&self) -> Option<&[Value]> {
        match self {
            Self::List(items) => Some(items),
            _ => None,
        }
    }

    /// The entries, where this is a map.
    pub fn as_map(&self) -> Option<&Map> {
        match self {
            Self::Map(map) => Some(map),
            _ => None,
        }
    }

    /// How the value counts as a condition: null, false, 0, NaN and the empty string are false, all else is true.
    pub fn truthy(&self) -> bool {
        match self.typed() {
            Self::Null => false,
            Self::Bool(b) => *b,
            Self::Int(i) => *i != 0,
            Self::Float(f) => *f != 0.0 && !f.is_nan(),
            Self::Str(s) => !s.is_empty(),
            Self::List(_) | Self::Map(_) => true,
            Self::Spelled(_) => unreachable!("typed() never gives a spelled scalar"),
        }
    }

    /// The label of a value on an axis: an object's `name`, else its text.
    pub fn label(&self) -> String {
        match self {
            Self::Map(map) => match map.get("name") {
                Some(name) => name.to_text(),
                None => self.to_text(),
            },
            other => other.to_text(),
        }
    }

    /// As JSON. Floats that JSON cannot hold become the strings `NaN`, `Infinity`, `-Infinity`.
    pub fn to_json(&self) -> serde_json::Value {
        use serde_json::Value as Json;
        match self.typed() {
            Self::Null => Json::Null,
            Self::Bool(b) => Json::Bool(*b),
            Self::Int(i) => Json::from(*i),
            Self::Float(f) => serde_json::Number::from_f64(*f)
                .map_or_else(|| Json::from(float_text(*f)), Json::Number),
            Self::Str(s) => Json::from(&**s),
            Self::List(items) => items.iter().map(Value::to_json).collect(),
            Self::Map(map) => Json::Object(
                map.iter()
                    .map(|(k, v)| (k.to_string(), v.to_json()))
                    .collect(),
            ),
            Self::Spelled(_) => unreachable!("typed() never gives a spelled scalar"),
        }
    }

    /// From the JSON of a number, in which strings stand for floats that are not finite, as [`Value::to_json`] writes them.
    pub fn number_from_json(json: &serde_json::Value) -> Self {
        match json.as_str() {
            Some("NaN") => Self::Float(f64::NAN),
            Some("Infinity") => Self::Float(f64::INFINITY),
            Some("-Infinity") => Self::Float(f64::NEG_INFINITY),
            _ => Self::from_json(json),
        }
    }

    /// From JSON. Integers beyond 64 bits become floats.
    pub fn from_json(json: &serde_json::Value) -> Self {
        use serde_json::Value as Json;
        match json {
            Json::Null => Self::Null,
            Json::Bool(b) => Self::Bool(*b),
            Json::Number(n) => n
                .as_i64()
                .map_or_else(|| Self::Float(n.as_f64().unwrap_or(f64::NAN)), Self::Int),
            Json::String(s) => Self::str(s.as_str()),
            Json::Array(items) => Self::list(items.iter().map(Self::from_json)),
            Json::Object(map) => Self::map(
                map.iter()
                    .map(|(k, v)| (k.as_str().into(), Self::from_json(v)))
                    .collect(),
            ),
        }
    }
}

/// The shortest text that reads back as the same float; whole numbers keep `.0`.
pub fn float_text(f: f64) -> String {
    if f.is_nan() {
        "NaN".into()
    } else if f.is_infinite() {
        if f > 0.0 {
            "Infinity".into()
        } else {
            "-Infinity".into()
        }
    } else if f != 0.0 && !(1e-5..1e16).contains(&f.abs()) {
        format!("{f:e}")
    } else {
        format!("{f:?}")
    }
}

/// The text of a float for people: six significant digits.
pub fn short_float_text(f: f64) -> String {
    // Rounding by way of text is exact; what is not finite stays as it is.
    float_text(format!("{f:.5e}").parse().unwrap_or(f))
}

impl PartialEq for Value {
    fn eq(&self, other: &Self) -> bool {
        match (self.typed(), other.typed()) {
            (Self::Null, Self::Null) => true,
            (Self::Bool(a), Self::Bool(b)) => a == b,
            (Self::Int(a), Self::Int(b)) => a == b,
            (Self::Float(a), Self::Float(b)) => a == b,
            (Self::Int(a), Self::Float(b)) | (Self::Float(b), Self::Int(a)) => *a as f64 == *b,
            (Self::Str(a), Self::Str(b)) => a == b,
            (Self::List(a), Self::List(b)) => a == b,
            (Self::Map(a), Self::Map(b)) => a == b,
            _ => false,
        }
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.to_text())
    }
}

/// Keys see a tag for the type and the source text of scalars, so that `3.10` and `3.1` differ.
impl ContentHash for Value {
    fn content_hash(&self, hasher: &mut ContentHasher) {
        match self {
            Self::List(items) => {
                hasher.update(b"l");
                (items.len() as u64).content_hash(hasher);
                for item in items.iter() {
                    item.content_hash(hasher);
                }
            }
            Self::Map(map) => {
                hasher.update(b"m");
                (map.len() as u64).content_hash(hasher);
                for (name, value) in map.iter() {
                    name.content_hash(hasher);
                    value.content_hash(hasher);
                }
            }
            scalar => {
                let tag = match scalar.typed() {
                    Self::Null => b"n",
                    Self::Bool(_) => b"b",
                    Self::Int(_) => b"i",
                    Self::Float(_) => b"f",
                    _ => b"s",
                };
                hasher.update(tag);
                match scalar {
                    Self::Str(text) => text.content_hash(hasher),
                    other => other.to_text().content_hash(hasher),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floats_for_people_have_six_digits() {
        for (x, text) in [
            (0.010_626_356_764_054_1, "0.0106264"),
            (1.5, "1.5"),
            (-1_234_567.8, "-1234570.0"),
            (1.234_567_891e-9, "1.23457e-9"),
            (f64::NAN, "NaN"),
            (f64::INFINITY, "Infinity"),
        ] {
            assert_eq!(short_float_text(x), text);
        }
    }

    #[test]
    fn spelling_is_kept_but_does_not_decide_equality() {
        let spelled = Value::spelled(Value::Float(3.1), "3.10");
        assert_eq!(spelled, Value::Float(3.1));
        assert_eq!(spelled.to_text(), "3.10");
        assert!(matches!(Value::spelled(Value::Int(3), "3"), Value::Int(3)));
    }

    #[test]
    fn numbers_compare_across_types_and_strings_do_not() {
        assert_eq!(Value::Int(1), Value::Float(1.0));
        assert_ne!(Value::Int(1), Value::str("1"));
    }

    #[test]
    fn floats_print_what_reads_back() {
        for f in [
            0.1,
            0.30000000000000004,
            1e300,
            1e-7,
            2.0,
            -0.0,
            123456789.125,
            1e15,
            1e16,
        ] {
            assert_eq!(
                float_text(f).parse::<f64>().unwrap().to_bits(),
                f64::to_bits(f),
                "{f}"
            );
        }
        assert_eq!(float_text(2.0), "2.0");
    }
}
