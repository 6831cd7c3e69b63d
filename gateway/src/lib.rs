//! The data plane: takes requests on the deployment's stable Service and sends each to a pod of a tier.
//!
//! ```text
//! edge    connection ─▶ head ─▶ bytes, as they come and as there is room (the crate `zimage-edge`)
//! watch   ZImageDeployment, EndpointSlices ─▶ Topology (weights, ready pods)
//! proxy   request ─▶ whole body ─▶ attempt ─▶ pod ──▶ answer, streamed
//!                        ▲            │ refused, reset, 502, 503, 429 before the first byte
//!                        └── next ◀───┘
//! balance which tier is asked first: smooth weighted round robin      route which pod is next
//! ```
//!
//! Invariants: `balance`, `route` and `topology` are pure; a request is tried again only before the first byte of an
//! answer; without the API server the last known topology stays; prompts are never logged; each request is counted and
//! logged once, however it ends.
//!
//! Why not on a proxy's framework: pingora takes heads of a megabyte, and its deadlines are those of single reads; it
//! closes malformed requests without a byte, takes what a client sends early for its end, and interim answers of pods for
//! final ones. What is needed of HTTP here is a whole body in and an answer out, which hyper has.
#![forbid(unsafe_code)]

pub mod args;
pub mod balance;
pub mod budget;
mod endpoints;
mod envelope;
pub mod forward;
pub mod health;
pub mod knowledge;
pub mod metrics;
mod model;
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
