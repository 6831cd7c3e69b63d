//! The image that a new one starts from: `image`, `mask` and `strength`.

use super::fields::Fields;
use super::files::{self, Memory};
use crate::error::ApiError;
use std::borrow::Cow;
use zimage_core::request::{InitImage, default_strength};

const IMAGE: &str = "image";
const MASK: &str = "mask";
const STRENGTH: &str = "strength";

/// An image and a mask whose files are not decoded yet.
#[derive(Debug, PartialEq)]
pub(super) struct StartFiles<'a> {
    image: Cow<'a, str>,
    mask: Option<Cow<'a, str>>,
    strength: f32,
}

/// Takes the fields. `followed` says that there is a control image too.
pub(super) fn take<'a>(
    fields: &mut Fields<'a>,
    followed: bool,
) -> Result<Option<StartFiles<'a>>, ApiError> {
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
pub(super) fn decode(
    files: Option<StartFiles<'_>>,
    size: (u32, u32),
    memory: &mut Memory,
) -> Result<Option<InitImage>, ApiError> {
    let decoded = files.map(|files| {
        let pixels = files::of_size(IMAGE, &files.image, size, memory)?;
        let mask = files
            .mask
            .map(|mask| files::of_size(MASK, &mask, size, memory));
        Ok(InitImage {
            pixels,
            strength: files.strength,
            mask: mask.transpose()?,
        })
    });
    decoded.transpose()
}

#[cfg(test)]
mod tests {
    use super::super::files::tests::{file, memory};
    use super::*;
    use crate::encode::ImageFormat;

    fn taken(body: &str, followed: bool) -> Result<Option<StartFiles<'_>>, ApiError> {
        let mut fields = Fields::parse(body.as_bytes(), &[IMAGE, MASK, STRENGTH]).unwrap();
        take(&mut fields, followed)
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

    #[test]
    fn image_and_mask_have_the_size_of_the_new_image() {
        let decoded = |image: (u32, u32), mask: (u32, u32)| {
            let png = |(width, height)| Cow::from(file(width, height, ImageFormat::Png));
            let files = StartFiles {
                image: png(image),
                mask: Some(png(mask)),
                strength: 0.5,
            };
            decode(Some(files), (64, 48), &mut memory(1 << 30))
        };
        let right = decoded((64, 48), (64, 48)).unwrap().unwrap();
        assert_eq!(right.strength, 0.5);
        assert_eq!(right.mask.unwrap().width(), 64);
        assert!(decoded((48, 64), (64, 48)).is_err());
        assert!(decoded((64, 48), (48, 64)).is_err());
        assert!(decode(None, (64, 48), &mut memory(0)).unwrap().is_none());
    }
}
