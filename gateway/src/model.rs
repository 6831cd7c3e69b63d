//! Which model a body names, without building the rest of it. Pure.

use serde::de::{Deserialize, DeserializeSeed, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;
use std::fmt;

/// Longest name, in bytes.
pub(crate) const MOST_BYTES: usize = 128;
/// Each byte of a name may be written as `\u0000`, in quotes.
const MOST_WRITTEN: usize = 6 * MOST_BYTES + 2;

/// The name is longer than any model's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TooLong;

/// The model that a JSON body names; where it names several, the last one, as the server reads it. None for a body
/// without a readable one: any tier says what is wrong with it.
pub(crate) fn named(body: &[u8]) -> Result<Option<String>, TooLong> {
    let Ok(Named(Some(written))) = serde_json::from_slice(body) else {
        return Ok(None);
    };
    if !written.get().starts_with('"') {
        return Ok(None);
    }
    if written.get().len() > MOST_WRITTEN {
        return Err(TooLong);
    }
    match serde_json::from_str::<String>(written.get()) {
        Ok(name) if name.len() > MOST_BYTES => Err(TooLong),
        name => Ok(name.ok()),
    }
}

/// The value of `model` as it is written.
struct Named<'a>(Option<&'a RawValue>);

impl<'de> Deserialize<'de> for Named<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(Fields)
    }
}

struct Fields;

impl<'de> Visitor<'de> for Fields {
    type Value = Named<'de>;

    fn expecting(&self, text: &mut fmt::Formatter<'_>) -> fmt::Result {
        text.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Named<'de>, A::Error> {
        let mut named = None;
        while let Some(is_model) = map.next_key_seed(IsModel)? {
            if is_model {
                named = Some(map.next_value()?);
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(Named(named))
    }
}

/// Whether a key is `model`: it is compared where it stands.
struct IsModel;

impl<'de> DeserializeSeed<'de> for IsModel {
    type Value = bool;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<bool, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for IsModel {
    type Value = bool;

    fn expecting(&self, text: &mut fmt::Formatter<'_>) -> fmt::Result {
        text.write_str("a key")
    }

    fn visit_str<E>(self, key: &str) -> Result<bool, E> {
        Ok(key == "model")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn name(body: &str) -> Result<Option<String>, TooLong> {
        named(body.as_bytes())
    }

    fn is(body: &str, expected: &str) {
        assert_eq!(name(body), Ok(Some(expected.to_owned())), "{body}");
    }

    #[test]
    fn the_model_is_found_among_other_fields() {
        is(
            r#"{"prompt": "a", "x": [{"model": "no"}], "model": "z-image"}"#,
            "z-image",
        );
        is(r#"{"\u006dodel": "z\u002dimage"}"#, "z-image");
    }

    #[test]
    fn of_several_the_last_counts() {
        is(r#"{"model": "a", "model": "b"}"#, "b");
    }

    #[test]
    fn a_body_without_a_readable_model_names_none() {
        for body in [
            "",
            "{}",
            "[]",
            "null",
            r#"{"model": null}"#,
            r#"{"model": 1}"#,
            r#"{"model": "a""#,
            r#"{"model": {"a": "b"}}"#,
        ] {
            assert_eq!(name(body), Ok(None), "{body}");
        }
        assert_eq!(named(b"{\"model\": \"\xff\"}"), Ok(None));
    }

    #[test]
    fn a_name_longer_than_any_models_is_not_read() {
        let body = |length: usize| format!(r#"{{"model": "{}"}}"#, "a".repeat(length));
        assert_eq!(name(&body(128)), Ok(Some("a".repeat(128))));
        for length in [129, 1 << 20] {
            assert_eq!(name(&body(length)), Err(TooLong));
        }
        let written_long = format!(r#"{{"model": "{}"}}"#, r"\u0061".repeat(128));
        is(&written_long, &"a".repeat(128));
    }

    #[test]
    fn depth_is_no_danger() {
        let deep = format!(
            r#"{{"x": {}{}, "model": "a"}}"#,
            "[".repeat(100_000),
            "]".repeat(100_000)
        );
        is(&deep, "a");
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_fail(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _named = named(&bytes);
        }
    }
}
