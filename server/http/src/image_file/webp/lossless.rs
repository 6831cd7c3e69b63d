//! Lossless WebP (<https://developers.google.com/speed/webp/docs/webp_lossless_bitstream_specification>), up to its pixels.
//!
//! Parts of an image may have prefix codes of their own: up to 65536 groups of five, however small the image is. The decoder
//! makes tables of all of them, four kilobytes of eleven bytes, so a file of four megabytes could take a gigabyte. This reads
//! a file as far as its codes and adds up what their tables would take.

use super::super::{Problem, unreadable};

/// Bytes that a file's tables take at the most. libwebp writes up to 2600 groups, of some kilobytes each.
pub(in super::super) const MOST_TABLE_BYTES: u64 = 32 << 20;

const SIGNATURE: u32 = 0x2f;
/// Literals of green; behind them lengths, behind those the colour cache.
const LITERALS: u32 = 256;
const LENGTHS: u32 = 24;
const DISTANCES: u32 = 40;
const LONGEST_CODE: usize = 15;
/// Codes up to this length are looked up in one table.
const TABLE_BITS: usize = 10;
const CODE_LENGTH_ORDER: [usize; 19] = [
    17, 18, 0, 1, 2, 3, 4, 5, 16, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15,
];
/// Columns and rows back to pixels nearby, by their code.
#[rustfmt::skip]
const NEAR: [(i8, i8); 120] = [
    (0, 1),  (1, 0),  (1, 1),  (-1, 1), (0, 2),  (2, 0),  (1, 2),  (-1, 2),
    (2, 1),  (-2, 1), (2, 2),  (-2, 2), (0, 3),  (3, 0),  (1, 3),  (-1, 3),
    (3, 1),  (-3, 1), (2, 3),  (-2, 3), (3, 2),  (-3, 2), (0, 4),  (4, 0),
    (1, 4),  (-1, 4), (4, 1),  (-4, 1), (3, 3),  (-3, 3), (2, 4),  (-2, 4),
    (4, 2),  (-4, 2), (0, 5),  (3, 4),  (-3, 4), (4, 3),  (-4, 3), (5, 0),
    (1, 5),  (-1, 5), (5, 1),  (-5, 1), (2, 5),  (-2, 5), (5, 2),  (-5, 2),
    (4, 4),  (-4, 4), (3, 5),  (-3, 5), (5, 3),  (-5, 3), (0, 6),  (6, 0),
    (1, 6),  (-1, 6), (6, 1),  (-6, 1), (2, 6),  (-2, 6), (6, 2),  (-6, 2),
    (4, 5),  (-4, 5), (5, 4),  (-5, 4), (3, 6),  (-3, 6), (6, 3),  (-6, 3),
    (0, 7),  (7, 0),  (1, 7),  (-1, 7), (5, 5),  (-5, 5), (7, 1),  (-7, 1),
    (4, 6),  (-4, 6), (6, 4),  (-6, 4), (2, 7),  (-2, 7), (7, 2),  (-7, 2),
    (3, 7),  (-3, 7), (7, 3),  (-7, 3), (5, 6),  (-5, 6), (6, 5),  (-6, 5),
    (8, 0),  (4, 7),  (-4, 7), (7, 4),  (-7, 4), (8, 1),  (8, 2),  (6, 6),
    (-6, 6), (8, 3),  (5, 7),  (-5, 7), (7, 5),  (-7, 5), (8, 4),  (6, 7),
    (-6, 7), (7, 6),  (-7, 6), (8, 5),  (7, 7),  (-7, 7), (8, 6),  (8, 7),
];

/// The width and height that a bitstream says.
pub(super) fn size(data: &[u8]) -> Option<(u32, u32)> {
    header(&mut Bits { data, at: 0 })
}

/// Checks that the tables of a bitstream are not too large. Takes time and memory as the pixels do.
pub(super) fn check(data: &[u8]) -> Result<(), Problem> {
    let mut bits = Bits { data, at: 0 };
    let bytes = header(&mut bits).and_then(|size| table_bytes(&mut bits, size));
    match bytes {
        None => Err(unreadable("its codes are damaged")),
        Some(bytes) if bytes > MOST_TABLE_BYTES => Err(unreadable(
            "its tables of codes are too large; save it anew",
        )),
        Some(_) => Ok(()),
    }
}

fn header(bits: &mut Bits<'_>) -> Option<(u32, u32)> {
    if bits.take(8)? != SIGNATURE {
        return None;
    }
    let (width, height) = (bits.take(14)? + 1, bits.take(14)? + 1);
    let _alpha_and_version = bits.take(4)?;
    Some((width, height))
}

/// Bytes that the decoder's tables for the image take; it stops adding where they are too many.
fn table_bytes(bits: &mut Bits<'_>, (width, height): (u32, u32)) -> Option<u64> {
    let mut columns = width;
    let mut seen = [false; 4];
    while bits.take(1)? == 1 {
        let transform = bits.take(2)?;
        if std::mem::replace(&mut seen[transform as usize], true) {
            return None;
        }
        match transform {
            2 => {}
            3 => {
                let colors = bits.take(8)? + 1;
                bits.image(colors, 1)?;
                let packed = match colors {
                    0..=2 => 3,
                    3..=4 => 2,
                    5..=16 => 1,
                    _ => 0,
                };
                columns = columns.div_ceil(1 << packed);
            }
            _ => {
                let block = bits.take(3)? + 2;
                bits.image(columns.div_ceil(1 << block), height.div_ceil(1 << block))?;
            }
        }
    }
    let cache = bits.cache_bits()?;
    let mut groups = 1;
    if bits.take(1)? == 1 {
        let block = bits.take(3)? + 2;
        let which = bits.image(columns.div_ceil(1 << block), height.div_ceil(1 << block))?;
        let last = which.iter().map(|pixel| (pixel >> 8) & 0xffff).max()?;
        groups = last + 1;
    }
    let mut bytes = 0;
    for _ in 0..groups {
        bytes += bits
            .group(cache)?
            .iter()
            .map(Code::table_bytes)
            .sum::<u64>();
        if bytes > MOST_TABLE_BYTES {
            break;
        }
    }
    Some(bytes)
}

/// Bits, the lowest of each byte first. There are none behind the end.
struct Bits<'a> {
    data: &'a [u8],
    at: usize,
}

impl Bits<'_> {
    fn take(&mut self, count: u32) -> Option<u32> {
        let mut value = 0;
        for place in 0..count {
            let byte = self.data.get(self.at / 8)?;
            value |= u32::from(byte >> (self.at % 8) & 1) << place;
            self.at += 1;
        }
        Some(value)
    }

    /// How many bits of a colour's hash the colour cache uses; 0: there is none.
    fn cache_bits(&mut self) -> Option<u32> {
        if self.take(1)? == 0 {
            return Some(0);
        }
        self.take(4).filter(|bits| (1..=11).contains(bits))
    }

    /// The codes of green, red, blue, alpha and distances.
    fn group(&mut self, cache: u32) -> Option<[Code; 5]> {
        let colors = if cache == 0 { 0 } else { 1 << cache };
        let green = LITERALS + LENGTHS + colors;
        Some([
            self.code(green)?,
            self.code(LITERALS)?,
            self.code(LITERALS)?,
            self.code(LITERALS)?,
            self.code(DISTANCES)?,
        ])
    }

    fn code(&mut self, symbols: u32) -> Option<Code> {
        if self.take(1)? == 1 {
            let two = self.take(1)? == 1;
            let length = if self.take(1)? == 1 { 8 } else { 1 };
            let first = self.take(length)?;
            let second = if two { Some(self.take(8)?) } else { None };
            let known = |symbol: u32| symbol < symbols;
            if !known(first) || second.is_some_and(|second| !known(second)) {
                return None;
            }
            return Some(Code::simple(first, second));
        }
        let mut of_lengths = [0; CODE_LENGTH_ORDER.len()];
        for position in CODE_LENGTH_ORDER.iter().take(4 + self.take(4)? as usize) {
            of_lengths[*position] = self.take(3)? as u8;
        }
        let lengths = self.lengths(&Code::new(&of_lengths)?, symbols)?;
        Code::new(&lengths)
    }

    /// The lengths of a code's words, written in another code.
    fn lengths(&mut self, code: &Code, symbols: u32) -> Option<Vec<u8>> {
        let mut words = symbols;
        if self.take(1)? == 1 {
            let bits = 2 + 2 * self.take(3)?;
            words = 2 + self.take(bits)?;
            if words > symbols {
                return None;
            }
        }
        let mut lengths = Vec::with_capacity(symbols as usize);
        let mut last = 8;
        for _ in 0..words {
            if lengths.len() == symbols as usize {
                break;
            }
            let (length, times) = match self.symbol(code)? {
                length @ 0..16 => (length as u8, 1),
                16 => (last, 3 + self.take(2)?),
                17 => (0, 3 + self.take(3)?),
                _ => (0, 11 + self.take(7)?),
            };
            if length != 0 {
                last = length;
            }
            lengths.resize(lengths.len() + times as usize, length);
            if lengths.len() > symbols as usize {
                return None;
            }
        }
        lengths.resize(symbols as usize, 0);
        Some(lengths)
    }

    fn symbol(&mut self, code: &Code) -> Option<u32> {
        let (mut word, mut first, mut index) = (0, 0, 0);
        if code.counts[0] != 0 {
            return code.symbols.first().copied();
        }
        for &count in &code.counts[1..] {
            word |= self.take(1)?;
            if word < first + count {
                return code.symbols.get((index + word - first) as usize).copied();
            }
            index += count;
            first = (first + count) << 1;
            word <<= 1;
        }
        None
    }

    /// A number that a length's or distance's symbol begins.
    fn number(&mut self, symbol: u32) -> Option<usize> {
        if symbol < 4 {
            return Some(symbol as usize + 1);
        }
        let extra = (symbol - 2) >> 1;
        let offset = (2 + (symbol & 1)) << extra;
        Some((offset + self.take(extra)?) as usize + 1)
    }

    /// The pixels (alpha, red, green, blue) of an image that only describes the real one.
    fn image(&mut self, width: u32, height: u32) -> Option<Vec<u32>> {
        let cache_bits = self.cache_bits()?;
        let mut cache = vec![0; 1 << cache_bits];
        let [green, red, blue, alpha, distance] = self.group(cache_bits)?;
        let count = width as usize * height as usize;
        let mut pixels: Vec<u32> = Vec::with_capacity(count);
        while pixels.len() < count {
            let before = pixels.len();
            match self.symbol(&green)? {
                level @ 0..LITERALS => {
                    let red = self.symbol(&red)?;
                    let blue = self.symbol(&blue)?;
                    let alpha = self.symbol(&alpha)?;
                    pixels.push(alpha << 24 | red << 16 | level << 8 | blue);
                }
                symbol if symbol < LITERALS + LENGTHS => {
                    let length = self.number(symbol - LITERALS)?;
                    let symbol = self.symbol(&distance)?;
                    let back = distance_back(self.number(symbol)?, width);
                    if back > before || length > count - before {
                        return None;
                    }
                    for at in before..before + length {
                        pixels.push(pixels[at - back]);
                    }
                }
                symbol => pixels.push(*cache.get((symbol - LITERALS - LENGTHS) as usize)?),
            }
            if cache_bits > 0 {
                for &pixel in &pixels[before..] {
                    cache[(0x1e35_a7bd_u32.wrapping_mul(pixel) >> (32 - cache_bits)) as usize] =
                        pixel;
                }
            }
        }
        Some(pixels)
    }
}

/// How many pixels back a distance's number means.
fn distance_back(number: usize, width: u32) -> usize {
    match NEAR.get(number - 1) {
        None => number - NEAR.len(),
        Some(&(columns, rows)) => {
            let back = i64::from(columns) + i64::from(rows) * i64::from(width);
            back.max(1) as usize
        }
    }
}

/// A canonical prefix code. A code of one symbol takes no bits: it is counted as one of length 0.
struct Code {
    counts: [u32; LONGEST_CODE + 1],
    /// By the length of their words, then in order.
    symbols: Vec<u32>,
}

impl Code {
    fn simple(first: u32, second: Option<u32>) -> Self {
        let mut counts = [0; LONGEST_CODE + 1];
        counts[usize::from(second.is_some())] = if second.is_some() { 2 } else { 1 };
        let symbols = [Some(first), second].into_iter().flatten().collect();
        Self { counts, symbols }
    }

    /// The code whose words have these lengths. `None`: there is no such code.
    fn new(lengths: &[u8]) -> Option<Self> {
        let mut counts = [0; LONGEST_CODE + 1];
        for &length in lengths.iter().filter(|length| **length != 0) {
            *counts.get_mut(usize::from(length))? += 1;
        }
        let mut words: Vec<_> = (0..)
            .zip(lengths)
            .filter(|(_, length)| **length != 0)
            .collect();
        words.sort_by_key(|(_, length)| **length);
        let symbols: Vec<u32> = words.into_iter().map(|(symbol, _)| symbol).collect();
        if let [only] = symbols[..] {
            return Some(Self::simple(only, None));
        }
        // Each word ends a share of all longer ones; a code that can be read has no share left.
        let shares = counts
            .iter()
            .zip(0..)
            .map(|(count, length)| count << (LONGEST_CODE - length));
        (shares.sum::<u32>() == 1 << LONGEST_CODE).then_some(Self { counts, symbols })
    }

    /// What the decoder's table for it takes: a word of 32 bits for each start of `TABLE_BITS`, two nodes for each longer
    /// one, and the bookkeeping.
    fn table_bytes(&self) -> u64 {
        const NODE: u64 = 16;
        const BOOKKEEPING: u64 = 64;
        let longest = self.counts.iter().rposition(|count| *count != 0);
        let longest = longest.unwrap_or_default();
        if longest == 0 {
            return BOOKKEEPING;
        }
        let longer: u32 = self.counts[TABLE_BITS + 1..].iter().sum();
        let table = 4 << longest.min(TABLE_BITS);
        BOOKKEEPING + table + 2 * NODE * u64::from(longer)
    }
}
