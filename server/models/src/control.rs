//! What a ControlNet sees besides the image: what `ZImageControlNetPipeline` and its inpainting form prepare.

use crate::transformer::{Control as Following, ControlNet, Transformer};
use crate::vae::{Encoder, from_pixels};
use candle_core::{Device, Result, Tensor};
use std::sync::Arc;
use zimage_core::executor::ExecutorError;
use zimage_core::pixels::Pixels;
use zimage_core::request::{Control, ImageRequest, InitImage};
use zimage_core::start_image::{kept_pixels, latent_mask};
use zimage_core::validate;

/// What the request's image follows, with a ControlNet and a control image.
pub(crate) fn of(
    request: &ImageRequest,
    control_net: Option<&Arc<ControlNet>>,
    encoder: &Encoder,
    transformer: &Transformer,
) -> Result<Option<Following>> {
    let Some((control, net)) = request.control.as_ref().zip(control_net) else {
        return Ok(None);
    };
    let context = context(encoder, request, control)?;
    let scale = f64::from(control.conditioning_scale);
    Following::new(net, transformer, &context, scale).map(Some)
}

/// Whether a ControlNet can do what the request asks of it.
pub(crate) fn check(
    request: &ImageRequest,
    control_net: Option<&ControlNet>,
) -> std::result::Result<(), ExecutorError> {
    let Some(control_net) = control_net else {
        return validate::refuse_control(request);
    };
    if request.control.is_none() || request.init.is_none() || control_net.inpaints() {
        return Ok(());
    }
    let message = format!(
        "this ControlNet reads {} channels and so no mask; take one that inpaints, such as Fun-Union 2.1, or leave \
         image and mask out",
        control_net.channels()
    );
    Err(ExecutorError::InvalidRequest {
        field: "mask",
        message,
    })
}

/// The control context (channels, height / 8, width / 8): the control image's latents, and for inpainting 1 where the
/// image is kept and the latents of what is kept. The latents are their distributions' modes: no noise is drawn.
pub(crate) fn context(
    encoder: &Encoder,
    request: &ImageRequest,
    control: &Control,
) -> Result<Tensor> {
    let latents = encoder.mode(&from_pixels(&control.pixels)?)?;
    let Some((image, mask)) = (request.init.as_ref()).and_then(InitImage::masked) else {
        return Ok(latents);
    };
    let kept = encoder.mode(&from_pixels(image)?.broadcast_mul(&kept(mask)?)?)?;
    let (_, height, width) = latents.dims3()?;
    let replaced = Tensor::from_vec(latent_mask(mask), (1, height, width), &Device::Cpu)?;
    Tensor::cat(&[&latents, &(1.0 - replaced)?, &kept], 0)
}

/// (1, height, width): 1 where the image is kept.
fn kept(mask: &Pixels) -> Result<Tensor> {
    let shape = (1, mask.height() as usize, mask.width() as usize);
    Tensor::from_vec(kept_pixels(mask), shape, &Device::Cpu)
}
