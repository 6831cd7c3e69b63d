//! A zlib stream (RFC 1950) that the GPU writes: one deflate block with a Huffman code of its own (RFC 1951), whose
//! symbols are written strip by strip at once.
//!
//! ```text
//! bytes ─> tallies (GPU) ─> Stream: a code, and the bit where each strip's symbols begin ─> symbols (GPU) ─> finish
//! ```

/// Bytes of a strip; the last may have fewer.
pub(crate) const STRIP: usize = 1 << 16;

/// Symbols that are used: bytes, the end of the block, and lengths up to that of a repetition.
pub(crate) const SYMBOLS: usize = REPEAT + 1;

/// What is known of a strip: how often it has each symbol, the sum of its bytes, and their sum weighted by how many of
/// the strip's come from there on; both sums modulo [`ADLER`].
pub(crate) const TALLY: usize = SYMBOLS + 2;

/// Ends the block.
const END: usize = 256;

/// Eight times the byte before: length 8, which has no extra bits, and after it the distance.
const REPEAT: usize = 262;

/// Bits of the distance, which is one: the only distance has the code 0.
const DISTANCE_BITS: u8 = 1;

/// Bits of the longest code.
const LONGEST: u8 = 15;

/// Deflate with a window of 32 KiB, compressed fast.
const ZLIB: [u8; 2] = [0x78, 0x01];

/// Bits of the block before its symbols; see [`Stream::write_header`].
const HEADER_BITS: u64 = 3 + 5 + 5 + 4 + 19 * 3 + 4 * (SYMBOLS as u64 + 1);

/// The largest prime below 2^16.
const ADLER: u64 = 65_521;

/// What the GPU needs to know to write a stream, and what it leaves to the host.
pub(crate) struct Stream {
    lengths: [u8; SYMBOLS],
    /// Bits before the first symbol of each strip.
    starts: Vec<u64>,
    /// Bits before the end of the block.
    end: u64,
    adler: u32,
}

impl Stream {
    /// The most bytes that a stream of so many takes: no code has more than two bytes.
    pub(crate) const fn most(count: usize) -> usize {
        ZLIB.len() + HEADER_BITS.div_ceil(8) as usize + 2 * count + 2 + size_of::<u32>()
    }

    /// Of bytes whose strips have these tallies.
    pub(crate) fn plan(tallies: &[u32], count: usize) -> Self {
        let strips = tallies.chunks_exact(TALLY);
        let mut counts = [0; SYMBOLS];
        for tally in strips.clone() {
            for (all, own) in counts.iter_mut().zip(tally) {
                *all += own;
            }
        }
        counts[END] = 1;
        let lengths = lengths(&counts);
        let mut starts = Vec::with_capacity(strips.len());
        let mut end = 8 * ZLIB.len() as u64 + HEADER_BITS;
        let (mut sum, mut weighted) = (1, 0);
        for (strip, tally) in strips.enumerate() {
            starts.push(end);
            let symbols = tally.iter().zip(bits(&lengths));
            end += symbols
                .map(|(&count, bits)| u64::from(count) * u64::from(bits))
                .sum::<u64>();
            let bytes = STRIP.min(count - strip * STRIP) as u64;
            weighted = (weighted + bytes * sum + u64::from(tally[SYMBOLS + 1])) % ADLER;
            sum = (sum + u64::from(tally[SYMBOLS])) % ADLER;
        }
        Self {
            lengths,
            starts,
            end,
            adler: (weighted << 16 | sum) as u32,
        }
    }

    /// The stream's size.
    pub(crate) fn bytes(&self) -> usize {
        let bits = self.end + u64::from(self.lengths[END]);
        bits.div_ceil(8) as usize + size_of_val(&self.adler)
    }

    /// For each symbol its number of bits << 16 and the bits, the first one lowest. A repetition's has its distance behind
    /// it.
    pub(crate) fn codes(&self) -> [u32; SYMBOLS] {
        let mut codes = codes(&self.lengths);
        for (code, bits) in codes.iter_mut().zip(bits(&self.lengths)) {
            *code |= u32::from(bits) << 16;
        }
        codes
    }

    /// The bit where each strip's symbols begin.
    pub(crate) fn starts(&self) -> &[u64] {
        &self.starts
    }

    /// Writes everything but the symbols, whose bits are there while all others are zero.
    pub(crate) fn finish(&self, stream: &mut [u8]) {
        stream[..ZLIB.len()].copy_from_slice(&ZLIB);
        self.write_header(stream);
        let end = (codes(&self.lengths)[END], self.lengths[END]);
        write(stream, &mut self.end.clone(), end);
        let checksum = stream.len() - size_of_val(&self.adler);
        stream[checksum..].copy_from_slice(&self.adler.to_be_bytes());
    }

    /// The lengths are written as they are, each in four bits: a code for them would hardly be shorter.
    fn write_header(&self, stream: &mut [u8]) {
        let mut at = 8 * ZLIB.len() as u64;
        let mut put = |value: u32, bits: u8| write(stream, &mut at, (value, bits));
        // The last block, with a code of its own.
        put(1, 1);
        put(2, 2);
        put((SYMBOLS - 257) as u32, 5);
        put(0, 5);
        put(15, 4);
        // Of the code for lengths: none for what repeats lengths, four bits for each length.
        for bits in [0; 3].into_iter().chain([4; 16]) {
            put(bits, 3);
        }
        for &length in self.lengths.iter().chain(&[DISTANCE_BITS]) {
            put(reversed(u32::from(length), 4), 4);
        }
    }
}

/// The bits of each symbol, its distance's included.
fn bits(lengths: &[u8; SYMBOLS]) -> [u8; SYMBOLS] {
    let mut bits = *lengths;
    bits[REPEAT] += DISTANCE_BITS;
    bits
}

/// Puts the lowest bits of a value where there are zeros.
fn write(stream: &mut [u8], at: &mut u64, (value, bits): (u32, u8)) {
    let mut value = u64::from(value) << (*at % 8);
    let mut byte = (*at / 8) as usize;
    while value > 0 {
        stream[byte] |= value as u8;
        value >>= 8;
        byte += 1;
    }
    *at += u64::from(bits);
}

/// The lowest bits in the opposite order; there is one at least.
fn reversed(value: u32, bits: u8) -> u32 {
    value.reverse_bits() >> (u32::BITS - u32::from(bits))
}

/// Lengths of the codes of symbols, at least two of which occur: none is longer than [`LONGEST`], and together they are
/// as short as can be, or nearly where that would take longer ones.
fn lengths(counts: &[u32; SYMBOLS]) -> [u8; SYMBOLS] {
    let mut counts = *counts;
    loop {
        let lengths = huffman(&counts);
        if lengths.iter().all(|&length| length <= LONGEST) {
            return lengths;
        }
        // Counts that differ less have lengths that differ less.
        for count in &mut counts {
            *count = count.div_ceil(2);
        }
    }
}

/// Huffman's lengths (A Method for the Construction of Minimum-Redundancy Codes, 1952), from two queues of nodes.
fn huffman(counts: &[u32; SYMBOLS]) -> [u8; SYMBOLS] {
    let mut symbols: Vec<usize> = (0..SYMBOLS).filter(|&symbol| counts[symbol] > 0).collect();
    symbols.sort_unstable_by_key(|&symbol| (counts[symbol], symbol));
    let leaves = symbols.len();
    let mut weights: Vec<u32> = symbols.iter().map(|&symbol| counts[symbol]).collect();
    let mut parents = vec![0; 2 * leaves];
    let (mut leaf, mut inner) = (0, leaves);
    for parent in leaves..2 * leaves - 1 {
        let mut weight = 0;
        for _ in 0..2 {
            let take_leaf = leaf < leaves && (inner == parent || weights[leaf] <= weights[inner]);
            let node = if take_leaf { &mut leaf } else { &mut inner };
            weight += weights[*node];
            parents[*node] = parent;
            *node += 1;
        }
        weights.push(weight);
    }
    let mut depths = vec![0; 2 * leaves];
    for node in (0..2 * leaves - 2).rev() {
        depths[node] = depths[parents[node]] + 1;
    }
    let mut lengths = [0; SYMBOLS];
    for (&symbol, &depth) in symbols.iter().zip(&depths) {
        lengths[symbol] = depth;
    }
    lengths
}

/// The canonical codes of lengths (RFC 1951, 3.2.2), the first bit lowest.
fn codes(lengths: &[u8; SYMBOLS]) -> [u32; SYMBOLS] {
    let mut codes = [0; SYMBOLS];
    let mut next = 0;
    for length in 1..=LONGEST {
        next <<= 1;
        let all = codes.iter_mut().zip(lengths);
        for (code, _) in all.filter(|&(_, &of)| of == length) {
            *code = reversed(next, length);
            next += 1;
        }
    }
    codes
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::vec;
    use proptest::prelude::*;

    /// The symbols of bytes, as the GPU finds them.
    fn symbols(bytes: &[u8]) -> Vec<Vec<usize>> {
        let of_unit = |(number, unit): (usize, &[u8])| match number.checked_sub(1) {
            Some(before)
                if unit.len() == 8 && unit.iter().all(|&byte| byte == bytes[8 * before + 7]) =>
            {
                vec![REPEAT]
            }
            _ => unit.iter().map(|&byte| usize::from(byte)).collect(),
        };
        let units: Vec<Vec<usize>> = bytes.chunks(8).enumerate().map(of_unit).collect();
        units.chunks(STRIP / 8).map(<[_]>::concat).collect()
    }

    fn tallies(bytes: &[u8]) -> Vec<u32> {
        let mut tallies = Vec::new();
        for (strip, symbols) in bytes.chunks(STRIP).zip(symbols(bytes)) {
            let mut tally = [0; TALLY];
            for symbol in symbols {
                tally[symbol] += 1;
            }
            for (at, &byte) in strip.iter().enumerate() {
                let weight = (strip.len() - at) as u64 * u64::from(byte);
                let sums = [u64::from(byte), weight];
                for (sum, more) in tally[SYMBOLS..].iter_mut().zip(sums) {
                    *sum = ((u64::from(*sum) + more) % ADLER) as u32;
                }
            }
            tallies.extend(tally);
        }
        tallies
    }

    fn compressed(bytes: &[u8]) -> Vec<u8> {
        let stream = Stream::plan(&tallies(bytes), bytes.len());
        let mut file = vec![0; stream.bytes()];
        assert!(file.len() <= Stream::most(bytes.len()));
        let (codes, starts) = (stream.codes(), stream.starts());
        let ends = starts[1..].iter().chain([&stream.end]);
        for ((symbols, &start), &end) in symbols(bytes).into_iter().zip(starts).zip(ends) {
            let mut at = start;
            for symbol in symbols {
                let code = codes[symbol];
                write(&mut file, &mut at, (code & 0xffff, (code >> 16) as u8));
            }
            assert_eq!(at, end);
        }
        stream.finish(&mut file);
        file
    }

    /// Reads a stream as the data of a grey image of one row, whose first byte says that it is not filtered.
    fn decompressed(stream: &[u8], count: usize) -> Vec<u8> {
        let mut file = Vec::new();
        let mut encoder = png::Encoder::new(&mut file, count as u32 - 1, 1);
        encoder.set_color(png::ColorType::Grayscale);
        let mut writer = encoder.write_header().unwrap();
        writer.write_chunk(png::chunk::IDAT, stream).unwrap();
        writer.finish().unwrap();
        let mut decoder = png::Decoder::new(std::io::Cursor::new(file));
        decoder.ignore_checksums(false);
        let mut reader = decoder.read_info().unwrap();
        let mut row = vec![0; count];
        reader.next_frame(&mut row[1..]).unwrap();
        row
    }

    /// Bytes that begin with the 0 of an unfiltered row.
    fn row(bytes: impl IntoIterator<Item = u8>) -> Vec<u8> {
        std::iter::once(0).chain(bytes).collect()
    }

    /// Numbers without a pattern.
    fn noise(count: u32) -> impl Iterator<Item = u8> {
        (0..count).map(|at| (at.wrapping_mul(2_654_435_761) >> 23) as u8)
    }

    #[test]
    fn every_kind_of_bytes_is_read_back() {
        for (what, bytes) in [
            ("two", row([7])),
            ("a unit", row([0; 7])),
            ("one value", row(std::iter::repeat_n(0, 700_000))),
            ("noise", row(noise(700_000))),
            ("a strip", row(noise(STRIP as u32 - 1))),
            ("a strip and one", row(noise(STRIP as u32))),
            (
                "mostly one value",
                row(noise(300_000).map(|byte| byte / 250)),
            ),
        ] {
            let stream = compressed(&bytes);
            assert!(decompressed(&stream, bytes.len()) == bytes, "{what}");
        }
    }

    #[test]
    fn one_value_takes_hardly_any_bits_and_noise_hardly_more_than_it_has() {
        let bytes = 3 << 20;
        assert!(compressed(&vec![0; bytes]).len() < bytes / 25);
        assert!(compressed(&row(noise(bytes as u32))).len() < bytes + bytes / 50);
    }

    #[test]
    fn counts_that_grow_like_fibonaccis_numbers_have_codes_that_are_short_enough() {
        let mut counts = [0; SYMBOLS];
        let (mut one, mut other) = (1, 1);
        for count in &mut counts[..30] {
            *count = one;
            (one, other) = (other, one + other);
        }
        assert!(huffman(&counts).iter().any(|&length| length > 15));
        let lengths = lengths(&counts);
        let used = lengths.iter().filter(|&&length| length > 0);
        let shares: f64 = used.map(|&length| 0.5f64.powi(i32::from(length))).sum();
        assert!(lengths.iter().all(|&length| length <= 15));
        assert_eq!(shares, 1.0);
    }

    #[test]
    fn codes_are_those_of_the_specification() {
        // RFC 1951, 3.2.2: lengths (3, 3, 3, 3, 3, 2, 4, 4) for ABCDEFGH.
        let mut lengths = [0; SYMBOLS];
        lengths[..8].copy_from_slice(&[3, 3, 3, 3, 3, 2, 4, 4]);
        let codes = codes(&lengths);
        let code = |symbol: usize| reversed(codes[symbol], lengths[symbol]);
        let expected = [0b010, 0b011, 0b100, 0b101, 0b110, 0b00, 0b1110, 0b1111];
        assert_eq!([0, 1, 2, 3, 4, 5, 6, 7].map(code), expected);
    }

    proptest! {
        #[test]
        fn whatever_the_bytes_they_are_read_back(
            runs in vec((any::<u8>(), 1usize..400), 1..300),
        ) {
            let runs = runs.into_iter().flat_map(|(byte, length)| vec![byte; length]);
            let bytes = row(runs);
            prop_assert!(decompressed(&compressed(&bytes), bytes.len()) == bytes);
        }
    }
}
