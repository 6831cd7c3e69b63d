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

    /// Copies values as they are stored; they arrive as bfloat16.
    pub(super) fn copy(&mut self, to: Region, bytes: &[u8], dtype: DType) -> Result<(), GpuError> {
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
            fill(&mut buffer.host.bytes()[..piece.len()], piece);
            if dtype == DType::BF16 {
                self.gpu.upload_pinned(part, &buffer.host, piece.len())?;
            } else {
                let waiting = buffer.device.region();
                self.gpu.upload_pinned(waiting, &buffer.host, piece.len())?;
                to_bf16(self.gpu, part, waiting, dtype, count)?;
            }
            buffer.copied.record(self.gpu.stream())?;
        }
        Ok(())
    }
}

fn fill(to: &mut [u8], from: &[u8]) {
    let share = from.len().div_ceil(THREADS).max(1 << 20);
    thread::scope(|scope| {
        for (to, from) in to.chunks_mut(share).zip(from.chunks(share)) {
            scope.spawn(|| to.copy_from_slice(from));
        }
    });
}

impl Drop for Staging<'_> {
    fn drop(&mut self) {
        // The buffers must outlive the copies that read them. After a fault the driver refuses, and nothing is read.
        let _ = self.gpu.synchronize();
    }
}
