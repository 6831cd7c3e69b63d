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

#[cfg(test)]
mod tests {
    use super::*;
    use prometheus_client::encoding::text::encode;
    use prometheus_client::registry::Registry;
    use serde_json::json;

    fn shown(claims: serde_json::Value) -> String {
        let control = Control::default();
        control.change(serde_json::from_value(claims).unwrap());
        let mut registry = Registry::default();
        registry.register_collector(Box::new(Load::new(control, EngineMetrics::default())));
        let mut text = String::new();
        encode(&mut text, &registry).unwrap();
        text
    }

    #[test]
    fn a_server_without_claims_has_no_gpu_and_its_own_queue() {
        let text = shown(json!({}));
        assert!(text.contains("\nzimage_requests_waiting 0\n"), "{text}");
        assert!(!text.contains("zimage_gpu_utilization_ratio"), "{text}");
    }

    #[test]
    fn claims_are_shown_in_the_place_of_figures() {
        let text = shown(json!({"gpu_utilization": 0.99, "requests_waiting": 4}));
        for line in [
            "zimage_requests_waiting 4",
            r#"zimage_gpu_utilization_ratio{gpu="0"} 0.99"#,
        ] {
            assert!(text.lines().any(|shown| shown == line), "{text}");
        }
    }
}
