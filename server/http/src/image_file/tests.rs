//! Files as programs write them, and as nobody should.

mod lossless;

use super::*;
use crate::encode::{ImageFormat, encode};
use ::png::chunk::{ChunkType, IDAT};
use std::time::{Duration, Instant};

/// Levels that differ everywhere.
fn pixels(width: u32, height: u32) -> Pixels {
    let level = |at: u32| (at.wrapping_mul(2_654_435_761) >> 24) as u8;
    Pixels::new(width, height, (0..width * height * 3).map(level).collect()).unwrap()
}

fn file(format: ImageFormat) -> Vec<u8> {
    encode(&pixels(48, 32), format, &[]).unwrap()
}

fn refused(bytes: Vec<u8>) -> String {
    ImageFile::read(bytes)
        .and_then(ImageFile::decode)
        .unwrap_err()
}

/// A PNG of 48x32 pixels with other chunks before its image.
fn png_with(chunks: &[(&[u8; 4], &[u8])]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut encoder = ::png::Encoder::new(&mut bytes, 48, 32);
    encoder.set_color(::png::ColorType::Rgb);
    let mut writer = encoder.write_header().unwrap();
    for (kind, data) in chunks {
        writer.write_chunk(ChunkType(**kind), data).unwrap();
    }
    writer.write_image_data(pixels(48, 32).rgb()).unwrap();
    writer.finish().unwrap();
    bytes
}

/// A PNG of one kind of pixel, from its rows.
fn png_of(color: ::png::ColorType, depth: ::png::BitDepth, rows: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut encoder = ::png::Encoder::new(&mut bytes, 2, 1);
    encoder.set_color(color);
    encoder.set_depth(depth);
    if color == ::png::ColorType::Indexed {
        encoder.set_palette(vec![1, 2, 3, 4, 5, 6]);
        encoder.set_trns(vec![0, 255]);
    }
    let mut writer = encoder.write_header().unwrap();
    writer.write_image_data(rows).unwrap();
    writer.finish().unwrap();
    bytes
}

/// A JPEG with a segment behind its first marker.
fn jpeg_with(marker: u8, data: &[u8], times: usize) -> Vec<u8> {
    let jpeg = file(ImageFormat::Jpeg(90));
    let length = u16::try_from(data.len() + 2).unwrap().to_be_bytes();
    let segment = [&[0xff, marker], &length[..], data].concat();
    [&jpeg[..2], &segment.repeat(times), &jpeg[2..]].concat()
}

fn chunk(kind: &[u8; 4], data: &[u8]) -> Vec<u8> {
    let length = u32::try_from(data.len()).unwrap().to_le_bytes();
    let padding = vec![0; data.len() % 2];
    [kind, &length[..], data, &padding].concat()
}

fn webp(chunks: &[Vec<u8>]) -> Vec<u8> {
    chunk(b"RIFF", &[b"WEBP".to_vec(), chunks.concat()].concat())
}

fn three(number: u32) -> [u8; 3] {
    let [a, b, c, _] = number.to_le_bytes();
    [a, b, c]
}

fn extended(flags: u8, width: u32, height: u32) -> Vec<u8> {
    let data = [&[flags, 0, 0, 0], &three(width - 1)[..], &three(height - 1)].concat();
    chunk(b"VP8X", &data)
}

/// The only chunk of a plain file.
fn bitstream() -> Vec<u8> {
    file(ImageFormat::Webp)[12..].to_vec()
}

#[test]
fn every_format_gives_its_size_and_its_pixels() {
    for format in [ImageFormat::Png, ImageFormat::Jpeg(100), ImageFormat::Webp] {
        let read = ImageFile::read(file(format)).unwrap();
        assert_eq!(read.size(), (48, 32), "{format:?}");
        let decoded = read.decode().unwrap();
        assert_eq!((decoded.width(), decoded.height()), (48, 32));
        if !matches!(format, ImageFormat::Jpeg(_)) {
            assert!(decoded == pixels(48, 32), "{format:?}");
        }
    }
}

#[test]
fn what_is_no_image_is_refused() {
    for bytes in [
        &b""[..],
        b"hello",
        b"GIF89a",
        b"BM",
        b"\x89PNG\r\n\x1a\n",
        b"\xff\xd8\xff\xd9",
        b"RIFF____WEBP",
    ] {
        let problem = refused(bytes.to_vec());
        assert!(problem.contains("is no readable image"), "{problem}");
    }
}

#[test]
fn every_kind_of_png_becomes_rgb_of_eight_bits() {
    use ::png::{BitDepth, ColorType};
    for (color, depth, rows, rgb) in [
        (
            ColorType::Grayscale,
            BitDepth::Eight,
            &[9, 200][..],
            [9, 9, 9, 200, 200, 200],
        ),
        (
            ColorType::Grayscale,
            BitDepth::One,
            &[0b0100_0000],
            [0, 0, 0, 255, 255, 255],
        ),
        (
            ColorType::GrayscaleAlpha,
            BitDepth::Eight,
            &[9, 0, 200, 255],
            [9, 9, 9, 200, 200, 200],
        ),
        (
            ColorType::Rgba,
            BitDepth::Eight,
            &[1, 2, 3, 0, 4, 5, 6, 255],
            [1, 2, 3, 4, 5, 6],
        ),
        (
            ColorType::Rgb,
            BitDepth::Sixteen,
            &[0, 127, 0, 129, 255, 255, 1, 1, 2, 2, 254, 253],
            [0, 1, 255, 1, 2, 254],
        ),
        (
            ColorType::Indexed,
            BitDepth::Two,
            &[0b0001_0000],
            [1, 2, 3, 4, 5, 6],
        ),
    ] {
        let decoded = ImageFile::read(png_of(color, depth, rows))
            .unwrap()
            .decode();
        assert_eq!(decoded.unwrap().rgb(), rgb, "{color:?} {depth:?}");
    }
}

/// So little data that the decoder has not given out a row when it is all read.
#[test]
fn a_png_of_a_few_bytes_has_all_its_rows() {
    let mut bytes = Vec::new();
    let mut encoder = ::png::Encoder::new(&mut bytes, 64, 64);
    encoder.set_color(::png::ColorType::Rgba);
    encoder.set_depth(::png::BitDepth::Sixteen);
    encoder.set_compression(::png::Compression::High);
    let mut writer = encoder.write_header().unwrap();
    writer.write_image_data(&[0x80; 64 * 64 * 8]).unwrap();
    writer.finish().unwrap();
    let decoded = ImageFile::read(bytes).unwrap().decode().unwrap();
    assert!(decoded.rgb().iter().all(|level| *level == 0x80));
}

#[test]
fn an_interlaced_png_has_its_pixels_in_place() {
    // Adam7's seven passes of a 2x2 image: pixels (0, 0), then (1, 0), then the second row.
    let rows = [&[0, 1, 2, 3][..], &[0, 4, 5, 6], &[0, 7, 8, 9, 10, 11, 12]].concat();
    let mut encoder_input = Vec::new();
    let mut stored = vec![0x78, 0x01, 0x01];
    let length = u16::try_from(rows.len()).unwrap();
    stored.extend([length.to_le_bytes(), (!length).to_le_bytes()].concat());
    stored.extend(&rows);
    stored.extend(adler32(&rows).to_be_bytes());
    let header = [
        &2_u32.to_be_bytes()[..],
        &2_u32.to_be_bytes(),
        &[8, 2, 0, 0, 1],
    ]
    .concat();
    encoder_input.extend(b"\x89PNG\r\n\x1a\n");
    for (kind, data) in [(b"IHDR", header), (b"IDAT", stored), (b"IEND", Vec::new())] {
        encoder_input.extend(u32::try_from(data.len()).unwrap().to_be_bytes());
        encoder_input.extend(kind);
        encoder_input.extend(&data);
        encoder_input.extend(crc32(&[kind, &data[..]].concat()).to_be_bytes());
    }
    let decoded = ImageFile::read(encoder_input).unwrap().decode().unwrap();
    assert_eq!(decoded.rgb(), [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]);
}

fn adler32(data: &[u8]) -> u32 {
    let sums = data.iter().fold((1, 0), |(low, high), byte| {
        let low = (low + u32::from(*byte)) % 65521;
        (low, (high + low) % 65521)
    });
    sums.1 << 16 | sums.0
}

fn crc32(data: &[u8]) -> u32 {
    let byte = |crc: u32, byte: &u8| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
            crc >> 1 ^ (0xedb8_8320 & (crc & 1).wrapping_neg())
        })
    };
    !data.iter().fold(!0, byte)
}

/// A profile that takes half a gigabyte when it is inflated.
#[test]
fn profiles_texts_and_further_frames_of_a_png_are_dropped_before_any_decoder_sees_them() {
    let profile = [&b"x\0\0"[..], &[0x55; 500_000]].concat();
    let animation = [0; 26];
    let kinds = [
        b"iCCP", b"eXIf", b"zTXt", b"iTXt", b"tEXt", b"acTL", b"fcTL", b"fdAT",
    ];
    let mut chunks: Vec<(&[u8; 4], &[u8])> = kinds.map(|kind| (kind, &profile[..])).to_vec();
    chunks.push((b"fcTL", &animation));
    let read = ImageFile::read(png_with(&chunks)).unwrap();
    let plain = ImageFile::read(png_with(&[])).unwrap();
    assert!(
        read.bytes.len() <= plain.bytes.len() + 12,
        "{}",
        read.bytes.len()
    );
    assert!(read.decode().unwrap() == pixels(48, 32));
}

#[test]
fn an_endless_number_of_small_chunks_costs_nothing() {
    let chunks = vec![(b"tEXt", &b"k\0v"[..]); 300_000];
    assert!(
        ImageFile::read(png_with(&chunks))
            .unwrap()
            .decode()
            .unwrap()
            == pixels(48, 32)
    );
}

/// Twelve megabytes that would inflate to twelve gigabytes.
#[test]
fn data_behind_the_last_row_of_a_png_is_not_inflated() {
    let zeros = |length: usize| {
        let mut bytes = Vec::new();
        let mut encoder =
            ::png::Encoder::new(&mut bytes, 16_000, u32::try_from(length).unwrap() / 16_000);
        encoder.set_color(::png::ColorType::Grayscale);
        encoder.set_filter(::png::Filter::NoFilter);
        let mut writer = encoder.write_header().unwrap();
        writer.write_image_data(&vec![0; length]).unwrap();
        writer.finish().unwrap();
        bytes
    };
    // The first rows of a tall image, which says that it is not.
    let mut bomb = zeros(256_000_000);
    bomb[20..24].copy_from_slice(&1_u32.to_be_bytes());
    let checksum = crc32(&bomb[12..29]).to_be_bytes();
    bomb[29..33].copy_from_slice(&checksum);
    let one_row = zeros(16_000);
    let time = |bytes: Vec<u8>| {
        let began = Instant::now();
        let decoded = ImageFile::read(bytes).unwrap().decode().unwrap();
        assert_eq!((decoded.width(), decoded.height()), (16_000, 1));
        began.elapsed()
    };
    let (alone, with_more) = (time(one_row), time(bomb));
    assert!(
        with_more < alone * 50 + Duration::from_millis(50),
        "{alone:?}, {with_more:?}"
    );
}

#[test]
fn a_damaged_png_is_refused() {
    let whole = png_with(&[]);
    let data = whole.windows(4).position(|kind| kind == IDAT.0).unwrap();
    for length in [20, 30, data, whole.len() / 2, whole.len() - 40] {
        let problem = refused(whole[..length].to_vec());
        assert!(
            problem.contains("is no readable image"),
            "{length}: {problem}"
        );
    }
}

#[test]
fn segments_of_a_jpeg_that_make_no_pixels_are_dropped() {
    let plain = ImageFile::read(file(ImageFormat::Jpeg(90))).unwrap();
    for marker in (0xe1..=0xed).chain([0xef, 0xfe]) {
        let read = ImageFile::read(jpeg_with(marker, &[0xff; 60_000], 200)).unwrap();
        assert_eq!(read.bytes, plain.bytes, "{marker:x}");
        assert_eq!(read.size(), (48, 32));
    }
    let mut trailed = file(ImageFormat::Jpeg(90));
    trailed.extend([0xaa; 100_000]);
    assert_eq!(ImageFile::read(trailed).unwrap().bytes, plain.bytes);
}

#[test]
fn a_jpeg_of_endless_tables_scans_or_frames_is_refused() {
    let table = [&[0x10, 1][..], &[0; 15], &[0]].concat();
    assert!(refused(jpeg_with(0xc4, &table, 20_000)).contains("consists of tables"));
    let whole = file(ImageFormat::Jpeg(90));
    let scan = whole
        .windows(2)
        .position(|marker| marker == [0xff, 0xda])
        .unwrap();
    let end = whole.len() - 2;
    let scans = [&whole[..scan], &whole[scan..end].repeat(100), &whole[end..]].concat();
    assert!(refused(scans).contains("more than 64 scans"));
    let frame = whole
        .windows(2)
        .position(|marker| marker == [0xff, 0xc0])
        .unwrap();
    let frames = [&whole[..scan], &whole[frame..]].concat();
    assert!(refused(frames).contains("two frames"));
}

#[test]
fn chunks_of_a_webp_that_make_no_pixels_are_dropped() {
    let junk = vec![0x55; 300_001];
    let bytes = webp(&[
        extended(0x2c, 48, 32),
        chunk(b"ICCP", &junk),
        bitstream(),
        chunk(b"EXIF", &junk),
        chunk(b"XMP ", &junk),
        chunk(b"junk", &junk),
    ]);
    let read = ImageFile::read(bytes).unwrap();
    assert!(read.bytes.len() < bitstream().len() + 40);
    assert!(read.decode().unwrap() == pixels(48, 32));
}

#[test]
fn an_animated_webp_is_its_first_frame() {
    let frame = |x: u32, width: u32| {
        let place = [
            three(x / 2),
            three(0),
            three(width - 1),
            three(31),
            three(100),
        ]
        .concat();
        chunk(b"ANMF", &[place, vec![2], bitstream()].concat())
    };
    let animation = chunk(b"ANIM", &[0; 6]);
    let bytes = |frames: &[Vec<u8>], width: u32| {
        webp(
            &[
                vec![extended(0x02, width, 32), animation.clone()],
                frames.to_vec(),
            ]
            .concat(),
        )
    };
    let many = vec![frame(0, 48); 100];
    let read = ImageFile::read(bytes(&many, 48)).unwrap();
    assert!(read.bytes.len() < 2 * bitstream().len());
    assert!(read.decode().unwrap() == pixels(48, 32));
    let decoded = ImageFile::read(bytes(&[frame(2, 48)], 64))
        .unwrap()
        .decode()
        .unwrap();
    assert_eq!(
        (decoded.width(), decoded.rgb()[6]),
        (64, pixels(48, 32).rgb()[0])
    );
    assert!(refused(bytes(&[frame(2, 48)], 48)).contains("lies outside"));
    assert!(refused(bytes(&[frame(0, 47)], 48)).contains("two different sizes"));
}

/// The decoder would take memory for what is inside before it compares.
#[test]
fn a_webp_that_says_two_sizes_is_refused() {
    let key_frame = [0x10, 0, 0, 0x9d, 0x01, 0x2a, 0xff, 0x3f, 0xff, 0x3f];
    let lossy = webp(&[extended(0, 48, 32), chunk(b"VP8 ", &key_frame)]);
    assert!(
        ImageFile::read(lossy)
            .unwrap_err()
            .contains("two different sizes")
    );
    let lossless = webp(&[extended(0, 48, 33), bitstream()]);
    assert!(
        ImageFile::read(lossless)
            .unwrap_err()
            .contains("two different sizes")
    );
    let alone = ImageFile::read(webp(&[chunk(b"VP8 ", &key_frame)])).unwrap();
    assert_eq!(alone.size(), (0x3fff, 0x3fff), "for the caller to refuse");
}

#[test]
fn a_file_that_is_cut_anywhere_is_refused_or_read_and_never_more() {
    for format in [ImageFormat::Png, ImageFormat::Jpeg(90), ImageFormat::Webp] {
        let whole = file(format);
        for length in 0..whole.len() {
            if let Ok(read) = ImageFile::read(whole[..length].to_vec()) {
                assert_eq!(read.size(), (48, 32));
                // Half an image of JPEG's is one, as other decoders have it.
                let _decoded = read.decode();
            }
        }
    }
}
