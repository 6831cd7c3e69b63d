//! What a client sent, as it may stand in an answer or a log line.

use std::fmt::Write as _;

/// Characters of a quotation.
const MOST: usize = 100;

/// The text in quotation marks, its control characters escaped, cut to 100 characters.
pub(crate) fn quote(text: &str) -> String {
    format!("\"{}\"", cut(text))
}

/// The text, its control characters escaped, cut to 100 characters.
pub(crate) fn cut(text: &str) -> String {
    let mut quoted = String::new();
    for (number, character) in text.chars().enumerate() {
        if number == MOST {
            quoted.push('…');
            break;
        }
        if character.is_control() {
            // Writing to a string never fails.
            let _written = write!(quoted, "{}", character.escape_default());
        } else {
            quoted.push(character);
        }
    }
    quoted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_texts_stand_as_they_are() {
        assert_eq!(quote("橘猫 é"), "\"橘猫 é\"");
        assert_eq!(cut(""), "");
    }

    #[test]
    fn long_texts_are_cut_and_control_characters_escaped() {
        assert_eq!(cut(&"é".repeat(1_000_000)).chars().count(), MOST + 1);
        assert_eq!(cut("a\r\nb\u{1b}[31m"), "a\\r\\nb\\u{1b}[31m");
        let longest = cut(&"\u{7f}".repeat(1000));
        assert!(
            longest.len() <= MOST * "\\u{7f}".len() + '…'.len_utf8(),
            "{longest}"
        );
    }
}
