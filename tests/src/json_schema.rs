//! What a JSON schema wants of a value: as much of that language as `docs/reference/json-schema.json` uses. A keyword that isn't
//! known here is an error, so nothing that the schema says goes unchecked. One more keyword: a case in [`Schema::keyword`].

use std::collections::BTreeMap;

use chrono::DateTime;
use regex::Regex;
use serde_json::{Map, Value};

#[derive(Debug)]
pub struct Schema {
    whole: Value,
    patterns: BTreeMap<String, Regex>,
}

impl Schema {
    pub fn new(whole: Value) -> Schema {
        let mut patterns = BTreeMap::new();
        compile(&whole, &mut patterns);
        Schema { whole, patterns }
    }

    /// What is wrong with a value, each with the place in it.
    pub fn errors(&self, value: &Value) -> Vec<String> {
        let mut wrong = Vec::new();
        self.check(&self.whole, value, "", &mut wrong);
        wrong
    }

    fn check(&self, schema: &Value, value: &Value, at: &str, wrong: &mut Vec<String>) {
        match schema {
            Value::Bool(true) => {}
            Value::Bool(false) => wrong.push(format!("{at} must not be there: {value}")),
            Value::Object(keywords) => {
                for (keyword, said) in keywords {
                    self.keyword(keyword, said, keywords, value, at, wrong);
                }
            }
            other => panic!("no schema: {other}"),
        }
    }

    fn fits(&self, schema: &Value, value: &Value) -> bool {
        let mut wrong = Vec::new();
        self.check(schema, value, "", &mut wrong);
        wrong.is_empty()
    }

    fn keyword(
        &self,
        keyword: &str,
        said: &Value,
        beside: &Map<String, Value>,
        value: &Value,
        at: &str,
        wrong: &mut Vec<String>,
    ) {
        let list = |said: &Value| said.as_array().unwrap_or_else(|| panic!("{keyword}: {said}")).clone();
        let text = |said: &Value| said.as_str().unwrap_or_else(|| panic!("{keyword}: {said}")).to_owned();
        let named = |said: &Value| said.as_object().unwrap_or_else(|| panic!("{keyword}: {said}")).clone();
        let fits = match keyword {
            "$schema" | "$defs" | "title" | "description" => true,
            "$ref" => {
                let path = text(said);
                let path = path.strip_prefix('#').unwrap_or_else(|| panic!("{path} is not in this schema"));
                let target = self.whole.pointer(path).unwrap_or_else(|| panic!("{path} is missing"));
                return self.check(target, value, at, wrong);
            }
            "type" if said.is_array() => list(said).iter().any(|one| is_of(&text(one), value)),
            "type" => is_of(&text(said), value),
            "enum" => list(said).contains(value),
            "const" => said == value,
            "minimum" => value.as_f64().is_none_or(|number| number >= said.as_f64().unwrap()),
            "pattern" => value.as_str().is_none_or(|value| self.patterns[&text(said)].is_match(value)),
            "format" => {
                assert_eq!(said, "date-time", "a format that isn't known");
                value.as_str().is_none_or(|value| DateTime::parse_from_rfc3339(value).is_ok())
            }
            "required" => {
                let missing =
                    |name: &Value| value.as_object().is_some_and(|object| !object.contains_key(&text(name)));
                !list(said).iter().any(missing)
            }
            "properties" => {
                for (name, schema) in named(said) {
                    if let Some(value) = value.get(&name) {
                        self.check(&schema, value, &format!("{at}/{name}"), wrong);
                    }
                }
                return;
            }
            "additionalProperties" => {
                let named = beside.get("properties").map(named).unwrap_or_default();
                for (name, value) in value.as_object().into_iter().flatten() {
                    if !named.contains_key(name) {
                        self.check(said, value, &format!("{at}/{name}"), wrong);
                    }
                }
                return;
            }
            "items" => {
                for (number, value) in value.as_array().into_iter().flatten().enumerate() {
                    self.check(said, value, &format!("{at}/{number}"), wrong);
                }
                return;
            }
            "anyOf" => list(said).iter().any(|schema| self.fits(schema, value)),
            "oneOf" => list(said).iter().filter(|schema| self.fits(schema, value)).count() == 1,
            other => panic!("the keyword {other} at {at:?} isn't known here"),
        };
        if !fits {
            wrong.push(format!("{at:?}: {keyword} {said} doesn't fit {value}"));
        }
    }
}

/// Whether a value is of a type, by the schema's word for it.
fn is_of(word: &str, value: &Value) -> bool {
    match word {
        "null" => value.is_null(),
        "boolean" => value.is_boolean(),
        "string" => value.is_string(),
        "number" => value.is_number(),
        "integer" => value.as_f64().is_some_and(|number| number.fract() == 0.0),
        "array" => value.is_array(),
        "object" => value.is_object(),
        other => panic!("the type {other} isn't known"),
    }
}

fn compile(part: &Value, patterns: &mut BTreeMap<String, Regex>) {
    match part {
        Value::Object(object) => {
            if let Some(Value::String(pattern)) = object.get("pattern") {
                let compiled = || Regex::new(pattern).unwrap_or_else(|error| panic!("{pattern}: {error}"));
                patterns.entry(pattern.clone()).or_insert_with(compiled);
            }
            object.values().for_each(|part| compile(part, patterns));
        }
        Value::Array(list) => list.iter().for_each(|part| compile(part, patterns)),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn each_keyword_lets_pass_what_fits_and_nothing_else() {
        let ab = json!({ "properties": { "a": { "type": "string" } }, "additionalProperties": false });
        let either = json!([{ "type": "integer" }, { "minimum": 2 }]);
        for (schema, fitting, wrong) in [
            (json!({ "type": "string" }), json!(["", "a"]), json!([1, null, []])),
            (json!({ "type": ["integer", "null"] }), json!([1, 1.0, null]), json!([1.5, "1", true])),
            (json!({ "type": "number" }), json!([1, 1.5]), json!(["1", null])),
            (json!({ "type": "object" }), json!([{}]), json!([[], null])),
            (
                json!({ "type": "array", "items": { "type": "boolean" } }),
                json!([[], [true]]),
                json!([{}, [true, 1]]),
            ),
            (json!({ "enum": ["a", null] }), json!(["a", null]), json!(["b"])),
            (json!({ "const": "a" }), json!(["a"]), json!(["b", null])),
            (json!({ "minimum": 2 }), json!([2, 2.5, "1"]), json!([1, -1, 1.9])),
            (json!({ "pattern": "^[a-z]+$" }), json!(["a", 1]), json!(["", "a1"])),
            (json!({ "format": "date-time" }), json!(["2026-01-01T00:00:00Z", 1]), json!(["2026-01-01", ""])),
            (json!({ "required": ["a"] }), json!([{ "a": null }, []]), json!([{}, { "b": 1 }])),
            (ab, json!([{}, { "a": "x" }, 1]), json!([{ "a": 1 }, { "b": 1 }])),
            (
                json!({ "additionalProperties": { "type": "string" } }),
                json!([{ "a": "b" }]),
                json!([{ "a": 1 }]),
            ),
            (json!({ "anyOf": either }), json!([1, 3, 2.5, "a"]), json!([1.5])),
            (json!({ "oneOf": either }), json!([1, 2.5, "a"]), json!([1.5, 3])),
            (json!({ "$ref": "#/$defs/a", "$defs": { "a": { "const": 1 } } }), json!([1]), json!([2])),
        ] {
            let checked = Schema::new(schema.clone());
            for value in fitting.as_array().unwrap() {
                assert_eq!(checked.errors(value), [""; 0], "{schema}");
            }
            for value in wrong.as_array().unwrap() {
                assert!(!checked.errors(value).is_empty(), "{schema} lets {value} pass");
            }
        }
    }

    #[test]
    fn what_is_wrong_is_told_with_its_place() {
        let schema =
            Schema::new(json!({ "properties": { "a": { "items": { "properties": { "b": false } } } } }));
        let wrong = schema.errors(&json!({ "a": [{}, { "b": 1 }] }));
        assert!(wrong.len() == 1 && wrong[0].contains("/a/1/b"), "{wrong:?}");
    }

    #[test]
    #[should_panic(expected = "maxLength")]
    fn a_keyword_that_is_not_known_is_an_error() {
        Schema::new(json!({ "maxLength": 1 })).errors(&json!(""));
    }
}
