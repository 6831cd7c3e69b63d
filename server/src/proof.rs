//! A small image through the whole path, before anybody can ask for one: nothing is ready that cannot make an image.

use crate::args::Model;
use crate::device::{Chosen, Shape};
use crate::failure::Failure;
use crate::files;
use std::sync::Arc;
use std::time::Instant;
use zimage_core::executor::ExecutorError;
use zimage_core::parameters::DEFAULT_CONDITIONING_SCALE;
use zimage_core::pixels::Pixels;
use zimage_core::request::{Control, ImageRequest, InitImage};
use zimage_engine::Engine;

/// The smallest image that there is: a step of it costs a CPU little.
const SMALLEST: (u32, u32) = (64, 64);

/// Makes an image in one step on each device: template, tokenizer, text encoder with and without a prompt, encoder,
/// transformer, decoder; the executor refuses values that are not finite. Returns its size.
///
/// # Errors
/// [`Failure::Model`] names the file at fault where one is found; [`Failure::Device`] is not the model's fault.
pub(crate) async fn prove(
    engine: &Engine,
    model: &Model,
    shape: Shape,
) -> Result<(u32, u32), Failure> {
    let size = size(model, shape.chosen);
    let began = Instant::now();
    let on_each = |request: ImageRequest| vec![request; shape.devices.max(1)];
    match make(engine, model, on_each(guided(size, shape.omni))).await {
        Err(Unproven::NoRoom(error)) => {
            tracing::warn!(
                error,
                "there is no memory for an image that starts from a picture: requests of that kind are refused"
            );
            make(engine, model, on_each(plain(size))).await?;
        }
        outcome => outcome?,
    }
    if model.controlnet.is_some() {
        make(engine, model, vec![controlled(size)]).await?;
    }
    let seconds = began.elapsed().as_secs_f64();
    tracing::info!(
        width = size.0,
        height = size.1,
        devices = shape.devices,
        seconds,
        "an image was made"
    );
    Ok(size)
}

/// Why no image was made.
enum Unproven {
    /// The device has too little memory.
    NoRoom(String),
    Failed(Failure),
}

impl From<Unproven> for Failure {
    fn from(unproven: Unproven) -> Self {
        match unproven {
            Unproven::NoRoom(error) => Self::Device(error),
            Unproven::Failed(failure) => failure,
        }
    }
}

/// Makes images at once, one on each device.
async fn make(engine: &Engine, model: &Model, requests: Vec<ImageRequest>) -> Result<(), Unproven> {
    let device = |cause: String| Unproven::Failed(Failure::Device(cause));
    let submitted = engine.submit(requests);
    let tickets = submitted.map_err(|error| device(error.to_string()))?;
    for ticket in tickets {
        match ticket.image().await {
            Ok(_) => {}
            Err(ExecutorError::DeviceLost(cause) | ExecutorError::NotBegun(cause)) => {
                return Err(device(cause));
            }
            Err(error @ ExecutorError::OutOfMemory(_)) => {
                return Err(Unproven::NoRoom(error.to_string()));
            }
            Err(error) => return Err(Unproven::Failed(fault(model, error.to_string()).await)),
        }
    }
    Ok(())
}

/// Led away from the empty prompt, and with a picture to start from where the model takes one.
fn guided(size: (u32, u32), omni: bool) -> ImageRequest {
    let init = InitImage {
        pixels: grey(size),
        strength: 0.5,
        mask: None,
    };
    ImageRequest {
        // Half of them are taken.
        num_inference_steps: if omni { 1 } else { 2 },
        guidance_scale: 2.0,
        init: (!omni).then_some(init),
        ..ImageRequest::plain("a red fox", size)
    }
}

fn plain(size: (u32, u32)) -> ImageRequest {
    ImageRequest {
        num_inference_steps: 1,
        ..ImageRequest::plain("a red fox", size)
    }
}

fn controlled(size: (u32, u32)) -> ImageRequest {
    ImageRequest {
        control: Some(Control {
            pixels: grey(size),
            conditioning_scale: DEFAULT_CONDITIONING_SCALE,
        }),
        ..plain(size)
    }
}

fn grey((width, height): (u32, u32)) -> Arc<Pixels> {
    Arc::new(Pixels::filled(width, height, [128; 3]))
}

/// On a GPU one of those that were warmed up, so that nothing is compiled for it alone.
fn size(model: &Model, chosen: Chosen) -> (u32, u32) {
    let warm = model.gpu.gpu_warm_up.iter().copied();
    let least = warm.min_by_key(|&(width, height)| u64::from(width) * u64::from(height));
    match chosen {
        Chosen::Cpu => SMALLEST,
        Chosen::Cuda => least.unwrap_or(SMALLEST),
    }
}

/// Which file it is that no image can be made with. Reads all of them, which only a broken model costs.
async fn fault(model: &Model, error: String) -> Failure {
    let files = model.clone();
    let check = move || {
        let checkpoint = files::open_with_loras(&files.files, &files.lora)?;
        let checked = checkpoint.check_values();
        checked.map_err(|fault| Failure::Model(fault.to_string()))
    };
    let dir = model.files.model.display();
    match tokio::task::spawn_blocking(check).await {
        Ok(Err(failure)) => failure,
        Ok(Ok(())) | Err(_) => Failure::Model(format!("{dir}: no image can be made: {error}")),
    }
}
