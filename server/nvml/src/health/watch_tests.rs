//! The watch, with faults that a library plays.

use super::*;
use crate::played::{DRIVER_NOT_LOADED, GPU_IS_LOST, PATIENCE, Played, UNKNOWN};

const SHORT: [Duration; 2] = [Duration::from_millis(10), Duration::from_millis(40)];

fn watched(played: &Played) -> (FaultWatch, oneshot::Receiver<String>) {
    let (watch, gpus) = (FaultWatch::default(), played.gpus.clone());
    let (tell, told) = oneshot::channel();
    let shown = watch.clone();
    thread::spawn(move || keep_watch(&gpus, &shown, tell, SHORT));
    (watch, told)
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
        let (watch, mut told) = watched(&played);
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
async fn a_gpu_that_leaves_its_bus_and_a_driver_that_goes_are_told_whenever_it_is() {
    for (error, words) in [
        (GPU_IS_LOST, "left its bus"),
        (DRIVER_NOT_LOADED, "driver is not loaded any more"),
    ] {
        for in_a_pause in [false, true] {
            let played = Played::new();
            let (watch, told) = watched(&played);
            wait_until(&watch, 1);
            if in_a_pause {
                played.play(UNKNOWN);
                wait_until(&watch, 0);
            }
            played.play(error);
            let fault = tokio::time::timeout(PATIENCE, told).await.unwrap();
            assert!(fault.unwrap().contains(words));
        }
    }
}

#[tokio::test]
async fn the_watch_comes_back_after_the_library_failed() {
    let played = Played::new();
    let (watch, told) = watched(&played);
    wait_until(&watch, 1);
    played.play(UNKNOWN);
    wait_until(&watch, 0);
    played.restart();
    wait_until(&watch, 1);
    played.play(79);
    let fault = tokio::time::timeout(PATIENCE, told).await.unwrap();
    assert_eq!(fault.unwrap(), "the GPU reports XID 79");
}
