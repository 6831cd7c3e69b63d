//! PNG's image data.

use crate::Outcome;
use libtest_mimic::Failed;
use std::io::Cursor;
use zimage_cuda::ops::png::{Work, compress};
use zimage_cuda::{Compute, Layout};

/// Numbers without a pattern.
fn noise(at: usize) -> u8 {
    ((at as u32).wrapping_mul(2_654_435_761) >> 23) as u8
}

/// What PNG's decoder makes of image data, checksums included.
fn read(data: &[u8], width: usize, height: usize) -> Result<Vec<u8>, Failed> {
    let mut file = Vec::new();
    let mut encoder = png::Encoder::new(&mut file, width as u32, height as u32);
    encoder.set_color(png::ColorType::Rgb);
    let mut writer = encoder.write_header()?;
    writer.write_chunk(png::chunk::IDAT, data)?;
    writer.finish()?;
    let mut decoder = png::Decoder::new(Cursor::new(file));
    decoder.ignore_checksums(false);
    let mut reader = decoder.read_info()?;
    let mut pixels = vec![0; 3 * width * height];
    reader.next_frame(&mut pixels)?;
    Ok(pixels)
}

pub(super) fn image_data(compute: &Compute) -> Outcome {
    let gpu = &compute.gpu;
    for (width, height) in [
        (1, 1),
        (5, 3),
        (512, 512),
        (1000, 700),
        (21_845, 1),
        (1, 9000),
    ] {
        let count = 3 * width * height;
        let gradient = |at: usize| (at / 3 % width / 3 + at / 3 / width / 5) as u8;
        for (what, most, rgb) in [
            ("one colour", 0.05, vec![200; count]),
            ("a gradient", 0.5, (0..count).map(gradient).collect()),
            ("noise", 1.02, (0..count).map(noise).collect::<Vec<u8>>()),
        ] {
            let image = gpu.allocate(count)?;
            gpu.upload(image.region(), &rgb)?;
            let mut layout = Layout::measure();
            Work::lay_out(&mut layout, (height, width))?;
            let memory = gpu.allocate(layout.used())?;
            // What was there before must not show.
            gpu.upload(memory.region(), &vec![0xffu8; layout.used()])?;
            let work = Work::lay_out(&mut Layout::over(memory.region()), (height, width))?;
            let data = compress(gpu, &work, image.region())?;
            let mut bytes = gpu.download(data.region(), data.region().bytes())?;
            data.finish(&mut bytes);
            let of = format!("{what} of {width}x{height}");
            if read(&bytes, width, height)? != rgb {
                return Err(format!("{of}: other pixels are read back").into());
            }
            let share = bytes.len() as f64 / count as f64;
            if count > 1_000_000 && share > most {
                return Err(format!("{of}: {share:.2} of its bytes").into());
            }
        }
    }
    Ok(())
}
