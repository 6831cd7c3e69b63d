//! Images as files.

use image::codecs::jpeg::JpegEncoder;
use image::codecs::webp::WebPEncoder;
use image::{ExtendedColorType, ImageEncoder};
use zimage_core::pixels::Pixels;

/// How an image is encoded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ImageFormat {
    /// PNG.
    #[default]
    Png,
    /// JPEG of a quality from 1 to 100.
    Jpeg(u8),
    /// Lossless WebP.
    Webp,
}

impl ImageFormat {
    /// The name in OpenAI's `output_format`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Png => "png",
            Self::Jpeg(_) => "jpeg",
            Self::Webp => "webp",
        }
    }
}

/// The image could not be encoded.
#[derive(Debug, thiserror::Error)]
#[error("failed to encode the image: {0}")]
pub struct EncodeError(String);

/// Encodes an image. Takes milliseconds: not for an async task.
///
/// `text` goes into PNG's text chunks by keyword; the other formats have no place for it.
///
/// # Errors
/// Never for the images that an executor makes; WebP has at most 16383 pixels a side.
pub fn encode(
    pixels: &Pixels,
    format: ImageFormat,
    text: &[(&str, String)],
) -> Result<Vec<u8>, EncodeError> {
    let fault = |error: &dyn std::error::Error| EncodeError(error.to_string());
    let (width, height, color) = (pixels.width(), pixels.height(), ExtendedColorType::Rgb8);
    // What a file seldom exceeds; memory that is not written to costs nothing.
    let mut file = Vec::with_capacity(pixels.rgb().len());
    match format {
        ImageFormat::Png => {
            let mut encoder = png::Encoder::new(&mut file, width, height);
            encoder.set_color(png::ColorType::Rgb);
            encoder.set_depth(png::BitDepth::Eight);
            // A few milliseconds on one thread; zlib's fastest takes over ten times as long for larger files.
            encoder.set_compression(png::Compression::Fastest);
            for (keyword, value) in text {
                encoder
                    .add_itxt_chunk((*keyword).to_owned(), value.clone())
                    .map_err(|error| fault(&error))?;
            }
            let mut writer = encoder.write_header().map_err(|error| fault(&error))?;
            match pixels.png_data() {
                Some(data) => writer.write_chunk(png::chunk::IDAT, data),
                None => writer.write_image_data(pixels.rgb()),
            }
            .map_err(|error| fault(&error))?;
            writer.finish().map_err(|error| fault(&error))?;
        }
        ImageFormat::Jpeg(quality) => JpegEncoder::new_with_quality(&mut file, quality)
            .write_image(pixels.rgb(), width, height, color)
            .map_err(|error| fault(&error))?,
        ImageFormat::Webp => WebPEncoder::new_lossless(&mut file)
            .write_image(pixels.rgb(), width, height, color)
            .map_err(|error| fault(&error))?,
    }
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pixels() -> Pixels {
        Pixels::new(
            32,
            16,
            (0..32 * 16 * 3).map(|at| (at % 251) as u8).collect(),
        )
        .unwrap()
    }

    #[test]
    fn lossless_formats_give_every_pixel_back() {
        for format in [ImageFormat::Png, ImageFormat::Webp] {
            let file = encode(&pixels(), format, &[]).unwrap();
            let read = image::load_from_memory(&file).unwrap().to_rgb8();
            assert_eq!((read.width(), read.height()), (32, 16), "{format:?}");
            assert_eq!(read.as_raw().as_slice(), pixels().rgb(), "{format:?}");
        }
    }

    #[test]
    fn an_image_of_any_size_is_read_back_whole() {
        for (width, height) in [(1, 1), (7, 3), (64, 1), (1000, 700)] {
            let level = |at: u32| (at.wrapping_mul(2_654_435_761) >> 24) as u8;
            let rgb: Vec<u8> = (0..width * height * 3).map(level).collect();
            let pixels = Pixels::new(width, height, rgb.clone()).unwrap();
            let file = encode(&pixels, ImageFormat::Png, &[]).unwrap();
            let read = image::load_from_memory(&file).unwrap().to_rgb8();
            assert!(read.into_raw() == rgb, "{width}x{height}");
        }
    }

    #[test]
    fn image_data_that_was_made_is_taken_as_it_is() {
        let pixels = pixels().with_png_data(b"compressed elsewhere".to_vec());
        let file = encode(&pixels, ImageFormat::Png, &[]).unwrap();
        let chunk = b"\0\0\0\x14IDATcompressed elsewhere";
        assert!(file.windows(chunk.len()).any(|part| part == chunk));
    }

    #[test]
    fn a_png_carries_text_of_any_language() {
        let text = [("prompt", "橘猫".to_owned())];
        let file = encode(&pixels(), ImageFormat::Png, &text).unwrap();
        let reader = png::Decoder::new(std::io::Cursor::new(file))
            .read_info()
            .unwrap();
        let chunk = &reader.info().utf8_text[0];
        assert_eq!(chunk.keyword, "prompt");
        assert_eq!(chunk.get_text().unwrap(), "橘猫");
    }

    #[test]
    fn a_jpeg_of_lower_quality_is_smaller() {
        let size = |quality| {
            encode(&pixels(), ImageFormat::Jpeg(quality), &[])
                .unwrap()
                .len()
        };
        assert!(size(20) < size(95));
    }
}
