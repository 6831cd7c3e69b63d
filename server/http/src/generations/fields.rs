//! The fields of a JSON body, taken one by one; what nobody took is refused by name.

use crate::error::ApiError;
use axum::http::StatusCode;
use serde_json::{Map, Value};
use std::ops::RangeInclusive;

/// The fields that were not taken yet. `null` counts as left out, as OpenAI's clients mean it.
pub(super) struct Fields(Map<String, Value>);

impl Fields {
    pub(super) fn parse(body: &[u8]) -> Result<Self, ApiError> {
        let fault = |message: String| {
            ApiError::new(StatusCode::BAD_REQUEST, message).with_code("invalid_json")
        };
        match serde_json::from_slice(body) {
            Ok(Value::Object(fields)) => Ok(Self(fields)),
            Ok(_) => Err(fault("the body must be a JSON object".to_owned())),
            Err(error) => Err(fault(format!("the body is no valid JSON: {error}"))),
        }
    }

    fn take(&mut self, name: &str) -> Option<Value> {
        self.0.remove(name).filter(|value| !value.is_null())
    }

    pub(super) fn text(&mut self, name: &str) -> Result<Option<String>, ApiError> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(other) => Err(ApiError::invalid(
                name,
                format!("{name} must be a string, not {other}"),
            )),
        }
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
            ApiError::invalid(
                name,
                format!("{name} must be one of {}, not {text:?}", words.join(", ")),
            )
        };
        found.copied().map(Some).ok_or_else(fault)
    }

    pub(super) fn integer(
        &mut self,
        name: &str,
        range: RangeInclusive<u64>,
    ) -> Result<Option<u64>, ApiError> {
        let Some(value) = self.take(name) else {
            return Ok(None);
        };
        let fault = || {
            let (start, end) = range.clone().into_inner();
            ApiError::invalid(
                name,
                format!("{name} must be an integer from {start} to {end}, not {value}"),
            )
        };
        value
            .as_u64()
            .filter(|value| range.contains(value))
            .map(Some)
            .ok_or_else(fault)
    }

    pub(super) fn number(
        &mut self,
        name: &str,
        range: RangeInclusive<f64>,
    ) -> Result<Option<f32>, ApiError> {
        let Some(value) = self.take(name) else {
            return Ok(None);
        };
        let fault = || {
            let (start, end) = range.clone().into_inner();
            ApiError::invalid(
                name,
                format!("{name} must be a number from {start} to {end}, not {value}"),
            )
        };
        let number = value
            .as_f64()
            .filter(|value| range.contains(value))
            .ok_or_else(fault)?;
        Ok(Some(number as f32))
    }

    /// A value that the caller looks at itself.
    pub(super) fn value(&mut self, name: &str) -> Option<Value> {
        self.take(name)
    }

    /// Refuses what nobody took.
    pub(super) fn finish(self, known: &str) -> Result<(), ApiError> {
        match self.0.keys().next() {
            None => Ok(()),
            Some(name) => Err(ApiError::unknown(
                name,
                format!("unknown field {name:?}; known are {known}"),
            )),
        }
    }
}
