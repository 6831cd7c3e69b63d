//! The figures of the GPUs, read on a thread of their own: a driver call that hangs leaves the page of metrics without
//! them, and keeps nobody waiting.

use crate::Gpus;
use nvml_wrapper::Device;
use nvml_wrapper::enum_wrappers::device::{EccCounter, MemoryError, TemperatureSensor};
use nvml_wrapper::error::NvmlError;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Unit;
use std::fmt;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::thread;
use std::time::{Duration, Instant};

/// Between two looks. The library's own figures are of the last second.
const INTERVAL: Duration = Duration::from_millis(500);

/// Figures that are older are not shown: whoever reads them decides where traffic goes.
const CURRENT: Duration = Duration::from_secs(3);

/// Between two attempts to open the library once more.
const PAUSE: Duration = Duration::from_secs(5);

/// What one GPU says about itself. `None`: it does not know.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Sample {
    /// Share of the last second, 0 to 1.
    utilization: Option<f64>,
    /// Bytes in use, and in all.
    memory: Option<(u64, u64)>,
    watts: Option<f64>,
    celsius: Option<f64>,
    uncorrected_errors: Option<u64>,
}

/// The latest figures of each GPU, by its number.
#[derive(Clone, Debug)]
pub struct Figures(Arc<Latest>);

type Latest = Mutex<Option<(Instant, Vec<Sample>)>>;

/// Reads the figures of the GPUs again and again, until the last handle of them is gone.
pub fn figures(gpus: &Gpus) -> Figures {
    let latest = Arc::new(Latest::default());
    if gpus.nvml().is_some() {
        let (gpus, held) = (gpus.clone(), Arc::downgrade(&latest));
        let started = thread::Builder::new()
            .name("gpu-figures".to_owned())
            .spawn(move || keep_reading(&gpus, &held));
        if let Err(error) = started {
            tracing::warn!(%error, "the figures of the GPU are not shown");
        }
    }
    Figures(latest)
}

fn keep_reading(gpus: &Gpus, latest: &Weak<Latest>) {
    let mut told = false;
    let mut opened: Option<Instant> = None;
    while let Some(latest) = latest.upgrade() {
        match read(gpus) {
            Ok(samples) => {
                *latest.lock().unwrap_or_else(PoisonError::into_inner) =
                    Some((Instant::now(), samples));
                told = false;
            }
            Err(error) => {
                if !told {
                    tracing::warn!(%error, "the figures of the GPU cannot be read");
                }
                told = true;
                // A restart of the driver leaves a library behind that only fails.
                if opened.is_none_or(|at| at.elapsed() >= PAUSE) {
                    opened = Some(Instant::now());
                    let _tried_again = gpus.reopen();
                }
            }
        }
        drop(latest);
        thread::sleep(INTERVAL);
    }
}

fn read(gpus: &Gpus) -> Result<Vec<Sample>, NvmlError> {
    let nvml = gpus.nvml().ok_or(NvmlError::Uninitialized)?;
    let devices = gpus.devices(&nvml)?;
    devices.iter().map(sample).collect()
}

/// A figure that this kind of GPU does not have is left out; any other error means that the library has failed.
fn sample(device: &Device<'_>) -> Result<Sample, NvmlError> {
    let memory = known(device.memory_info())?;
    Ok(Sample {
        utilization: known(device.utilization_rates())?.map(|rates| f64::from(rates.gpu) / 100.0),
        memory: memory.map(|memory| (memory.used, memory.total)),
        watts: known(device.power_usage())?.map(|milliwatts| f64::from(milliwatts) / 1000.0),
        celsius: known(device.temperature(TemperatureSensor::Gpu))?.map(f64::from),
        uncorrected_errors: known(uncorrected_errors(device))?,
    })
}

fn known<T>(figure: Result<T, NvmlError>) -> Result<Option<T>, NvmlError> {
    match figure {
        Ok(figure) => Ok(Some(figure)),
        Err(
            error @ (NvmlError::Uninitialized
            | NvmlError::DriverNotLoaded
            | NvmlError::GpuLost
            | NvmlError::Unknown),
        ) => Err(error),
        Err(_) => Ok(None),
    }
}

/// Since the driver was loaded.
pub(crate) fn uncorrected_errors(device: &Device<'_>) -> Result<u64, NvmlError> {
    device.total_ecc_errors(MemoryError::Uncorrected, EccCounter::Volatile)
}

impl Collector for Figures {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let latest = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match &*latest {
            Some((at, samples)) if at.elapsed() <= CURRENT => encode(samples, encoder),
            _ => Ok(()),
        }
    }
}

fn encode(samples: &[Sample], mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
    let bytes = Some(&Unit::Bytes);
    let mut show =
        |name: &str, help: &str, unit: Option<&Unit>, of: &dyn Fn(&Sample) -> Option<f64>| {
            let family = Family::<Vec<(String, String)>, Gauge<f64, AtomicU64>>::default();
            for (number, sample) in samples.iter().enumerate() {
                if let Some(value) = of(sample) {
                    let labels = vec![("gpu".to_owned(), number.to_string())];
                    family.get_or_create(&labels).set(value);
                }
            }
            family.encode(encoder.encode_descriptor(name, help, unit, family.metric_type())?)
        };
    show(
        "zimage_gpu_utilization_ratio",
        "Share of the last second in which a kernel ran",
        None,
        &|sample| sample.utilization,
    )?;
    show(
        "zimage_gpu_memory_used",
        "Memory in use",
        bytes,
        &|sample| sample.memory.map(|(used, _)| used as f64),
    )?;
    show("zimage_gpu_memory_total", "Memory", bytes, &|sample| {
        sample.memory.map(|(_, total)| total as f64)
    })?;
    show("zimage_gpu_power_watts", "Power drawn", None, &|sample| {
        sample.watts
    })?;
    show(
        "zimage_gpu_temperature_celsius",
        "Temperature of the chip",
        None,
        &|sample| sample.celsius,
    )?;
    show(
        "zimage_gpu_uncorrected_errors",
        "Memory errors since the driver was loaded that could not be corrected",
        None,
        &|sample| sample.uncorrected_errors.map(|errors| errors as f64),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::played::{self, GPU_IS_LOST, Played, UNKNOWN};
    use prometheus_client::encoding::text;
    use prometheus_client::registry::Registry;

    fn page(figures: &Figures) -> String {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(figures.clone()));
        let mut page = String::new();
        text::encode(&mut page, &registry).unwrap();
        page
    }

    /// Looks until the page is as it should be.
    fn wait_for(figures: &Figures, what: &str, is_so: impl Fn(&str) -> bool) {
        let until = Instant::now() + played::PATIENCE;
        while !is_so(&page(figures)) {
            assert!(Instant::now() < until, "{what}: {}", page(figures));
            thread::sleep(Duration::from_millis(20));
        }
    }

    #[test]
    fn a_gpus_figures_have_the_names_that_the_operator_reads() {
        let sample = Sample {
            utilization: Some(0.99),
            memory: Some((1024, 2048)),
            ..Sample::default()
        };
        let now = (Instant::now(), vec![Sample::default(), sample]);
        let page = page(&Figures(Arc::new(Mutex::new(Some(now)))));
        for line in [
            "zimage_gpu_utilization_ratio{gpu=\"1\"} 0.99",
            "zimage_gpu_memory_used_bytes{gpu=\"1\"} 1024.0",
        ] {
            assert!(page.contains(line), "{page}");
        }
        assert!(!page.contains("gpu=\"0\""), "it knows nothing: {page}");
    }

    #[test]
    fn figures_of_another_time_are_not_shown() {
        let long_ago = Instant::now().checked_sub(2 * CURRENT).unwrap();
        let latest = (long_ago, vec![Sample::default()]);
        assert_eq!(
            page(&Figures(Arc::new(Mutex::new(Some(latest))))),
            "# EOF\n"
        );
    }

    #[test]
    fn a_driver_that_hangs_keeps_no_reader_waiting() {
        let played = Played::new();
        let figures = figures(&played.gpus);
        wait_for(&figures, "shown", |page| page.contains("{gpu=\"0\"} 0.5"));
        played.hang();
        wait_for(&figures, "not shown", |page| !page.contains("gpu=\"0\""));
        played.play(0);
        wait_for(&figures, "shown again", |page| {
            page.contains("{gpu=\"0\"} 0.5")
        });
    }

    #[test]
    fn figures_come_back_after_the_driver_was_restarted() {
        let played = Played::new();
        let figures = figures(&played.gpus);
        wait_for(&figures, "shown", |page| page.contains("{gpu=\"0\"} 0.5"));
        for error in [UNKNOWN, GPU_IS_LOST] {
            played.play(error);
            wait_for(&figures, "not shown", |page| !page.contains("gpu=\"0\""));
            played.restart();
            wait_for(&figures, "shown again", |page| {
                page.contains("{gpu=\"0\"} 0.5")
            });
        }
    }

    #[test]
    fn the_gpus_that_are_computed_on_have_the_numbers_that_cuda_gives_them() {
        let played = Played::new();
        played.gpus.restrict_to(vec![[2; 16], [1; 16]]);
        assert_eq!(played.gpus.count(), 2);
        let figures = figures(&played.gpus);
        wait_for(&figures, "in CUDA's order", |page| {
            page.contains("{gpu=\"0\"} 0.25") && page.contains("{gpu=\"1\"} 0.5")
        });
    }
}
