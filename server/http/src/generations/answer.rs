//! The answer: OpenAI's fields, and what makes the image again beside them.

use crate::encode::ImageFormat;
use serde::Serialize;
use serde_json::value::RawValue;
use std::time::{SystemTime, UNIX_EPOCH};
use zimage_core::request::ImageRequest;
use zimage_engine::Generated;

const TRUNCATED: &str = "the prompt was cut to the 512 tokens that the text encoder reads";

/// Serialized from borrowed files: an image has megabytes.
#[derive(Serialize)]
pub(super) struct Answer<'a> {
    created: u64,
    data: Vec<Image<'a>>,
    background: &'static str,
    output_format: &'static str,
    quality: &'static str,
    size: String,
    usage: Usage,
    seed: u64,
    num_inference_steps: u32,
    guidance_scale: f32,
    #[serde(skip_serializing_if = "Option::is_none")]
    warnings: Option<[&'static str; 1]>,
}

#[derive(Serialize)]
struct Image<'a> {
    b64_json: &'a RawValue,
}

/// Images have no tokens here; they cost time.
#[derive(Serialize)]
struct Usage {
    input_tokens: u32,
    input_tokens_details: InputTokens,
    output_tokens: u32,
    total_tokens: u32,
}

#[derive(Serialize)]
struct InputTokens {
    text_tokens: u32,
    image_tokens: u32,
}

impl<'a> Answer<'a> {
    /// `request` is that of the first image; each image comes with its file as a JSON text in base64.
    pub(super) fn new(
        request: &ImageRequest,
        images: &'a [(Generated, Box<RawValue>)],
        format: ImageFormat,
    ) -> Self {
        let tokens = images.iter().map(|(generated, _)| generated.prompt_tokens);
        let truncated = images.iter().any(|(generated, _)| generated.truncated);
        let created = SystemTime::now().duration_since(UNIX_EPOCH);
        Self {
            created: created.map_or(0, |time| time.as_secs()),
            data: images
                .iter()
                .map(|(_, b64_json)| Image { b64_json })
                .collect(),
            background: "opaque",
            output_format: format.name(),
            quality: "auto",
            size: format!("{}x{}", request.width, request.height),
            usage: Usage::of_text(tokens.max().unwrap_or(0)),
            seed: request.noise.seed,
            num_inference_steps: request.num_inference_steps,
            guidance_scale: request.guidance_scale,
            warnings: truncated.then_some([TRUNCATED]),
        }
    }
}

impl Answer<'_> {
    /// Bytes that the answer has at most.
    pub(super) fn room(&self) -> usize {
        let images = self
            .data
            .iter()
            .map(|image| image.b64_json.get().len() + 64);
        images.sum::<usize>() + 1024
    }
}

impl Usage {
    fn of_text(tokens: u32) -> Self {
        Self {
            input_tokens: tokens,
            input_tokens_details: InputTokens {
                text_tokens: tokens,
                image_tokens: 0,
            },
            output_tokens: 0,
            total_tokens: tokens,
        }
    }
}
