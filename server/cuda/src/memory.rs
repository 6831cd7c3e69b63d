//! Device memory: what owns it, and the parts of it that operations take.

mod elastic;

use crate::error::GpuError;
use cudarc::driver::{CudaContext, result};
pub(crate) use elastic::Elastic;
use std::sync::Arc;

/// Regions begin at multiples of this, which is what the libraries' fastest kernels ask for.
const ALIGNMENT: usize = 256;

/// Memory of a GPU, given back at the end.
pub struct Memory {
    pointer: u64,
    bytes: usize,
    context: Arc<CudaContext>,
}

impl Memory {
    pub(crate) fn allocate(context: &Arc<CudaContext>, bytes: usize) -> Result<Self, GpuError> {
        context.bind_to_thread()?;
        // SAFETY: the context is the thread's; no bytes are asked for as one, which the driver refuses.
        let pointer = unsafe { result::malloc_sync(bytes.max(1)) }?;
        Ok(Self {
            pointer,
            bytes,
            context: Arc::clone(context),
        })
    }

    pub(crate) const fn context(&self) -> &Arc<CudaContext> {
        &self.context
    }

    /// All of it.
    pub const fn region(&self) -> Region {
        Region {
            pointer: self.pointer,
            bytes: self.bytes,
        }
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // The driver waits for the work that uses the memory. After a fault it refuses, and the process ends anyway.
        if self.context.bind_to_thread().is_ok() {
            // SAFETY: the memory was allocated in this context and is given back only here.
            let _ = unsafe { result::free_sync(self.pointer) };
        }
    }
}

/// Host memory that the GPU copies from and to directly.
pub struct Pinned {
    pointer: *mut u8,
    bytes: usize,
    context: Arc<CudaContext>,
}

impl Pinned {
    pub(crate) fn allocate(context: &Arc<CudaContext>, bytes: usize) -> Result<Self, GpuError> {
        context.bind_to_thread()?;
        // SAFETY: the context is the thread's; no bytes are asked for as one.
        let pointer = unsafe { result::malloc_host(bytes.max(1), 0) }?;
        let pinned = Self {
            pointer: pointer.cast(),
            bytes,
            context: Arc::clone(context),
        };
        // SAFETY: the driver gave that many bytes, which become a slice of initialised numbers only now.
        unsafe { pinned.pointer.write_bytes(0, bytes) };
        Ok(pinned)
    }

    pub(crate) const fn pointer(&self) -> *mut u8 {
        self.pointer
    }

    /// Its size.
    pub const fn len(&self) -> usize {
        self.bytes
    }

    /// Whether it has no bytes.
    pub const fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    /// The bytes. The caller has waited for the copies that use them.
    pub fn bytes(&mut self) -> &mut [u8] {
        // SAFETY: the memory is this value's own, initialised, and borrowed with it.
        unsafe { std::slice::from_raw_parts_mut(self.pointer, self.bytes) }
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        if self.context.bind_to_thread().is_ok() {
            // SAFETY: the memory was allocated by the driver and is given back only here.
            let _ = unsafe { result::free_host(self.pointer.cast()) };
        }
    }
}

/// A part of a [`Memory`]. It does not keep the memory: whoever holds both drops the regions with the memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Region {
    pointer: u64,
    bytes: usize,
}

impl Region {
    /// No memory.
    pub(crate) const NONE: Self = Self {
        pointer: 0,
        bytes: 0,
    };

    pub(crate) const fn pointer(self) -> u64 {
        self.pointer
    }

    /// Its size.
    pub const fn bytes(self) -> usize {
        self.bytes
    }

    /// Fails when the region is smaller.
    pub(crate) fn require(self, bytes: usize) -> Result<(), GpuError> {
        if bytes <= self.bytes {
            return Ok(());
        }
        let actual = self.bytes;
        Err(GpuError::Bounds(format!(
            "an operation needs {bytes} bytes of a region of {actual}"
        )))
    }

    /// The part from `start` on.
    ///
    /// # Errors
    /// When there is no such part.
    pub fn part(self, start: usize, bytes: usize) -> Result<Self, GpuError> {
        self.require(start.saturating_add(bytes))?;
        Ok(Self {
            pointer: self.pointer + start as u64,
            bytes,
        })
    }
}

/// Deals out the parts of one region, one after the other.
///
/// The same code lays a plan out twice: over [`Layout::measure`], which says how much it needs, and over the memory.
#[derive(Debug)]
pub struct Layout {
    base: u64,
    used: usize,
    /// No limit while measuring.
    limit: usize,
}

impl Layout {
    /// Over no memory: its regions must not be used.
    pub const fn measure() -> Self {
        Self {
            base: 0,
            used: 0,
            limit: usize::MAX,
        }
    }

    /// Over a region.
    pub const fn over(region: Region) -> Self {
        Self {
            base: region.pointer,
            used: 0,
            limit: region.bytes,
        }
    }

    /// The next part.
    ///
    /// # Errors
    /// When the region is used up.
    pub fn take(&mut self, bytes: usize) -> Result<Region, GpuError> {
        let start = self.used.next_multiple_of(ALIGNMENT);
        let end = start.saturating_add(bytes);
        if end > self.limit {
            let limit = self.limit;
            return Err(GpuError::Bounds(format!(
                "a plan needs {end} bytes of an arena of {limit}"
            )));
        }
        self.used = end;
        Ok(Region {
            pointer: self.base + start as u64,
            bytes,
        })
    }

    /// Bytes dealt out.
    pub const fn used(&self) -> usize {
        self.used
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_layout_gives_what_it_measured() {
        let plan = |layout: &mut Layout| {
            [
                layout.take(10).unwrap(),
                layout.take(300).unwrap(),
                layout.take(1).unwrap(),
            ]
        };
        let mut measured = Layout::measure();
        let offsets = plan(&mut measured).map(|region| region.pointer);
        let memory = Region {
            pointer: 4096,
            bytes: measured.used(),
        };
        let mut layout = Layout::over(memory);
        assert_eq!(
            plan(&mut layout).map(|region| region.pointer - 4096),
            offsets
        );
        assert!(layout.take(256).is_err());
    }

    #[test]
    fn regions_do_not_overlap_and_are_aligned() {
        let mut layout = Layout::measure();
        let (first, second) = (layout.take(257).unwrap(), layout.take(1).unwrap());
        assert!(first.pointer + first.bytes as u64 <= second.pointer);
        assert_eq!(second.pointer % 256, 0);
    }

    #[test]
    fn a_part_behind_the_end_is_refused() {
        let region = Region {
            pointer: 0,
            bytes: 8,
        };
        assert!(region.part(4, 4).is_ok());
        assert!(region.part(4, 5).is_err());
        assert!(region.part(usize::MAX, 2).is_err());
    }
}
