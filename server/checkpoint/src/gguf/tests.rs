use super::*;
use crate::stored::BlockFormat;
use crate::tensor::DType;

/// A file's header, written field by field.
#[derive(Clone, Default)]
struct Header(Vec<u8>);

impl Header {
    fn new(tensors: u64, values: u64) -> Self {
        Self::default().raw(MAGIC).u32(3).u64(tensors).u64(values)
    }

    fn raw(mut self, bytes: &[u8]) -> Self {
        self.0.extend(bytes);
        self
    }

    fn u32(self, number: u32) -> Self {
        self.raw(&number.to_le_bytes())
    }

    fn u64(self, number: u64) -> Self {
        self.raw(&number.to_le_bytes())
    }

    fn text(self, text: &str) -> Self {
        self.u64(text.len() as u64).raw(text.as_bytes())
    }

    /// A tensor's entry; dimensions innermost first.
    fn tensor(self, name: &str, dimensions: &[u64], kind: u32, offset: u64) -> Self {
        let header = self.text(name).u32(dimensions.len() as u32);
        let shape = |header: Self, &length: &u64| header.u64(length);
        dimensions.iter().fold(header, shape).u32(kind).u64(offset)
    }

    /// The whole file, with so many bytes of tensors.
    fn data(mut self, length: usize) -> Vec<u8> {
        self.0.resize(self.0.len().next_multiple_of(32) + length, 7);
        self.0
    }
}

fn stored(format: Format, shape: &[usize], range: std::ops::Range<usize>) -> Stored {
    let shape = shape.to_vec();
    Stored {
        format,
        shape,
        range,
    }
}

#[test]
fn tensors_are_found_with_their_dimensions_turned_round() {
    let header = Header::new(3, 0)
        .tensor("plain", &[3, 2], 0, 0)
        .tensor("blocks", &[64, 5], 8, 32)
        .tensor("strange", &[256], 23, 0);
    let file = header.data(32 + 5 * 68);
    let data = file.len() - 32 - 5 * 68;
    let table = read(&file, file.len()).unwrap();
    assert_eq!(
        table["plain"],
        stored(Format::Plain(DType::F32), &[2, 3], data..data + 24)
    );
    let blocks = data + 32..data + 32 + 5 * 68;
    assert_eq!(
        table["blocks"],
        stored(Format::Blocks(BlockFormat::Q8_0), &[5, 64], blocks)
    );
    assert_eq!(
        table["strange"].format,
        Format::Unknown("IQ4_XS".to_owned())
    );
}

#[test]
fn metadata_is_stepped_over_but_for_what_counts() {
    let shape = [2_u32, 2, 24];
    let header = Header::new(1, 5)
        .text("general.architecture")
        .u32(8)
        .text("lumina2")
        .text("general.alignment")
        .u32(4)
        .u32(64)
        .text("numbers")
        .u32(9)
        .u32(6)
        .u64(2)
        .raw(&[0; 8])
        .text("texts")
        .u32(9)
        .u32(8)
        .u64(2)
        .text("a")
        .text("b")
        .text("comfy.gguf.orig_shape.w")
        .u32(9)
        .u32(5)
        .u64(3);
    let header = shape
        .iter()
        .fold(header, |header, &length| header.u32(length));
    let mut file = header.tensor("w", &[32, 3], 8, 64).0;
    let data = file.len().next_multiple_of(64);
    file.resize(data + 64 + 102, 0);
    let table = read(&file, file.len()).unwrap();
    let range = data + 64..data + 64 + 102;
    let expected = stored(Format::Blocks(BlockFormat::Q8_0), &[2, 2, 24], range);
    assert_eq!(table["w"], expected);
}

#[test]
fn unsound_headers_say_what_is_wrong() {
    let one = |dimensions: &[u64], kind, offset| {
        Header::new(1, 0)
            .tensor("w", dimensions, kind, offset)
            .data(64)
    };
    let value = |key: &str, kind: u32| Header::new(0, 1).text(key).u32(kind);
    let deep = (0..9).fold(value("k", 9), |header, _| header.u32(9).u64(1));
    for (file, expected) in [
        (b"GGU".to_vec(), "the header ends after 3 bytes"),
        (b"GGML____".to_vec(), "does not begin with"),
        (
            Header::default().raw(MAGIC).u32(1).data(0),
            "its version is 1",
        ),
        (
            Header::default().raw(MAGIC).raw(&[0, 0, 0, 3]).data(0),
            "little-endian",
        ),
        (Header::new(u64::MAX, 0).data(0), "has room for"),
        (Header::new(0, 1 << 40).data(0), "has room for"),
        (one(&[1; 5], 0, 0), "has 5 dimensions"),
        (one(&[8], 0, 1), "begins at 1, unaligned"),
        (one(&[17], 0, 0), "ends at"),
        (one(&[4], 0, 64), "ends at"),
        (one(&[4], 0, !31), "which its format cannot have"),
        (one(&[16], 8, 0), "which its format cannot have"),
        (
            one(&[1 << 40, 1 << 40], 0, 0),
            "which its format cannot have",
        ),
        (one(&[1 << 62, 2], 0, 0), "which its format cannot have"),
        (
            value("general.alignment", 4).u32(3).data(0),
            "general.alignment is 3",
        ),
        (
            value("general.alignment", 8).text("x").data(0),
            "a size has type 8",
        ),
        (value("k", 13).data(0), "a value has type 13"),
        (deep.data(64), "a value has type 9"),
        (value("k", 9).u32(4).u64(1 << 61).data(0), "has room for"),
        (value("k", 8).u64(u64::MAX).data(0), "the header ends"),
        (
            Header::new(0, 1).u64(1).raw(&[0xff]).u32(0).data(32),
            "not UTF-8",
        ),
    ] {
        let error = read(&file, file.len()).unwrap_err();
        assert!(error.contains(expected), "{error} for {expected}");
    }
    let twice = Header::new(2, 0)
        .tensor("w", &[1], 0, 0)
        .tensor("w", &[1], 0, 0)
        .data(32);
    let error = read(&twice, twice.len()).unwrap_err();
    assert!(error.contains("is there twice"), "{error}");
}
