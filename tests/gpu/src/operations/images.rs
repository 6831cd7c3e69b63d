//! From latents to bytes.

use super::ONCE;
use crate::Outcome;
use crate::oracle::{agree, download_bf16, poisoned, random, upload_bf16, upload_f32};
use zimage_cuda::ops::image::{Bytes, Latents, from_latents, to_bytes, upsample};
use zimage_cuda::{Compute, Memory};

pub(super) fn images(compute: &Compute) -> Outcome {
    let gpu = &compute.gpu;
    let (pixels, channels, stride) = (6, 5, 8);
    let latents = random(1, pixels * channels);
    let (latents_gpu, y) = (
        upload_f32(gpu, &latents)?,
        poisoned(gpu, pixels * stride * 2)?,
    );
    let sizes = Latents {
        pixels,
        channels,
        stride,
    };
    from_latents(gpu, sizes, y.region(), latents_gpu.region(), (0.5, 0.25))?;
    let value = |at: usize| match (at / stride, at % stride) {
        (pixel, channel) if channel < channels => latents[channel * pixels + pixel] / 0.5 + 0.25,
        _ => 0.0,
    };
    let image: Vec<f32> = (0..pixels * stride).map(value).collect();
    agree(
        "latents",
        &download_bf16(gpu, &y, image.len())?,
        &image,
        ONCE,
    )?;

    let image: Vec<f32> = random(2, pixels * stride);
    let (image_gpu, large) = (
        upload_bf16(gpu, &image)?,
        poisoned(gpu, 4 * pixels * stride * 2)?,
    );
    upsample(gpu, large.region(), image_gpu.region(), (2, 3, stride))?;
    let pixel =
        |row: usize, column: usize| image[(row / 2 * 3 + column / 2) * stride..][..stride].to_vec();
    let places = (0..4).flat_map(|row| (0..6).map(move |column| (row, column)));
    let expected: Vec<f32> = places
        .flat_map(|(row, column)| pixel(row, column))
        .collect();
    agree(
        "twice the size",
        &download_bf16(gpu, &large, expected.len())?,
        &expected,
        0.0,
    )?;

    let level = |value: &f32| zimage_core::preview::level(*value);
    let expected: Vec<u8> = image
        .chunks(stride)
        .flat_map(|pixel| &pixel[..3])
        .map(level)
        .collect();
    let all = pixels.next_multiple_of(4);
    let bytes = poisoned(gpu, Bytes::size(all))?;
    let to = Bytes::within(bytes.region(), all)?;
    let to_bytes = |image: &Memory| {
        gpu.clear(to.broken)?;
        to_bytes(gpu, to, image.region(), (pixels, stride))?;
        gpu.download::<u32>(to.broken, 1)
    };
    let broken = to_bytes(&image_gpu)?;
    if broken != [0] || gpu.download::<u8>(to.rgb, pixels * 3)? != expected {
        return Err("the bytes are others than the host's".into());
    }
    for value in [f32::NAN, f32::INFINITY] {
        let mut image = image.clone();
        image[stride + 2] = value;
        if to_bytes(&upload_bf16(gpu, &image)?)? != [1] {
            return Err(format!("{value} passes for a colour").into());
        }
    }
    Ok(())
}
