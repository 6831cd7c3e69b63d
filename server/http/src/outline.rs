//! Where a JSON body has its bytes, while it arrives.
//!
//! Only image files make a body large. So the strings of the fields that hold them are told from everything else, of which
//! a body has little; one that has more is refused as soon as that came.

use std::ops::ControlFlow;

/// Fields that hold image files.
const FILES: [&[u8]; 4] = [b"image", b"mask", b"control_image", b"references"];
/// The longest of their names.
const LONGEST: usize = 13;

/// Follows a body byte by byte. Whether it is valid JSON is for others to say: of one that is not, the bytes are counted
/// all the same.
#[derive(Debug, Default)]
pub(crate) struct Outline {
    depth: usize,
    in_string: bool,
    escaped: bool,
    /// Whether the next string at the outermost object is a field's name.
    is_name: bool,
    name: Vec<u8>,
    /// Whether the field that is read holds image files.
    is_file: bool,
    others: usize,
}

impl Outline {
    /// Goes on with the next bytes of the body; breaks when more than `most` are not of image files.
    pub(crate) fn follow(&mut self, bytes: &[u8], most: usize) -> ControlFlow<()> {
        for &byte in bytes {
            self.others += usize::from(!self.take(byte));
            if self.others > most {
                return ControlFlow::Break(());
            }
        }
        ControlFlow::Continue(())
    }

    /// Whether the byte is one of an image file.
    fn take(&mut self, byte: u8) -> bool {
        if self.in_string {
            return self.take_in_string(byte);
        }
        match byte {
            b'"' => {
                self.in_string = true;
                self.name.clear();
            }
            b'{' | b'[' => {
                self.depth += 1;
                self.is_name |= self.depth == 1;
            }
            b'}' | b']' => self.depth = self.depth.saturating_sub(1),
            b':' if self.depth == 1 => {
                self.is_name = false;
                self.is_file = FILES.contains(&self.name.as_slice());
            }
            b',' if self.depth == 1 => {
                self.is_name = true;
                self.is_file = false;
            }
            _ => {}
        }
        false
    }

    fn take_in_string(&mut self, byte: u8) -> bool {
        match byte {
            _ if self.escaped => self.escaped = false,
            b'\\' => self.escaped = true,
            b'"' => {
                self.in_string = false;
                return false;
            }
            _ => {}
        }
        let names_a_field = self.is_name && self.depth == 1;
        if names_a_field && self.name.len() <= LONGEST {
            self.name.push(byte);
        }
        self.is_file && !names_a_field
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes that are not of image files, however the body is cut into parts.
    fn others(body: &str) -> usize {
        let mut whole = Outline::default();
        assert!(whole.follow(body.as_bytes(), usize::MAX).is_continue());
        let mut parts = Outline::default();
        for byte in body.as_bytes() {
            assert!(parts.follow(&[*byte], usize::MAX).is_continue());
        }
        assert_eq!(whole.others, parts.others);
        whole.others
    }

    #[test]
    fn files_are_told_from_everything_else() {
        for (body, files) in [
            (r#"{"image": "abcd", "prompt": "a"}"#, 4),
            (r#"{"prompt": "image", "mask" :"ab\"cd"}"#, 6),
            (r#"{"references": ["ab", "cd"], "control_image": "e"}"#, 5),
            (r#"{"x": {"image": "abcd"}, "y": ["image", "b"]}"#, 0),
            (r#"{"image": 1234, "x": "abcd"}"#, 0),
            (r#"{"im\u0061ge": "abcd"}"#, 0),
            (r#"{"image2": "abcd", "imag": "abcd"}"#, 0),
            (r#"[{"image": "abcd"}]"#, 0),
            (r#""image": "abcd""#, 0),
            ("}}}]]]{\"image\":\"ab", 2),
        ] {
            assert_eq!(others(body), body.len() - files, "{body}");
        }
    }

    #[test]
    fn a_body_with_too_much_of_other_things_is_found_when_that_came() {
        let mut outline = Outline::default();
        assert!(outline.follow(br#"{"image": ""#, 20).is_continue());
        assert!(outline.follow(&[b'a'; 1 << 20], 20).is_continue());
        assert!(outline.follow(br#"","x":[["#, 20).is_continue());
        assert!(outline.follow(br"[[[", 20).is_break());
    }
}
