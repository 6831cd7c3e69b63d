//! What a block's operations take one after the other, on a card that is hot: `--chain`.
//!
//! Alone and for a moment an operation may be faster than in its place: a card at its power limit has a slower clock, and
//! what an operation saves in energy is time for the others.

use crate::figures::{DIM, FFN, time_for};
use crate::oracle::{random, upload_bf16, upload_f32};
use libtest_mimic::Failed;
use zimage_cuda::dnn::Attention;
use zimage_cuda::matmul::{Output, Product};
use zimage_cuda::ops::embed::swiglu;
use zimage_cuda::ops::hopper::{self, Factors, gate_up_swiglu};
use zimage_cuda::ops::norm::{Added, Next, Rows, add_norm};
use zimage_cuda::ops::rope::{Heads, Pairs, norm_and_rotate};
use zimage_cuda::{Compute, GpuError, Memory};

/// Which operations are the engine's own.
#[derive(Clone, Copy, Debug)]
struct Own {
    attention: bool,
    gate_and_up: bool,
}

struct Block<'a> {
    compute: &'a Compute,
    tokens: usize,
    x: Memory,
    y: Memory,
    h: Memory,
    qkv: Memory,
    attended: Memory,
    both: Memory,
    activated: Memory,
    weights: [Memory; 4],
    table: Memory,
    vector: Memory,
}

impl Block<'_> {
    fn new(compute: &Compute, tokens: usize) -> Result<Block<'_>, GpuError> {
        let gpu = &compute.gpu;
        let some = random(1, 1 << 20);
        let scaled: Vec<f32> = some.iter().map(|number| number * 0.02).collect();
        let fill = |from: &[f32], count: usize| {
            let all: Vec<f32> = from.iter().copied().cycle().take(count).collect();
            upload_bf16(gpu, &all)
        };
        let numbers = |width: usize| fill(&some, tokens * width);
        let weight = |size: usize| fill(&scaled, size);
        Ok(Block {
            compute,
            tokens,
            x: numbers(DIM)?,
            y: numbers(DIM)?,
            h: numbers(DIM)?,
            qkv: numbers(3 * DIM)?,
            attended: numbers(DIM)?,
            both: numbers(2 * FFN)?,
            activated: numbers(FFN)?,
            weights: [
                weight(3 * DIM * DIM)?,
                weight(DIM * DIM)?,
                weight(2 * FFN * DIM)?,
                weight(FFN * DIM)?,
            ],
            table: upload_f32(gpu, &random(3, tokens * 128))?,
            vector: upload_f32(gpu, &vec![0.1; DIM])?,
        })
    }

    fn product(
        &self,
        y: &Memory,
        x: &Memory,
        weight: usize,
        (n, k): (usize, usize),
    ) -> Result<(), GpuError> {
        let product = Product {
            m: self.tokens,
            n,
            k,
            output: Output::Bf16,
        };
        let operands = (x.region(), self.weights[weight].region());
        let matmuls = &self.compute.matmuls;
        matmuls.run(&self.compute.gpu, product, y.region(), operands, None)
    }

    fn add_norm(&self) -> Result<(), GpuError> {
        let rows = Rows {
            count: self.tokens,
            width: DIM,
            eps: 1e-5,
        };
        let norm = self.weights[0].region();
        let added = Added {
            h: self.h.region(),
            weight: Some(norm),
            gate: Some(self.vector.region()),
        };
        let next = Next {
            y: self.y.region(),
            weight: norm,
            scale: Some(self.vector.region()),
        };
        add_norm(&self.compute.gpu, rows, self.x.region(), added, Some(next))
    }

    fn run(&self, own: Own) -> Result<(), GpuError> {
        let (compute, gpu, tokens) = (self.compute, &self.compute.gpu, self.tokens);
        let heads = Heads {
            tokens,
            heads: 30,
            kv_heads: 30,
            width: 128,
        };
        self.product(&self.qkv, &self.y, 0, (3 * DIM, DIM))?;
        let (qkv, norm) = (self.qkv.region(), self.weights[0].region());
        let norms = Some((norm, norm, 1e-5));
        let table = self.table.region();
        norm_and_rotate(gpu, heads, Pairs::Interleaved, qkv, norms, table)?;
        let attended = self.attended.region();
        if own.attention {
            hopper::attend(gpu, heads, attended, qkv)?;
        } else {
            let attention = Attention {
                heads,
                causal: false,
            };
            compute.dnn.attend(gpu, attention, attended, qkv)?;
        }
        self.product(&self.h, &self.attended, 1, (DIM, DIM))?;
        self.add_norm()?;
        let activated = self.activated.region();
        if own.gate_and_up {
            let factors = Factors {
                x: self.y.region(),
                weight: self.weights[2].region(),
                depth: DIM,
            };
            gate_up_swiglu(gpu, activated, factors, (tokens, FFN))?;
        } else {
            self.product(&self.both, &self.y, 2, (2 * FFN, DIM))?;
            swiglu(gpu, activated, self.both.region(), (tokens, FFN))?;
        }
        self.product(&self.h, &self.activated, 3, (DIM, FFN))?;
        self.add_norm()
    }
}

/// Prints the time of a block for so many tokens, with the libraries' operations and with the engine's own.
pub(crate) fn print(compute: &Compute, tokens: usize) -> Result<(), Failed> {
    let block = Block::new(compute, tokens)?;
    compute.matmuls.tune(true);
    block.run(Own {
        attention: false,
        gate_and_up: false,
    })?;
    if !hopper::available(&compute.gpu) {
        return Err("this GPU has none of the engine's own operations".into());
    }
    println!("{tokens} tokens:");
    // Twice: the card gets hotter meanwhile.
    for _ in 0..2 {
        for (attention, gate_and_up) in [(false, false), (false, true), (true, false), (true, true)]
        {
            let own = Own {
                attention,
                gate_and_up,
            };
            let seconds = time_for(compute, 2.0, || block.run(own))?;
            println!("  {own:?}: {:.1} us", 1e6 * seconds);
        }
    }
    Ok(())
}
