//! Images a second of several GPUs, each of which makes images of its own.

use super::parts::{Parts, one, request};
use crate::args::Bench;
use crate::failure::Failure;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use zimage_core::executor::{Executor, ExecutorError};

/// Images for each GPU: as many as wait at most for one.
const EACH: usize = 16;

/// Requests that no other measurement makes: their prompts are in no cache.
const FIRST: usize = 200_000;

/// Images a second of one GPU, of two, and so on.
pub(super) fn measure(
    executors: &mut [Box<dyn Executor>],
    args: &Bench,
    size: (u32, u32),
) -> Result<Vec<(usize, f64)>, Failure> {
    let fault = |error: ExecutorError| Failure::Device(error.to_string());
    let next = AtomicUsize::new(FIRST);
    let warm = Duration::from_secs(args.warm_up_seconds);
    make(
        executors,
        args,
        size,
        (&next, &|began| began.elapsed() < warm),
    )
    .map_err(fault)?;
    let counts = 1..=executors.len();
    let rate = |count: usize| {
        let last = next.load(Ordering::Relaxed) + count * EACH;
        let began = Instant::now();
        let left = |_| next.load(Ordering::Relaxed) < last;
        let made = make(&mut executors[..count], args, size, (&next, &left)).map_err(fault)?;
        Ok((count, made as f64 / began.elapsed().as_secs_f64()))
    };
    counts.map(rate).collect()
}

/// Each executor makes the next request while `goes_on`. Returns how many were made.
fn make(
    executors: &mut [Box<dyn Executor>],
    args: &Bench,
    size: (u32, u32),
    (next, goes_on): (&AtomicUsize, &(dyn Fn(Instant) -> bool + Sync)),
) -> Result<usize, ExecutorError> {
    let began = Instant::now();
    let work = |executor: &mut Box<dyn Executor>| {
        let mut made = 0;
        let mut parts = Parts::new(size, args.num_inference_steps);
        while goes_on(began) {
            let number = next.fetch_add(1, Ordering::Relaxed);
            one(&mut **executor, &request(args, size, number), &mut parts)?;
            made += 1;
        }
        Ok(made)
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (executors.iter_mut())
            .map(|executor| scope.spawn(|| work(executor)))
            .collect();
        let panicked = |_| ExecutorError::Failed("the thread of a GPU panicked".to_owned());
        let made = threads
            .into_iter()
            .map(|thread| thread.join().map_err(panicked)?);
        made.sum()
    })
}
