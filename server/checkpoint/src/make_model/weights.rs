//! Random weights that depend on the seed and the tensor's name alone.

use crate::layout::Expected;
use half::{bf16, f16};
use rand_mt::Mt;
use safetensors::Dtype;
use sha2::{Digest as _, Sha256};

/// The bytes of one tensor.
///
/// Only exactly rounded operations are used, so the bytes are the same on every machine.
pub(super) fn random(seed: u64, component: &str, tensor: &Expected, dtype: Dtype) -> Vec<u8> {
    let mut numbers = generator(seed, component, &tensor.name);
    let (centre, spread) = distribution(tensor);
    let count = tensor.shape.iter().product();
    let values = (0..count).map(|_| {
        let unit = (numbers.next_u32() >> 8) as f32 * (1.0 / 16_777_216.0);
        centre + (unit * 2.0 - 1.0) * spread
    });
    match dtype {
        Dtype::BF16 => values
            .flat_map(|value| bf16::from_f32(value).to_le_bytes())
            .collect(),
        Dtype::F16 => values
            .flat_map(|value| f16::from_f32(value).to_le_bytes())
            .collect(),
        _ => values.flat_map(f32::to_le_bytes).collect(),
    }
}

fn generator(seed: u64, component: &str, name: &str) -> Mt {
    let digest = Sha256::new()
        .chain_update(seed.to_le_bytes())
        .chain_update(component)
        .chain_update([0])
        .chain_update(name)
        .finalize();
    Mt::new(u32::from_le_bytes([
        digest[0], digest[1], digest[2], digest[3],
    ]))
}

/// Centre and half-width of the uniform distribution that keeps activations near one.
fn distribution(tensor: &Expected) -> (f32, f32) {
    if tensor.name.ends_with("pad_token") || tensor.name.ends_with("embed_tokens.weight") {
        return (0.0, 1.0);
    }
    match tensor.shape.as_slice() {
        [_] if tensor.name.ends_with(".bias") => (0.0, 0.1),
        [_] => (1.0, 0.2),
        shape => {
            let inputs: usize = shape[1..].iter().product();
            (0.0, (3.0 / inputs as f32).sqrt())
        }
    }
}
