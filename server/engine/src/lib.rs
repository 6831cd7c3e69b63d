//! Runs requests on the device: one thread owns the executor and takes one step after the other.
//!
//! ```text
//! submit ─ permit ─▶ queue ─▶ device thread: admit → begin → step → decode → reply ─▶ Ticket
//!    │ none left                 │ a fault of the device
//!    └▶ QueueFull                └▶ failed: every request is answered, the process must start again
//! ```
//!
//! Invariants: at most `max_batch_size` requests run and `max_queue_length` wait; a ticket that is dropped stops its
//! request before the next step; every ticket is answered.
#![forbid(unsafe_code)]

mod device;
mod engine;
mod metrics;

#[cfg(test)]
mod tests;

pub use engine::{Engine, EngineOptions, Generated, SubmitError, Ticket};
pub use metrics::EngineMetrics;
