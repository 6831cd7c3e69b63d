//! What is wrong with a GPU: with its memory before it computes, and the faults that it reports later.

use crate::failure::Failure;
use crate::nvml::Gpus;
use nvml_wrapper::Nvml;
use nvml_wrapper::bitmasks::event::EventTypes;
use nvml_wrapper::enums::event::XidError;
use nvml_wrapper::error::NvmlError;
use std::thread;
use tokio::sync::oneshot;

/// Faults (XIDs) that a program's own mistakes cause too: CUDA tells the program that they concern. NVIDIA's device
/// plugin for Kubernetes passes over the same ones.
const OF_PROGRAMS: [u64; 6] = [13, 31, 43, 45, 68, 109];

/// Milliseconds between two looks at whether anybody still wants to know.
const PATIENCE: u32 = 1000;

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
pub(crate) fn check(gpus: &Gpus) -> Result<(), Failure> {
    if gpus.nvml().is_none() {
        tracing::warn!(
            "NVIDIA's management library is missing: the GPU's memory errors and faults are not watched; \
             a container needs NVIDIA_DRIVER_CAPABILITIES=compute,utility"
        );
    }
    for (index, health) in gpus.memory_health().into_iter().enumerate() {
        if let Some(refusal) = health.refusal() {
            return Err(Failure::Device(format!("GPU {index}: {refusal}")));
        }
        if let Some(warning) = health.warning() {
            tracing::warn!(gpu = index, "{warning}");
        }
    }
    Ok(())
}

/// Returns when a GPU reports a fault after which it must not be computed on; never without NVIDIA's driver.
pub(crate) async fn fault(gpus: Gpus) -> String {
    let (tell, told) = oneshot::channel();
    let started = thread::Builder::new()
        .name("gpu-faults".to_owned())
        .spawn(move || watch(&gpus, tell));
    if let Err(error) = started {
        tracing::warn!(%error, "faults that the GPU reports go unnoticed");
    }
    match told.await {
        Ok(fault) => fault,
        Err(_) => std::future::pending().await,
    }
}

fn watch(gpus: &Gpus, tell: oneshot::Sender<String>) {
    let Some(nvml) = gpus.nvml() else { return };
    match next_fault(nvml, || tell.is_closed()) {
        Ok(Some(fault)) => {
            // Nobody waits any more when the server ends meanwhile.
            let _unheard = tell.send(fault);
        }
        Ok(None) => {}
        Err(error) => tracing::warn!(%error, "faults that the GPU reports go unnoticed"),
    }
}

fn next_fault(nvml: &Nvml, given_up: impl Fn() -> bool) -> Result<Option<String>, NvmlError> {
    let mut events = nvml.create_event_set()?;
    for index in 0..nvml.device_count()? {
        let device = nvml.device_by_index(index)?;
        let registered = device.register_events(EventTypes::CRITICAL_XID_ERROR, events);
        events = registered.map_err(|error| error.error)?;
    }
    while !given_up() {
        match events.wait(PATIENCE) {
            Ok(event) => {
                let fault = event.event_data.and_then(of_the_gpu);
                if fault.is_some() {
                    return Ok(fault);
                }
            }
            Err(NvmlError::Timeout) => {}
            Err(NvmlError::GpuLost) => return Ok(Some("the GPU has left its bus".to_owned())),
            Err(error) => return Err(error),
        }
    }
    Ok(None)
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
        let waiting =
            tokio::time::timeout(std::time::Duration::from_millis(50), fault(Gpus::none()));
        assert!(waiting.await.is_err());
    }
}
