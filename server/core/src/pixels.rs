//! Images in host memory.

/// An 8-bit RGB image, row by row, three bytes a pixel.
#[derive(Clone, PartialEq, Eq)]
pub struct Pixels {
    width: u32,
    height: u32,
    rgb: Vec<u8>,
    png_data: Option<Vec<u8>>,
}

/// The buffer's length is not `width * height * 3`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an RGB image of {width}x{height} has {} bytes, not {actual}", u64::from(*width) * u64::from(*height) * 3)]
pub struct PixelCountMismatch {
    width: u32,
    height: u32,
    actual: usize,
}

impl Pixels {
    /// Wraps a buffer.
    ///
    /// # Errors
    /// When `rgb` does not hold exactly three bytes for each pixel.
    pub fn new(width: u32, height: u32, rgb: Vec<u8>) -> Result<Self, PixelCountMismatch> {
        if rgb.len() as u64 != u64::from(width) * u64::from(height) * 3 {
            return Err(PixelCountMismatch {
                width,
                height,
                actual: rgb.len(),
            });
        }
        Ok(Self {
            width,
            height,
            rgb,
            png_data: None,
        })
    }

    /// An image of one colour.
    pub fn filled(width: u32, height: u32, colour: [u8; 3]) -> Self {
        let count = width as usize * height as usize;
        Self {
            width,
            height,
            rgb: colour.repeat(count),
            png_data: None,
        }
    }

    /// With the same pixels as PNG's image data, which whoever made them has compressed.
    #[must_use]
    pub fn with_png_data(self, data: Vec<u8>) -> Self {
        Self {
            png_data: Some(data),
            ..self
        }
    }

    /// Width in pixels.
    pub const fn width(&self) -> u32 {
        self.width
    }

    /// Height in pixels.
    pub const fn height(&self) -> u32 {
        self.height
    }

    /// The bytes, row by row.
    pub fn rgb(&self) -> &[u8] {
        &self.rgb
    }

    /// The contents of an `IDAT` chunk (zlib, rows of eight-bit RGB), where they were made.
    pub fn png_data(&self) -> Option<&[u8]> {
        self.png_data.as_deref()
    }
}

impl std::fmt::Debug for Pixels {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Pixels({}x{})", self.width, self.height)
    }
}
