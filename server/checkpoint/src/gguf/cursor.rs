//! Reads a header's numbers and texts without ever going beyond its end.

/// Deepest nesting of arrays; real files have none inside another.
const MAX_DEPTH: u32 = 4;

/// Most dimensions of a shape in the metadata.
const MAX_SHAPE: usize = 8;

/// A place in a file.
pub(super) struct Cursor<'a> {
    file: &'a [u8],
    position: usize,
}

impl<'a> Cursor<'a> {
    pub(super) const fn new(file: &'a [u8]) -> Self {
        Self { file, position: 0 }
    }

    pub(super) const fn position(&self) -> usize {
        self.position
    }

    pub(super) fn bytes(&mut self, length: u64) -> Result<&'a [u8], String> {
        let rest = self.file.get(self.position..).unwrap_or_default();
        let length = usize::try_from(length)
            .ok()
            .filter(|&length| length <= rest.len());
        let length =
            length.ok_or_else(|| format!("the header ends after {} bytes", self.file.len()))?;
        self.position += length;
        Ok(&rest[..length])
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], String> {
        let mut array = [0; N];
        array.copy_from_slice(self.bytes(N as u64)?);
        Ok(array)
    }

    pub(super) fn u32(&mut self) -> Result<u32, String> {
        self.array().map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self) -> Result<u64, String> {
        self.array().map(u64::from_le_bytes)
    }

    /// A number of things that have at least so many bytes each: never more than there is room for.
    pub(super) fn count(&mut self, least: usize) -> Result<usize, String> {
        let count = self.u64()?;
        let most = (self.file.len() - self.position) / least;
        let fits = usize::try_from(count).ok().filter(|&count| count <= most);
        fits.ok_or_else(|| format!("it claims {count} entries and has room for {most}"))
    }

    pub(super) fn text(&mut self) -> Result<&'a str, String> {
        let length = self.u64()?;
        let bytes = self.bytes(length)?;
        std::str::from_utf8(bytes).map_err(|_| "a text is not UTF-8".to_owned())
    }

    /// A value that must be a whole number from 0 on.
    pub(super) fn unsigned(&mut self, kind: u32) -> Result<u64, String> {
        let negative = |value: i64| format!("{value} is not a size");
        match kind {
            0 => Ok(self.array::<1>()?[0].into()),
            2 => Ok(self.array().map(u16::from_le_bytes)?.into()),
            4 => Ok(self.u32()?.into()),
            5 => {
                let value = i64::from(self.array().map(i32::from_le_bytes)?);
                u64::try_from(value).map_err(|_| negative(value))
            }
            10 => self.u64(),
            11 => {
                let value = self.array().map(i64::from_le_bytes)?;
                u64::try_from(value).map_err(|_| negative(value))
            }
            _ => Err(format!("a size has type {kind}")),
        }
    }

    /// An array of such numbers, a shape.
    pub(super) fn unsigned_array(&mut self, kind: u32) -> Result<Vec<usize>, String> {
        if kind != 9 {
            return Err(format!("a shape has type {kind}"));
        }
        let of = self.u32()?;
        let count = self.count(1)?;
        if count > MAX_SHAPE {
            return Err(format!("a shape has {count} dimensions"));
        }
        let mut values = Vec::with_capacity(count);
        for _ in 0..count {
            let value = self.unsigned(of)?;
            values.push(usize::try_from(value).map_err(|_| format!("a length is {value}"))?);
        }
        Ok(values)
    }

    /// Steps over a value.
    pub(super) fn skip(&mut self, kind: u32) -> Result<(), String> {
        self.skip_nested(kind, 0)
    }

    fn skip_nested(&mut self, kind: u32, depth: u32) -> Result<(), String> {
        match (kind, width(kind)) {
            (_, Some(width)) => self.bytes(width).map(drop),
            (8, _) => self.text().map(drop),
            (9, _) if depth < MAX_DEPTH => {
                let of = self.u32()?;
                // A text or an array has its own length at least.
                let count = self.count(width(of).map_or(8, |width| width as usize))?;
                match width(of) {
                    Some(width) => self.bytes(count as u64 * width).map(drop),
                    None => (0..count).try_for_each(|_| self.skip_nested(of, depth + 1)),
                }
            }
            _ => Err(format!(
                "a value has type {kind}, which there is none of here"
            )),
        }
    }
}

/// Bytes of a value of a type whose values all have the same.
const fn width(kind: u32) -> Option<u64> {
    match kind {
        0 | 1 | 7 => Some(1),
        2 | 3 => Some(2),
        4..=6 => Some(4),
        10..=12 => Some(8),
        _ => None,
    }
}
