//! The condition images of a body: files in base64, alone or as data URLs.

use super::fields::Fields;
use super::image_file;
use crate::error::ApiError;
use serde_json::Value;
use std::sync::Arc;
use zimage_core::limits::Limits;
use zimage_core::pixels::Pixels;

const FIELD: &str = "references";

/// The files' texts, not decoded yet.
pub(super) fn take(fields: &mut Fields, limits: &Limits) -> Result<Vec<String>, ApiError> {
    let fault = || ApiError::invalid(FIELD, "references must be a list of image files in base64");
    let files = match fields.value(FIELD) {
        None => return Ok(Vec::new()),
        Some(Value::Array(files)) => files,
        Some(_) => return Err(fault()),
    };
    if files.len() > limits.max_references {
        let message = format!(
            "references has {} images, at most {} are taken",
            files.len(),
            limits.max_references
        );
        return Err(ApiError::invalid(FIELD, message));
    }
    let text = |file: Value| match file {
        Value::String(text) => Ok(text),
        _ => Err(fault()),
    };
    files.into_iter().map(text).collect()
}

/// The files' pixels: together no more than an image may have, so that a small body never takes much memory.
pub(super) async fn decode(
    files: Vec<String>,
    limits: Limits,
) -> Result<Vec<Arc<Pixels>>, ApiError> {
    if files.is_empty() {
        return Ok(Vec::new());
    }
    let read = move || {
        let mut left = limits.max_pixels;
        let file = |text: &String| decode_one(text, &mut left).map(Arc::new);
        files.iter().map(file).collect()
    };
    image_file::decode(FIELD, read).await
}

/// `left` are the pixels that may still come; those of this image are taken off.
fn decode_one(text: &str, left: &mut u64) -> Result<Pixels, String> {
    let pixels = image_file::pixels(text, |width, height| {
        *left = left
            .checked_sub(u64::from(width) * u64::from(height))
            .ok_or_else(|| format!("has {width}x{height} pixels: that is too many, shrink it"))?;
        Ok(())
    });
    pixels.map_err(|problem| format!("an entry of references {problem}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::encode::{ImageFormat, encode};
    use base64_simd::STANDARD;

    fn file(width: u32, height: u32) -> String {
        let pixels = Pixels::new(width, height, vec![7; (width * height * 3) as usize]).unwrap();
        STANDARD.encode_to_string(encode(&pixels, ImageFormat::Png, &[]).unwrap())
    }

    fn taken(body: &str) -> Result<Vec<String>, ApiError> {
        take(
            &mut Fields::parse(body.as_bytes()).unwrap(),
            &Limits::default(),
        )
    }

    #[tokio::test]
    async fn files_are_taken_alone_and_as_data_urls() {
        let files = vec![file(5, 3), format!("data:image/png;base64,{}", file(4, 2))];
        let pixels = decode(files, Limits::default()).await.unwrap();
        let sizes: Vec<_> = pixels
            .iter()
            .map(|pixels| (pixels.width(), pixels.height(), pixels.rgb()[0]))
            .collect();
        assert_eq!(sizes, [(5, 3, 7), (4, 2, 7)]);
    }

    #[test]
    fn images_share_the_pixels_that_one_request_may_have() {
        let mut left = 100;
        assert!(decode_one(&file(8, 8), &mut left).is_ok());
        let problem = decode_one(&file(8, 8), &mut left).unwrap_err();
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
    }
}
