//! The whole system on a real node, as its users meet it.
//!
//! Tests run beside each other, each in a namespace of its own. Those that stop or replace the operator hold
//! [`system::alone`], so that no other test measures a time meanwhile.

mod broken_model;
mod failover;
mod faults;
mod figures;
mod images;
mod lifecycle;
mod load;
mod memory;
mod operator;
mod outage;
mod poison;
mod quickstart;
mod scene;
mod shift;
mod split;
mod steady;
mod system;
mod testserver;
