//! What the formats of operands cost a hot card: `--formats`.
//!
//! The products of a block in bfloat16, e4m3 and int8, by the library and by the engine's own kernel, each repeated for
//! seconds: the time, the power, and the energy of an operation, which on a card at its power limit is what decides.

use crate::block::{DIM, FFN};
use crate::figures::time_for;
use crate::oracle::{Stored, random, upload_bf16};
use libtest_mimic::Failed;
use nvml_wrapper::Nvml;
use nvml_wrapper::enum_wrappers::device::Clock;
use std::time::Instant;
use zimage_cuda::matmul::{Output, Product};
use zimage_cuda::ops::hopper;
use zimage_cuda::{Compute, Format, GpuError, Memory};

/// Seconds before a figure, and of it.
const HOT: (f64, f64) = (0.5, 2.0);

/// A product and its operands in every format.
struct Case<'a> {
    compute: &'a Compute,
    /// The result, and a result of eight bits with its scales.
    y: (Stored, Stored),
    x: [Stored; 3],
    weight: [Stored; 3],
    /// Rows and columns of the whole product, and its depth.
    size: (usize, usize, usize),
    both: Memory,
}

const FORMATS: [Format; 3] = [Format::Bf16, Format::E4m3, Format::S8];

impl<'a> Case<'a> {
    fn new(
        compute: &'a Compute,
        (m, n, k): (usize, usize, usize),
        width: usize,
    ) -> Result<Self, GpuError> {
        let gpu = &compute.gpu;
        let fill = |rows: usize, scale: f32| {
            let some = random(1, 1 << 20).into_iter().map(|x| scale * x);
            let all: Vec<f32> = some
                .collect::<Vec<_>>()
                .into_iter()
                .cycle()
                .take(rows * k)
                .collect();
            upload_bf16(gpu, &all)
        };
        let (x, weight) = (fill(m, 1.0)?, fill(n, 0.02)?);
        let in_each = |rows: usize, from: &Memory| -> Result<[Stored; 3], GpuError> {
            let of = |format| Stored::of(gpu, format, (rows, k), from);
            Ok([of(FORMATS[0])?, of(FORMATS[1])?, of(FORMATS[2])?])
        };
        let eight = Stored::poisoned(gpu, Format::E4m3, (m, width))?;
        // Sixteen times what the largest of normal numbers needs.
        eight.set_scales(gpu, &vec![16.0 * 12.0 / 448.0; m])?;
        Ok(Self {
            compute,
            y: (Stored::poisoned(gpu, Format::Bf16, (m, width))?, eight),
            x: in_each(m, &x)?,
            weight: in_each(n, &weight)?,
            size: (m, n, k),
            both: gpu.allocate(2 * m * n)?,
        })
    }

    fn library_bf16(&self) -> Result<(), GpuError> {
        let (m, n, k) = self.size;
        let output = Output::Bf16;
        let product = Product { m, n, k, output };
        let operands = (self.x[0].matrix()?, self.weight[0].matrix()?);
        let Compute { matmuls, gpu, .. } = self.compute;
        matmuls.run(
            gpu,
            product,
            self.both.region(),
            (operands.0.region(), operands.1.region()),
            None,
        )
    }

    fn library_e4m3(&self) -> Result<(), GpuError> {
        let (m, n, _) = self.size;
        let y = zimage_cuda::Matrix::bf16(self.both.region(), (m, n))?;
        let Compute { matmuls, gpu, .. } = self.compute;
        matmuls.run_scaled(gpu, y, self.x[1].matrix()?, self.weight[1].matrix()?)
    }

    fn own(&self, format: usize) -> Result<(), GpuError> {
        let (x, weight) = (self.x[format].matrix()?, self.weight[format].matrix()?);
        hopper::product(&self.compute.gpu, self.y.0.matrix()?, x, weight)
    }

    fn with_swiglu(&self, format: usize, eight: bool) -> Result<(), GpuError> {
        let (x, weight) = (self.x[format].matrix()?, self.weight[format].matrix()?);
        let y = if eight { &self.y.1 } else { &self.y.0 };
        hopper::gate_up_swiglu(&self.compute.gpu, y.matrix()?, x, weight)
    }

    fn show(&self, name: &str, run: &dyn Fn() -> Result<(), GpuError>) -> Result<(), Failed> {
        let (m, n, k) = self.size;
        let nvml = Nvml::init()?;
        let device = nvml.device_by_index(0)?;
        let joules =
            || -> Result<f64, Failed> { Ok(device.total_energy_consumption()? as f64 / 1000.0) };
        time_for(self.compute, HOT.0, run)?;
        let (before, began) = (joules()?, Instant::now());
        let seconds = time_for(self.compute, HOT.1, run)?;
        let clock = device.clock_info(Clock::SM)?;
        let watts = (joules()? - before) / began.elapsed().as_secs_f64();
        let rate = (2 * m * n * k) as f64 / seconds;
        println!(
            "  {name:<28} {:7.1} us  {:5.0} TFLOP/s  {watts:4.0} W  {:.3} pJ/FLOP  {clock} MHz",
            1e6 * seconds,
            rate / 1e12,
            1e12 * watts / rate
        );
        Ok(())
    }
}

/// Prints the figures for so many tokens.
pub(crate) fn print(compute: &Compute, tokens: usize) -> Result<(), Failed> {
    if !hopper::available(&compute.gpu) {
        return Err("this GPU has none of the engine's own operations".into());
    }
    compute.matmuls.tune(true);
    println!("{tokens} tokens, gate and up:");
    let case = Case::new(compute, (tokens, 2 * FFN, DIM), FFN)?;
    // Twice: the card gets hotter meanwhile.
    for _ in 0..2 {
        case.show("library bf16, product alone", &|| case.library_bf16())?;
        case.show("own bf16", &|| case.with_swiglu(0, false))?;
        case.show("library e4m3, product alone", &|| case.library_e4m3())?;
        case.show("own e4m3", &|| case.with_swiglu(1, false))?;
        case.show("own e4m3 to e4m3", &|| case.with_swiglu(1, true))?;
        case.show("own s8", &|| case.with_swiglu(2, false))?;
    }
    drop(case);
    for (name, n, k) in [("qkv", 3 * DIM, DIM), ("out", DIM, DIM), ("down", DIM, FFN)] {
        println!("{tokens} tokens, {name}:");
        let case = Case::new(compute, (tokens, n, k), n)?;
        case.show("library bf16", &|| case.library_bf16())?;
        case.show("own bf16", &|| case.own(0))?;
        case.show("library e4m3", &|| case.library_e4m3())?;
        case.show("own e4m3", &|| case.own(1))?;
        case.show("own s8", &|| case.own(2))?;
    }
    Ok(())
}
