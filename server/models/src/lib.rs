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
//! The layers are candle-nn's, the autoencoder's blocks candle-transformers'. Not used of the latter are its Z-Image, which
//! departs from diffusers (schedule, caption padding, rotary positions and their precision), the autoencoder's attention,
//! which holds all scores of an image at once, a gigabyte at 1024x1024, and its Qwen3, which reads the last layer, though
//! nothing needs it, and does not give its layers away one by one.
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
