//! A PNG's image data, compressed in strips by several threads.
//!
//! Strips end with deflate's sync flush (RFC 1951, an empty stored block), so that they can be put one behind the other
//! in one zlib stream (RFC 1950).

use flate2::{Compress, CompressError, Compression, FlushCompress};
use simd_adler32::Adler32;
use std::thread;
use zimage_core::pixels::Pixels;

/// A strip is worth a thread from this many bytes on.
const LEAST_STRIP: usize = 48 << 10;

/// More threads compress no faster than the rest of an answer takes.
const MOST_STRIPS: usize = 16;

/// PNG's filter type "sub": the difference to the pixel on the left. It needs no other strip.
const SUB: u8 = 1;

/// The zlib stream of the filtered rows.
pub(super) fn deflate(pixels: &Pixels) -> Result<Vec<u8>, CompressError> {
    let row = 3 * pixels.width() as usize;
    let threads = thread::available_parallelism().map_or(1, usize::from);
    let strips = (pixels.rgb().len() / LEAST_STRIP).clamp(1, threads.min(MOST_STRIPS));
    let rows = (pixels.height() as usize).div_ceil(strips).max(1);
    let parts: Vec<&[u8]> = pixels.rgb().chunks(rows * row).collect();
    let strips = thread::scope(|scope| {
        let last = parts.len().saturating_sub(1);
        let spawn = |(place, part)| scope.spawn(move || Strip::new(part, row, place == last));
        let running: Vec<_> = parts.into_iter().enumerate().map(spawn).collect();
        let wait = |strip: thread::ScopedJoinHandle<'_, _>| match strip.join() {
            Ok(strip) => strip,
            Err(panic) => std::panic::resume_unwind(panic),
        };
        let strips: Result<Vec<Strip>, CompressError> = running.into_iter().map(wait).collect();
        strips
    })?;
    let length: usize = strips.iter().map(|strip| strip.compressed.len()).sum();
    let mut stream = Vec::with_capacity(length + 6);
    // Deflate with a window of 32 KiB, fastest.
    stream.extend([0x78, 0x01]);
    let mut sum = 1;
    for strip in strips {
        stream.extend(strip.compressed);
        sum = joined(sum, strip.sum, strip.length);
    }
    stream.extend(u32::to_be_bytes(sum));
    Ok(stream)
}

/// Some rows, filtered and compressed.
struct Strip {
    compressed: Vec<u8>,
    /// Adler-32 of the filtered rows.
    sum: u32,
    /// Bytes of the filtered rows.
    length: usize,
}

impl Strip {
    fn new(rgb: &[u8], row: usize, last: bool) -> Result<Self, CompressError> {
        let mut filtered = Vec::with_capacity(rgb.len() + rgb.len() / row);
        for row in rgb.chunks(row) {
            filtered.push(SUB);
            filtered.extend_from_slice(&row[..3]);
            let pairs = row[3..].iter().zip(row);
            filtered.extend(pairs.map(|(level, left)| level.wrapping_sub(*left)));
        }
        let mut adler = Adler32::new();
        adler.write(&filtered);
        let mut compress = Compress::new(Compression::fast(), false);
        // What cannot be compressed grows by five bytes for each block and the flush.
        let mut compressed = Vec::with_capacity(filtered.len() + filtered.len() / 64 + 1024);
        let flush = if last {
            FlushCompress::Finish
        } else {
            FlushCompress::Sync
        };
        loop {
            let taken = compress.total_in() as usize;
            let status = compress.compress_vec(&filtered[taken..], &mut compressed, flush)?;
            let all = compress.total_in() as usize == filtered.len();
            let room = compressed.len() < compressed.capacity();
            if all && room && (!last || status == flate2::Status::StreamEnd) {
                break;
            }
            compressed.reserve(compressed.capacity() / 2);
        }
        Ok(Self {
            compressed,
            sum: adler.finish(),
            length: filtered.len(),
        })
    }
}

/// Adler-32 of two pieces from the sums of each, the second of a length.
fn joined(first: u32, second: u32, length: usize) -> u32 {
    const BASE: u64 = 65_521;
    let (low, high) = (
        |sum: u32| u64::from(sum & 0xffff),
        |sum: u32| u64::from(sum >> 16),
    );
    let length = length as u64 % BASE;
    let a = (low(first) + low(second) + BASE - 1) % BASE;
    let b = (high(first) + high(second) + length * (low(first) + BASE - 1)) % BASE;
    (b << 16 | a) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_of_pieces_are_the_sum_of_the_whole() {
        let bytes: Vec<u8> = (0..100_000u32)
            .map(|at| (at.wrapping_mul(at) >> 7) as u8)
            .collect();
        let sum = |bytes: &[u8]| {
            let mut adler = Adler32::new();
            adler.write(bytes);
            adler.finish()
        };
        for cut in [0, 1, 40_000, 99_999, 100_000] {
            let (one, other) = bytes.split_at(cut);
            assert_eq!(
                joined(sum(one), sum(other), other.len()),
                sum(&bytes),
                "{cut}"
            );
        }
    }
}
