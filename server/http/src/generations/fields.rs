//! The fields of a JSON body, taken one by one. Nothing is built of a value before it is known what it must be.

use crate::error::ApiError;
use crate::quote::{cut, quote};
use axum::http::StatusCode;
use serde::de::{DeserializeOwned, DeserializeSeed, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::fmt::{self, Display};
use std::ops::RangeInclusive;

/// The known fields that were not taken yet, as they stand in the body. `null` counts as left out, as OpenAI's clients mean
/// it. Of a field that comes twice the last one counts, as in the gateway and in Python.
#[derive(Debug)]
pub(super) struct Fields<'a> {
    known: Vec<(&'static str, &'a RawValue)>,
    /// The beginning of the first other field's name.
    unknown: Option<String>,
}

impl<'a> Fields<'a> {
    /// Reads a body, whose fields are `names`.
    pub(super) fn parse(body: &'a [u8], names: &'static [&'static str]) -> Result<Self, ApiError> {
        let fault = |message: String| {
            ApiError::new(StatusCode::BAD_REQUEST, message).with_code("invalid_json")
        };
        let text = std::str::from_utf8(body)
            .map_err(|error| fault(format!("the body is no UTF-8: {error}")))?;
        if !text.trim_start().starts_with('{') && serde_json::from_str::<IgnoredAny>(text).is_ok() {
            return Err(fault("the body must be a JSON object".to_owned()));
        }
        let mut reader = serde_json::Deserializer::from_str(text);
        let fields = reader.deserialize_map(Reader(names));
        let fields = fields.and_then(|fields| reader.end().map(|()| fields));
        let said = |error: serde_json::Error| {
            fault(format!(
                "the body is no valid JSON: {}",
                cut(&error.to_string())
            ))
        };
        fields.map_err(said)
    }

    /// A value as it stands in the body.
    pub(super) fn raw(&mut self, name: &str) -> Option<&'a str> {
        let position = self.known.iter().position(|(known, _)| *known == name)?;
        let text = self.known.swap_remove(position).1.get();
        (text != "null").then_some(text)
    }

    pub(super) fn text(&mut self, name: &str) -> Result<Option<Cow<'a, str>>, ApiError> {
        let text = self.raw(name).map(|raw| text_of(name, raw));
        text.transpose()
    }

    /// One of a few words.
    pub(super) fn word<'w>(
        &mut self,
        name: &str,
        words: &[&'w str],
    ) -> Result<Option<&'w str>, ApiError> {
        let Some(text) = self.text(name)? else {
            return Ok(None);
        };
        let found = words.iter().find(|word| **word == text);
        let fault = || {
            let words = words.join(", ");
            ApiError::invalid(
                name,
                format!("{name} must be one of {words}, not {}", quote(&text)),
            )
        };
        found.copied().map(Some).ok_or_else(fault)
    }

    pub(super) fn integer<T: DeserializeOwned + PartialOrd + Display>(
        &mut self,
        name: &str,
        range: RangeInclusive<T>,
    ) -> Result<Option<T>, ApiError> {
        let integer = self
            .raw(name)
            .map(|raw| within(name, "an integer", raw, range));
        integer.transpose()
    }

    pub(super) fn number(
        &mut self,
        name: &str,
        range: RangeInclusive<f32>,
    ) -> Result<Option<f32>, ApiError> {
        let number = self
            .raw(name)
            .map(|raw| number_of(name, "a number", raw, range));
        number.transpose()
    }

    /// Refuses a field that is not known.
    pub(super) fn finish(self, known: &str) -> Result<(), ApiError> {
        match self.unknown {
            None => Ok(()),
            Some(name) => {
                let message = format!("unknown field {}; known are {known}", quote(&name));
                Err(ApiError::unknown(&name, message))
            }
        }
    }
}

/// A string, copied only where it has escapes.
pub(super) fn text_of<'a>(name: &str, raw: &'a str) -> Result<Cow<'a, str>, ApiError> {
    if !raw.starts_with('"') {
        let message = format!("{name} must be a string, not {}", cut(raw));
        return Err(ApiError::invalid(name, message));
    }
    if let Ok(text) = serde_json::from_str::<&str>(raw) {
        return Ok(Cow::Borrowed(text));
    }
    let text: serde_json::Result<String> = serde_json::from_str(raw);
    text.map(Cow::Owned).map_err(|error| {
        let message = format!("{name} is no valid text: {}", cut(&error.to_string()));
        ApiError::invalid(name, message)
    })
}

/// A number, compared in the precision that it was written in.
pub(super) fn number_of(
    name: &str,
    kind: &str,
    raw: &str,
    range: RangeInclusive<f32>,
) -> Result<f32, ApiError> {
    let (least, most) = range.into_inner();
    let number = within(name, kind, raw, f64::from(least)..=f64::from(most))?;
    Ok(number as f32)
}

/// A value of a range; `kind` says what it is.
fn within<T: DeserializeOwned + PartialOrd + Display>(
    name: &str,
    kind: &str,
    raw: &str,
    range: RangeInclusive<T>,
) -> Result<T, ApiError> {
    let value = serde_json::from_str(raw).ok();
    value.filter(|value| range.contains(value)).ok_or_else(|| {
        let (least, most) = range.into_inner();
        let message = format!(
            "{name} must be {kind} from {least} to {most}, not {}",
            cut(raw)
        );
        ApiError::invalid(name, message)
    })
}

/// Reads an object whose fields may be these.
struct Reader(&'static [&'static str]);

impl<'de> Visitor<'de> for Reader {
    type Value = Fields<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut object: A) -> Result<Fields<'de>, A::Error> {
        let mut fields = Fields {
            known: Vec::new(),
            unknown: None,
        };
        while let Some(name) = object.next_key_seed(Name(self.0))? {
            match name {
                Ok(name) => {
                    let value = object.next_value()?;
                    fields.known.retain(|(known, _)| *known != name);
                    fields.known.push((name, value));
                }
                Err(name) => {
                    object.next_value::<IgnoredAny>()?;
                    fields.unknown.get_or_insert(name);
                }
            }
        }
        Ok(fields)
    }
}

/// A field's name: one of these, or the beginning of another.
struct Name(&'static [&'static str]);

impl<'de> DeserializeSeed<'de> for Name {
    type Value = Result<&'static str, String>;

    fn deserialize<D: Deserializer<'de>>(self, reader: D) -> Result<Self::Value, D::Error> {
        reader.deserialize_str(self)
    }
}

impl Visitor<'_> for Name {
    type Value = Result<&'static str, String>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a field's name")
    }

    fn visit_str<E>(self, name: &str) -> Result<Self::Value, E> {
        let known = self.0.iter().find(|known| **known == name);
        Ok(known.copied().ok_or_else(|| cut(name)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAMES: &[&str] = &["prompt", "n"];

    fn parse(body: &str) -> Result<Fields<'_>, ApiError> {
        Fields::parse(body.as_bytes(), NAMES)
    }

    #[test]
    fn the_last_of_two_fields_counts_and_null_is_none() {
        let mut fields = parse(r#"{"prompt": "a", "n": 1, "prompt": "b", "n": null}"#).unwrap();
        assert_eq!(fields.text("prompt").unwrap().unwrap(), "b");
        assert_eq!(fields.integer("n", 1..=9_u32).unwrap(), None);
        assert!(fields.finish("").is_ok());
    }

    #[test]
    fn texts_are_borrowed_unless_they_have_escapes() {
        let mut fields = parse(r#"{"prompt": "橘猫"}"#).unwrap();
        assert!(matches!(
            fields.text("prompt"),
            Ok(Some(Cow::Borrowed("橘猫")))
        ));
        let mut fields = parse(r#"{"prompt": "a\/b\u00e9"}"#).unwrap();
        assert_eq!(fields.text("prompt").unwrap().unwrap(), "a/bé");
        let mut fields = parse(r#"{"prompt": "\ud800"}"#).unwrap();
        assert!(fields.text("prompt").is_err());
    }

    #[test]
    fn an_unknown_field_is_named_and_its_value_never_built() {
        let deep = format!(
            r#"{{"x": {}1{}, "y": 1}}"#,
            "[".repeat(100_000),
            "]".repeat(100_000)
        );
        let fields = parse(&deep).unwrap();
        assert_eq!(fields.unknown.as_deref(), Some("x"));
        let long = format!(r#"{{"{}": 1}}"#, "é".repeat(100_000));
        assert!(parse(&long).unwrap().unknown.unwrap().chars().count() < 110);
    }

    #[test]
    fn what_is_no_object_is_told_from_what_is_no_json() {
        for (body, said) in [
            ("[]", "object"),
            ("7", "object"),
            ("{", "JSON"),
            ("", "JSON"),
            ("{} x", "JSON"),
            (r#"{"n": 01}"#, "JSON"),
        ] {
            let error = format!("{:?}", parse(body).unwrap_err());
            assert!(error.contains(said), "{body}: {error}");
        }
        assert!(Fields::parse(b"{\"prompt\": \"\xff\"}", NAMES).is_err());
    }
}
