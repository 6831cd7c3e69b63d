//! `serve`: the interface listens at once and is ready when the model has made an image.

use crate::args::Serve;
use crate::cuda_figures::CudaFigures;
use crate::device::{self, Chosen};
use crate::failure::Failure;
use crate::proof;
use prometheus_client::registry::Registry;
use std::pin::pin;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use zimage_engine::{Engine, EngineMetrics};
use zimage_http::{App, HttpMetrics, api, serve};
use zimage_nvml::FaultWatch;
use zimage_nvml::Gpus;

pub(crate) fn run(args: &Serve) -> Result<(), Failure> {
    let gpus = Gpus::find();
    let chosen = device::choose(&args.model, &gpus)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(Failure::other)?;
    let outcome = runtime.block_on(serve_until_stopped(args, chosen, gpus));
    // A model that is still being loaded holds a thread; the process ends without it.
    runtime.shutdown_background();
    outcome
}

async fn serve_until_stopped(args: &Serve, chosen: Chosen, gpus: Gpus) -> Result<(), Failure> {
    let (engine_metrics, http_metrics) = (EngineMetrics::default(), HttpMetrics::default());
    let mut registry = Registry::default();
    engine_metrics.register(&mut registry);
    http_metrics.register(&mut registry);
    registry.register_collector(Box::new(zimage_nvml::figures(&gpus)));
    let watch = FaultWatch::default();
    if chosen == Chosen::Cuda {
        registry.register_collector(Box::new(CudaFigures));
        // Without the library there are no figures of the GPU that could be missed.
        if gpus.has_library() {
            watch.register(&mut registry);
        }
    }
    let precision = device::precision(&args.model, chosen);
    let app = args.serve.app(http_metrics).with_precision(precision);
    let stop = stop_on_signal().map_err(Failure::other)?;
    let serving = serve(
        app.clone(),
        api(app.clone()),
        registry,
        args.serve.addresses(),
        args.serve.shutdown(),
        stop.clone(),
    );
    let mut serving = pin!(serving);
    let failure = tokio::select! {
        outcome = &mut serving => return outcome.map_err(Failure::other),
        failure = compute(args, chosen, &app, (gpus, watch, engine_metrics)) => failure,
    };
    // Whoever waits is told before the process ends.
    stop.cancel();
    if let Err(error) = serving.await {
        tracing::warn!(%error, "failed to end serving");
    }
    Err(failure)
}

/// Loads the model, makes an image with it and lets the interface have it. Returns when that fails, or a device does.
async fn compute(
    args: &Serve,
    chosen: Chosen,
    app: &App,
    (gpus, watch, metrics): (Gpus, FaultWatch, EngineMetrics),
) -> Failure {
    let seconds = args.load_timeout_seconds;
    let end = Instant::now() + Duration::from_secs(seconds);
    let (model, own, count) = (args.model.clone(), gpus.clone(), args.gpus.map(usize::from));
    let load = move || device::load_all(&model, chosen, &own, count);
    let loaded = match within(end, load).await {
        Ok(loaded) => loaded,
        Err(failure) => return failure,
    };
    let shape = loaded.shape(chosen);
    let engine = match Engine::start(loaded.executors, args.serve.engine(), metrics) {
        Ok(engine) => engine,
        Err(error) => {
            return Failure::Other(format!("failed to start the device thread: {error}"));
        }
    };
    let serving = async {
        let proof = proof::prove(&engine, &args.model, shape);
        match tokio::time::timeout_at(end, proof).await {
            Ok(Ok(_)) => {}
            Ok(Err(failure)) => return failure,
            Err(_) => {
                let late = format!("no image was made within {seconds} s of the start");
                return Failure::Device(late);
            }
        }
        app.start_serving(engine.clone());
        tracing::info!("ready");
        Failure::Device(engine.failed().await)
    };
    tokio::select! {
        failure = serving => failure,
        fault = zimage_nvml::fault(gpus, watch), if chosen == Chosen::Cuda => {
            engine.fail(&fault);
            Failure::Device(fault)
        }
    }
}

/// What `load` loads. A thread that hangs in it is left where it is.
async fn within<T: Send + 'static>(
    end: Instant,
    load: impl FnOnce() -> Result<T, Failure> + Send + 'static,
) -> Result<T, Failure> {
    let loading = tokio::task::spawn_blocking(load);
    match tokio::time::timeout_at(end, loading).await {
        Ok(Ok(outcome)) => outcome,
        Ok(Err(error)) => Err(Failure::Other(format!("failed to load the model: {error}"))),
        Err(_) => Err(Failure::Other(
            "the model was not loaded in time: its volume is slow or hangs".to_owned(),
        )),
    }
}

fn stop_on_signal() -> std::io::Result<CancellationToken> {
    let stop = CancellationToken::new();
    let (mut terminate, mut interrupt) = (
        signal(SignalKind::terminate())?,
        signal(SignalKind::interrupt())?,
    );
    let token = stop.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::info!("asked to stop");
        token.cancel();
    });
    Ok(stop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_model_that_loads_for_ever_ends_the_server_with_the_reason() {
        let (end, ended) = std::sync::mpsc::channel::<()>();
        let hangs = move || {
            let _released = ended.recv();
            Ok(())
        };
        let failure = within(Instant::now() + Duration::from_millis(20), hangs)
            .await
            .unwrap_err();
        drop(end);
        assert!(
            failure.to_string().contains("not loaded in time"),
            "{failure}"
        );
    }
}
