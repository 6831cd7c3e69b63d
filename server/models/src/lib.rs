//! Z-Image on candle: the portable reference, on the CPU in float32.
//!
//! ```text
//! prompt ─> TextEncoder ─> Transformer::caption ─┐
//! seed ───> noise ─────────────────────────────> Transformer::forward ─> Guidance ─> NoiseSchedule ─> Decoder ─> pixels
//!                                                └──────────── one step, repeated ───────────┘
//! control image ─> Encoder ─> ControlNet ─> hints, added behind the transformer's layers
//! ```
//!
//! An Omni model's prompt comes in parts between condition images, each of which gives latents (`Encoder`) and features
//! (`VisionTower`).
//!
//! Invariants: every number follows diffusers 0.42.1 (`ZImagePipeline`, `ZImageImg2ImgPipeline`,
//! `ZImageInpaintPipeline`, `ZImageControlNetPipeline`, `ZImageControlNetInpaintPipeline`, `ZImageOmniPipeline`) with
//! torch on the CPU in float32; requests are
//! computed one after the other, so a batch never changes an image; latents are float32; noise is torch's, bit for bit.
//!
//! The layers are candle-nn's where these keep torch's digits. candle-transformers' models are not used: its Z-Image departs
//! from diffusers (schedule, caption padding, rotary positions and their precision), its autoencoder's blocks add up a
//! group norm's millions of numbers in one sum, which loses their last digits, and hold all of an image's attention scores
//! at once, a gigabyte at 1024x1024, and its Qwen3 reads the last layer, which nothing needs; the layer itself is private.
#![forbid(unsafe_code)]

mod attention;
mod control;
mod dequantize;
mod error;
mod executor;
mod guidance;
mod norm;
mod oracle;
mod part;
mod preview;
mod reference;
mod rope;
mod siglip;
mod start_image;
mod text_encoder;
mod transformer;
mod vae;

pub use dequantize::dequantize;
pub use error::LoadError;
pub use executor::CandleExecutor;
pub use oracle::Stage;
