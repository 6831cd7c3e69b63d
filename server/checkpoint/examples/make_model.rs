//! `make_model SHAPE SEED DIR [FORM]`: writes a tiny model with random weights, or a ControlNet of that form for it.

use std::path::Path;
use zimage_checkpoint::{Refiner, Shape, make_control_net, make_model};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [shape, seed, dir, form @ ..] = arguments.as_slice() else {
        return Err("usage: make_model tiny|odd|omni SEED DIR [own|shared|controlled]".into());
    };
    let (dir, shape, seed) = (Path::new(dir), shape.parse::<Shape>()?, seed.parse()?);
    match form {
        [] => make_model(dir, shape, seed)?,
        [form, ..] => make_control_net(dir, shape, form.parse::<Refiner>()?, seed)?,
    }
    Ok(())
}
