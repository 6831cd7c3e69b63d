//! The engine's figures.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};
use std::sync::atomic::AtomicU64;

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Ending {
    Done,
    Cancelled,
    Failed,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct EndingLabel {
    outcome: &'static str,
}

/// Figures of one engine.
#[derive(Clone)]
pub struct EngineMetrics {
    pub(crate) waiting: Gauge,
    pub(crate) running: Gauge,
    pub(crate) queue: Histogram,
    pub(crate) step: Histogram,
    pub(crate) decode: Histogram,
    /// Seconds since the device made progress, while it should.
    pub(crate) last_progress: Gauge<f64, AtomicU64>,
    /// Seconds that a new image would wait.
    pub(crate) queue_wait: Gauge<f64, AtomicU64>,
    images: Family<EndingLabel, Counter>,
}

impl Default for EngineMetrics {
    fn default() -> Self {
        // From a millisecond to the minutes that an image takes on a CPU.
        let durations = || Histogram::new(exponential_buckets(0.001, 2.0, 20));
        Self {
            waiting: Gauge::default(),
            running: Gauge::default(),
            queue: durations(),
            step: durations(),
            decode: durations(),
            last_progress: Gauge::default(),
            queue_wait: Gauge::default(),
            images: Family::default(),
        }
    }
}

impl EngineMetrics {
    /// Shows every figure in a registry.
    pub fn register(&self, registry: &mut Registry) {
        registry.register(
            "zimage_requests_waiting",
            "Images that wait for the device",
            self.waiting.clone(),
        );
        self.register_all_but_waiting(registry);
    }

    /// Shows every figure but `zimage_requests_waiting`, for a server that tells its queue's length in its own way.
    pub fn register_all_but_waiting(&self, registry: &mut Registry) {
        registry.register(
            "zimage_requests_running",
            "Images on the device",
            self.running.clone(),
        );
        let mut duration = |name: &str, help: &str, histogram: &Histogram| {
            registry.register_with_unit(name, help, Unit::Seconds, histogram.clone());
        };
        duration(
            "zimage_request_queue",
            "Time from submission to the device",
            &self.queue,
        );
        duration(
            "zimage_step_duration",
            "Time of one denoising step of an image",
            &self.step,
        );
        duration(
            "zimage_decode_duration",
            "Time of one decoding",
            &self.decode,
        );
        registry.register_with_unit(
            "zimage_device_last_progress",
            "Time since the device last made progress, while it has work",
            Unit::Seconds,
            self.last_progress.clone(),
        );
        registry.register_with_unit(
            "zimage_queue_wait",
            "Time that a new image would wait for the device, by what the last steps took",
            Unit::Seconds,
            self.queue_wait.clone(),
        );
        registry.register(
            "zimage_images",
            "Images by their end: done, cancelled or failed",
            self.images.clone(),
        );
    }

    /// Images that wait now.
    pub fn waiting(&self) -> i64 {
        self.waiting.get()
    }

    pub(crate) fn show_waiting(&self, images: usize) {
        self.waiting.set(i64::try_from(images).unwrap_or(i64::MAX));
    }

    pub(crate) fn ended(&self, ending: Ending) {
        let outcome = match ending {
            Ending::Done => "done",
            Ending::Cancelled => "cancelled",
            Ending::Failed => "failed",
        };
        self.images.get_or_create(&EndingLabel { outcome }).inc();
    }
}
