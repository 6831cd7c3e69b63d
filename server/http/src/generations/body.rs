//! The body of `POST /v1/images/generations`: OpenAI's fields and diffusers' beside them.
//!
//! Follows <https://platform.openai.com/docs/api-reference/images/create>; a field of OpenAI's that this server cannot
//! serve is refused with the reason, never ignored.

use super::fields::{Fields, number_of, text_of};
use crate::app::Identity;
use crate::encode::ImageFormat;
use crate::error::ApiError;
use crate::quote::{cut, quote};
use axum::http::StatusCode;
use serde_json::value::RawValue;
use std::borrow::Cow;
use zimage_core::limits::Limits;
use zimage_core::parameters::Parameters;
use zimage_core::request::CfgNormalization;

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
pub(super) struct Body<'a> {
    /// Image files are in base64, alone or as data URLs.
    pub(super) parameters: Parameters<Cow<'a, str>>,
    /// Of the answer's files.
    pub(super) format: ImageFormat,
}

/// Reads a body. The limits are named to whoever sends a value of another type.
pub(super) fn parse<'a>(
    body: &'a [u8],
    identity: &Identity,
    limits: &Limits,
) -> Result<Body<'a>, ApiError> {
    let mut fields = Fields::parse(body, NAMES)?;
    check_model(&mut fields, identity)?;
    check_openai(&mut fields)?;
    let prompt = fields.text("prompt")?.ok_or_else(|| {
        ApiError::invalid("prompt", "prompt is required").with_code("missing_required_parameter")
    })?;
    let (width, height) = size(&mut fields)?;
    let format = format(&mut fields)?;
    let parameters = Parameters {
        prompt: prompt.into_owned(),
        negative_prompt: fields.text("negative_prompt")?.map(Cow::into_owned),
        n: fields.integer("n", limits.images())?,
        width,
        height,
        seed: fields.integer("seed", 0..=u64::MAX)?,
        num_inference_steps: fields.integer("num_inference_steps", limits.num_inference_steps())?,
        guidance_scale: fields.number("guidance_scale", limits.guidance_scale())?,
        cfg_normalization: cfg_normalization(&mut fields, limits)?,
        cfg_truncation: fields.number("cfg_truncation", limits.cfg_truncation())?,
        image: fields.text("image")?,
        mask: fields.text("mask")?,
        strength: fields.number("strength", limits.strength())?,
        control_image: fields.text("control_image")?,
        controlnet_conditioning_scale: fields
            .number("controlnet_conditioning_scale", limits.conditioning_scale())?,
        references: references(&mut fields)?,
    };
    fields.finish(KNOWN)?;
    Ok(Body { parameters, format })
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

/// Width and height, where they are given.
fn size(fields: &mut Fields<'_>) -> Result<(Option<u32>, Option<u32>), ApiError> {
    let side = |fields: &mut Fields<'_>, name| fields.integer(name, 1..=u32::MAX);
    let (width, height) = (side(fields, "width")?, side(fields, "height")?);
    let text = fields.text("size")?;
    match (text.as_deref(), width, height) {
        (Some(_), Some(_), _) | (Some(_), _, Some(_)) => Err(ApiError::invalid(
            "size",
            "size and width with height exclude each other",
        )),
        (None | Some("auto"), width, height) => Ok((width, height)),
        (Some(text), None, None) => {
            let sides = text
                .split_once('x')
                .and_then(|(width, height)| Some((width.parse().ok()?, height.parse().ok()?)));
            let fault = || {
                let message = format!(
                    "size must be auto or WIDTHxHEIGHT such as 1024x1024, not {}",
                    quote(text)
                );
                ApiError::invalid("size", message)
            };
            sides
                .map(|(width, height)| (Some(width), Some(height)))
                .ok_or_else(fault)
        }
    }
}

fn format(fields: &mut Fields<'_>) -> Result<ImageFormat, ApiError> {
    let compression = fields.integer("output_compression", 0..=100_u8)?;
    let format = fields
        .word("output_format", &["png", "jpeg", "webp"])?
        .unwrap_or("png");
    if let (Some(_), "png" | "webp") = (compression, format) {
        let message =
            format!("output_compression needs output_format jpeg: {format} is lossless here");
        return Err(ApiError::invalid("output_compression", message));
    }
    Ok(match format {
        "jpeg" => ImageFormat::Jpeg(compression.map_or(DEFAULT_QUALITY, |value| value.max(1))),
        "webp" => ImageFormat::Webp,
        _ => ImageFormat::Png,
    })
}

/// diffusers takes a boolean or a number: true is a clamp to the conditional prediction's own norm.
fn cfg_normalization(
    fields: &mut Fields<'_>,
    limits: &Limits,
) -> Result<Option<CfgNormalization>, ApiError> {
    const FIELD: &str = "cfg_normalization";
    let factor = match fields.raw(FIELD) {
        None => return Ok(None),
        Some("false") => 0.0,
        Some("true") => 1.0,
        Some(raw) => number_of(
            FIELD,
            "true, false or a number",
            raw,
            limits.cfg_normalization(),
        )?,
    };
    Ok(Some(CfgNormalization::of(factor)))
}

/// A list of image files.
fn references<'a>(fields: &mut Fields<'a>) -> Result<Vec<Cow<'a, str>>, ApiError> {
    const FIELD: &str = "references";
    let Some(raw) = fields.raw(FIELD) else {
        return Ok(Vec::new());
    };
    let files: Vec<&RawValue> = serde_json::from_str(raw).map_err(|_| {
        ApiError::invalid(FIELD, "references must be a list of image files in base64")
    })?;
    let texts = files.into_iter().map(|file| text_of(FIELD, file.get()));
    texts.collect()
}
