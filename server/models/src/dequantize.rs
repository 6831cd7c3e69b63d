//! GGUF's blocks as single precision numbers, computed by candle.

use candle_core::quantized::{GgmlDType, QStorage, QTensor};
use candle_core::{Device, Result};
use std::borrow::Cow;
use zimage_checkpoint::BlockFormat;

/// The values of whole blocks: what a checkpoint is opened with.
///
/// # Errors
/// When the bytes are no whole number of blocks, or there is no memory for the values.
pub fn dequantize(format: BlockFormat, bytes: &[u8]) -> std::result::Result<Vec<f32>, String> {
    if !bytes.len().is_multiple_of(format.bytes()) {
        let (length, block) = (bytes.len(), format.bytes());
        return Err(format!(
            "{length} bytes are no whole number of blocks of {block}"
        ));
    }
    let count = bytes.len() / format.bytes() * format.values();
    // candle reads blocks where they lie, and asserts that their floats are aligned.
    let bytes = if bytes.as_ptr().cast::<f32>().is_aligned() {
        Cow::Borrowed(bytes)
    } else {
        Cow::Owned(bytes.to_vec())
    };
    values(ggml(format), bytes, count).map_err(|error| error.to_string())
}

fn values(format: GgmlDType, bytes: Cow<'_, [u8]>, count: usize) -> Result<Vec<f32>> {
    let storage = QStorage::from_data(bytes, &Device::Cpu, format)?;
    QTensor::new(storage, count)?
        .dequantize(&Device::Cpu)?
        .to_vec1()
}

const fn ggml(format: BlockFormat) -> GgmlDType {
    match format {
        BlockFormat::Q4_0 => GgmlDType::Q4_0,
        BlockFormat::Q4_1 => GgmlDType::Q4_1,
        BlockFormat::Q5_0 => GgmlDType::Q5_0,
        BlockFormat::Q5_1 => GgmlDType::Q5_1,
        BlockFormat::Q8_0 => GgmlDType::Q8_0,
        BlockFormat::Q2K => GgmlDType::Q2K,
        BlockFormat::Q3K => GgmlDType::Q3K,
        BlockFormat::Q4K => GgmlDType::Q4K,
        BlockFormat::Q5K => GgmlDType::Q5K,
        BlockFormat::Q6K => GgmlDType::Q6K,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_have_the_sizes_that_candle_gives_them() {
        for format in BlockFormat::ALL {
            let (values, bytes) = (ggml(format).block_size(), ggml(format).type_size());
            assert_eq!(
                (format.values(), format.bytes()),
                (values, bytes),
                "{format:?}"
            );
        }
    }

    #[test]
    fn bytes_may_lie_anywhere() {
        for format in BlockFormat::ALL {
            let bytes: Vec<u8> = (0..2 * format.bytes())
                .map(|i| (i * 37 % 120) as u8)
                .collect();
            let shifted = [&[0], &*bytes].concat();
            let bits = |bytes| {
                let values = dequantize(format, bytes).unwrap();
                values.into_iter().map(f32::to_bits).collect::<Vec<_>>()
            };
            assert_eq!(bits(&shifted[1..]), bits(&bytes), "{format:?}");
            assert_eq!(bits(&bytes).len(), 2 * format.values());
            assert!(dequantize(format, &bytes[1..]).is_err());
        }
    }
}
