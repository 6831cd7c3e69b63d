//! What NVIDIA's management library says about the GPUs that this process computes on: their figures, their memory, the
//! faults that they report.
//!
//! Invariants: whoever shows figures never waits for the driver, which may hang; a GPU is named by its number among CUDA's,
//! whatever the library's own order is.
#![forbid(unsafe_code)]

mod figures;
mod health;

pub use figures::{Figures, figures};
pub use health::{FaultWatch, check, fault};

use nvml_wrapper::error::NvmlError;
use nvml_wrapper::{Device, Nvml};
use std::ffi::OsStr;
use std::fmt;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

/// The GPUs that this process sees; none without NVIDIA's driver. Clones are handles to the same ones.
#[derive(Clone)]
pub struct Gpus(Arc<Shared>);

struct Shared {
    /// Where the library is. `None`: where the system finds it.
    library: Option<Box<OsStr>>,
    nvml: Mutex<Option<Arc<Nvml>>>,
    /// UUIDs in CUDA's order. Unset: every GPU that the library knows, in its order.
    computed_on: OnceLock<Vec<[u8; 16]>>,
}

impl Gpus {
    /// Looks for the driver and its library.
    pub fn find() -> Self {
        Self::open(None)
    }

    /// As [`Self::find`], with the library in a place of its own.
    #[cfg(test)]
    fn of(library: &std::path::Path) -> Self {
        Self::open(Some(library.as_os_str().into()))
    }

    /// As on a machine without a driver.
    pub fn none() -> Self {
        Self::with(None, None)
    }

    fn open(library: Option<Box<OsStr>>) -> Self {
        let nvml = init(library.as_deref());
        let nvml = nvml.inspect_err(|error| tracing::debug!(%error, "no NVIDIA driver"));
        Self::with(library, nvml.ok())
    }

    fn with(library: Option<Box<OsStr>>, nvml: Option<Nvml>) -> Self {
        Self(Arc::new(Shared {
            library,
            nvml: Mutex::new(nvml.map(Arc::new)),
            computed_on: OnceLock::new(),
        }))
    }

    /// From now on only the GPUs of these UUIDs, in this order, count: the library lists those too that the process does
    /// not compute on, and in another order than CUDA. The first call decides.
    pub fn restrict_to(&self, uuids: Vec<[u8; 16]>) {
        let _decided = self.0.computed_on.set(uuids);
    }

    /// Whether the driver's library is there.
    pub fn has_library(&self) -> bool {
        self.nvml().is_some()
    }

    /// How many there are.
    pub fn count(&self) -> u32 {
        let of_nvml = || self.nvml()?.device_count().ok();
        match self.0.computed_on.get() {
            Some(uuids) => u32::try_from(uuids.len()).unwrap_or(u32::MAX),
            None => of_nvml().unwrap_or(0),
        }
    }

    fn nvml(&self) -> Option<Arc<Nvml>> {
        let nvml = self.0.nvml.lock().unwrap_or_else(PoisonError::into_inner);
        nvml.clone()
    }

    /// Opens the library once more: after a restart of the driver one that was opened before only fails.
    fn reopen(&self) -> Result<Arc<Nvml>, NvmlError> {
        let nvml = Arc::new(init(self.0.library.as_deref())?);
        let new = Some(Arc::clone(&nvml));
        let old = {
            let mut held = self.0.nvml.lock().unwrap_or_else(PoisonError::into_inner);
            std::mem::replace(&mut *held, new)
        };
        // Closing it asks the driver, which may hang: nobody else waits for that.
        drop(old);
        Ok(nvml)
    }

    /// Every GPU, by its number.
    fn devices<'a>(&self, nvml: &'a Nvml) -> Result<Vec<Device<'a>>, NvmlError> {
        match self.0.computed_on.get() {
            Some(uuids) => uuids.iter().map(|uuid| of_uuid(nvml, uuid)).collect(),
            None => (0..nvml.device_count()?)
                .map(|index| nvml.device_by_index(index))
                .collect(),
        }
    }

    /// Joules that the first GPU has used since its driver was loaded.
    pub fn joules(&self) -> Option<f64> {
        let nvml = self.nvml()?;
        let devices = self.devices(&nvml).ok()?;
        let millijoules = devices.first()?.total_energy_consumption().ok()?;
        Some(millijoules as f64 / 1000.0)
    }

    /// Bytes of the first GPU's memory that are in use.
    pub fn memory_used(&self) -> Option<u64> {
        let nvml = self.nvml()?;
        let devices = self.devices(&nvml).ok()?;
        Some(devices.first()?.memory_info().ok()?.used)
    }
}

/// A whole GPU, or a part of one (MIG).
fn of_uuid<'a>(nvml: &'a Nvml, uuid: &[u8; 16]) -> Result<Device<'a>, NvmlError> {
    let text = hyphenated(uuid);
    match nvml.device_by_uuid(format!("GPU-{text}")) {
        Err(NvmlError::NotFound | NvmlError::InvalidArg) => {
            nvml.device_by_uuid(format!("MIG-{text}"))
        }
        found => found,
    }
}

/// `8-4-4-4-12` digits of base 16, as the library writes a UUID.
fn hyphenated(uuid: &[u8; 16]) -> String {
    let mut text = String::with_capacity(36);
    for (place, byte) in uuid.iter().enumerate() {
        if matches!(place, 4 | 6 | 8 | 10) {
            text.push('-');
        }
        text.push_str(&format!("{byte:02x}"));
    }
    text
}

fn init(library: Option<&OsStr>) -> Result<Nvml, NvmlError> {
    match library {
        Some(path) => Nvml::builder().lib_path(path).init(),
        None => Nvml::init(),
    }
}

impl fmt::Debug for Gpus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Gpus({})", self.count())
    }
}

#[cfg(test)]
mod played;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uuid_is_written_as_the_library_writes_it() {
        let uuid = [
            0x23, 0xaa, 0x5b, 0x80, 0xb0, 0x4a, 0x8f, 0x32, 0xfa, 0x95, 0x7b, 0xaa, 0x36, 0x20,
            0x17, 0x7d,
        ];
        assert_eq!(hyphenated(&uuid), "23aa5b80-b04a-8f32-fa95-7baa3620177d");
    }
}
