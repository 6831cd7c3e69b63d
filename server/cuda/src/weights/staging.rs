//! Pinned memory on the way to the GPU.

use crate::error::{GpuError, LoadError};
use crate::gpu::Gpu;
use crate::memory::{Memory, Pinned, Region};
use crate::ops::BF16;
use crate::ops::storage::to_bf16;
use cudarc::driver::CudaEvent;
use std::thread;
use zimage_checkpoint::DType;

/// Bytes of one buffer.
const BUFFER: usize = 32 << 20;

/// Threads that fill a buffer: one core copies less than the bus takes.
const THREADS: usize = 8;

/// Two buffers: one is copied to the GPU while the other is filled.
pub(super) struct Staging<'a> {
    gpu: &'a Gpu,
    buffers: [Buffer; 2],
    next: usize,
}

struct Buffer {
    host: Pinned,
    /// What is not bfloat16 yet waits here.
    device: Memory,
    /// Recorded behind the copy that reads the buffer.
    copied: CudaEvent,
}

impl<'a> Staging<'a> {
    pub(super) fn new(gpu: &'a Gpu) -> Result<Self, LoadError> {
        let buffer = || -> Result<Buffer, GpuError> {
            Ok(Buffer {
                host: gpu.pinned(BUFFER)?,
                device: gpu.allocate(BUFFER)?,
                copied: gpu.event()?,
            })
        };
        Ok(Self {
            gpu,
            buffers: [buffer()?, buffer()?],
            next: 0,
        })
    }

    /// Copies values as they are stored; they arrive as bfloat16. Says whether all are finite.
    pub(super) fn copy(
        &mut self,
        to: Region,
        bytes: &[u8],
        dtype: DType,
    ) -> Result<bool, GpuError> {
        let mut finite = true;
        let width = match dtype {
            DType::F32 => 4,
            DType::BF16 | DType::F16 => BF16,
        };
        for (number, piece) in bytes.chunks(BUFFER).enumerate() {
            let count = piece.len() / width;
            let part = to.part(number * (BUFFER / width) * BF16, count * BF16)?;
            let buffer = &mut self.buffers[self.next];
            self.next ^= 1;
            buffer.copied.synchronize()?;
            finite &= fill(&mut buffer.host.bytes()[..piece.len()], piece, dtype);
            if dtype == DType::BF16 {
                self.gpu.upload_pinned(part, &buffer.host, piece.len())?;
            } else {
                let waiting = buffer.device.region();
                self.gpu.upload_pinned(waiting, &buffer.host, piece.len())?;
                to_bf16(self.gpu, part, waiting, dtype, count)?;
            }
            buffer.copied.record(self.gpu.stream())?;
        }
        Ok(finite)
    }
}

/// Copies on several threads, which look at the values on their way.
fn fill(to: &mut [u8], from: &[u8], dtype: DType) -> bool {
    let share = from.len().div_ceil(THREADS).max(1 << 20);
    let share = share.next_multiple_of(size_of::<f32>());
    let copy = |to: &mut [u8], from: &[u8]| {
        to.copy_from_slice(from);
        is_finite(to, dtype)
    };
    thread::scope(|scope| {
        let parts = to.chunks_mut(share).zip(from.chunks(share));
        let threads: Vec<_> = parts
            .map(|(to, from)| scope.spawn(move || copy(to, from)))
            .collect();
        // Every thread is waited for, also behind one that found something.
        let finite = |all: bool, thread: thread::ScopedJoinHandle<'_, bool>| {
            all & thread.join().unwrap_or(false)
        };
        threads.into_iter().fold(true, finite)
    })
}

/// No value has an exponent of ones alone, which NaN and the infinite have. Without a branch, so that the loop is vectors.
fn is_finite(bytes: &[u8], dtype: DType) -> bool {
    let halves = |exponent: u16| {
        let found = |found: bool, half: &[u8; 2]| {
            found | (u16::from_le_bytes(*half) & exponent == exponent)
        };
        !bytes.as_chunks().0.iter().fold(false, found)
    };
    match dtype {
        DType::BF16 => halves(0x7f80),
        DType::F16 => halves(0x7c00),
        DType::F32 => {
            let exponent = 0x7f80_0000;
            let found = |found: bool, word: &[u8; 4]| {
                found | (u32::from_le_bytes(*word) & exponent == exponent)
            };
            !bytes.as_chunks().0.iter().fold(false, found)
        }
    }
}

impl Drop for Staging<'_> {
    fn drop(&mut self) {
        // The buffers must outlive the copies that read them. After a fault the driver refuses, and nothing is read.
        let _ = self.gpu.synchronize();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use half::{bf16, f16};

    #[test]
    fn values_that_are_not_finite_are_seen_wherever_they_are() {
        let bytes = |value: f32, dtype| match dtype {
            DType::F32 => value.to_le_bytes().to_vec(),
            DType::BF16 => bf16::from_f32(value).to_le_bytes().to_vec(),
            DType::F16 => f16::from_f32(value).to_le_bytes().to_vec(),
        };
        for dtype in [DType::F32, DType::BF16, DType::F16] {
            for place in [0, 1, 700_000, 1_500_000] {
                for (value, expected) in [
                    (f32::NAN, false),
                    (f32::NEG_INFINITY, false),
                    (-65504.0, true),
                ] {
                    let width = bytes(0.0, dtype).len();
                    let mut from = bytes(1.5, dtype).repeat(1_500_001);
                    from[place * width..(place + 1) * width].copy_from_slice(&bytes(value, dtype));
                    let mut to = vec![0; from.len()];
                    assert_eq!(
                        fill(&mut to, &from, dtype),
                        expected,
                        "{value} of {dtype:?}"
                    );
                    assert_eq!(to, from);
                }
            }
        }
    }
}
