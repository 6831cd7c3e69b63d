//! The numbers of `torch.randn` with `torch.Generator("cpu")`, bit for bit.
//!
//! Follows PyTorch's `normal_fill_AVX2` (aten/src/ATen/native/cpu/DistributionTemplates.h), whose logarithm, sine and
//! cosine are the Cephes polynomials of `avx_mathfun.h` with the multiply-adds that its compiler fuses. The arithmetic
//! here is that of one lane, so every machine gives what a machine with AVX2 gives PyTorch; PyTorch itself differs in
//! the last bits on machines without AVX2.

mod cephes;

use crate::request::Noise;
use rand_mt::Mt;
use std::f32::consts::TAU;

/// Numbers that PyTorch computes at once: eight radii and eight angles.
const BLOCK: usize = 16;

/// `torch.Generator("cpu")`.
pub struct Generator(Mt);

impl Generator {
    /// `torch.Generator("cpu").manual_seed(seed)`: only the lower half of the seed reaches the engine.
    pub fn new(seed: u64) -> Self {
        Self(Mt::new(seed as u32))
    }

    /// `torch.randn(count)` with this generator.
    pub fn randn(&mut self, count: usize) -> Vec<f32> {
        if count < BLOCK {
            return self.few(count);
        }
        let mut numbers = self.blocks(count);
        if !count.is_multiple_of(BLOCK) {
            // The last sixteen are drawn again, those that were already there included.
            let last = self.blocks(BLOCK);
            numbers[count - BLOCK..].copy_from_slice(&last);
        }
        numbers
    }

    /// The part of `torch.randn(noise.count * count)` that belongs to the image: diffusers draws all images' noise at
    /// once.
    pub fn image_noise(&mut self, noise: Noise, count: usize) -> Vec<f32> {
        let before = noise.index as usize * count;
        if !count.is_multiple_of(BLOCK) {
            return self.randn(noise.count as usize * count)[before..before + count].to_vec();
        }
        // Whole blocks depend on their own numbers only.
        for _ in 0..before {
            self.0.next_u32();
        }
        self.blocks(count)
    }

    /// PyTorch's path for sixteen numbers and more; those behind the last whole block stay uniform.
    fn blocks(&mut self, count: usize) -> Vec<f32> {
        let mut numbers: Vec<f32> = (0..count).map(|_| uniform(&mut self.0)).collect();
        normal(numbers.as_chunks_mut::<BLOCK>().0);
        numbers
    }

    /// PyTorch's path for fewer than sixteen numbers: pairs in double precision.
    fn few(&mut self, count: usize) -> Vec<f32> {
        let mut numbers = Vec::with_capacity(count + 1);
        while numbers.len() < count {
            let angle = std::f64::consts::TAU * uniform_double(&mut self.0);
            let radius = (-2.0 * (-uniform_double(&mut self.0)).ln_1p()).sqrt();
            numbers.push((radius * angle.cos()) as f32);
            numbers.push((radius * angle.sin()) as f32);
        }
        numbers.truncate(count);
        numbers
    }
}

/// A number from 0 to 1, 1 excluded, of 24 bits.
fn uniform(engine: &mut Mt) -> f32 {
    (engine.next_u32() & 0x00ff_ffff) as f32 * (1.0 / 16_777_216.0)
}

/// The Box-Muller transform of blocks of eight pairs, in place.
fn normal(blocks: &mut [[f32; BLOCK]]) {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
        #[expect(
            unsafe_code,
            reason = "a fused multiply-add without its instruction is a slow call"
        )]
        // SAFETY: the processor has both.
        return unsafe { normal_fused(blocks) };
    }
    normal_blocks(blocks);
}

/// The same numbers from the processor's own instructions, eight at a time.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn normal_fused(blocks: &mut [[f32; BLOCK]]) {
    normal_blocks(blocks);
}

// Inlined, so that it becomes the instructions of its caller; one loop for each function, so that these are vectors.
#[inline(always)]
fn normal_blocks(blocks: &mut [[f32; BLOCK]]) {
    for block in blocks {
        let (uniform, angles) = block.split_at_mut(BLOCK / 2);
        let mut radii = [0.0; BLOCK / 2];
        for (radius, uniform) in radii.iter_mut().zip(uniform.iter()) {
            *radius = (-2.0 * cephes::ln(1.0 - uniform)).sqrt();
        }
        for ((cosines, sines), radius) in uniform.iter_mut().zip(angles).zip(radii) {
            let (sine, cosine) = cephes::sin_cos(TAU * *sines);
            // PyTorch adds the mean, which makes a negative zero positive.
            *cosines = radius * cosine + 0.0;
            *sines = radius * sine + 0.0;
        }
    }
}

/// A number from 0 to 1, 1 excluded, of 53 bits.
fn uniform_double(engine: &mut Mt) -> f64 {
    let (high, low) = (engine.next_u32(), engine.next_u32());
    let bits = (u64::from(high) << 32 | u64::from(low)) & ((1 << 53) - 1);
    bits as f64 * (1.0 / 9_007_199_254_740_992.0)
}

#[cfg(test)]
mod tests;
