//! `tune`: the fastest algorithms, so that every server of a tier takes the same.

use crate::args::Tune;
use crate::device::{self, Chosen};
use crate::failure::Failure;
use zimage_nvml::Gpus;

#[expect(
    clippy::print_stdout,
    reason = "what was written is this command's output"
)]
pub(crate) fn run(args: &Tune) -> Result<(), Failure> {
    let gpus = Gpus::find();
    if device::choose(&args.model, &gpus)? == Chosen::Cpu {
        let message = "there is nothing to tune on the CPU: this needs a GPU (--device cuda says why none is found)";
        return Err(Failure::Unsupported(message.to_owned()));
    }
    device::tune(&args.model, &gpus, &args.out)?;
    println!(
        "{} holds the fastest algorithms: give it to serve with --gpu-tuning",
        args.out.display()
    );
    Ok(())
}
