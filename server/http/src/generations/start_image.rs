//! The image that a new one starts from: `image`, `mask` and `strength`.

use super::fields::Fields;
use super::image_file;
use crate::error::ApiError;
use zimage_core::request::{InitImage, default_strength};

const IMAGE: &str = "image";
const MASK: &str = "mask";
const STRENGTH: &str = "strength";

/// An image and a mask whose files are not decoded yet.
#[derive(Debug, PartialEq)]
pub(super) struct StartFiles {
    image: String,
    mask: Option<String>,
    strength: f32,
}

/// Takes the fields. `followed` says that there is a control image too.
pub(super) fn take(fields: &mut Fields, followed: bool) -> Result<Option<StartFiles>, ApiError> {
    let strength = fields.number(STRENGTH, 0.0..=1.0)?;
    let (image, mask) = (fields.text(IMAGE)?, fields.text(MASK)?);
    let alone = |field| ApiError::invalid(field, format!("{field} needs {IMAGE}"));
    match (image, mask, strength) {
        (Some(image), mask, strength) => Ok(Some(StartFiles {
            image,
            mask,
            strength: strength.unwrap_or_else(|| default_strength(followed)),
        })),
        (None, Some(_), _) => Err(alone(MASK)),
        (None, None, Some(_)) => Err(alone(STRENGTH)),
        (None, None, None) => Ok(None),
    }
}

/// Decodes the files, which must have the new image's size.
pub(super) async fn decode(
    files: Option<StartFiles>,
    size: (u32, u32),
) -> Result<Option<InitImage>, ApiError> {
    let Some(StartFiles {
        image,
        mask,
        strength,
    }) = files
    else {
        return Ok(None);
    };
    let read = move || image_file::of_size(IMAGE, &image, size);
    let pixels = image_file::decode(IMAGE, read).await?;
    let mask = match mask {
        Some(mask) => {
            let read = move || image_file::of_size(MASK, &mask, size);
            Some(image_file::decode(MASK, read).await?)
        }
        None => None,
    };
    Ok(Some(InitImage {
        pixels,
        strength,
        mask,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::encode::{ImageFormat, encode};
    use base64_simd::STANDARD;
    use zimage_core::pixels::Pixels;

    fn taken(body: &str, followed: bool) -> Result<Option<StartFiles>, ApiError> {
        take(&mut Fields::parse(body.as_bytes()).unwrap(), followed)
    }

    fn file(width: u32, height: u32) -> String {
        let pixels = Pixels::new(width, height, vec![7; (width * height * 3) as usize]).unwrap();
        STANDARD.encode_to_string(encode(&pixels, ImageFormat::Png, &[]).unwrap())
    }

    #[test]
    fn strength_is_diffusers_default_and_all_of_it_with_a_control_image() {
        let strength = |body, followed| taken(body, followed).unwrap().unwrap().strength;
        assert_eq!(strength(r#"{"image": "a"}"#, false), 0.6);
        assert_eq!(strength(r#"{"image": "a"}"#, true), 1.0);
        assert_eq!(strength(r#"{"image": "a", "strength": 0.3}"#, true), 0.3);
        assert_eq!(taken("{}", false).unwrap(), None);
    }

    #[test]
    fn mask_and_strength_need_an_image() {
        assert!(taken(r#"{"mask": "a"}"#, false).is_err());
        assert!(taken(r#"{"strength": 0.5}"#, false).is_err());
        assert!(taken(r#"{"image": "a", "strength": 1.5}"#, false).is_err());
    }

    #[tokio::test]
    async fn image_and_mask_have_the_size_of_the_new_image() {
        let files = |image, mask| {
            Some(StartFiles {
                image,
                mask: Some(mask),
                strength: 0.5,
            })
        };
        let size = (64, 48);
        let right = decode(files(file(64, 48), file(64, 48)), size).await;
        let right = right.unwrap().unwrap();
        assert_eq!(right.strength, 0.5);
        assert_eq!(right.mask.unwrap().width(), 64);
        assert!(
            decode(files(file(48, 64), file(64, 48)), size)
                .await
                .is_err()
        );
        assert!(
            decode(files(file(64, 48), file(48, 64)), size)
                .await
                .is_err()
        );
        assert!(decode(None, size).await.unwrap().is_none());
    }
}
