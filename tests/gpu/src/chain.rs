//! What a block's operations take one after the other, on a card that is hot: `--chain`.
//!
//! Alone and for a moment an operation may be faster than in its place: a card at its power limit has a slower clock, and
//! what an operation saves in energy is time for the others.

use crate::block::Block;
use crate::figures::time_for;
use crate::integers::Integers;
use libtest_mimic::Failed;
use zimage_cuda::ops::hopper;
use zimage_cuda::{Compute, GpuError};

/// Which operations are the engine's own.
#[derive(Clone, Copy, Debug)]
struct Own {
    attention: bool,
    gate_and_up: bool,
}

fn run(block: &Block<'_>, own: Own) -> Result<(), GpuError> {
    block.qkv()?;
    block.norm_and_rotate()?;
    if own.attention {
        block.attend_ourselves()?;
    } else {
        block.attend()?;
    }
    block.out()?;
    block.add_norm()?;
    if own.gate_and_up {
        block.gate_up_swiglu()?;
    } else {
        block.gate_and_up()?;
        block.swiglu()?;
    }
    block.down()?;
    block.add_norm()
}

/// Prints the time of a block for so many tokens, with the libraries' operations and with the engine's own.
pub(crate) fn print(compute: &Compute, tokens: usize) -> Result<(), Failed> {
    let block = Block::new(compute, tokens)?;
    compute.matmuls.tune(true);
    let libraries = Own {
        attention: false,
        gate_and_up: false,
    };
    run(&block, libraries)?;
    if !hopper::available(&compute.gpu) {
        return Err("this GPU has none of the engine's own operations".into());
    }
    let int8 = Integers::new(&block)?;
    println!("{tokens} tokens:");
    // Twice: the card gets hotter meanwhile.
    for _ in 0..2 {
        for (attention, gate_and_up) in [(false, false), (false, true), (true, false), (true, true)]
        {
            let own = Own {
                attention,
                gate_and_up,
            };
            let seconds = time_for(compute, 2.0, || run(&block, own))?;
            println!("  {own:?}: {:.1} us", 1e6 * seconds);
        }
        let seconds = time_for(compute, 2.0, || int8.run())?;
        println!("  int8: {:.1} us", 1e6 * seconds);
    }
    Ok(())
}
