//! PNG (<https://www.w3.org/TR/png-3/>).

use super::{Kept, Problem, array, unreadable};
use ::png::{BitDepth, ColorType, Decoder, InterlaceInfo, Limits, Transformations};
use std::io::Cursor;

const SIGNATURE: usize = 8;
/// A chunk's length, kind and checksum.
const AROUND: usize = 12;
/// `IEND` with its length and checksum.
const END: [u8; 12] = *b"\0\0\0\0IEND\xaeB`\x82";
/// The longest palette and transparency.
const MOST_PALETTE: usize = 768;

/// Keeps `IHDR`, `PLTE`, `tRNS` and `IDAT`; returns the width and height that `IHDR` says.
pub(super) fn strip(file: &mut Vec<u8>) -> Result<(u32, u32), Problem> {
    let header = array::<8>(file, SIGNATURE);
    if header != Some(*b"\0\0\0\x0dIHDR") {
        return Err(unreadable("its header is missing"));
    }
    let sides = [16, 20].map(|at| array(file, at).map(u32::from_be_bytes));
    let [Some(width), Some(height)] = sides else {
        return Err(unreadable("it ends in its header"));
    };
    let mut at = SIGNATURE;
    let mut kept = Kept::new(file, SIGNATURE);
    while let Some(length) = array(kept.file, at).map(u32::from_be_bytes) {
        let Some(kind) = array::<4>(kept.file, at + 4) else {
            break;
        };
        let length = length as usize;
        // The decoder tells of a file that ends too early.
        let end = (at + AROUND).saturating_add(length).min(kept.file.len());
        match &kind {
            b"IHDR" | b"IDAT" => kept.keep(at..end),
            b"PLTE" | b"tRNS" if length <= MOST_PALETTE => kept.keep(at..end),
            b"IEND" => break,
            _ => {}
        }
        at = end;
    }
    kept.finish();
    // The decoder gives the last rows out when it sees that the data has ended.
    file.extend(END);
    Ok((width, height))
}

/// RGB of eight bits, row by row. Data behind the last row is not inflated.
pub(super) fn decode(file: &[u8], (width, height): (u32, u32)) -> Result<Vec<u8>, Problem> {
    let stride = 3 * width as usize;
    // Buffers for some rows of 64 bits a pixel.
    let limits = Limits {
        bytes: 64 * width as usize + (1 << 20),
    };
    let mut decoder = Decoder::new_with_limits(Cursor::new(file), limits);
    decoder.set_transformations(Transformations::EXPAND);
    let mut reader = decoder.read_info().map_err(unreadable)?;
    if reader.info().size() != (width, height) {
        return Err(unreadable("it says two different sizes"));
    }
    let (color, depth) = reader.output_color_type();
    let mut rgb = vec![0; stride * height as usize];
    let mut line = vec![0; stride];
    for number in 0..rows(width, height, reader.info().interlaced) {
        let Some(row) = reader.next_interlaced_row().map_err(unreadable)? else {
            break;
        };
        match row.interlace() {
            InterlaceInfo::Null(_) => {
                to_rgb(
                    row.data(),
                    (color, depth),
                    &mut rgb[number * stride..][..stride],
                );
            }
            InterlaceInfo::Adam7(pass) => {
                let written = to_rgb(row.data(), (color, depth), &mut line);
                ::png::expand_interlaced_row(&mut rgb, stride, &line[..written], pass, 24);
            }
        }
    }
    Ok(rgb)
}

/// Rows that the file has: with Adam7's interlacing those of seven smaller images.
fn rows(width: u32, height: u32, interlaced: bool) -> usize {
    // The first column and row of a pass, and how many rows further its next one is.
    const PASSES: [(u32, u32, u32); 7] = [
        (0, 0, 8),
        (4, 0, 8),
        (0, 4, 8),
        (2, 0, 4),
        (0, 2, 4),
        (1, 0, 2),
        (0, 1, 2),
    ];
    if !interlaced {
        return height as usize;
    }
    let seen = PASSES.iter().filter(|(column, ..)| *column < width);
    let rows = seen.map(|(_, row, step)| height.saturating_sub(*row).div_ceil(*step));
    rows.sum::<u32>() as usize
}

/// Writes the pixels of a row as RGB of eight bits, without alpha. Returns how many bytes that were.
fn to_rgb(row: &[u8], (color, depth): (ColorType, BitDepth), rgb: &mut [u8]) -> usize {
    let wide = depth == BitDepth::Sixteen;
    let channels = color.samples();
    let sample = if wide { 2 } else { 1 };
    let (out, _) = rgb.as_chunks_mut::<3>();
    let pixels = row.chunks_exact(channels * sample);
    let count = pixels.len().min(out.len());
    for (pixel, out) in pixels.zip(out) {
        let level = |channel: usize| match wide {
            true => narrowed(u16::from_be_bytes([
                pixel[2 * channel],
                pixel[2 * channel + 1],
            ])),
            false => pixel[channel],
        };
        *out = if channels < 3 {
            [level(0); 3]
        } else {
            [0, 1, 2].map(level)
        };
    }
    3 * count
}

/// The level of 255 that is nearest to one of 65535.
const fn narrowed(level: u16) -> u8 {
    ((level as u32 + 128) / 257) as u8
}
