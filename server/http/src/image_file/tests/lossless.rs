//! Lossless WebP files with prefix codes of their own for parts of the image.

use super::{chunk, refused, webp};
use crate::image_file::ImageFile;

/// Bits, the lowest of each byte first.
#[derive(Default)]
struct Writer {
    bytes: Vec<u8>,
    bits: usize,
}

impl Writer {
    fn put(&mut self, value: u32, count: usize) {
        for place in 0..count {
            if self.bits.is_multiple_of(8) {
                self.bytes.push(0);
            }
            if let Some(last) = self.bytes.last_mut() {
                *last |= ((value >> place & 1) as u8) << (self.bits % 8);
            }
            self.bits += 1;
        }
    }

    /// A code of one symbol: it takes no bits.
    fn single(&mut self, symbol: u32) {
        self.put(0b101, 3);
        self.put(symbol, 8);
    }

    /// A code of the first symbols, with words of 1, 2, 3, … bits; the last two are equally long.
    fn staircase(&mut self, longest: u32) {
        self.put(0, 1);
        // The code lengths' own code: all of 0 to 15 have words of four bits, in the order of the specification.
        self.put(15, 4);
        for position in [
            17, 18, 0, 1, 2, 3, 4, 5, 16, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15,
        ] {
            self.put(if position < 16 { 4 } else { 0 }, 3);
        }
        let words = longest + 1;
        self.put(1, 1);
        self.put(2, 3);
        self.put(words - 2, 6);
        for length in (1..=longest).chain([longest]) {
            // Words begin with their highest bit.
            self.put(length.reverse_bits() >> 28, 4);
        }
    }
}

/// An image of 64x64 pixels in one colour with so many groups of codes, the first one used everywhere but in one block.
fn with_groups(groups: u32, longest: u32) -> Vec<u8> {
    let mut bits = Writer::default();
    bits.put(0x2f, 8);
    bits.put(63, 14);
    bits.put(63, 14);
    bits.put(0, 4);
    // No transform, no colour cache, groups for blocks of 4x4 pixels.
    bits.put(0, 1);
    bits.put(0, 1);
    bits.put(1, 1);
    bits.put(0, 3);
    // The image of the groups' numbers: no colour cache; red and green say the number.
    bits.put(0, 1);
    bits.single((groups - 1) & 0xff);
    bits.single((groups - 1) >> 8);
    for _ in 0..3 {
        bits.single(0);
    }
    for _ in 1..groups {
        for _ in 0..5 {
            bits.staircase(longest);
        }
    }
    // The last group, which is the one that is used.
    for level in [20, 10, 30, 255, 0] {
        bits.single(level);
    }
    webp(&[chunk(b"VP8L", &bits.bytes)])
}

#[test]
fn groups_of_codes_are_read_as_the_decoder_reads_them() {
    for (groups, longest) in [(1, 10), (2, 10), (300, 10), (300, 15), (1000, 1)] {
        let decoded = ImageFile::read(with_groups(groups, longest))
            .unwrap()
            .decode();
        let decoded = decoded.unwrap_or_else(|problem| panic!("{groups}, {longest}: {problem}"));
        assert!(
            decoded.rgb().chunks(3).all(|pixel| pixel == [10, 20, 30]),
            "{groups}"
        );
    }
}

/// A gigabyte of tables from a file of five megabytes.
#[test]
fn more_tables_than_an_image_is_worth_are_refused() {
    let bytes = with_groups(65_536, 10);
    assert!(bytes.len() < 6 << 20);
    let problem = refused(bytes);
    assert!(
        problem.contains("tables of codes are too large"),
        "{problem}"
    );
}

#[test]
fn a_transform_that_comes_twice_is_refused() {
    let mut bits = Writer::default();
    bits.put(0x2f, 8);
    bits.put(63, 14);
    bits.put(63, 14);
    bits.put(0, 4);
    for _ in 0..100_000 {
        // A predictor for blocks of 4x4 pixels, all of one kind.
        bits.put(0b001, 3);
        bits.put(0, 3);
        bits.put(0, 1);
        for _ in 0..5 {
            bits.single(0);
        }
    }
    assert!(refused(webp(&[chunk(b"VP8L", &bits.bytes)])).contains("damaged"));
}
