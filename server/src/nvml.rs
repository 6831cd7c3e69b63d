//! What NVIDIA's management library says about the GPUs.

use nvml_wrapper::Nvml;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Unit;
use std::fmt;
use std::sync::atomic::AtomicU64;

type Labels = Vec<(String, String)>;
type Figures = Family<Labels, Gauge<f64, AtomicU64>>;

/// The GPUs that this process sees; none without NVIDIA's driver.
pub(crate) struct Gpus(Option<Nvml>);

/// What one GPU says about itself; a figure that it does not know is left out.
#[derive(Default)]
struct Sample {
    utilization: Figures,
    memory_used: Figures,
    memory_total: Figures,
    power: Figures,
    temperature: Figures,
}

impl Gpus {
    /// Looks for the driver.
    pub(crate) fn find() -> Self {
        match Nvml::init() {
            Ok(nvml) => Self(Some(nvml)),
            Err(error) => {
                tracing::debug!(%error, "no NVIDIA driver");
                Self(None)
            }
        }
    }

    /// As on a machine without a driver.
    #[cfg(test)]
    pub(crate) const fn none() -> Self {
        Self(None)
    }

    pub(crate) fn count(&self) -> u32 {
        self.0
            .as_ref()
            .and_then(|nvml| nvml.device_count().ok())
            .unwrap_or(0)
    }

    /// Joules that the first GPU has used since its driver was loaded.
    pub(crate) fn joules(&self) -> Option<f64> {
        let device = self.0.as_ref()?.device_by_index(0).ok()?;
        Some(device.total_energy_consumption().ok()? as f64 / 1000.0)
    }

    /// Bytes of the first GPU's memory that are in use.
    pub(crate) fn memory_used(&self) -> Option<u64> {
        let device = self.0.as_ref()?.device_by_index(0).ok()?;
        Some(device.memory_info().ok()?.used)
    }

    fn sample(&self) -> Sample {
        let sample = Sample::default();
        let Some(nvml) = &self.0 else { return sample };
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
            if let Ok(celsius) =
                device.temperature(nvml_wrapper::enum_wrappers::device::TemperatureSensor::Gpu)
            {
                set(&sample.temperature, f64::from(celsius));
            }
        }
        sample
    }
}

impl fmt::Debug for Gpus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Gpus({})", self.count())
    }
}

impl Collector for Gpus {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        if self.count() == 0 {
            return Ok(());
        }
        let sample = self.sample();
        let mut show = |name: &str, help: &str, unit: Option<&Unit>, figures: &Figures| {
            figures.encode(encoder.encode_descriptor(name, help, unit, figures.metric_type())?)
        };
        show(
            "zimage_gpu_utilization_ratio",
            "Share of the last second in which a kernel ran",
            None,
            &sample.utilization,
        )?;
        show(
            "zimage_gpu_memory_used",
            "Memory in use",
            Some(&Unit::Bytes),
            &sample.memory_used,
        )?;
        show(
            "zimage_gpu_memory_total",
            "Memory",
            Some(&Unit::Bytes),
            &sample.memory_total,
        )?;
        show("zimage_gpu_power_watts", "Power drawn", None, &sample.power)?;
        show(
            "zimage_gpu_temperature_celsius",
            "Temperature of the chip",
            None,
            &sample.temperature,
        )
    }
}
