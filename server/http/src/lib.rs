//! The server's HTTP interface: OpenAI's image API, probes and metrics.
//!
//! ```text
//! POST /v1/images/generations ─▶ generations: body → Parameters → ImageRequest ─▶ engine ─▶ encode ─▶ JSON
//! GET  /v1/models                models
//! GET  /healthz, /readyz         probes
//! GET  /metrics                  on a port of its own, so that no gateway can reach it
//! ```
//!
//! Invariants: every error has OpenAI's envelope; a prompt is never logged; a request whose client went away is
//! cancelled; bodies, queues and times are bounded.
#![forbid(unsafe_code)]

mod app;
mod args;
mod encode;
mod error;
mod generations;
mod image_file;
mod intake;
mod json_body;
mod metrics;
mod models;
mod outline;
mod probes;
mod quote;
mod request_id;
mod routes;
mod serve;
mod workers;

#[cfg(test)]
mod tests;

pub use app::{App, Identity};
pub use args::ServeArgs;
pub use encode::{ImageFormat, encode};
#[cfg(fuzzing)]
pub use generations::fuzzing;
pub use intake::Intake;
pub use metrics::HttpMetrics;
pub use routes::api;
pub use serve::{Addresses, Shutdown, serve};
