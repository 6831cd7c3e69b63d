//! Compiled kernels on disk.

use super::Source;
use crate::write_whole;
use sha2::{Digest as _, Sha256};
use std::fs;
use std::path::{Path, PathBuf};

/// A folder of compiled kernels. Several processes may share it: a file appears whole or not at all, its name says
/// everything that decides its content, and what is damaged is compiled again.
#[derive(Clone, Debug)]
pub struct Cache {
    folder: Option<PathBuf>,
    /// What decides the machine code apart from the source.
    target: String,
}

impl Cache {
    /// Files for one architecture, compiler and driver. Without a folder nothing is kept.
    pub fn new(folder: Option<&Path>, architecture: &str, nvrtc: i32, driver: i32) -> Self {
        Self {
            folder: folder.map(Path::to_owned),
            target: format!("{architecture}-nvrtc{nvrtc}-driver{driver}"),
        }
    }

    /// The source's machine code: the file's, or what `compile` makes, which is then kept.
    ///
    /// # Errors
    /// What `compile` fails with. A folder that cannot be read or written costs time, not the engine.
    pub fn get<E>(
        &self,
        source: &Source,
        compile: impl FnOnce() -> Result<Vec<u8>, E>,
    ) -> Result<Vec<u8>, E> {
        let Some(folder) = &self.folder else {
            return compile();
        };
        let hash = hex(&Sha256::digest(source.whole()));
        let path = folder.join(format!(
            "{}-{}-{}.cubin",
            source.file,
            self.target,
            &hash[..16]
        ));
        if let Some(code) = fs::read(&path).ok().and_then(|file| unseal(&file)) {
            return Ok(code);
        }
        let code = compile()?;
        if let Err(error) = write_whole(&path, &seal(&code)) {
            tracing::warn!(path = %path.display(), %error, "a compiled kernel cannot be kept");
        }
        Ok(code)
    }
}

/// The code behind its own hash.
fn seal(code: &[u8]) -> Vec<u8> {
    [Sha256::digest(code).as_slice(), code].concat()
}

fn unseal(file: &[u8]) -> Option<Vec<u8>> {
    let (hash, code) = file.split_at_checked(32)?;
    (Sha256::digest(code).as_slice() == hash).then(|| code.to_vec())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::convert::Infallible;

    const SOURCE: Source = Source {
        file: "a.cu",
        header: "",
        text: "text",
        kernels: &[],
    };

    fn get(cache: &Cache, made: &[u8]) -> Vec<u8> {
        let Ok(code) = cache.get(&SOURCE, || Ok::<_, Infallible>(made.to_vec()));
        code
    }

    #[test]
    fn what_was_compiled_once_is_read_by_another_process() {
        let folder = tempfile::tempdir().unwrap();
        let cache = || Cache::new(Some(folder.path()), "sm_80", 13_000, 13_010);
        assert_eq!(get(&cache(), b"first"), b"first");
        assert_eq!(get(&cache(), b"second"), b"first");
    }

    #[test]
    fn another_architecture_compiler_or_driver_compiles_again() {
        let folder = tempfile::tempdir().unwrap();
        let cache = |architecture, nvrtc, driver| {
            Cache::new(Some(folder.path()), architecture, nvrtc, driver)
        };
        get(&cache("sm_80", 13_000, 13_000), b"first");
        assert_eq!(get(&cache("sm_86", 13_000, 13_000), b"a"), b"a");
        assert_eq!(get(&cache("sm_80", 13_010, 13_000), b"b"), b"b");
        assert_eq!(get(&cache("sm_80", 13_000, 13_010), b"c"), b"c");
    }

    #[test]
    fn a_damaged_file_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::new(Some(folder.path()), "sm_80", 13_000, 13_000);
        get(&cache, b"first");
        let file = fs::read_dir(folder.path())
            .unwrap()
            .next()
            .unwrap()
            .unwrap();
        fs::write(file.path(), b"short").unwrap();
        assert_eq!(get(&cache, b"second"), b"second");
        assert_eq!(get(&cache, b"third"), b"second");
    }

    #[test]
    fn a_folder_that_cannot_be_written_costs_only_time() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let cache = Cache::new(Some(&file.path().join("below")), "sm_80", 13_000, 13_000);
        assert_eq!(get(&cache, b"first"), b"first");
    }
}
