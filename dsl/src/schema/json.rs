//! The tables as a JSON Schema.

use serde_json::{Map, Value as Json, json};

use super::{NUMBER_OR_TEMPLATE, PIPELINE, Shape, Table};

/// The JSON Schema (draft 2020-12) of pipeline files, for editors.
///
/// It is looser than [`parse`](crate::parse) where JSON Schema cannot say a rule; it never refuses what `parse` takes,
/// merge keys aside.
pub fn json_schema() -> Json {
    let mut defs = Map::new();
    let mut root = object(&PIPELINE, &mut defs);
    root.insert(
        "$schema".into(),
        "https://json-schema.org/draft/2020-12/schema".into(),
    );
    root.insert("title".into(), "dagrun pipeline".into());
    root.insert("$defs".into(), Json::Object(defs));
    Json::Object(root)
}

const NAME: &str = "^[A-Za-z_][A-Za-z0-9_-]*$";

fn object(table: &'static Table, defs: &mut Map<String, Json>) -> Map<String, Json> {
    let mut properties = Map::new();
    for key in table.keys {
        let mut schema = shape(&key.shape, defs);
        schema.insert("description".into(), key.doc.into());
        properties.insert(key.name.into(), Json::Object(schema));
    }
    // A merge key may bring in any of the others.
    properties.insert("<<".into(), json!({"description": "A YAML merge key."}));
    let mut object = Map::new();
    object.insert("type".into(), "object".into());
    object.insert("description".into(), table.doc.into());
    object.insert("properties".into(), Json::Object(properties));
    let open = match table.name {
        "matrix" => Some(shape(
            &Shape::OneOf(&[Shape::List(&Shape::Any), Shape::Template]),
            defs,
        )),
        "resources" => Some(shape(&NUMBER_OR_TEMPLATE, defs)),
        _ => None,
    };
    match open {
        Some(schema) => {
            object.insert("additionalProperties".into(), Json::Object(schema));
        }
        None => {
            object.insert("patternProperties".into(), json!({"^x-": true}));
            object.insert("additionalProperties".into(), false.into());
        }
    }
    if !table.required.is_empty() {
        object.insert("required".into(), table.required.into());
    }
    object
}

fn shape(shape_of: &Shape, defs: &mut Map<String, Json>) -> Map<String, Json> {
    let json = match shape_of {
        Shape::Any => json!({}),
        Shape::Text => json!({"type": ["string", "number", "boolean"]}),
        Shape::Template => json!({"type": "string", "pattern": "\\$\\{\\{"}),
        Shape::Scalar => json!({"type": ["string", "number", "boolean"]}),
        Shape::Bool => json!({"type": "boolean"}),
        Shape::Int(least) => json!({"type": "integer", "minimum": least}),
        Shape::Number => json!({"type": "number"}),
        Shape::Enum(words) => json!({"enum": words}),
        Shape::List(item) => json!({"type": "array", "items": shape(item, defs)}),
        Shape::Named(item) => json!({
            "type": "object",
            "patternProperties": {NAME: shape(item, defs)},
            "properties": {"<<": {}},
            "additionalProperties": false,
        }),
        Shape::MapOf(item) => json!({
            "type": "object",
            "properties": {"<<": {}},
            "additionalProperties": shape(item, defs),
        }),
        Shape::Table(table) => reference(table, defs),
        Shape::OneOf(shapes) => {
            let any: Vec<Json> = shapes
                .iter()
                .map(|s| Json::Object(shape(s, defs)))
                .collect();
            json!({"anyOf": any})
        }
    };
    match json {
        Json::Object(map) => map,
        _ => Map::new(),
    }
}

fn reference(table: &'static Table, defs: &mut Map<String, Json>) -> Json {
    if !defs.contains_key(table.name) {
        defs.insert(table.name.into(), Json::Null);
        let object = object(table, defs);
        defs.insert(table.name.into(), Json::Object(object));
    }
    json!({"$ref": format!("#/$defs/{}", table.name)})
}
