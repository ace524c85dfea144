//! The JSON Schema that is kept for editors is the one that the decoder's tables give.

use dagrun_dsl::json_schema;

const KEPT: &str = "../docs/reference/schema.json";

#[test]
fn the_kept_schema_is_current() {
    let made = format!("{:#}\n", json_schema());
    if std::env::var_os("DAGRUN_UPDATE_SCHEMA").is_some() {
        std::fs::write(KEPT, &made).expect("the schema can be written");
    }
    let kept = std::fs::read_to_string(KEPT).unwrap_or_default();
    assert!(
        kept == made,
        "run this test with DAGRUN_UPDATE_SCHEMA=1 to write {KEPT}"
    );
}

#[test]
fn every_reference_leads_somewhere() {
    let schema = json_schema();
    let text = schema.to_string();
    let mut rest = text.as_str();
    let mut count = 0;
    while let Some(at) = rest.find("#/$defs/") {
        let name = rest[at + 8..].split('"').next().expect("a reference ends");
        assert!(schema["$defs"][name]["properties"].is_object(), "{name}");
        rest = &rest[at + 8..];
        count += 1;
    }
    assert!(count > 10);
}
