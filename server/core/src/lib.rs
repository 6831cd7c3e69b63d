//! What an image request is and what can compute one. Everything here is pure: no runtime, no clock, no device, no I/O.
//!
//! ```text
//! http -> engine -> Executor (this crate's trait) <- models (candle, CPU)
//!                                                 <- cuda   (cudarc, GPU)
//!                                                 <- FakeExecutor
//! ```
//!
//! Invariants: no tensor library and no async runtime is a dependency; time is a parameter.

pub mod admission;
pub mod cost;
mod decimal;
pub mod executor;
pub mod fake;
pub mod guidance;
pub mod inputs;
pub mod limits;
pub mod noise;
pub mod omni;
pub mod pace;
pub mod parameters;
pub mod pipeline;
pub mod pixels;
pub mod preview;
pub mod request;
pub mod resize;
pub mod rotary;
pub mod schedule;
pub mod scheduler;
pub mod slots;
pub mod start_image;
pub mod validate;
pub mod variant;
