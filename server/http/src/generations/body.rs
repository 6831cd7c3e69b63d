//! The body of `POST /v1/images/generations`: OpenAI's fields and diffusers' beside them.
//!
//! Follows <https://platform.openai.com/docs/api-reference/images/create>; a field of OpenAI's that this server cannot
//! serve is refused with the reason, never ignored.

use super::control::{self, ControlFile};
use super::fields::Fields;
use super::references;
use super::start_image::{self, StartFiles};
use crate::app::Identity;
use crate::encode::ImageFormat;
use crate::error::ApiError;
use crate::quote::{cut, quote};
use axum::http::StatusCode;
use std::borrow::Cow;
use zimage_core::limits::Limits;
use zimage_core::request::{CfgNormalization, ImageRequest, Noise};

/// Side of an image whose size is left out, in pixels.
const DEFAULT_SIDE: u32 = 1024;
/// JPEG quality where `output_compression` is left out.
const DEFAULT_QUALITY: u8 = 95;
/// What a field may be called.
pub(super) const NAMES: &[&str] = &[
    "prompt",
    "model",
    "n",
    "size",
    "output_format",
    "output_compression",
    "response_format",
    "quality",
    "background",
    "moderation",
    "user",
    "stream",
    "partial_images",
    "style",
    "seed",
    "width",
    "height",
    "num_inference_steps",
    "guidance_scale",
    "negative_prompt",
    "cfg_normalization",
    "cfg_truncation",
    "image",
    "mask",
    "strength",
    "control_image",
    "controlnet_conditioning_scale",
    "references",
];
const KNOWN: &str = "prompt, model, n, size, output_format, output_compression, response_format, quality, background, \
    moderation, user, stream, and diffusers' seed, width, height, num_inference_steps, guidance_scale, negative_prompt, \
    cfg_normalization, cfg_truncation, image, mask, strength, controlnet_conditioning_scale, and control_image for a \
    ControlNet and references: condition images for an Omni model";

/// What a body asks for.
#[derive(Debug)]
pub(super) struct Wish<'a> {
    /// One for each image.
    pub(super) requests: Vec<ImageRequest>,
    pub(super) format: ImageFormat,
    /// Condition images of all of them, in base64.
    pub(super) references: Vec<Cow<'a, str>>,
    /// What all of them start from.
    pub(super) start: Option<StartFiles<'a>>,
    /// What all of them follow.
    pub(super) control: Option<ControlFile<'a>>,
}

/// Reads a body. `random_seed` is used where it names none.
pub(super) fn parse<'a>(
    body: &'a [u8],
    identity: &Identity,
    limits: &Limits,
    random_seed: u64,
) -> Result<Wish<'a>, ApiError> {
    let mut fields = Fields::parse(body, NAMES)?;
    check_model(&mut fields, identity)?;
    check_openai(&mut fields)?;
    let prompt = fields.text("prompt")?.ok_or_else(|| {
        ApiError::invalid("prompt", "prompt is required").with_code("missing_required_parameter")
    })?;
    let count = fields
        .integer("n", 1..=u64::from(limits.max_images))?
        .unwrap_or(1) as u32;
    let (width, height) = size(&mut fields)?;
    let format = format(&mut fields)?;
    let seed = fields.integer("seed", 0..=u64::MAX)?.unwrap_or(random_seed);
    let defaults = identity.variant.defaults();
    let steps = fields.integer("num_inference_steps", 1..=u64::from(limits.max_steps))?;
    let request = ImageRequest {
        prompt: prompt.into_owned(),
        negative_prompt: fields
            .text("negative_prompt")?
            .unwrap_or_default()
            .into_owned(),
        width,
        height,
        num_inference_steps: steps.map_or(defaults.num_inference_steps, |steps| steps as u32),
        guidance_scale: fields
            .number("guidance_scale", 0.0..=f64::from(limits.max_guidance_scale))?
            .unwrap_or(defaults.guidance_scale),
        cfg_normalization: cfg_normalization(&mut fields)?,
        cfg_truncation: fields.number("cfg_truncation", 0.0..=1.0)?.unwrap_or(1.0),
        noise: Noise {
            seed,
            index: 0,
            count,
        },
        init: None,
        references: Vec::new(),
        control: None,
    };
    let references = references::take(&mut fields, limits)?;
    let control = control::take(&mut fields, limits)?;
    let start = start_image::take(&mut fields, control.is_some())?;
    fields.finish(KNOWN)?;
    limits.check(&request)?;
    limits.check_cost(&request, count)?;
    let requests = (0..count)
        .map(|index| ImageRequest {
            noise: Noise { seed, index, count },
            ..request.clone()
        })
        .collect();
    Ok(Wish {
        requests,
        format,
        references,
        start,
        control,
    })
}

fn check_model(fields: &mut Fields<'_>, identity: &Identity) -> Result<(), ApiError> {
    let names = identity.names();
    match fields.text("model")? {
        Some(model) if !names.contains(&&*model) => {
            let message = format!(
                "this server has no model {}; it has {}",
                quote(&model),
                names.join(" and ")
            );
            Err(ApiError::new(StatusCode::NOT_FOUND, message).with_code("model_not_found"))
        }
        _ => Ok(()),
    }
}

/// OpenAI's fields that have one meaning here at the most.
fn check_openai(fields: &mut Fields<'_>) -> Result<(), ApiError> {
    if fields.word("response_format", &["b64_json", "url"])? == Some("url") {
        let message =
            "response_format url is not served: this server stores no images; use b64_json";
        return Err(ApiError::invalid("response_format", message));
    }
    if let Some(quality) = fields.text("quality")?
        && !["auto", "standard"].contains(&&*quality)
    {
        let message = format!(
            "quality {} is not served: num_inference_steps sets the quality; use auto",
            quote(&quality)
        );
        return Err(ApiError::invalid("quality", message));
    }
    if fields.word("background", &["auto", "opaque", "transparent"])? == Some("transparent") {
        let message = "background transparent is not served: the model makes opaque images";
        return Err(ApiError::invalid("background", message));
    }
    if let Some(style) = fields.raw("style") {
        let message = format!("style {} is not served: say it in the prompt", cut(style));
        return Err(ApiError::invalid("style", message));
    }
    for (name, off) in [("stream", "false"), ("partial_images", "0")] {
        if fields.raw(name).is_some_and(|value| value != off) {
            let message = format!(
                "{name} is not served: this server sends an answer whole, once its images are made; leave it out"
            );
            return Err(ApiError::invalid(name, message));
        }
    }
    // Both change nothing: there is no moderation, and users are not told apart.
    fields.word("moderation", &["auto", "low"])?;
    fields.text("user")?;
    Ok(())
}

fn size(fields: &mut Fields<'_>) -> Result<(u32, u32), ApiError> {
    let side = |fields: &mut Fields<'_>, name| fields.integer(name, 1..=u64::from(u32::MAX));
    let (width, height) = (side(fields, "width")?, side(fields, "height")?);
    let text = fields.text("size")?;
    match (text.as_deref(), width, height) {
        (Some(_), Some(_), _) | (Some(_), _, Some(_)) => Err(ApiError::invalid(
            "size",
            "size and width with height exclude each other",
        )),
        (None | Some("auto"), None, None) => Ok((DEFAULT_SIDE, DEFAULT_SIDE)),
        (None, width, height) => {
            let side = |side: Option<u64>| side.map_or(DEFAULT_SIDE, |side| side as u32);
            Ok((side(width), side(height)))
        }
        (Some(text), None, None) => {
            let sides = text
                .split_once('x')
                .and_then(|(width, height)| Some((width.parse().ok()?, height.parse().ok()?)));
            let fault = || {
                ApiError::invalid(
                    "size",
                    format!(
                        "size must be auto or WIDTHxHEIGHT such as 1024x1024, not {}",
                        quote(text)
                    ),
                )
            };
            sides.ok_or_else(fault)
        }
    }
}

fn format(fields: &mut Fields<'_>) -> Result<ImageFormat, ApiError> {
    let compression = fields.integer("output_compression", 0..=100)?;
    let format = fields
        .word("output_format", &["png", "jpeg", "webp"])?
        .unwrap_or("png");
    if let (Some(_), "png" | "webp") = (compression, format) {
        let message =
            format!("output_compression needs output_format jpeg: {format} is lossless here");
        return Err(ApiError::invalid("output_compression", message));
    }
    Ok(match format {
        "jpeg" => {
            ImageFormat::Jpeg(compression.map_or(DEFAULT_QUALITY, |value| value.max(1) as u8))
        }
        "webp" => ImageFormat::Webp,
        _ => ImageFormat::Png,
    })
}

/// diffusers takes a boolean or a number: true is a clamp to the conditional prediction's own norm.
fn cfg_normalization(fields: &mut Fields<'_>) -> Result<CfgNormalization, ApiError> {
    let number = match fields.raw("cfg_normalization") {
        None | Some("false") => return Ok(CfgNormalization::Off),
        Some("true") => return Ok(CfgNormalization::Clamp(1.0)),
        Some(raw) => serde_json::from_str(raw)
            .ok()
            .filter(|number: &f64| (0.0..=100.0).contains(number))
            .ok_or_else(|| {
                let message = format!(
                    "cfg_normalization must be true, false or a number from 0 to 100, not {}",
                    cut(raw)
                );
                ApiError::invalid("cfg_normalization", message)
            })?,
    };
    Ok(if number > 0.0 {
        CfgNormalization::Clamp(number as f32)
    } else {
        CfgNormalization::Off
    })
}
