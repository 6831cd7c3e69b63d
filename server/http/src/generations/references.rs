//! The condition images of a body: files in base64, alone or as data URLs.

use super::fields::{Fields, text_of};
use super::files::{self, Memory};
use crate::error::ApiError;
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::sync::Arc;
use zimage_core::limits::Limits;
use zimage_core::pixels::Pixels;

const FIELD: &str = "references";

/// The files' texts, not decoded yet.
pub(super) fn take<'a>(
    fields: &mut Fields<'a>,
    limits: &Limits,
) -> Result<Vec<Cow<'a, str>>, ApiError> {
    let Some(raw) = fields.raw(FIELD) else {
        return Ok(Vec::new());
    };
    let files: Vec<&RawValue> = serde_json::from_str(raw).map_err(|_| {
        ApiError::invalid(FIELD, "references must be a list of image files in base64")
    })?;
    if files.len() > limits.max_references {
        let message = format!(
            "references has {} images, at most {} are taken",
            files.len(),
            limits.max_references
        );
        return Err(ApiError::invalid(FIELD, message));
    }
    let texts = files.into_iter().map(|file| text_of(FIELD, file.get()));
    texts.collect()
}

/// The files' pixels: together no more than an image may have, so that a small body never takes much memory.
pub(super) fn decode(
    files: &[Cow<'_, str>],
    limits: &Limits,
    memory: &mut Memory,
) -> Result<Vec<Arc<Pixels>>, ApiError> {
    let mut left = limits.max_pixels;
    let one = |file: &Cow<'_, str>| {
        files::decode(FIELD, file, memory, |width, height| {
            left = left
                .checked_sub(u64::from(width) * u64::from(height))
                .ok_or_else(|| {
                    format!("has an entry of {width}x{height} pixels: that is too many, shrink it")
                })?;
            Ok(())
        })
    };
    files.iter().map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::super::files::tests::{file, memory};
    use super::*;
    use crate::encode::ImageFormat;

    fn taken(body: &str) -> Result<Vec<Cow<'_, str>>, ApiError> {
        let mut fields = Fields::parse(body.as_bytes(), &[FIELD]).unwrap();
        take(&mut fields, &Limits::default())
    }

    fn png(width: u32, height: u32) -> Cow<'static, str> {
        file(width, height, ImageFormat::Png).into()
    }

    #[test]
    fn files_are_taken_alone_and_as_data_urls() {
        let files = [
            png(5, 3),
            format!("data:image/png;base64,{}", png(4, 2)).into(),
        ];
        let pixels = decode(&files, &Limits::default(), &mut memory(1 << 30)).unwrap();
        let sizes: Vec<_> = pixels
            .iter()
            .map(|pixels| (pixels.width(), pixels.height(), pixels.rgb()[0]))
            .collect();
        assert_eq!(sizes, [(5, 3, 7), (4, 2, 7)]);
    }

    #[test]
    fn images_share_the_pixels_that_one_request_may_have() {
        let limits = Limits {
            max_pixels: 100,
            ..Limits::default()
        };
        assert!(decode(&[png(8, 8)], &limits, &mut memory(1 << 30)).is_ok());
        let refused = decode(&[png(8, 8), png(8, 8)], &limits, &mut memory(1 << 30));
        let problem = format!("{:?}", refused.unwrap_err());
        assert!(
            problem.contains("8x8 pixels: that is too many"),
            "{problem}"
        );
    }

    #[test]
    fn no_references_and_null_are_none_and_five_are_too_many() {
        assert!(taken("{}").unwrap().is_empty());
        assert!(taken(r#"{"references": null}"#).unwrap().is_empty());
        assert_eq!(taken(r#"{"references": ["a", "b"]}"#).unwrap(), ["a", "b"]);
        assert!(taken(r#"{"references": ["", "", "", "", ""]}"#).is_err());
        assert!(taken(r#"{"references": ["a", 7]}"#).is_err());
    }
}
