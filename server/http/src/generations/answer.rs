//! The answer: OpenAI's fields, and what makes the image again beside them.

use crate::encode::ImageFormat;
use axum::body::{Body, Bytes};
use axum::http::HeaderValue;
use axum::http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use axum::response::{IntoResponse, Response};
use futures::stream;
use serde::Serialize;
use std::convert::Infallible;
use std::time::{SystemTime, UNIX_EPOCH};
use zimage_core::request::ImageRequest;
use zimage_edge::Charge;
use zimage_engine::Generated;

const TRUNCATED: &str = "the prompt was cut to the 512 tokens that the text encoder reads";

/// What the answer tells of an image beside its file.
pub(super) struct Told {
    prompt_tokens: u32,
    truncated: bool,
}

impl Told {
    pub(super) const fn of(image: &Generated) -> Self {
        Self {
            prompt_tokens: image.prompt_tokens,
            truncated: image.truncated,
        }
    }
}

/// Everything but `data`, which holds the images.
#[derive(Serialize)]
pub(super) struct Answer {
    created: u64,
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

impl Answer {
    /// `request` is that of the first image.
    pub(super) fn new<'a>(
        request: &ImageRequest,
        images: impl Iterator<Item = &'a Told> + Clone,
        format: ImageFormat,
    ) -> Self {
        let tokens = images.clone().map(|image| image.prompt_tokens).max();
        let truncated = images.clone().any(|image| image.truncated);
        let created = SystemTime::now().duration_since(UNIX_EPOCH);
        Self {
            created: created.map_or(0, |time| time.as_secs()),
            background: "opaque",
            output_format: format.name(),
            quality: "auto",
            size: format!("{}x{}", request.width, request.height),
            usage: Usage::of_text(tokens.unwrap_or(0)),
            seed: request.noise.seed,
            num_inference_steps: request.num_inference_steps,
            guidance_scale: request.guidance_scale,
            warnings: truncated.then_some([TRUNCATED]),
        }
    }

    /// The whole answer with the images' files in base64. Their memory is given back when it was sent.
    pub(super) fn with_files(
        &self,
        files: Vec<String>,
        charge: Charge,
    ) -> serde_json::Result<Response> {
        let parts = self.parts(files)?;
        let length: usize = parts.iter().map(Bytes::len).sum();
        let headers = [
            (CONTENT_TYPE, HeaderValue::from_static("application/json")),
            (CONTENT_LENGTH, HeaderValue::from(length)),
        ];
        let parts = parts.into_iter().map(move |part| {
            let _held = &charge;
            Ok::<_, Infallible>(part)
        });
        Ok((headers, Body::from_stream(stream::iter(parts))).into_response())
    }

    /// JSON in parts. Files have megabytes: they are sent from where they are, and base64 has nothing to escape.
    fn parts(&self, files: Vec<String>) -> serde_json::Result<Vec<Bytes>> {
        let mut parts = Vec::with_capacity(2 * files.len() + 1);
        let mut between = r#"{"data":[{"b64_json":""#;
        for file in files {
            parts.push(Bytes::from_static(between.as_bytes()));
            parts.push(Bytes::from(file));
            between = r#""},{"b64_json":""#;
        }
        let mut others = serde_json::to_vec(self)?;
        // They stand in the same object.
        others.splice(..1, *br#""}],"#);
        parts.push(Bytes::from(others));
        Ok(parts)
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

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    #[test]
    fn the_parts_are_one_object_with_every_file() {
        let request = ImageRequest::plain("a fox".to_owned(), (64, 32));
        let answer = Answer::new(&request, [].iter(), ImageFormat::Png);
        let files = ["Zm9v", "YmFy"].map(str::to_owned);
        let whole = answer.parts(files.to_vec()).unwrap().concat();
        let read: Value = serde_json::from_slice(&whole).unwrap();
        let images = [0, 1].map(|number| read["data"][number]["b64_json"].as_str().unwrap());
        assert_eq!(images, ["Zm9v", "YmFy"]);
        assert_eq!(read["data"].as_array().unwrap().len(), 2);
        assert_eq!(read["size"], "64x32");
        assert_eq!(read["output_format"], "png");
    }
}
