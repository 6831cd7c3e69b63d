//! What is wrong with a GPU: with its memory before it computes, and the faults that it reports later.

use crate::Gpus;
use crate::figures::uncorrected_errors;
use nvml_wrapper::Device;
use nvml_wrapper::Nvml;
use nvml_wrapper::bitmasks::event::EventTypes;
use nvml_wrapper::enums::device::SampleValue;
use nvml_wrapper::enums::event::XidError;
use nvml_wrapper::error::NvmlError;
use nvml_wrapper::structs::device::FieldId;
use nvml_wrapper::sys_exports::field_id::{
    NVML_FI_DEV_REMAPPED_FAILURE, NVML_FI_DEV_REMAPPED_PENDING,
};
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use std::thread;
use std::time::{Duration, Instant};
use tokio::sync::oneshot;

/// Faults (XIDs) that a program's own mistakes cause too: CUDA tells the program that they concern. NVIDIA's device
/// plugin for Kubernetes passes over the same ones and 109, after which a program hangs that is told nothing.
const OF_PROGRAMS: [u64; 5] = [13, 31, 43, 45, 68];

/// Milliseconds between two looks at whether anybody still wants to know.
const PATIENCE: u32 = 1000;

/// Times between two attempts to watch, from the first to the longest.
const PAUSES: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(60)];

/// Whether faults that the GPU reports are heard of.
#[derive(Clone, Debug, Default)]
pub struct FaultWatch(Gauge);

impl FaultWatch {
    /// Shows it in `registry`.
    pub fn register(&self, registry: &mut Registry) {
        registry.register(
            "zimage_gpu_fault_watch",
            "Whether faults that the GPU reports are heard of: 1 or 0",
            self.0.clone(),
        );
    }
}

/// What a GPU counts of its memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct MemoryHealth {
    /// Errors since the driver was loaded that error correction could only detect.
    pub(crate) uncorrected: u64,
    /// Rows are replaced when the GPU is reset.
    pub(crate) remap_pending: bool,
    /// Rows are broken that cannot be replaced.
    pub(crate) remap_failed: bool,
}

impl MemoryHealth {
    /// Why the GPU must not be used.
    fn refusal(self) -> Option<&'static str> {
        self.remap_failed.then_some(
            "its memory has broken rows that cannot be replaced any more: the GPU must be exchanged",
        )
    }

    /// What the operator of the node should know.
    fn warning(self) -> Option<String> {
        let errors = match self.uncorrected {
            0 => None,
            1 => Some("1 uncorrectable memory error since the driver was loaded".to_owned()),
            many => Some(format!(
                "{many} uncorrectable memory errors since the driver was loaded"
            )),
        };
        let pending = self
            .remap_pending
            .then(|| "broken rows of memory wait to be replaced: reset the GPU soon".to_owned());
        let all: Vec<String> = errors.into_iter().chain(pending).collect();
        (!all.is_empty()).then(|| all.join("; "))
    }
}

/// Looks at every GPU's memory before anything is computed on it.
///
/// # Errors
/// Which GPU must not be used, and why.
pub fn check(gpus: &Gpus) -> Result<(), String> {
    let Some(nvml) = gpus.nvml() else {
        tracing::warn!(
            "NVIDIA's management library is missing: the GPU's memory errors and faults are not watched; \
             a container needs NVIDIA_DRIVER_CAPABILITIES=compute,utility"
        );
        return Ok(());
    };
    let devices = match gpus.devices(&nvml) {
        Ok(devices) => devices,
        Err(error) => {
            tracing::warn!(%error, "NVIDIA's management library does not find the GPUs: their memory errors and faults are not watched");
            return Ok(());
        }
    };
    for (index, health) in devices.iter().map(memory_health).enumerate() {
        if let Some(refusal) = health.refusal() {
            return Err(format!("GPU {index}: {refusal}"));
        }
        if let Some(warning) = health.warning() {
            tracing::warn!(gpu = index, "{warning}");
        }
    }
    Ok(())
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

/// Returns when a GPU reports a fault after which it must not be computed on; never without NVIDIA's driver.
pub async fn fault(gpus: Gpus, watch: FaultWatch) -> String {
    let (tell, told) = oneshot::channel();
    let started = thread::Builder::new()
        .name("gpu-faults".to_owned())
        .spawn(move || keep_watch(&gpus, &watch, tell, PAUSES));
    if let Err(error) = started {
        tracing::warn!(%error, "faults that the GPU reports go unnoticed");
    }
    match told.await {
        Ok(fault) => fault,
        Err(_) => std::future::pending().await,
    }
}

/// Watches, and begins again when the library fails, after longer and longer pauses.
fn keep_watch(
    gpus: &Gpus,
    watch: &FaultWatch,
    tell: oneshot::Sender<String>,
    [first, longest]: [Duration; 2],
) {
    if gpus.nvml().is_none() {
        return;
    }
    let mut pause = first;
    while !tell.is_closed() {
        let began = Instant::now();
        // The library is opened anew: after a restart of the driver the old one only fails.
        let outcome = gpus.reopen().and_then(|nvml| {
            let registered = gpus.devices(&nvml)?;
            next_fault(
                &nvml,
                &registered,
                || tell.is_closed(),
                || {
                    watch.0.set(1);
                },
            )
        });
        watch.0.set(0);
        match outcome.or_else(of_the_library) {
            Ok(Some(fault)) => {
                // Nobody waits any more when the server ends meanwhile.
                let _unheard = tell.send(fault);
                return;
            }
            Ok(None) => return,
            Err(error) => {
                if began.elapsed() > longest {
                    pause = first;
                }
                tracing::warn!(%error, again_in_seconds = pause.as_secs_f64(), "faults that the GPU reports go unnoticed");
            }
        }
        let until = Instant::now() + pause;
        while Instant::now() < until && !tell.is_closed() {
            thread::sleep(pause.min(Duration::from_millis(500)));
        }
        pause = (pause * 2).min(longest);
    }
}

fn next_fault(
    nvml: &Nvml,
    devices: &[Device<'_>],
    given_up: impl Fn() -> bool,
    watching: impl FnOnce(),
) -> Result<Option<String>, NvmlError> {
    let mut events = nvml.create_event_set()?;
    for device in devices {
        let registered = device.register_events(EventTypes::CRITICAL_XID_ERROR, events);
        events = registered.map_err(|error| error.error)?;
    }
    watching();
    while !given_up() {
        match events.wait(PATIENCE) {
            Ok(event) => {
                let fault = event.event_data.and_then(of_the_gpu);
                if fault.is_some() {
                    return Ok(fault);
                }
            }
            Err(NvmlError::Timeout) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(None)
}

/// Errors of the library after which nothing can be computed, whichever call has them.
fn of_the_library(error: NvmlError) -> Result<Option<String>, NvmlError> {
    match error {
        NvmlError::GpuLost => Ok(Some("the GPU has left its bus".to_owned())),
        NvmlError::DriverNotLoaded => {
            Ok(Some("the GPU's driver is not loaded any more".to_owned()))
        }
        error => Err(error),
    }
}

/// What to say about a fault that is the GPU's own.
fn of_the_gpu(xid: XidError) -> Option<String> {
    match xid {
        XidError::Value(number) if OF_PROGRAMS.contains(&number) => None,
        XidError::Value(number) => Some(format!("the GPU reports XID {number}")),
        XidError::Unknown => Some("the GPU reports an unknown XID".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_that_programs_cause_does_not_end_the_server() {
        assert_eq!(of_the_gpu(XidError::Value(31)), None);
        assert!(of_the_gpu(XidError::Value(109)).is_some());
        assert_eq!(
            of_the_gpu(XidError::Value(79)).as_deref(),
            Some("the GPU reports XID 79")
        );
        assert!(of_the_gpu(XidError::Unknown).is_some());
    }

    #[test]
    fn only_memory_that_cannot_be_repaired_keeps_a_gpu_from_use() {
        let worn = MemoryHealth {
            uncorrected: 2,
            remap_pending: true,
            remap_failed: false,
        };
        assert_eq!(worn.refusal(), None);
        assert_eq!(
            worn.warning().as_deref(),
            Some(
                "2 uncorrectable memory errors since the driver was loaded; \
                 broken rows of memory wait to be replaced: reset the GPU soon"
            )
        );
        let broken = MemoryHealth {
            remap_failed: true,
            ..worn
        };
        assert!(broken.refusal().is_some());
        assert_eq!(MemoryHealth::default().warning(), None);
    }

    #[tokio::test]
    async fn without_a_driver_nothing_is_ever_reported() {
        let fault = fault(Gpus::none(), FaultWatch::default());
        let waiting = tokio::time::timeout(Duration::from_millis(50), fault);
        assert!(waiting.await.is_err());
    }
}

#[cfg(test)]
mod watch_tests;
