//! `--lora FILE[:SCALE]`.

use std::fmt;
use std::path::PathBuf;

/// A LoRA file and what its changes are multiplied by.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct LoraFile {
    pub(crate) path: PathBuf,
    pub(crate) scale: f32,
}

impl LoraFile {
    /// The text behind the last colon is the scale when it is a number, and belongs to the file's name otherwise.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let (path, scale) = match text.rsplit_once(':') {
            Some((path, number)) => match number.parse::<f32>() {
                Ok(scale) => (path, scale),
                Err(_) if path.ends_with(".safetensors") => {
                    return Err(format!("the scale {number:?} is not a number"));
                }
                Err(_) => (text, 1.0),
            },
            None => (text, 1.0),
        };
        if path.is_empty() {
            return Err("there is no file before the scale".to_owned());
        }
        if !scale.is_finite() {
            return Err(format!("the scale {scale} is not a finite number"));
        }
        Ok(Self {
            path: PathBuf::from(path),
            scale,
        })
    }
}

/// The file's name, for an image that says how it was made: folders are nobody else's business.
impl fmt::Display for LoraFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.path.file_name().unwrap_or_default();
        write!(f, "{}:{}", name.to_string_lossy(), self.scale)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scale_is_behind_the_last_colon() {
        for (text, path, scale) in [
            ("a/style.safetensors", "a/style.safetensors", 1.0),
            ("a/style.safetensors:0.8", "a/style.safetensors", 0.8),
            ("style.safetensors:-1", "style.safetensors", -1.0),
            ("a:b/style.safetensors", "a:b/style.safetensors", 1.0),
            ("a:b/style.safetensors:2e-1", "a:b/style.safetensors", 0.2),
        ] {
            let path = PathBuf::from(path);
            assert_eq!(
                LoraFile::parse(text),
                Ok(LoraFile { path, scale }),
                "{text}"
            );
        }
    }

    #[test]
    fn what_is_no_scale_is_said() {
        for text in [
            "x.safetensors:much",
            "x.safetensors:",
            "x:nan",
            "x:inf",
            ":1",
            "",
        ] {
            assert!(LoraFile::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn images_name_the_file_without_its_folder() {
        let lora = LoraFile::parse("/secret/style.safetensors:0.5").unwrap();
        assert_eq!(lora.to_string(), "style.safetensors:0.5");
    }
}
