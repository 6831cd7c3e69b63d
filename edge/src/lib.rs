//! Everything between a TCP connection and a whole, accounted request: written once, for the gateway and the server.
//!
//! ```text
//! accept ─▶ seats ─▶ wire: head (16 KiB, 10 s) ─▶ hyper ─▶ at_once: probes, metrics
//!             │        ▲                             │
//!             │        └── next request ◀── answer ◀─┼──── check: the head alone
//!             └─ one that is silent gives              ▼
//!                its place to a new one              answer, on the workers ─▶ body::read ─▶ Held, within the Budget
//! ```
//!
//! Invariants: the edge has a thread of its own, on which no request is computed; hyper sees no byte of a head that was
//! not read whole and checked, and none past a request; memory is taken for bytes that came, never for bytes that were
//! announced; every wait has a deadline; whatever is refused has a status, a metric and a log line.
//!
//! Why hyper is not given the socket itself: it answers a bad head with an empty body and says nothing of it, its
//! deadline for heads is silent, it takes both lengths at once, and bytes that come early blind it to a client that leaves.
#![forbid(unsafe_code)]

pub mod body;
pub mod budget;
mod figures;
mod head;
mod metrics;
mod policy;
mod refusal;
mod resources;
mod seats;
mod serve;
mod wire;

pub use body::{Body, BodyLimits, BoxError, Client, Held};
pub use budget::{Budget, BudgetOptions, Charge};
pub use figures::{Figures, openmetrics};
pub use metrics::Metrics;
pub use policy::Policy;
pub use refusal::{Refusal, cut, jittered};
pub use resources::Resources;
pub use serve::{Bounds, ResponseBody, Site, Stop, serve, whole};
pub use wire::Times;

/// What the fuzz target of heads calls.
#[cfg(fuzzing)]
pub mod fuzzing {
    pub use crate::head::fuzz as head;
}
