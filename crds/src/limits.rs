//! What one request may ask for.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What one request may ask for; more is refused at once. Both tiers hold to it, so that a request which one of them passes
/// on is not refused by the other.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct LimitsSpec {
    /// Images of one request. 1 to 64. Unset: the server's own bound, 10.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 64))]
    pub max_images: Option<i32>,
    /// Pixels of an image. 4096 to 16777216. Unset: the server's own bound, that of 2048x2048.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 4096, max = 16_777_216))]
    pub max_pixels: Option<i32>,
    /// Denoising steps of an image. 1 to 1000. Unset: the server's own bound, 100.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1000))]
    pub max_steps: Option<i32>,
    /// Cost of one request: images x steps x megapixels (of 2^20 pixels), twice that with guidance. A Turbo image of
    /// 1024x1024 costs 8, a Base image 100, and an H100 takes about 0.1 s for each unit. 1 to 1000000. Unset: the server's
    /// own bound, 4000.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub max_cost: Option<i32>,
}
