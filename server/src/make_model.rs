//! `make-model`: a tiny checkpoint of random weights.

use crate::args::MakeModel;
use crate::failure::Failure;
use zimage_checkpoint::make_model;

#[expect(
    clippy::print_stdout,
    reason = "what was written is this command's output"
)]
pub(crate) fn run(args: &MakeModel) -> Result<(), Failure> {
    make_model(&args.out, args.shape, args.seed).map_err(Failure::other)?;
    println!(
        "{} holds a model of random weights: its images are noise",
        args.out.display()
    );
    Ok(())
}
