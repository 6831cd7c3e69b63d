//! Memory that grows and shrinks where it is.
//!
//! A range of addresses is reserved once, and memory is put behind its beginning as it is needed (the driver's virtual
//! memory management). So nothing that was planned with the addresses, recorded work included, has to be planned again.

use super::Region;
use crate::error::GpuError;
use cudarc::driver::CudaContext;
use cudarc::driver::sys::{
    self, CUmemAccess_flags, CUmemAccessDesc, CUmemAllocationGranularity_flags,
    CUmemAllocationHandleType, CUmemAllocationProp, CUmemAllocationProp_st__bindgen_ty_1,
    CUmemAllocationType, CUmemLocation, CUmemLocationType,
};
use std::sync::Arc;

/// A range of addresses with memory behind its first bytes.
pub(crate) struct Elastic {
    pointer: u64,
    /// Bytes of the range.
    addresses: usize,
    /// Pieces of memory are multiples of this.
    unit: usize,
    /// Bytes of each piece, from the beginning of the range on.
    pieces: Vec<usize>,
    context: Arc<CudaContext>,
}

impl Elastic {
    /// A range for at most so many bytes, without memory.
    pub(crate) fn new(context: &Arc<CudaContext>, most: usize) -> Result<Self, GpuError> {
        context.bind_to_thread()?;
        let (kind, mut unit) = (kind(context), 0);
        let minimum = CUmemAllocationGranularity_flags::CU_MEM_ALLOC_GRANULARITY_MINIMUM;
        // SAFETY: the pointers are to locals that outlive the call.
        unsafe { sys::cuMemGetAllocationGranularity(&mut unit, &kind, minimum) }.result()?;
        let addresses = most.max(1).next_multiple_of(unit);
        let mut pointer = 0;
        // SAFETY: the pointer is to a local; the driver chooses the address.
        unsafe { sys::cuMemAddressReserve(&mut pointer, addresses, 0, 0, 0) }.result()?;
        Ok(Self {
            pointer,
            addresses,
            unit,
            pieces: Vec::new(),
            context: Arc::clone(context),
        })
    }

    /// What has memory.
    pub(crate) fn region(&self) -> Region {
        Region {
            pointer: self.pointer,
            bytes: self.pieces.iter().sum(),
        }
    }

    /// Bytes of memory that growing to so many takes.
    pub(crate) fn lacks(&self, bytes: usize) -> usize {
        let missing = bytes.saturating_sub(self.region().bytes());
        missing.next_multiple_of(self.unit)
    }

    /// Puts memory behind at least so many bytes, uninitialised where it is new.
    ///
    /// # Errors
    /// When there is none left; then there is as much as before.
    pub(crate) fn grow(&mut self, bytes: usize) -> Result<(), GpuError> {
        let (has, more) = (self.region().bytes(), self.lacks(bytes));
        if more == 0 {
            return Ok(());
        }
        if has + more > self.addresses {
            let most = self.addresses;
            return Err(GpuError::Bounds(format!(
                "{bytes} bytes are wanted of a range of {most}"
            )));
        }
        self.context.bind_to_thread()?;
        let (kind, mut memory) = (kind(&self.context), 0);
        // SAFETY: the pointers are to locals that outlive the call.
        unsafe { sys::cuMemCreate(&mut memory, more, &kind, 0) }.result()?;
        let place = self.pointer + has as u64;
        // SAFETY: these addresses are this value's own and nothing is behind them; the memory has as many bytes.
        let mapped = unsafe { sys::cuMemMap(place, more, 0, memory, 0) };
        // SAFETY: the handle is of this function. The memory stays as long as it is behind an address.
        unsafe { sys::cuMemRelease(memory) }.result()?;
        mapped.result()?;
        self.pieces.push(more);
        let access = CUmemAccessDesc {
            location: kind.location,
            flags: CUmemAccess_flags::CU_MEM_ACCESS_FLAGS_PROT_READWRITE,
        };
        // SAFETY: the memory was put there above; the pointer is to a local.
        let allowed = unsafe { sys::cuMemSetAccess(place, more, &access, 1) };
        if let Err(error) = allowed.result() {
            self.drop_last()?;
            return Err(error.into());
        }
        Ok(())
    }

    /// Gives back what lies behind the pieces that hold so many bytes. Nothing may use it any more.
    pub(crate) fn shrink(&mut self, bytes: usize) -> Result<(), GpuError> {
        while let Some(last) = self.pieces.last()
            && self.region().bytes() - last >= bytes
        {
            self.drop_last()?;
        }
        Ok(())
    }

    fn drop_last(&mut self) -> Result<(), GpuError> {
        self.context.bind_to_thread()?;
        let Some(bytes) = self.pieces.pop() else {
            return Ok(());
        };
        let place = self.pointer + self.region().bytes() as u64;
        // SAFETY: exactly this piece was put behind exactly this address.
        Ok(unsafe { sys::cuMemUnmap(place, bytes) }.result()?)
    }
}

impl Drop for Elastic {
    fn drop(&mut self) {
        // After a fault the driver refuses, and the process ends anyway.
        if self.context.synchronize().is_ok() && self.shrink(0).is_ok() {
            // SAFETY: the range was reserved by this value, and nothing is behind it any more.
            let _ = unsafe { sys::cuMemAddressFree(self.pointer, self.addresses) };
        }
    }
}

/// Memory of the context's GPU.
fn kind(context: &CudaContext) -> CUmemAllocationProp {
    CUmemAllocationProp {
        type_: CUmemAllocationType::CU_MEM_ALLOCATION_TYPE_PINNED,
        requestedHandleTypes: CUmemAllocationHandleType::CU_MEM_HANDLE_TYPE_NONE,
        location: CUmemLocation {
            type_: CUmemLocationType::CU_MEM_LOCATION_TYPE_DEVICE,
            id: context.ordinal() as i32,
        },
        win32HandleMetaData: std::ptr::null_mut(),
        allocFlags: CUmemAllocationProp_st__bindgen_ty_1 {
            compressionType: 0,
            gpuDirectRDMACapable: 0,
            usage: 0,
            reserved: [0; 4],
        },
    }
}
