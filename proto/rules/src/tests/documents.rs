//! The documentation's examples, and the schema beside the parser.

use boon::{Compiler, SchemaIndex, Schemas};
use serde_json::Value;

use super::mistakes::{MISTAKES, RIGHT};
use super::rules;
use crate::parse::yaml::{self, Is, Node};
use crate::{Image, Rules};

const GUIDE: &str = include_str!("../../../../docs/guide/rules.md");
const REFERENCE: &str = include_str!("../../../../docs/reference/rules.md");
const SCHEMA: &str = include_str!("../../../../docs/reference/farm-yaml.schema.json");

fn examples() -> Vec<&'static str> {
    let blocks =
        |text: &'static str| text.split("```yaml\n").skip(1).filter_map(|rest| rest.split("```").next());
    blocks(GUIDE).chain(blocks(REFERENCE)).collect()
}

#[test]
fn every_example_of_the_documentation_is_taken() {
    let examples = examples();
    assert!(examples.len() > 7, "{}", examples.len());
    for example in examples {
        let rules = rules(example);
        assert!(!rules.images().is_empty());
    }
    // The reference has each key in its tables, and its example each that is taken.
    let example = examples_of_reference();
    for key in keys() {
        assert!(REFERENCE.contains(&format!("`{key}`")), "{key} isn't in the reference");
        assert!(example.contains(&format!("{key}:")) || key == "dockerfile", "{key} isn't in the example");
    }
}

fn examples_of_reference() -> &'static str {
    REFERENCE.split("```yaml\n").nth(1).unwrap().split("```").next().unwrap()
}

/// An image's keys, by the schema.
fn keys() -> Vec<String> {
    let schema: Value = serde_json::from_str(SCHEMA).unwrap();
    schema["$defs"]["image"]["properties"].as_object().unwrap().keys().cloned().collect()
}

struct Schema(Schemas, SchemaIndex);

impl Schema {
    fn new() -> Self {
        let (mut schemas, mut compiler) = (Schemas::new(), Compiler::new());
        compiler.add_resource("farm-yaml.schema.json", serde_json::from_str(SCHEMA).unwrap()).unwrap();
        let index =
            compiler.compile("farm-yaml.schema.json", &mut schemas).unwrap_or_else(|e| panic!("{e:#}"));
        Self(schemas, index)
    }

    /// What it finds wrong.
    fn wrong(&self, text: &str) -> Option<String> {
        let value = json(&yaml::read(text, &mut Vec::new())?);
        self.0.validate(&value, self.1).err().map(|wrong| format!("{wrong:#}"))
    }
}

/// As an editor reads it: YAML's core schema.
fn json(node: &Node) -> Value {
    match &node.is {
        Is::List(items) => items.iter().map(json).collect(),
        Is::Map(entries) => entries.iter().map(|(key, node)| (key.name.clone(), json(node))).collect(),
        Is::Text { .. } if node.is_nothing() => Value::Null,
        Is::Text { text, plain: true } if !text.contains(['"', '{', '[']) => {
            serde_json::from_str(text).unwrap_or_else(|_| text.clone().into())
        }
        Is::Text { text, .. } => text.clone().into(),
    }
}

#[test]
fn the_schema_takes_what_is_right_and_refuses_nothing_that_the_parser_takes() {
    let schema = Schema::new();
    for text in examples().into_iter().chain(RIGHT) {
        rules(text);
        assert_eq!(schema.wrong(text), None, "{text}");
    }
    let mut refused = 0;
    for (text, _) in MISTAKES {
        let is_taken = Rules::parse(text).is_ok();
        let wrong = schema.wrong(text);
        refused += usize::from(wrong.is_some());
        assert!(!(is_taken && wrong.is_some()), "{wrong:?}\n{text}");
    }
    assert!(refused > MISTAKES.len() / 3, "the schema refuses {refused} of {} mistakes", MISTAKES.len());
}

/// A line of an example is lost, doubled or cut, as it is while somebody writes.
#[test]
fn what_the_schema_refuses_of_an_example_that_was_cut_the_parser_refuses() {
    let schema = Schema::new();
    let mut refused = 0;
    for example in examples() {
        let lines: Vec<&str> = example.lines().collect();
        for at in 0..lines.len() {
            let cut = &lines[at][..lines[at].len() / 2];
            for middle in [&[][..], &[lines[at], lines[at]], &[cut]] {
                let text = [&lines[..at], middle, &lines[at + 1..]].concat().join("\n");
                let Some(wrong) = schema.wrong(&text) else { continue };
                refused += 1;
                assert!(Rules::parse(&text).is_err(), "{wrong}\n{text}");
            }
        }
    }
    assert!(refused > 20, "{refused}");
}

#[test]
fn what_is_said_in_defaults_counts_unless_an_image_says_it() {
    let rules = rules(
        "version: 1\ndefaults:\n  on: [push]\n  platforms: [linux/amd64]\n  build_args: {A: 1.10, B: x}\n  labels: {l: d}\n\
         images:\n  a: {}\n  b: {platforms: [linux/arm64], build_args: {B: \"\"}, context: ./b/, dockerfile: b//c/../D}\n"
            .replace("c/../", "c/")
            .as_str(),
    );
    let [a, b] = rules.images() else { panic!("{rules:?}") };
    let args = |image: &Image| {
        image.build_args.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>()
    };
    assert_eq!(
        (args(a), args(b)),
        (vec!["A=1.10".to_owned(), "B=x".to_owned()], vec!["A=1.10".to_owned(), "B=".to_owned()])
    );
    assert_eq!(
        (a.platforms[0].to_string(), b.platforms[0].to_string()),
        ("linux/amd64".to_owned(), "linux/arm64".to_owned())
    );
    assert_eq!((a.dockerfile.as_str(), a.context.as_str()), ("Dockerfile", "."));
    assert_eq!((b.dockerfile.as_str(), b.context.as_str()), ("b/c/D", "b"));
    assert_eq!(b.labels["l"], "d");
}
