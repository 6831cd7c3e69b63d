//! Timing one size's requests.

use crate::args::Bench;
use crate::failure::Failure;
use std::time::{Duration, Instant};
use zimage_core::executor::{Begun, Executor, ExecutorError, Slot};
use zimage_core::request::{ImageRequest, Noise};
use zimage_http::{ImageFormat, encode};
use zimage_nvml::Gpus;

/// Requests whose parts are timed, at most: parts scatter little, and whole requests are measured over HTTP.
const MOST: u32 = 40;

/// What a request of one size costs, in seconds.
#[derive(Clone, Debug)]
pub(crate) struct Parts {
    pub(crate) width: u32,
    pub(crate) height: u32,
    pub(crate) steps: u32,
    /// Tokens of the prompt.
    pub(crate) tokens: u32,
    /// Text encoder, caption, and noise.
    pub(crate) begin: Samples,
    /// One denoising step.
    pub(crate) step: Samples,
    /// Latents to pixels, and on a GPU to PNG's image data too.
    pub(crate) decode: Samples,
    /// From there to PNG, on the host.
    pub(crate) png: Samples,
    /// Prompt to pixels.
    pub(crate) request: Samples,
    /// Prompt to PNG, over HTTP.
    pub(crate) http: Samples,
    /// What the GPU used for all measured requests, where it says.
    pub(crate) joules: Option<f64>,
    /// Bytes of the GPU's memory in use while an image of the size is decoded, which needs the most.
    pub(crate) memory: Option<u64>,
    /// Images a second of requests that take their steps together, by their number.
    pub(crate) batches: Vec<(u32, f64)>,
    /// Images a second by the number of GPUs, each of which makes images of its own. Empty with one GPU.
    pub(crate) several: Vec<(usize, f64)>,
    /// The same of all GPUs over HTTP.
    pub(crate) several_http: Option<f64>,
}

impl Parts {
    pub(super) fn new((width, height): (u32, u32), steps: u32) -> Self {
        Self {
            width,
            height,
            steps,
            tokens: 0,
            begin: Samples::default(),
            step: Samples::default(),
            decode: Samples::default(),
            png: Samples::default(),
            request: Samples::default(),
            http: Samples::default(),
            joules: None,
            memory: None,
            batches: Vec::new(),
            several: Vec::new(),
            several_http: None,
        }
    }

    pub(crate) fn joules_per_image(&self) -> Option<f64> {
        Some(self.joules? / self.request.count())
    }

    /// The mean while requests were computed.
    pub(crate) fn watts(&self) -> Option<f64> {
        Some(self.joules? / (self.request.sum() + self.png.sum()))
    }
}

/// Times of the same thing.
#[derive(Clone, Debug, Default)]
pub(crate) struct Samples(Vec<f64>);

impl Samples {
    pub(crate) fn push(&mut self, time: Duration) {
        self.0.push(time.as_secs_f64());
    }

    pub(crate) fn count(&self) -> f64 {
        self.0.len() as f64
    }

    pub(crate) fn sum(&self) -> f64 {
        self.0.iter().sum()
    }

    /// The value that a share of the samples does not exceed.
    pub(crate) fn percentile(&self, share: f64) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        let place = (share * sorted.len() as f64).ceil() as usize;
        let place = place.clamp(1, sorted.len().max(1)) - 1;
        sorted.get(place).copied().unwrap_or(f64::NAN)
    }

    pub(crate) fn median(&self) -> f64 {
        self.percentile(0.5)
    }

    pub(crate) fn deviation(&self) -> f64 {
        let mean = self.sum() / self.count();
        let squares = self.0.iter().map(|value| (value - mean).powi(2));
        (squares.sum::<f64>() / self.count()).sqrt()
    }
}

/// A prompt of about 64 tokens, whichever the tokenizer; each number makes another one, which no cache knows.
pub(crate) fn prompt(number: usize, words: usize) -> String {
    format!("{number:05} {}", "a red fox ".repeat(words))
}

pub(super) fn request(args: &Bench, size: (u32, u32), number: usize) -> ImageRequest {
    ImageRequest {
        num_inference_steps: args.num_inference_steps,
        noise: Noise {
            seed: number as u64,
            index: 0,
            count: 1,
        },
        ..ImageRequest::plain(prompt(number, args.prompt_words), size)
    }
}

/// Warms up and measures requests one after the other, and then together.
pub(crate) fn measure(
    executor: &mut dyn Executor,
    args: &Bench,
    gpus: &Gpus,
    size: (u32, u32),
) -> Result<Parts, Failure> {
    let fault = |error: ExecutorError| Failure::Device(error.to_string());
    let mut parts = Parts::new(size, args.num_inference_steps);
    let warm = Instant::now();
    let mut number = 0;
    while warm.elapsed() < Duration::from_secs(args.warm_up_seconds) || number == 0 {
        one(executor, &request(args, size, number), &mut parts.clone()).map_err(fault)?;
        number += 1;
    }
    let before = gpus.joules();
    for _ in 0..args.requests.min(MOST) {
        std::thread::sleep(Duration::from_secs(args.pause_seconds));
        one(executor, &request(args, size, number), &mut parts).map_err(fault)?;
        number += 1;
    }
    // Pauses use energy too, which is no request's.
    let busy = gpus.joules().filter(|_| args.pause_seconds == 0);
    parts.joules = busy.zip(before).map(|(after, before)| after - before);
    for &batch in &args.batches {
        let requests: Vec<_> = (number..).take(batch as usize).collect();
        number += requests.len();
        let requests: Vec<_> = requests
            .into_iter()
            .map(|number| request(args, size, number))
            .collect();
        let seconds = together(executor, &requests).map_err(fault)?;
        parts.batches.push((batch, f64::from(batch) / seconds));
    }
    details(executor, &request(args, size, number), &mut parts, gpus).map_err(fault)?;
    Ok(parts)
}

/// Seconds from the first prompt to the last pixels of requests that take their steps together.
fn together(executor: &mut dyn Executor, requests: &[ImageRequest]) -> Result<f64, ExecutorError> {
    let began = Instant::now();
    let begun: Vec<Begun> = requests
        .iter()
        .map(|request| executor.begin(request))
        .collect::<Result<_, _>>()?;
    let slots: Vec<Slot> = begun.iter().map(|begun| begun.slot).collect();
    for _ in 0..begun.first().map_or(0, |begun| begun.steps) {
        executor.step(&slots)?;
    }
    for &slot in &slots {
        executor.decode(slot)?;
        executor.release(slot);
    }
    Ok(began.elapsed().as_secs_f64())
}

/// One request as the engine makes it.
pub(super) fn one(
    executor: &mut dyn Executor,
    request: &ImageRequest,
    parts: &mut Parts,
) -> Result<(), ExecutorError> {
    let began = Instant::now();
    let begun = executor.begin(request)?;
    parts.tokens = begun.prompt_tokens;
    for step in 0..begun.steps {
        let began = Instant::now();
        executor.step(&[begun.slot])?;
        // The first steps only fill the queue of the device.
        if step >= 3 {
            parts.step.push(began.elapsed());
        }
    }
    let pixels = executor.decode(begun.slot)?;
    parts.request.push(began.elapsed());
    executor.release(begun.slot);
    let began = Instant::now();
    let png = encode(&pixels, ImageFormat::Png, &[]);
    parts.png.push(began.elapsed());
    png.map(drop)
        .map_err(|error| ExecutorError::Failed(error.to_string()))
}

/// What the queue of the device hides: decoding alone, and beginning with the device idle.
fn details(
    executor: &mut dyn Executor,
    request: &ImageRequest,
    parts: &mut Parts,
    gpus: &Gpus,
) -> Result<(), ExecutorError> {
    for number in 0..5 {
        let mut request = request.clone();
        request.prompt = format!("{number} {}", request.prompt);
        let began = Instant::now();
        let begun = executor.begin(&request)?;
        executor.decode(begun.slot)?;
        let both = began.elapsed();
        let began = Instant::now();
        executor.decode(begun.slot)?;
        let decode = began.elapsed();
        // What only this size needs goes with the request.
        parts.memory = gpus.memory_used();
        executor.release(begun.slot);
        parts.decode.push(decode);
        parts.begin.push(both.saturating_sub(decode));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_percentile_is_one_of_the_samples() {
        let samples = Samples((1..=200).rev().map(f64::from).collect());
        assert_eq!(samples.median(), 100.0);
        assert_eq!(samples.percentile(0.99), 198.0);
        assert_eq!(samples.percentile(1.0), 200.0);
        assert!(Samples::default().median().is_nan());
    }
}
