//! The image that the new one follows: `control_image` and `controlnet_conditioning_scale`.

use super::fields::Fields;
use super::image_file;
use crate::error::ApiError;
use zimage_core::limits::Limits;
use zimage_core::request::{Control, DEFAULT_CONDITIONING_SCALE};

const FIELD: &str = "control_image";
const SCALE: &str = "controlnet_conditioning_scale";

/// A control image whose file is not decoded yet.
#[derive(Debug, PartialEq)]
pub(super) struct ControlFile {
    base64: String,
    conditioning_scale: f32,
}

/// Takes the fields.
pub(super) fn take(fields: &mut Fields, limits: &Limits) -> Result<Option<ControlFile>, ApiError> {
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
pub(super) async fn decode(
    file: Option<ControlFile>,
    size: (u32, u32),
) -> Result<Option<Control>, ApiError> {
    let Some(file) = file else {
        return Ok(None);
    };
    let read = move || image_file::of_size(FIELD, &file.base64, size);
    Ok(Some(Control {
        pixels: image_file::decode(FIELD, read).await?,
        conditioning_scale: file.conditioning_scale,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::encode::{ImageFormat, encode};
    use base64_simd::STANDARD;
    use zimage_core::pixels::Pixels;

    fn taken(body: &str) -> Result<Option<ControlFile>, ApiError> {
        let mut fields = Fields::parse(body.as_bytes()).unwrap();
        take(&mut fields, &Limits::default())
    }

    fn file(width: u32, height: u32) -> Option<ControlFile> {
        let pixels = Pixels::new(width, height, vec![7; (width * height * 3) as usize]).unwrap();
        Some(ControlFile {
            base64: STANDARD.encode_to_string(encode(&pixels, ImageFormat::Png, &[]).unwrap()),
            conditioning_scale: 0.5,
        })
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

    #[tokio::test]
    async fn control_image_has_the_size_of_the_new_one() {
        let control = decode(file(64, 48), (64, 48)).await.unwrap().unwrap();
        assert_eq!((control.pixels.width(), control.pixels.height()), (64, 48));
        assert_eq!(control.conditioning_scale, 0.5);
        assert!(decode(file(48, 64), (64, 48)).await.is_err());
        assert!(decode(None, (64, 48)).await.unwrap().is_none());
    }
}
