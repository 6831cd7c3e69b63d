//! The data plane: takes requests on the deployment's stable Service and sends each to a pod of a tier.
//!
//! ```text
//! watch   ZImageDeployment, EndpointSlices ─▶ Topology (weights, ready pods)
//! proxy   request ─▶ whole body ─▶ attempt ─▶ pod ──▶ answer, streamed
//!                        ▲            │ refused, reset, 502, 503, 429 before the first byte
//!                        └── next ◀───┘
//! balance which tier is asked first: smooth weighted round robin      route which pod is next
//! ```
//!
//! Invariants: `balance`, `route` and `topology` are pure; a request is tried again only before the first byte of an
//! answer; without the API server the last known topology stays; prompts are never logged.
#![forbid(unsafe_code)]

pub mod args;
pub mod balance;
pub mod budget;
mod envelope;
pub mod forward;
pub mod health;
pub mod knowledge;
pub mod metrics;
mod pods;
pub mod poison;
pub mod proxy;
mod record;
mod retry_after;
pub mod route;
pub mod shutdown;
pub mod topology;
mod upstream;
pub mod view;
pub mod watch;
