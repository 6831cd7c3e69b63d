//! Chooses what computes, once, and loads the model there.

use crate::args::{Device, Model, Precision};
use crate::failure::Failure;
use crate::nvml::Gpus;
use std::time::Instant;
use zimage_checkpoint::Checkpoint;
use zimage_core::executor::Executor;
use zimage_models::CandleExecutor;

/// Whether the flags can be fulfilled. A machine with a GPU never computes on its CPU unless that was asked for.
pub(crate) fn check(model: &Model, gpus: &Gpus) -> Result<(), Failure> {
    let no_engine =
        "this version has no CUDA engine yet: it computes on the CPU alone; use --device cpu";
    match model.device {
        Device::Cuda => return Err(Failure::Unsupported(format!("--device cuda: {no_engine}"))),
        Device::Auto if gpus.count() > 0 => {
            let message = format!("a GPU is visible ({}), and {no_engine}", gpus.names());
            return Err(Failure::Unsupported(message));
        }
        Device::Auto | Device::Cpu => {}
    }
    if model.precision == Precision::Bfloat16 {
        let message = "--precision bfloat16 needs a GPU: the CPU computes in float32";
        return Err(Failure::Unsupported(message.to_owned()));
    }
    Ok(())
}

/// Opens, verifies and loads the model. Takes seconds to minutes.
pub(crate) fn load(model: &Model) -> Result<Box<dyn Executor>, Failure> {
    let began = Instant::now();
    let fault = |error: &dyn std::error::Error| Failure::Model(error.to_string());
    let checkpoint = Checkpoint::open(&model.model).map_err(|error| fault(&error))?;
    checkpoint.verify().map_err(|error| fault(&error))?;
    let executor = CandleExecutor::load(&checkpoint).map_err(|error| fault(&error))?;
    tracing::info!(model = %model.model.display(), seconds = began.elapsed().as_secs_f64(), "the model is loaded on the CPU");
    Ok(Box::new(executor))
}
