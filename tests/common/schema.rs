//! Compares JSON with the schemas of resources/openapi.json: the parts of JSON Schema that it uses.

use std::fs;
use std::path::Path;

use serde_json::Value;

/// The description of the control socket.
pub fn openapi() -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("resources/openapi.json");
    serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
}

/// Checks that a value is as its schema says, and has no field that the schema lacks. `at` says
/// where the value is.
#[track_caller]
pub fn check(openapi: &Value, schema: &Value, value: &Value, at: &str) {
    if let Some(name) = schema["$ref"].as_str() {
        let pointer = name.strip_prefix('#').unwrap();
        let schema = openapi.pointer(pointer).unwrap_or_else(|| panic!("{name}"));
        return check(openapi, schema, value, at);
    }
    if value.is_null() {
        assert_eq!(schema["nullable"], true, "{at} is null");
        return;
    }
    if let Some(all) = schema["allOf"].as_array() {
        return all.iter().for_each(|s| check(openapi, s, value, at));
    }
    let right = match schema["type"].as_str() {
        Some("string") => value.is_string(),
        Some("integer") => value.is_u64() || value.is_i64(),
        Some("boolean") => value.is_boolean(),
        Some("array") => value.is_array(),
        Some("object") => value.is_object(),
        other => panic!("{at}: a schema of type {other:?}"),
    };
    assert!(right, "{at} is {value}, and not {}", schema["type"]);
    if let Some(values) = schema["enum"].as_array() {
        assert!(
            values.contains(value),
            "{at} is {value}, and not of {values:?}"
        );
    }
    for item in value.as_array().into_iter().flatten() {
        check(openapi, &schema["items"], item, &format!("{at}[]"));
    }
    let required = schema["required"].as_array().into_iter().flatten();
    for name in required.filter_map(Value::as_str) {
        assert!(value.get(name).is_some(), "{at} lacks {name}");
    }
    for (name, field) in value.as_object().into_iter().flatten() {
        let schema = match schema["properties"].get(name) {
            Some(schema) => schema,
            None => &schema["additionalProperties"],
        };
        assert!(schema.is_object(), "{at} has {name}, which has no schema");
        check(openapi, schema, field, &format!("{at}.{name}"));
    }
}
