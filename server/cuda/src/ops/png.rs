//! An image's bytes as PNG's image data.

use super::{each, grid};
use crate::deflate::{STRIP, SYMBOLS, Stream, TALLY};
use crate::error::GpuError;
use crate::gpu::Gpu;
use crate::memory::{Layout, Region};

/// Threads for a strip.
const THREADS: usize = 1024;

/// Memory for an image's data.
pub struct Work {
    /// Bytes of the filtered rows.
    count: usize,
    /// Bytes of one.
    row: usize,
    filtered: Region,
    tallies: Region,
    codes: Region,
    starts: Region,
    stream: Region,
}

impl Work {
    /// For an image of a height and width.
    ///
    /// # Errors
    /// When there is too little memory.
    pub fn lay_out(layout: &mut Layout, (height, width): (usize, usize)) -> Result<Self, GpuError> {
        let row = 1 + 3 * width;
        let count = height * row;
        let strips = count.div_ceil(STRIP);
        Ok(Self {
            count,
            row,
            filtered: layout.take(count.next_multiple_of(size_of::<u64>()))?,
            tallies: layout.take(strips * TALLY * size_of::<u32>())?,
            codes: layout.take(SYMBOLS * size_of::<u32>())?,
            starts: layout.take(strips * size_of::<u64>())?,
            stream: layout.take(Stream::most(count).next_multiple_of(size_of::<u32>()))?,
        })
    }
}

/// Image data on the GPU but for what [`Data::finish`] adds.
pub struct Data {
    stream: Stream,
    region: Region,
}

impl Data {
    /// Where it lies.
    pub const fn region(&self) -> Region {
        self.region
    }

    /// Completes a copy of it.
    pub fn finish(&self, bytes: &mut [u8]) {
        self.stream.finish(bytes);
    }
}

/// Compresses an image (height, width, 3) into the contents of PNG's `IDAT` chunk: every row through the Paeth filter, and
/// Huffman codes without a search for matches. Photographs have about the size that zlib's level 6 and the best filter of
/// each row give them. Waits for the GPU.
///
/// # Errors
/// When a region is too small or the driver reports a fault.
pub fn compress(gpu: &Gpu, work: &Work, rgb: Region) -> Result<Data, GpuError> {
    let strips = work.count.div_ceil(STRIP);
    rgb.require(work.count / work.row * (work.row - 1))?;
    let (rgb, filtered, length) = (rgb.pointer(), work.filtered.pointer(), work.count as u64);
    let row = work.row as i32;
    let mut launch = gpu.kernel("png_filter")?;
    launch.arg(&filtered).arg(&rgb).arg(&length).arg(&row);
    // SAFETY: the arguments are the kernel's, which stops at the count; the work was laid out for it, the image checked.
    unsafe { launch.launch(each(work.count)) }?;

    let tallies = work.tallies.pointer();
    let mut launch = gpu.kernel("png_tally")?;
    launch.arg(&tallies).arg(&filtered).arg(&length);
    // SAFETY: the arguments are the kernel's, and so are a block a strip; the work has a tally of each, and whole units.
    unsafe { launch.launch(grid(strips, THREADS)) }?;

    let stream = Stream::plan(&gpu.download(work.tallies, strips * TALLY)?, work.count);
    let region = work.stream.part(0, stream.bytes())?;
    let words = stream.bytes().next_multiple_of(size_of::<u32>());
    gpu.clear(work.stream.part(0, words)?)?;
    gpu.upload(work.codes, &stream.codes())?;
    gpu.upload(work.starts, stream.starts())?;
    let (out, codes, starts) = (
        work.stream.pointer(),
        work.codes.pointer(),
        work.starts.pointer(),
    );
    let mut launch = gpu.kernel("png_pack")?;
    launch
        .arg(&out)
        .arg(&filtered)
        .arg(&length)
        .arg(&codes)
        .arg(&starts);
    // SAFETY: the arguments are the kernel's. The code and the starts are planned from the tallies of these very bytes, so
    // each strip's symbols end where the plan says, within the part of the stream that was cleared.
    unsafe { launch.launch(grid(strips, THREADS)) }?;
    Ok(Data { stream, region })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::SOURCES;

    #[test]
    fn kernels_and_host_agree_on_what_a_strip_and_its_symbols_are() {
        let source = SOURCES.iter().find(|source| source.file == "png.cu");
        let text = source.unwrap().text;
        for (name, value) in [("STRIP", STRIP), ("SYMBOLS", SYMBOLS)] {
            assert!(
                text.contains(&format!("#define {name} {value}\n")),
                "{name}"
            );
        }
    }
}
