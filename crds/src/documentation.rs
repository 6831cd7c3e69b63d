//! `kubectl explain` is the reference: each field of the spec says its bounds, its values, its default, or what unset means.

use crate::ZImageDeployment;
use kube::CustomResourceExt;
use serde_json::{Map, Value};

/// Fields of Kubernetes' own types, which Kubernetes documents.
const FOREIGN: [&str; 5] = [
    "affinity",
    "env",
    "imagePullSecrets",
    "resources",
    "tolerations",
];

fn schema(part: &str) -> Value {
    let crd = serde_json::to_value(ZImageDeployment::crd()).unwrap();
    crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"][part].clone()
}

/// What is missing from the descriptions of an object's fields and of all below them.
fn gaps(path: &str, object: &Value, is_complete: fn(&Field<'_>) -> Vec<String>) -> Vec<String> {
    let required = object["required"].as_array();
    let mut found = Vec::new();
    for (name, schema) in object["properties"].as_object().unwrap_or(&Map::new()) {
        let path = format!("{path}.{name}");
        let is_required = required.is_some_and(|names| names.contains(&name.as_str().into()));
        let field = Field {
            schema,
            is_required,
        };
        found.extend(
            is_complete(&field)
                .into_iter()
                .map(|gap| format!("{path} does not say {gap}: {:?}", field.description())),
        );
        if !FOREIGN.contains(&name.as_str()) {
            found.extend(gaps(&path, schema, is_complete));
        }
    }
    found
}

struct Field<'a> {
    schema: &'a Value,
    is_required: bool,
}

impl Field<'_> {
    fn description(&self) -> &str {
        self.schema["description"].as_str().unwrap_or_default()
    }

    fn words(&self) -> Vec<&str> {
        let inside = |character: char| character.is_alphanumeric() || "/._-".contains(character);
        let words = self.description().split(|character| !inside(character));
        words
            .map(|word| word.trim_end_matches('.'))
            .filter(|word| !word.is_empty())
            .collect()
    }

    fn says(&self, word: &str) -> bool {
        self.words().contains(&word)
    }

    fn says_default(&self, default: &Value) -> bool {
        let text = match default {
            Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        self.words()
            .windows(2)
            .any(|pair| pair[0].eq_ignore_ascii_case("default") && pair[1] == text)
    }

    fn missing_bounds(&self) -> Vec<String> {
        let limits = [
            "minimum",
            "maximum",
            "minLength",
            "maxLength",
            "maxItems",
            "maxProperties",
        ];
        let limits = limits.map(|name| self.schema[name].as_f64().map(|limit| limit.to_string()));
        let values = self.schema["enum"].as_array().into_iter().flatten();
        let values = values.filter_map(|value| value.as_str().map(str::to_owned));
        limits
            .into_iter()
            .flatten()
            .chain(values)
            .filter(|limit| !self.says(limit))
            .collect()
    }

    fn missing_default(&self) -> Option<String> {
        match &self.schema["default"] {
            _ if self.is_required => (!self.says("Required")).then(|| "Required".to_owned()),
            Value::Null => (!self.says("Unset")).then(|| "what Unset means".to_owned()),
            // An object's fields have defaults of their own, or are spelt out.
            Value::Object(_) if self.says("Unset") || self.says("Default") => None,
            default => (!self.says_default(default)).then(|| format!("its default {default}")),
        }
    }
}

#[test]
fn every_field_of_the_spec_says_its_bounds_its_default_and_what_unset_means() {
    let gaps = gaps("spec", &schema("spec"), |field| {
        let mut gaps = field.missing_bounds();
        gaps.extend(field.missing_default());
        gaps
    });
    assert!(gaps.is_empty(), "{}", gaps.join("\n"));
}

#[test]
fn every_field_of_the_status_says_what_it_is() {
    let gaps = gaps("status", &schema("status"), |field| {
        let silent = field.description().is_empty();
        silent.then(|| "anything".to_owned()).into_iter().collect()
    });
    assert!(gaps.is_empty(), "{}", gaps.join("\n"));
}

/// A test that passes whatever is written would prove nothing.
#[test]
fn a_gap_is_found() {
    let described = |description: &str| {
        let schema = serde_json::json!({"minimum": 1, "maximum": 100, "default": 10, "description": description});
        let field = Field {
            schema: &schema,
            is_required: false,
        };
        let gaps = field.missing_bounds().into_iter();
        gaps.chain(field.missing_default()).collect::<Vec<_>>()
    };
    assert_eq!(described("Pods. 1 to 100, default 10."), [""; 0]);
    assert_eq!(described("Pods. 1 to 1000, default 10."), ["100"]);
    assert_eq!(described("Pods. 1 to 100."), ["its default 10"]);
}
