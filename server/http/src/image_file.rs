//! Image files that clients send.
//!
//! ```text
//! bytes ─▶ ImageFile::read ─▶ kind, width and height ─▶ is that what is wanted? ─▶ decode ─▶ Pixels
//!           keeps what the pixels need, drops the rest
//! ```
//!
//! A file of some bytes can announce any number of pixels, and hide any amount of data in compressed profiles and texts. So
//! the container is walked here first: what does not make pixels (colour profiles, EXIF, XMP, texts, further frames, alpha
//! of WebP) is cut out, whatever its size, before any decoder exists; and a decoder is made only for a width and height that
//! the caller has agreed to. Its memory and time depend on these alone.

mod jpeg;
mod png;
mod webp;

use image::codecs::jpeg::JpegDecoder;
use image::codecs::webp::WebPDecoder;
use image::{DynamicImage, ImageDecoder, Limits};
use std::fmt::Display;
use std::io::Cursor;
use std::ops::Range;
use zimage_core::pixels::Pixels;

/// What is wrong with a file, to be put behind its field's name.
pub(crate) type Problem = String;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Png,
    Jpeg,
    Webp,
}

/// A PNG, JPEG or WebP file whose container was read, but none of its pixels.
#[derive(Debug)]
pub(crate) struct ImageFile {
    bytes: Vec<u8>,
    kind: Kind,
    width: u32,
    height: u32,
}

impl ImageFile {
    /// Reads what the file says about itself and drops what its pixels do not need.
    ///
    /// # Errors
    /// When it is no PNG, JPEG or WebP file, or one that would cost more than its pixels are worth.
    pub(crate) fn read(mut bytes: Vec<u8>) -> Result<Self, Problem> {
        let kind = match bytes.as_slice() {
            [0x89, b'P', b'N', b'G', b'\r', b'\n', 0x1a, b'\n', ..] => Kind::Png,
            [0xff, 0xd8, ..] => Kind::Jpeg,
            [
                b'R',
                b'I',
                b'F',
                b'F',
                _,
                _,
                _,
                _,
                b'W',
                b'E',
                b'B',
                b'P',
                ..,
            ] => Kind::Webp,
            _ => return Err(unreadable("it is neither PNG nor JPEG nor WebP")),
        };
        let (width, height) = match kind {
            Kind::Png => png::strip(&mut bytes)?,
            Kind::Jpeg => jpeg::strip(&mut bytes)?,
            Kind::Webp => webp::strip(&mut bytes)?,
        };
        if width == 0 || height == 0 {
            return Err(unreadable("it has no pixels"));
        }
        Ok(Self {
            bytes,
            kind,
            width,
            height,
        })
    }

    /// Width and height in pixels.
    pub(crate) const fn size(&self) -> (u32, u32) {
        (self.width, self.height)
    }

    /// Bytes that [`Self::decode`] takes at the most, the pixels among them. For each pixel: three, and with JPEG nine of
    /// coefficients and rows, with WebP seven of planes. JPEG's file is copied; WebP has tables.
    pub(crate) fn decoding_bytes(&self) -> usize {
        const OTHERS: usize = 1 << 20;
        let pixels = (self.width as usize).saturating_mul(self.height as usize);
        let (a_pixel, beside) = match self.kind {
            Kind::Png => (3, 0),
            Kind::Jpeg => (12, self.bytes.len()),
            Kind::Webp => (10, webp::MOST_TABLE_BYTES as usize),
        };
        pixels
            .saturating_mul(a_pixel)
            .saturating_add(beside + OTHERS)
    }

    /// The pixels. Takes milliseconds to seconds: not for an async task.
    ///
    /// # Errors
    /// When the file is damaged.
    pub(crate) fn decode(self) -> Result<Pixels, Problem> {
        let rgb = match self.kind {
            Kind::Png => png::decode(&self.bytes, self.size())?,
            Kind::Jpeg => {
                let decoder = JpegDecoder::new(Cursor::new(&self.bytes)).map_err(unreadable)?;
                self.decode_with(decoder)?
            }
            Kind::Webp => {
                webp::check(&self.bytes)?;
                let decoder = WebPDecoder::new(Cursor::new(&self.bytes)).map_err(unreadable)?;
                self.decode_with(decoder)?
            }
        };
        Pixels::new(self.width, self.height, rgb).map_err(unreadable)
    }

    fn decode_with(&self, mut decoder: impl ImageDecoder) -> Result<Vec<u8>, Problem> {
        if decoder.dimensions() != self.size() {
            return Err(unreadable("it says two different sizes"));
        }
        let mut limits = Limits::default();
        limits.max_image_width = Some(self.width);
        limits.max_image_height = Some(self.height);
        limits.max_alloc = Some(u64::from(self.width) * u64::from(self.height) * 8 + (1 << 20));
        decoder.set_limits(limits).map_err(unreadable)?;
        let image = DynamicImage::from_decoder(decoder).map_err(unreadable)?;
        Ok(image.into_rgb8().into_raw())
    }
}

/// A decoder's own words are short and of its own making, but for what it quotes.
fn unreadable(reason: impl Display) -> Problem {
    let reason = crate::quote::cut(&reason.to_string());
    format!("is no readable image: {reason}")
}

/// Moves the parts of a file that are kept to its front.
struct Kept<'a> {
    file: &'a mut Vec<u8>,
    end: usize,
}

impl<'a> Kept<'a> {
    /// Keeps the first `end` bytes.
    const fn new(file: &'a mut Vec<u8>, end: usize) -> Self {
        Self { file, end }
    }

    /// Keeps a range behind all that are kept already.
    fn keep(&mut self, range: Range<usize>) {
        let length = range.len();
        self.file.copy_within(range, self.end);
        self.end += length;
    }

    /// Drops the rest.
    fn finish(self) {
        self.file.truncate(self.end);
    }
}

/// `N` bytes of a file from `at` on.
fn array<const N: usize>(file: &[u8], at: usize) -> Option<[u8; N]> {
    file.get(at..)?.first_chunk().copied()
}

#[cfg(test)]
mod tests;
