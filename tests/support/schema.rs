//! Checks JSON against a JSON Schema, as far as ours goes: a keyword that is not known here is an error, not ignored.

use std::fs;
use std::path::Path;

use serde_json::Value;

/// Every way in which `value` does not fit the schema `docs/<name>.schema.json`.
pub fn problems(name: &str, value: &Value) -> Vec<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("docs/{name}.schema.json"));
    let schema: Value = serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap();
    let mut found = Vec::new();
    check(&schema, &schema, value, "$", &mut found);
    found
}

fn check(root: &Value, schema: &Value, value: &Value, at: &str, found: &mut Vec<String>) {
    for (keyword, rule) in schema.as_object().unwrap() {
        let number = |rule: &Value| rule.as_f64().unwrap();
        let mut fail = |problem: String| found.push(format!("{at}: {problem}"));
        match keyword.as_str() {
            "$schema" | "title" | "description" | "$defs" => {}
            "$ref" => {
                let target = root.pointer(rule.as_str().unwrap().strip_prefix('#').unwrap()).unwrap();
                check(root, target, value, at, found);
            }
            "oneOf" => one_of(root, rule, value, at, found),
            "type" => {
                let kinds: Vec<&str> =
                    rule.as_array().map_or_else(|| rule.as_str().into_iter().collect(), |l| l.iter().filter_map(Value::as_str).collect());
                if !kinds.iter().any(|kind| is_kind(value, kind)) {
                    fail(format!("{value} is not {}", kinds.join(" or ")));
                }
            }
            "const" if value != rule => fail(format!("{value} is not {rule}")),
            "enum" if !rule.as_array().unwrap().contains(value) => fail(format!("{value} is not in {rule}")),
            "const" | "enum" => {}
            "minimum" if value.as_f64().is_some_and(|v| v < number(rule)) => fail(format!("{value} is below {rule}")),
            "maximum" if value.as_f64().is_some_and(|v| v > number(rule)) => fail(format!("{value} is above {rule}")),
            "exclusiveMinimum" if value.as_f64().is_some_and(|v| v <= number(rule)) => fail(format!("{value} is not above {rule}")),
            "minimum" | "maximum" | "exclusiveMinimum" => {}
            "minItems" if value.as_array().is_some_and(|v| (v.len() as f64) < number(rule)) => fail(format!("less than {rule} items")),
            "minItems" => {}
            "required" => {
                for key in rule.as_array().unwrap().iter().map(|key| key.as_str().unwrap()) {
                    if value.is_object() && value.get(key).is_none() {
                        fail(format!("{key} is missing"));
                    }
                }
            }
            "additionalProperties" => {
                assert_eq!(rule, &Value::Bool(false), "{at}");
                for key in value.as_object().into_iter().flatten().map(|(key, _)| key) {
                    if schema["properties"].get(key).is_none() {
                        fail(format!("{key} is not in the schema"));
                    }
                }
            }
            "properties" => {
                for (key, rule) in rule.as_object().unwrap() {
                    if let Some(value) = value.get(key) {
                        check(root, rule, value, &format!("{at}.{key}"), found);
                    }
                }
            }
            "items" => {
                for (index, value) in value.as_array().into_iter().flatten().enumerate() {
                    check(root, rule, value, &format!("{at}[{index}]"), found);
                }
            }
            other => panic!("{at}: this check does not know the keyword {other}"),
        }
    }
}

/// Exactly one of the alternatives holds; else the problems of the one that comes nearest.
fn one_of(root: &Value, rules: &Value, value: &Value, at: &str, found: &mut Vec<String>) {
    let of_rule = |rule: &Value| {
        let mut problems = Vec::new();
        check(root, rule, value, at, &mut problems);
        problems
    };
    let all: Vec<Vec<String>> = rules.as_array().unwrap().iter().map(of_rule).collect();
    match all.iter().filter(|problems| problems.is_empty()).count() {
        1 => {}
        0 => found.extend(all.into_iter().min_by_key(Vec::len).unwrap()),
        many => found.push(format!("{at}: fits {many} alternatives")),
    }
}

fn is_kind(value: &Value, kind: &str) -> bool {
    match kind {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "number" => value.is_number(),
        "integer" => value.is_i64() || value.is_u64(),
        "boolean" => value.is_boolean(),
        "null" => value.is_null(),
        other => panic!("no such type: {other}"),
    }
}
