//! The load figures: the claimed ones, or the engine's.

use crate::control::Control;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use std::fmt;
use std::sync::atomic::AtomicU64;
use zimage_engine::EngineMetrics;

/// Makes the figures when they are asked for.
pub(crate) struct Load {
    control: Control,
    engine: EngineMetrics,
}

impl Load {
    pub(crate) const fn new(control: Control, engine: EngineMetrics) -> Self {
        Self { control, engine }
    }
}

impl fmt::Debug for Load {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Load")
    }
}

impl Collector for Load {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let claims = self.control.claims();
        let waiting = ConstGauge::new(
            claims
                .requests_waiting
                .map_or(self.engine.waiting(), i64::from),
        );
        let help = "Images that wait for the device";
        waiting.encode(encoder.encode_descriptor(
            "zimage_requests_waiting",
            help,
            None,
            waiting.metric_type(),
        )?)?;
        if let Some(utilization) = claims.gpu_utilization {
            let gauges = Family::<Vec<(String, String)>, Gauge<f64, AtomicU64>>::default();
            gauges
                .get_or_create(&vec![("gpu".to_owned(), "0".to_owned())])
                .set(utilization);
            let help = "Share of the time in which the GPU ran a kernel";
            let name = "zimage_gpu_utilization_ratio";
            gauges.encode(encoder.encode_descriptor(name, help, None, gauges.metric_type())?)?;
        }
        Ok(())
    }
}
