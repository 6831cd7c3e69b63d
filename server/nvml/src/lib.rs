//! What NVIDIA's management library says about the GPUs: their figures, their memory, the faults that they report.
#![forbid(unsafe_code)]

mod health;

pub use health::{FaultWatch, check, fault};

use health::MemoryHealth;
use nvml_wrapper::enum_wrappers::device::{EccCounter, MemoryError, TemperatureSensor};
use nvml_wrapper::enums::device::SampleValue;
use nvml_wrapper::error::NvmlError;
use nvml_wrapper::structs::device::FieldId;
use nvml_wrapper::sys_exports::field_id::{
    NVML_FI_DEV_REMAPPED_FAILURE, NVML_FI_DEV_REMAPPED_PENDING,
};
use nvml_wrapper::{Device, Nvml};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Unit;
use std::ffi::OsStr;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

type Labels = Vec<(String, String)>;
type Figures = Family<Labels, Gauge<f64, AtomicU64>>;

/// The GPUs that this process sees; none without NVIDIA's driver.
#[derive(Clone)]
pub struct Gpus {
    nvml: Option<Arc<Nvml>>,
    /// Where the library is. `None`: where the system finds it.
    library: Option<Arc<OsStr>>,
}

/// What one GPU says about itself; a figure that it does not know is left out.
#[derive(Default)]
struct Sample {
    utilization: Figures,
    memory_used: Figures,
    memory_total: Figures,
    power: Figures,
    temperature: Figures,
    uncorrected_errors: Figures,
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
    pub const fn none() -> Self {
        Self {
            nvml: None,
            library: None,
        }
    }

    fn open(library: Option<Arc<OsStr>>) -> Self {
        let nvml = init(library.as_deref());
        let nvml = nvml.inspect_err(|error| tracing::debug!(%error, "no NVIDIA driver"));
        Self {
            nvml: nvml.ok().map(Arc::new),
            library,
        }
    }

    /// The library once more: one that was opened before the driver failed may only fail from then on.
    fn reopen(&self) -> Result<Nvml, NvmlError> {
        init(self.library.as_deref())
    }

    /// How many there are.
    pub fn count(&self) -> u32 {
        self.nvml
            .as_ref()
            .and_then(|nvml| nvml.device_count().ok())
            .unwrap_or(0)
    }

    fn nvml(&self) -> Option<&Nvml> {
        self.nvml.as_deref()
    }

    /// Of each GPU that says so.
    fn memory_health(&self) -> Vec<MemoryHealth> {
        let Some(nvml) = &self.nvml else {
            return Vec::new();
        };
        let devices = (0..self.count()).filter_map(|index| nvml.device_by_index(index).ok());
        devices.map(|device| memory_health(&device)).collect()
    }

    /// Joules that the first GPU has used since its driver was loaded.
    pub fn joules(&self) -> Option<f64> {
        let device = self.nvml.as_ref()?.device_by_index(0).ok()?;
        Some(device.total_energy_consumption().ok()? as f64 / 1000.0)
    }

    /// Bytes of the first GPU's memory that are in use.
    pub fn memory_used(&self) -> Option<u64> {
        let device = self.nvml.as_ref()?.device_by_index(0).ok()?;
        Some(device.memory_info().ok()?.used)
    }

    fn sample(&self) -> Sample {
        let sample = Sample::default();
        let Some(nvml) = &self.nvml else {
            return sample;
        };
        for index in 0..self.count() {
            let Ok(device) = nvml.device_by_index(index) else {
                continue;
            };
            let labels = vec![("gpu".to_owned(), index.to_string())];
            let set = |figures: &Figures, value: f64| {
                figures.get_or_create(&labels).set(value);
            };
            if let Ok(rates) = device.utilization_rates() {
                set(&sample.utilization, f64::from(rates.gpu) / 100.0);
            }
            if let Ok(memory) = device.memory_info() {
                set(&sample.memory_used, memory.used as f64);
                set(&sample.memory_total, memory.total as f64);
            }
            if let Ok(milliwatts) = device.power_usage() {
                set(&sample.power, f64::from(milliwatts) / 1000.0);
            }
            if let Ok(celsius) = device.temperature(TemperatureSensor::Gpu) {
                set(&sample.temperature, f64::from(celsius));
            }
            if let Ok(errors) = uncorrected_errors(&device) {
                set(&sample.uncorrected_errors, errors as f64);
            }
        }
        sample
    }
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

/// Since the driver was loaded.
fn uncorrected_errors(device: &Device<'_>) -> Result<u64, NvmlError> {
    device.total_ecc_errors(MemoryError::Uncorrected, EccCounter::Volatile)
}

/// What a GPU does not know counts as well.
fn memory_health(device: &Device<'_>) -> MemoryHealth {
    let fields = [NVML_FI_DEV_REMAPPED_PENDING, NVML_FI_DEV_REMAPPED_FAILURE].map(FieldId);
    let values = device.field_values_for(&fields).unwrap_or_default();
    let mut values = values.into_iter().map(|value| {
        let value = value.ok().and_then(|sample| sample.value.ok());
        matches!(value, Some(SampleValue::U32(1..) | SampleValue::U64(1..)))
    });
    MemoryHealth {
        uncorrected: uncorrected_errors(device).unwrap_or(0),
        remap_pending: values.next().unwrap_or(false),
        remap_failed: values.next().unwrap_or(false),
    }
}

impl Collector for Gpus {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        match self.count() {
            0 => Ok(()),
            _ => self.sample().encode(encoder),
        }
    }
}

impl Sample {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let mut show = |name: &str, help: &str, unit: Option<&Unit>, figures: &Figures| {
            figures.encode(encoder.encode_descriptor(name, help, unit, figures.metric_type())?)
        };
        show(
            "zimage_gpu_utilization_ratio",
            "Share of the last second in which a kernel ran",
            None,
            &self.utilization,
        )?;
        show(
            "zimage_gpu_memory_used",
            "Memory in use",
            Some(&Unit::Bytes),
            &self.memory_used,
        )?;
        show(
            "zimage_gpu_memory_total",
            "Memory",
            Some(&Unit::Bytes),
            &self.memory_total,
        )?;
        show("zimage_gpu_power_watts", "Power drawn", None, &self.power)?;
        show(
            "zimage_gpu_temperature_celsius",
            "Temperature of the chip",
            None,
            &self.temperature,
        )?;
        show(
            "zimage_gpu_uncorrected_errors",
            "Memory errors since the driver was loaded that could not be corrected",
            None,
            &self.uncorrected_errors,
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use prometheus_client::encoding::text::encode;
    use prometheus_client::registry::Registry;

    #[derive(Debug)]
    struct OneGpu;

    impl Collector for OneGpu {
        fn encode(&self, encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
            let sample = Sample::default();
            let labels = vec![("gpu".to_owned(), "0".to_owned())];
            sample.utilization.get_or_create(&labels).set(0.99);
            sample.memory_used.get_or_create(&labels).set(1024.0);
            sample.encode(encoder)
        }
    }

    #[test]
    fn a_gpus_figures_have_the_names_that_the_operator_reads() {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(OneGpu));
        let mut text = String::new();
        encode(&mut text, &registry).unwrap();
        for line in [
            "zimage_gpu_utilization_ratio{gpu=\"0\"} 0.99",
            "zimage_gpu_memory_used_bytes{gpu=\"0\"} 1024.0",
        ] {
            assert!(text.contains(line), "{text}");
        }
    }
}
