//! One product's description and algorithm.

use super::chosen::Chosen;
use super::description::Description;
use super::search::search;
use super::{Form, Operands, Product};
use crate::error::GpuError;
use crate::gpu::Gpu;
use cudarc::cublaslt::sys::cublasLtMatmulAlgo_t as Algorithm;
use std::time::{Duration, Instant};

/// Products of fewer multiplications take the first algorithm: their time is the launch.
const WORTH_TUNING: usize = 1 << 28;

/// Products of fewer rows take as long as it takes to read their weight, which no cache has when its turn comes again.
const FEW_ROWS: usize = 512;

/// For products of fewer multiplications the offered algorithms are compared alone.
const WORTH_SEARCHING: usize = 1 << 35;

/// Turns in which the offered algorithms are timed.
const TURNS: usize = 12;

/// Algorithms that are compared on a hot card after a search.
const FINALISTS: usize = 6;

/// How long a finalist computes without a pause. A card at its power limit lowers its clock within this time, so what
/// takes less energy is faster.
const HOT: Duration = Duration::from_millis(200);

/// A description and the algorithm that computes it.
pub(super) struct Plan {
    description: Description,
    algorithm: Algorithm,
}

impl Plan {
    /// With the algorithm that was chosen for the product, or for one of nearly as many rows where a search takes long.
    /// Else with `tune` the one that is fastest now, and without it, or where a table was given, what was chosen for half
    /// to twice as many rows.
    pub(super) fn new(
        gpu: &Gpu,
        product: Product,
        operands: &Operands,
        chosen: &mut Chosen,
        tune: bool,
    ) -> Result<Self, GpuError> {
        let description = Description::new(product, operands.beside)?;
        if operands.beside.form() == Form::Scaled {
            // The library offers one.
            let algorithm = description.offered(operands.handle)?[0];
            return Ok(Self {
                description,
                algorithm,
            });
        }
        let key = super::chosen::key(product, operands.beside.form() == Form::Bias);
        let accepted = |algorithm: &Algorithm| description.accepts(operands.handle, algorithm);
        let algorithm = if let Some(known) = chosen.get(&key, product.m).filter(accepted) {
            known
        } else if tune && !chosen.given() && product.multiplications() >= WORTH_TUNING {
            let close = chosen.close(&key, product.m).filter(accepted);
            let tuning = Tuning {
                gpu,
                operands,
                description: &description,
                product,
            };
            let fastest = match close.filter(|_| worth_searching(product)) {
                Some(close) => close,
                None => tuning.fastest()?,
            };
            // Kept for exactly these rows too: a restart knows what is tuned later, which may be closer.
            chosen.set(key, product.m, fastest, accepted)
        } else {
            match chosen.nearest(&key, product.m).filter(accepted) {
                Some(near) => near,
                None => description.offered(operands.handle)?[0],
            }
        };
        Ok(Self {
            description,
            algorithm,
        })
    }

    pub(super) fn run(&self, gpu: &Gpu, operands: &Operands) -> Result<(), GpuError> {
        self.description.run(gpu, operands, &self.algorithm)
    }
}

/// A product whose algorithms are compared.
struct Tuning<'a> {
    gpu: &'a Gpu,
    operands: &'a Operands,
    description: &'a Description,
    product: Product,
}

const fn worth_searching(product: Product) -> bool {
    product.multiplications() >= WORTH_SEARCHING
}

impl Tuning<'_> {
    fn fastest(&self) -> Result<Algorithm, GpuError> {
        let began = Instant::now();
        let best = self.in_turns(&self.description.offered(self.operands.handle)?)?;
        if !worth_searching(self.product) {
            return Ok(best);
        }
        let time = |algorithm: &Algorithm| self.time(algorithm, 1).ok();
        let mut finalists = search(self.operands.handle, self.description, time);
        let searched = finalists.len();
        finalists.truncate(FINALISTS - 1);
        finalists.push(best);
        let fastest = self.hot(&finalists)?;
        let seconds = began.elapsed().as_secs_f64();
        tracing::info!(product = ?self.product, searched, seconds, "an algorithm is chosen");
        Ok(fastest)
    }

    fn time(&self, algorithm: &Algorithm, runs: usize) -> Result<f32, GpuError> {
        let Self { gpu, operands, .. } = self;
        if self.product.m >= FEW_ROWS {
            return self.description.time(gpu, operands, algorithm, runs);
        }
        let mut sum = 0.0;
        for _ in 0..runs {
            sum += self.description.time_cold(gpu, operands, algorithm)?;
        }
        Ok(sum)
    }

    /// The fastest of algorithms that take turns: what the card's clock does meanwhile concerns all of them.
    fn in_turns(&self, algorithms: &[Algorithm]) -> Result<Algorithm, GpuError> {
        let mut totals = vec![0.0; algorithms.len()];
        for _ in 0..TURNS {
            for (total, algorithm) in totals.iter_mut().zip(algorithms) {
                // What is offered and then refused is never the fastest.
                *total += self.time(algorithm, 4).unwrap_or(f32::INFINITY);
            }
        }
        least(&totals, algorithms)
    }

    /// The fastest of algorithms that compute for a while each, twice, on a card that is hot from the first on.
    fn hot(&self, algorithms: &[Algorithm]) -> Result<Algorithm, GpuError> {
        let mut totals = vec![0.0; algorithms.len()];
        for round in 0..3 {
            for (total, algorithm) in totals.iter_mut().zip(algorithms) {
                let time = last_within(HOT, || self.time(algorithm, 40).ok());
                if round > 0 {
                    *total += time.unwrap_or(f32::INFINITY);
                }
            }
        }
        least(&totals, algorithms)
    }
}

/// What the last of as many timings as fit into a period gives, at the clock that the timed work itself brought about: at
/// least one. `None`: one failed.
fn last_within(period: Duration, mut time: impl FnMut() -> Option<f32>) -> Option<f32> {
    let began = Instant::now();
    loop {
        let last = time()?;
        if began.elapsed() >= period {
            return Some(last);
        }
    }
}

fn least(totals: &[f32], algorithms: &[Algorithm]) -> Result<Algorithm, GpuError> {
    let timed = totals.iter().zip(algorithms);
    let computing = timed.filter(|(total, _)| total.is_finite());
    let best = computing.min_by(|(one, _), (other, _)| one.total_cmp(other));
    let none = || GpuError::library("cublasLtMatmul", "no algorithm computes");
    best.map(|(_, &algorithm)| algorithm).ok_or_else(none)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn algorithm(number: u64) -> Algorithm {
        Algorithm { data: [number; 8] }
    }

    #[test]
    fn a_product_that_takes_longer_than_the_period_is_timed_once() {
        let mut timings = 0;
        let time = last_within(Duration::ZERO, || {
            timings += 1;
            Some(5.0)
        });
        assert_eq!((time, timings), (Some(5.0), 1));
    }

    #[test]
    fn the_last_timing_counts_and_a_failed_one_ends_them() {
        let mut timings = [Some(5.0), Some(4.0), None].into_iter();
        let time = last_within(Duration::MAX, || timings.next().flatten());
        assert_eq!((time, timings.next()), (None, None));
    }

    #[test]
    fn an_algorithm_that_fails_is_never_the_fastest() {
        let algorithms = [algorithm(1), algorithm(2), algorithm(3)];
        let fastest = |totals: [f32; 3]| least(&totals, &algorithms).map(|found| found.data[0]);
        assert_eq!(fastest([f32::INFINITY, 3.0, 2.0]).unwrap(), 3);
        assert!(fastest([f32::INFINITY; 3]).is_err());
    }
}
