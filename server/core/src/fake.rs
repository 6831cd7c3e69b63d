//! An executor that computes nothing: for tests of everything around the model.

use crate::executor::{Begun, Executor, ExecutorError, Slot};
use crate::pixels::Pixels;
use crate::request::ImageRequest;
use crate::slots::Slots;
use crate::validate;

/// A call that a [`FakeExecutor`] is about to answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Call {
    /// [`Executor::begin`].
    Begin,
    /// [`Executor::step`] of so many slots.
    Step(usize),
    /// [`Executor::decode`].
    Decode,
}

/// Draws a pattern that depends on the whole request. `before` runs before each call: it waits, fails or panics as a
/// test wishes. It has no ControlNet.
pub struct FakeExecutor<F> {
    before: F,
    /// Each request, and the steps that it has taken.
    slots: Slots<(ImageRequest, u32)>,
}

impl<F: FnMut(Call) -> Result<(), ExecutorError> + Send> FakeExecutor<F> {
    /// An executor without requests.
    pub fn new(before: F) -> Self {
        Self {
            before,
            slots: Slots::default(),
        }
    }
}

impl<F: FnMut(Call) -> Result<(), ExecutorError> + Send> Executor for FakeExecutor<F> {
    fn begin(&mut self, request: &ImageRequest) -> Result<Begun, ExecutorError> {
        (self.before)(Call::Begin)?;
        validate::refuse_control(request)?;
        let slot = self.slots.add((request.clone(), 0));
        let words = request.prompt.split_whitespace().count();
        Ok(Begun {
            slot,
            steps: request.num_inference_steps,
            prompt_tokens: u32::try_from(words.min(512)).unwrap_or(512),
            truncated: words > 512,
        })
    }

    fn step(&mut self, slots: &[Slot]) -> Result<(), ExecutorError> {
        (self.before)(Call::Step(slots.len()))?;
        for slot in slots {
            self.slots.get_mut(*slot)?.1 += 1;
        }
        Ok(())
    }

    fn preview(&mut self, slot: Slot) -> Result<Pixels, ExecutorError> {
        let (request, steps) = self.slots.get(slot)?;
        draw(request, *steps, request.width / 8, request.height / 8)
    }

    fn decode(&mut self, slot: Slot) -> Result<Pixels, ExecutorError> {
        (self.before)(Call::Decode)?;
        let (request, steps) = self.slots.get(slot)?;
        draw(request, *steps, request.width, request.height)
    }

    fn release(&mut self, slot: Slot) {
        drop(self.slots.take(slot));
    }
}

fn draw(
    request: &ImageRequest,
    steps: u32,
    width: u32,
    height: u32,
) -> Result<Pixels, ExecutorError> {
    let prompt: u64 = request.prompt.bytes().map(u64::from).sum();
    let image = request.init.as_ref().map_or(0, |init| {
        let level = init.pixels.rgb().first().copied().unwrap_or_default();
        u64::from(level) + u64::from(init.strength.to_bits())
    });
    let start = request.noise.seed
        ^ (u64::from(request.noise.index) << 32)
        ^ prompt
        ^ image
        ^ u64::from(steps);
    let length = width as usize * height as usize * 3;
    // Steps of an odd number visit every byte value: images of different requests differ everywhere.
    let rgb = (0..length as u64).map(|at| (start.wrapping_add(at.wrapping_mul(7)) % 251) as u8);
    Pixels::new(width, height, rgb.collect())
        .map_err(|error| ExecutorError::Failed(error.to_string()))
}
