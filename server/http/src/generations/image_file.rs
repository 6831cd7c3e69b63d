//! An image file inside a body: base64, alone or as a data URL.

use crate::error::ApiError;
use crate::image_file::ImageFile;
use axum::http::StatusCode;
use base64_simd::STANDARD;
use std::sync::Arc;
use zimage_core::pixels::Pixels;

/// The pixels of a PNG, JPEG or WebP file, if `check` has nothing against its width and height. A file of a few bytes can
/// say that it has any number of pixels, so none are decoded before.
///
/// # Errors
/// What is wrong with the file, to be put behind the field's name.
pub(super) fn pixels(
    text: &str,
    check: impl FnOnce(u32, u32) -> Result<(), String>,
) -> Result<Pixels, String> {
    let base64 = match text.strip_prefix("data:") {
        Some(url) => url.split_once(";base64,").map_or("", |(_, base64)| base64),
        None => text,
    };
    let bytes = STANDARD
        .decode_to_vec(base64)
        .map_err(|_| "must be an image file in base64".to_owned())?;
    let file = ImageFile::read(bytes)?;
    let (width, height) = file.size();
    check(width, height)?;
    file.decode()
}

/// The pixels of a file that must have the new image's width and height: nothing is resized here.
///
/// # Errors
/// What is wrong with the field.
pub(super) fn of_size(field: &str, text: &str, size: (u32, u32)) -> Result<Arc<Pixels>, String> {
    let fits = |width, height| match (width, height) == size {
        true => Ok(()),
        false => Err(format!(
            "has {width}x{height} pixels; the size asked for, {}x{}, is needed",
            size.0, size.1
        )),
    };
    let pixels = pixels(text, fits).map_err(|problem| format!("{field} {problem}"))?;
    Ok(Arc::new(pixels))
}

/// Decodes a field's files on a thread for such work.
///
/// # Errors
/// What `work` says is wrong with the field.
pub(super) async fn decode<T: Send + 'static>(
    field: &'static str,
    work: impl FnOnce() -> Result<T, String> + Send + 'static,
) -> Result<T, ApiError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(decoded) => decoded.map_err(|problem| ApiError::invalid(field, problem)),
        Err(error) => {
            let message = format!("failed to read {field}: {error}");
            Err(ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, message))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::encode::{ImageFormat, encode};

    fn file(format: ImageFormat) -> String {
        let pixels = Pixels::new(5, 3, vec![7; 5 * 3 * 3]).unwrap();
        STANDARD.encode_to_string(encode(&pixels, format, &[]).unwrap())
    }

    #[test]
    fn files_of_every_format_are_read_alone_and_as_data_urls() {
        for format in [ImageFormat::Png, ImageFormat::Jpeg(100), ImageFormat::Webp] {
            let text = file(format);
            let url = format!("data:image/png;base64,{text}");
            for text in [text, url] {
                let pixels = pixels(&text, |_, _| Ok(())).unwrap();
                assert_eq!((pixels.width(), pixels.height()), (5, 3));
                assert!(pixels.rgb().iter().all(|level| level.abs_diff(7) < 2));
            }
        }
    }

    #[test]
    fn size_is_checked_before_anything_is_decoded() {
        let mut bytes = STANDARD.decode_to_vec(file(ImageFormat::Png)).unwrap();
        // Signature and header stay; what they announce is missing.
        bytes.truncate(60);
        let text = STANDARD.encode_to_string(bytes);
        let refused = pixels(&text, |width, height| Err(format!("is {width}x{height}")));
        assert_eq!(refused, Err("is 5x3".to_owned()));
        assert!(pixels(&text, |_, _| Ok(())).is_err());
    }

    #[test]
    fn what_is_no_image_is_refused() {
        for (text, reason) in [
            ("https://example.com/a.png", "base64"),
            ("aGVsbG8=", "no readable image"),
            ("data:,hello", "no readable image"),
            ("", "no readable image"),
        ] {
            let problem = pixels(text, |_, _| Ok(())).unwrap_err();
            assert!(problem.contains(reason), "{text}: {problem}");
        }
    }
}
