//! Image files inside a body: base64, alone or as data URLs, decoded within the memory that the request may hold.

use crate::error::ApiError;
use crate::image_file::ImageFile;
use base64_simd::STANDARD;
use std::sync::Arc;
use zimage_core::inputs::Input;
use zimage_core::pixels::Pixels;
use zimage_edge::Charge;

/// The memory that a request holds: what is kept, and what work needs meanwhile.
pub(super) struct Memory {
    charge: Charge,
    kept: usize,
    body: usize,
}

impl Memory {
    /// Keeps what is charged already, for the body.
    pub(super) fn new(charge: Charge) -> Self {
        let body = charge.bytes();
        Self {
            charge,
            kept: body,
            body,
        }
    }

    /// Holds so many bytes beside those that are kept.
    fn hold(&mut self, bytes: usize) -> Result<(), ApiError> {
        match self.charge.try_grow(self.kept.saturating_add(bytes)) {
            true => Ok(()),
            false => Err(ApiError::overloaded()),
        }
    }

    /// Keeps so many bytes more and nothing beside them.
    fn keep(&mut self, bytes: usize) {
        self.kept += bytes;
        self.charge.shrink(self.kept);
    }

    /// What is left when the body is gone: the pixels.
    pub(super) fn without_body(mut self) -> Charge {
        self.charge.shrink(self.kept - self.body);
        self.charge
    }
}

/// The pixels of a field's file.
///
/// # Errors
/// What is wrong with the file, or that there is no memory for it.
pub(super) fn decode(
    text: &str,
    input: Input,
    memory: &mut Memory,
) -> Result<Arc<Pixels>, ApiError> {
    let field = input.field;
    let invalid = |problem: String| ApiError::invalid(field, format!("{field} {problem}"));
    let base64 = match text.strip_prefix("data:") {
        Some(url) => url.split_once(";base64,").map_or("", |(_, base64)| base64),
        None => text,
    };
    let length = base64.len() / 4 * 3;
    memory.hold(length)?;
    let bytes = STANDARD
        .decode_to_vec(base64)
        .map_err(|_| invalid("must be an image file in base64".to_owned()))?;
    let file = ImageFile::read(bytes).map_err(invalid)?;
    let (width, height) = file.size();
    input.check(width, height)?;
    memory.hold(length.saturating_add(file.decoding_bytes()))?;
    let pixels = file.decode().map_err(invalid)?;
    memory.keep(pixels.rgb().len());
    Ok(Arc::new(pixels))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::encode::{ImageFormat, encode};
    use std::net::{IpAddr, Ipv4Addr};
    use zimage_edge::{Budget, BudgetOptions, Metrics};

    /// Memory of a process that has so much of it.
    fn memory(bytes: usize) -> Memory {
        let options = BudgetOptions {
            total: bytes,
            client_parts: 1,
            largest: bytes,
            answers: 0,
        };
        let budget = Budget::new(options, Metrics::default());
        Memory::new(budget.charge(IpAddr::V4(Ipv4Addr::LOCALHOST)))
    }

    /// An image file in base64.
    fn file(width: u32, height: u32, format: ImageFormat) -> String {
        let pixels = Pixels::new(width, height, vec![7; (width * height * 3) as usize]).unwrap();
        STANDARD.encode_to_string(encode(&pixels, format, &[]).unwrap())
    }

    fn any(text: &str) -> Result<Arc<Pixels>, ApiError> {
        let input = Input::within("image", u64::MAX);
        decode(text, input, &mut memory(1 << 30))
    }

    #[test]
    fn files_of_every_format_are_read_alone_and_as_data_urls() {
        for format in [ImageFormat::Png, ImageFormat::Jpeg(100), ImageFormat::Webp] {
            let text = file(5, 3, format);
            let url = format!("data:image/png;base64,{text}");
            for text in [text, url] {
                let pixels = any(&text).unwrap();
                assert_eq!((pixels.width(), pixels.height()), (5, 3));
                assert!(pixels.rgb().iter().all(|level| level.abs_diff(7) < 2));
            }
        }
    }

    #[test]
    fn what_is_no_image_is_refused() {
        for (text, reason) in [
            ("https://example.com/a.png", "base64"),
            ("aGVsbG8=", "no readable image"),
            ("data:,hello", "no readable image"),
            ("", "no readable image"),
        ] {
            let problem = format!("{:?}", any(text).unwrap_err());
            assert!(problem.contains(reason), "{text}: {problem}");
        }
    }

    #[test]
    fn an_image_of_another_size_is_refused_before_it_has_memory() {
        let text = file(64, 48, ImageFormat::Png);
        let mut little = memory(text.len());
        let refused = decode(&text, Input::of_size("image", (48, 64)), &mut little);
        let problem = format!("{:?}", refused.unwrap_err());
        assert!(problem.contains("has 64x48 pixels"), "{problem}");
    }

    #[test]
    fn only_the_pixels_stay_in_memory_and_without_room_there_are_none() {
        let text = file(64, 64, ImageFormat::Png);
        let input = Input::of_size("image", (64, 64));
        let mut enough = memory(8 << 20);
        decode(&text, input, &mut enough).unwrap();
        assert_eq!(enough.without_body().bytes(), 64 * 64 * 3);
        let refused = decode(&text, input, &mut memory(64 << 10)).unwrap_err();
        assert!(format!("{refused:?}").contains("overloaded"), "{refused:?}");
    }
}
