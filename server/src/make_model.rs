//! `make-model`: a tiny checkpoint or ControlNet of random weights.

use crate::args::MakeModel;
use crate::failure::Failure;
use zimage_checkpoint::{make_control_net, make_model};

#[expect(
    clippy::print_stdout,
    reason = "what was written is this command's output"
)]
pub(crate) fn run(args: &MakeModel) -> Result<(), Failure> {
    let (out, what) = (
        args.out.display(),
        match args.controlnet {
            None => {
                make_model(&args.out, args.shape, args.seed).map_err(Failure::other)?;
                "model of random weights: its images are noise"
            }
            Some(form) => {
                make_control_net(&args.out, args.shape, form, args.seed).map_err(Failure::other)?;
                "ControlNet of random weights: what follows it is noise"
            }
        },
    );
    println!("{out} holds a {what}");
    Ok(())
}
