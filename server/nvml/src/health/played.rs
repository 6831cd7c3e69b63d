//! Faults of a GPU, played by a library that is built here.

use super::*;
use prometheus_client::encoding::text::encode;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

const PATIENCE: Duration = Duration::from_secs(30);
const SHORT: [Duration; 2] = [Duration::from_millis(10), Duration::from_millis(40)];

/// Of `nvmlReturn_t`: the driver is not there, and the GPU has left its bus.
const DRIVER_NOT_LOADED: i32 = -9;
const GPU_IS_LOST: i32 = -15;

/// A GPU whose library says what a test wants.
struct Played {
    dir: tempfile::TempDir,
    gpus: Gpus,
}

impl Played {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let library = dir.path().join("libnvidia-ml.so.1");
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/src/health/nvml.c");
        let play = format!("-DPLAY=\"{}\"", dir.path().join("play").display());
        let mut build = Command::new("cc");
        build
            .args(["-shared", "-fPIC", &play, "-o"])
            .arg(&library)
            .arg(source);
        assert!(build.status().unwrap().success(), "a C compiler is needed");
        let gpus = Gpus::of(&library);
        assert_eq!(gpus.count(), 1);
        Self { dir, gpus }
    }

    /// The next call hears of it.
    fn play(&self, number: i32) {
        let (path, new): (PathBuf, PathBuf) = (self.path("play"), self.path("next"));
        fs::write(&new, number.to_string()).unwrap();
        fs::rename(new, path).unwrap();
    }

    fn path(&self, name: &str) -> PathBuf {
        Path::new(self.dir.path()).join(name)
    }

    fn watched(&self) -> (FaultWatch, oneshot::Receiver<String>) {
        let (watch, gpus) = (FaultWatch::default(), self.gpus.clone());
        let (tell, told) = oneshot::channel();
        let shown = watch.clone();
        thread::spawn(move || keep_watch(&gpus, &shown, tell, SHORT));
        (watch, told)
    }

    fn figures(&self) -> String {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(self.gpus.clone()));
        let mut text = String::new();
        encode(&mut text, &registry).unwrap();
        text
    }
}

fn wait_until(watch: &FaultWatch, expected: i64) {
    let until = Instant::now() + PATIENCE;
    while watch.0.get() != expected {
        assert!(Instant::now() < until, "the watch is never {expected}");
        thread::sleep(Duration::from_millis(5));
    }
}

#[tokio::test]
async fn a_fault_of_the_gpu_is_told_by_its_number_and_those_of_programs_are_not() {
    for xid in [79, 48, 109] {
        let played = Played::new();
        let (watch, mut told) = played.watched();
        wait_until(&watch, 1);
        played.play(31);
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert!(told.try_recv().is_err(), "XID 31 is the program's");
        played.play(xid);
        let fault = tokio::time::timeout(PATIENCE, told).await.unwrap();
        assert_eq!(fault.unwrap(), format!("the GPU reports XID {xid}"));
    }
}

#[tokio::test]
async fn a_gpu_that_leaves_its_bus_is_told() {
    let played = Played::new();
    let (watch, told) = played.watched();
    wait_until(&watch, 1);
    played.play(GPU_IS_LOST);
    let fault = tokio::time::timeout(PATIENCE, told).await.unwrap();
    assert!(fault.unwrap().contains("left its bus"));
}

#[tokio::test]
async fn the_watch_comes_back_after_the_library_failed_and_figures_are_absent_meanwhile() {
    let played = Played::new();
    let (watch, told) = played.watched();
    wait_until(&watch, 1);
    assert!(
        played
            .figures()
            .contains("zimage_gpu_utilization_ratio{gpu=\"0\"} 0.5")
    );
    played.play(DRIVER_NOT_LOADED);
    wait_until(&watch, 0);
    assert!(
        !played.figures().contains("zimage_gpu"),
        "{}",
        played.figures()
    );
    played.play(0);
    wait_until(&watch, 1);
    assert!(played.figures().contains("zimage_gpu_utilization_ratio"));
    played.play(79);
    let fault = tokio::time::timeout(PATIENCE, told).await.unwrap();
    assert_eq!(fault.unwrap(), "the GPU reports XID 79");
}
