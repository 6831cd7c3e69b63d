//! `bench`: what each part of a request costs on this machine.

mod parts;
mod table;

use crate::args::Bench;
use crate::device;
use crate::failure::Failure;
use crate::nvml::Gpus;
use parts::{Parts, measure};
use std::time::Instant;

/// Measures and prints a table, or JSON for machines.
#[expect(clippy::print_stdout, reason = "the table is this command's output")]
pub(crate) fn run(args: &Bench) -> Result<(), Failure> {
    let chosen = device::choose(&args.model, &Gpus::find())?;
    let began = Instant::now();
    let mut executor = device::load(&args.model, chosen)?;
    let start_up = began.elapsed().as_secs_f64();
    let mut measured: Vec<Parts> = Vec::new();
    for &(width, height) in &args.sizes {
        let parts = measure(&mut *executor, args, (width, height))?;
        if !args.json {
            println!("{}", table::row(&parts, measured.is_empty()));
        }
        measured.push(parts);
    }
    if args.json {
        println!("{:#}", table::json(start_up, &measured));
    } else {
        println!("ready after {start_up:.1} s");
    }
    Ok(())
}
