//! Values that stand outside a pipeline: `-p NAME=VALUE` and parameter files. Typed as in the pipeline itself, with their
//! spelling kept.

use dagrun_model::{Sources, Value};

use crate::yaml::{self, Kind, MAX_NODES, NodeId, Style, Tree};

/// The value of a command line word: a list or a map in YAML's flow form, else a scalar of the core schema.
pub fn parse_scalar(text: &str) -> Value {
    let collection = text.starts_with('[') || text.starts_with('{');
    match collection.then(|| parse_value("value", text)) {
        Some(Ok(value)) => value,
        _ => yaml::core_schema(text),
    }
}

/// The value that a YAML or JSON text holds; an empty text is an empty map.
///
/// # Errors
/// Where the text is not YAML, or its aliases stand for too much: `path:line:column: what is wrong`.
pub fn parse_value(path: &str, text: &str) -> Result<Value, String> {
    let mut sources = Sources::default();
    let file = sources.add(path, text);
    let tree = yaml::read(file, text).map_err(|diagnostics| match diagnostics.first() {
        Some(first) => format!("{}: {}", sources.locate(first.span), first.message),
        None => format!("{path}: not YAML"),
    })?;
    let Some(tree) = tree else {
        return Ok(Value::map(dagrun_model::Map::default()));
    };
    let mut budget = MAX_NODES;
    value(&tree, tree.root(), text, &mut budget)
        .ok_or_else(|| format!("{path}: its aliases stand for too many values"))
}

fn value(tree: &Tree, id: NodeId, text: &str, budget: &mut usize) -> Option<Value> {
    *budget = budget.checked_sub(1)?;
    Some(match &tree.node(id).kind {
        Kind::Alias(target) => value(tree, *target, text, budget)?,
        Kind::Scalar(Style::Plain, _) => yaml::core_schema(&tree.text(id, text)),
        Kind::Scalar(..) => Value::str(&*tree.text(id, text)),
        Kind::List(items) => {
            let items: Option<Vec<Value>> = items
                .iter()
                .map(|item| value(tree, *item, text, budget))
                .collect();
            Value::list(items?)
        }
        Kind::Map(entries) => {
            let mut map = dagrun_model::Map::default();
            for (key, item) in entries {
                map.insert(
                    tree.text(*key, text).as_ref().into(),
                    value(tree, *item, text, budget)?,
                );
            }
            Value::map(map)
        }
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn words_keep_their_spelling() {
        assert_eq!(parse_scalar("3.10").to_text(), "3.10");
        assert_eq!(parse_scalar("no").as_str(), Some("no"));
        assert_eq!(
            parse_scalar("[1, b]"),
            Value::list([Value::Int(1), Value::str("b")])
        );
        assert_eq!(parse_scalar("[not closed").as_str(), Some("[not closed"));
        assert_eq!(parse_scalar("# no comment").as_str(), Some("# no comment"));
    }

    fn json() -> impl Strategy<Value = serde_json::Value> {
        let leaf = prop_oneof![
            Just(serde_json::Value::Null),
            any::<bool>().prop_map(Into::into),
            any::<i64>().prop_map(Into::into),
            "[ -~]{0,12}".prop_map(Into::into),
        ];
        leaf.prop_recursive(4, 32, 5, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..5).prop_map(Into::into),
                prop::collection::btree_map("[a-z]{1,6}", inner, 0..5)
                    .prop_map(|map| serde_json::Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        /// What the YAML organisation's own library writes, reads back as the same value.
        #[test]
        fn reads_what_serde_yaml_writes(value in json()) {
            let text = serde_yaml::to_string(&value).unwrap();
            prop_assert_eq!(parse_value("p.yaml", &text).unwrap().to_json(), value);
        }
    }

    #[test]
    fn files_are_yaml_or_json() {
        let value = parse_value("p.yaml", "a: 1\nb: [x, 2.50]\n").unwrap();
        assert_eq!(
            value.as_map().unwrap()["b"].as_list().unwrap()[1].to_text(),
            "2.50"
        );
        assert_eq!(
            parse_value("p.json", r#"{"a": 1}"#).unwrap().to_text(),
            r#"{"a":1}"#
        );
        assert!(
            parse_value("p.yaml", "a: [1\n")
                .unwrap_err()
                .starts_with("p.yaml:")
        );
        assert!(
            parse_value("empty.yaml", "")
                .unwrap()
                .as_map()
                .unwrap()
                .is_empty()
        );
    }
}
