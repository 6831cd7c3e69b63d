//! The image that the new one follows: `control_image` and `controlnet_conditioning_scale`.

use super::fields::Fields;
use super::files::{self, Memory};
use crate::error::ApiError;
use std::borrow::Cow;
use zimage_core::limits::Limits;
use zimage_core::request::{Control, DEFAULT_CONDITIONING_SCALE};

const FIELD: &str = "control_image";
const SCALE: &str = "controlnet_conditioning_scale";

/// A control image whose file is not decoded yet.
#[derive(Debug, PartialEq)]
pub(super) struct ControlFile<'a> {
    base64: Cow<'a, str>,
    conditioning_scale: f32,
}

/// Takes the fields.
pub(super) fn take<'a>(
    fields: &mut Fields<'a>,
    limits: &Limits,
) -> Result<Option<ControlFile<'a>>, ApiError> {
    let scale = fields.number(SCALE, 0.0..=f64::from(limits.max_conditioning_scale))?;
    match (fields.text(FIELD)?, scale) {
        (None, Some(_)) => {
            let message = format!("{SCALE} needs {FIELD}: there is nothing to follow");
            Err(ApiError::invalid(SCALE, message))
        }
        (None, None) => Ok(None),
        (Some(base64), scale) => Ok(Some(ControlFile {
            base64,
            conditioning_scale: scale.unwrap_or(DEFAULT_CONDITIONING_SCALE),
        })),
    }
}

/// Decodes the file, which must have the new image's size.
pub(super) fn decode(
    file: Option<ControlFile<'_>>,
    size: (u32, u32),
    memory: &mut Memory,
) -> Result<Option<Control>, ApiError> {
    let decoded = file.map(|file| {
        Ok(Control {
            pixels: files::of_size(FIELD, &file.base64, size, memory)?,
            conditioning_scale: file.conditioning_scale,
        })
    });
    decoded.transpose()
}

#[cfg(test)]
mod tests {
    use super::super::files::tests::{file, memory};
    use super::*;
    use crate::encode::ImageFormat;

    fn taken(body: &str) -> Result<Option<ControlFile<'_>>, ApiError> {
        let mut fields = Fields::parse(body.as_bytes(), &[FIELD, SCALE]).unwrap();
        take(&mut fields, &Limits::default())
    }

    #[test]
    fn scale_is_diffusers_default_where_it_is_left_out() {
        let scale = |body| taken(body).unwrap().unwrap().conditioning_scale;
        assert_eq!(scale(r#"{"control_image": "a"}"#), 0.75);
        let both = r#"{"control_image": "a", "controlnet_conditioning_scale": 1}"#;
        assert_eq!(scale(both), 1.0);
        assert_eq!(taken("{}").unwrap(), None);
    }

    #[test]
    fn scale_alone_and_beyond_its_bounds_is_refused() {
        assert!(taken(r#"{"controlnet_conditioning_scale": 1}"#).is_err());
        let body = r#"{"control_image": "a", "controlnet_conditioning_scale": 2.5}"#;
        assert!(taken(body).is_err());
    }

    #[test]
    fn control_image_has_the_size_of_the_new_one() {
        let decoded = |width, height| {
            let base64 = file(width, height, ImageFormat::Png).into();
            let conditioning_scale = 0.5;
            let file = ControlFile {
                base64,
                conditioning_scale,
            };
            decode(Some(file), (64, 48), &mut memory(1 << 30))
        };
        let control = decoded(64, 48).unwrap().unwrap();
        assert_eq!((control.pixels.width(), control.pixels.height()), (64, 48));
        assert_eq!(control.conditioning_scale, 0.5);
        assert!(decoded(48, 64).is_err());
        assert!(decode(None, (64, 48), &mut memory(0)).unwrap().is_none());
    }
}
