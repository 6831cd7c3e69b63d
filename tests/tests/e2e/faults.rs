//! Faults that take minutes, or nodes: `make test LAYER=faults`, on a cluster of two nodes.

mod api_server;
mod disk;
mod leader;
mod nodes;
mod partition;
mod stuck;
