//! The OpenAPI document: what clients that are made of it rely on.

use std::collections::BTreeSet;

use cairn_api::error::ErrorCode;
use serde_json::Value;

fn document() -> Value {
    serde_json::to_value(cairnd::control::openapi()).expect("serialises")
}

/// Every operation with its method and path.
fn operations(document: &Value) -> Vec<(String, &Value)> {
    let mut all = Vec::new();
    for (path, item) in document["paths"].as_object().expect("paths") {
        let methods = item.as_object().expect("methods");
        all.extend(methods.iter().map(|(method, operation)| (format!("{method} {path}"), operation)));
    }
    assert!(all.len() > 70, "{}", all.len());
    all
}

/// What a schema is once references are followed.
fn resolved<'a>(document: &'a Value, schema: &'a Value) -> &'a Value {
    match schema["$ref"].as_str() {
        Some(reference) => {
            let found = document.pointer(reference.trim_start_matches('#'));
            resolved(document, found.unwrap_or_else(|| panic!("{reference} leads nowhere")))
        }
        None => schema,
    }
}

fn references(value: &Value, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(fields) => {
            found.extend(fields.get("$ref").and_then(Value::as_str).map(str::to_owned));
            fields.values().for_each(|field| references(field, found));
        }
        Value::Array(items) => items.iter().for_each(|item| references(item, found)),
        _ => {}
    }
}

/// What of a request has no limits: texts without a length, numbers without a largest one.
fn unlimited(document: &Value, schema: &Value, place: &str, found: &mut Vec<String>) {
    let schema = resolved(document, schema);
    let is = |kind: &str| {
        schema["type"] == kind || schema["type"].as_array().is_some_and(|kinds| kinds.contains(&kind.into()))
    };
    if is("string") && schema["enum"].is_null() && schema["maxLength"].is_null() {
        found.push(format!("{place}: a text of any length"));
    }
    if is("integer") && schema["maximum"].is_null() {
        found.push(format!("{place}: a number of any size"));
    }
    let fields = schema["properties"].as_object().into_iter().flatten();
    fields.for_each(|(name, field)| unlimited(document, field, &format!("{place}.{name}"), found));
    for part in ["items", "additionalProperties", "propertyNames"] {
        if schema[part].is_object() {
            unlimited(document, &schema[part], &format!("{place}.{part}"), found);
        }
    }
    for part in ["oneOf", "allOf"] {
        let parts = schema[part].as_array().into_iter().flatten();
        parts.for_each(|part| unlimited(document, part, place, found));
    }
}

#[test]
fn every_reference_leads_somewhere() {
    let document = document();
    let mut found = BTreeSet::new();
    references(&document, &mut found);
    assert!(found.len() > 50);
    for reference in found {
        let there = document.pointer(reference.trim_start_matches('#')).is_some();
        assert!(there, "{reference} leads nowhere");
    }
}

#[test]
fn every_operation_says_how_it_can_fail() {
    let document = document();
    for (name, operation) in operations(&document) {
        let responses = operation["responses"].as_object().expect("responses");
        let mut statuses = vec!["default", "500", "503", "504"];
        if operation["parameters"].is_array() || operation["requestBody"].is_object() {
            statuses.extend(["400", "404", "409"]);
        }
        for status in statuses {
            let response =
                resolved(&document, responses.get(status).unwrap_or_else(|| panic!("{name}: {status}")));
            let schema = &response["content"]["application/json"]["schema"]["$ref"];
            assert_eq!(schema, "#/components/schemas/ErrorBody", "{name}: {status}");
        }
    }
}

#[test]
fn every_part_of_a_request_has_limits() {
    let document = document();
    let mut found = Vec::new();
    for (name, operation) in operations(&document) {
        for parameter in operation["parameters"].as_array().into_iter().flatten() {
            let place = format!("{name} {}", parameter["name"]);
            unlimited(&document, &parameter["schema"], &place, &mut found);
        }
        let body = &operation["requestBody"]["content"]["application/json"]["schema"];
        unlimited(&document, body, &name, &mut found);
    }
    assert_eq!(found, [""; 0]);
}

#[test]
fn words_are_those_that_are_sent() {
    let document = document();
    let words = document["components"]["schemas"]["ErrorCode"]["enum"].as_array().expect("words");
    let codes: Vec<_> = ErrorCode::ALL.iter().map(|code| code.as_str()).collect();
    assert_eq!(words, &codes);
    for name in ["EventKind", "ImageFormat", "VolumeStatus"] {
        let words = document["components"]["schemas"][name]["enum"].as_array().expect("words");
        let lower = |word: &Value| word.as_str().is_some_and(|word| word == word.to_lowercase());
        assert!(words.iter().all(lower), "{name}: {words:?}");
    }
}
