//! Runs requests on the devices: each has a thread that owns its executor and takes one step after the other.
//!
//! ```text
//! reserve ─▶ Places ─ submit ─▶ queue ─▶ worker: begin → step → … → decode ─▶ Ticket: events, the image
//!    │ no room                    ▲          │ a fault, or no progress (watchdog)
//!    └▶ QueueFull                 │          └▶ failed: every request is answered, the process must start again
//!                                 └ Admission (bounds, order, estimates) and Scheduler (whose turn): pure, in core
//! ```
//!
//! Invariants: at most `max_batch_size` images run on each device and `max_queue_length` wait; a ticket that is dropped
//! frees its place at once and stops its image before the next step; every ticket is answered; an image that fails
//! fails alone.
#![forbid(unsafe_code)]

mod engine;
mod metrics;
mod progress;
mod queue;
mod reply;
mod ticket;
mod watchdog;
mod worker;

#[cfg(test)]
mod tests;

pub use engine::{Engine, EngineOptions, Places, Submission, SubmitError};
pub use metrics::EngineMetrics;
pub use reply::{Event, Generated};
pub use ticket::Ticket;
