//! `make_model SHAPE SEED DIR`: writes a tiny model with random weights.

use std::path::Path;
use zimage_checkpoint::{Shape, make_model};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [shape, seed, dir] = arguments.as_slice() else {
        return Err("usage: make_model tiny|odd|omni SEED DIR".into());
    };
    make_model(Path::new(dir), shape.parse::<Shape>()?, seed.parse()?)?;
    Ok(())
}
