//! The algorithms that were fastest, on disk.

use super::Product;
use crate::gpu::Properties;
use crate::write_whole;
use cudarc::cublaslt::sys::cublasLtMatmulAlgo_t;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// Algorithms by the rows of the product.
type ByRows = BTreeMap<usize, [u64; 8]>;

/// The name of every product that differs in its rows alone.
pub(super) fn key(product: Product, bias: bool) -> String {
    let Product { n, k, output, .. } = product;
    let bias = if bias { " bias" } else { "" };
    format!("{n}x{k} {output:?}{bias}")
}

/// Algorithms by product. Several processes may share the file: it changes as a whole, and each keeps what it read, so
/// a running process never changes its algorithms.
pub(super) struct Chosen {
    path: Option<PathBuf>,
    algorithms: BTreeMap<String, ByRows>,
}

impl Chosen {
    /// Reads the file of a GPU, driver and library version. A damaged one is as good as none: it costs time.
    pub(super) fn open(properties: &Properties, folder: Option<&Path>) -> Self {
        let path = folder.map(|folder| folder.join(file_name(properties)));
        let algorithms = path.as_deref().map(read).unwrap_or_default();
        Self { path, algorithms }
    }

    pub(super) fn get(&self, key: &str, rows: usize) -> Option<cublasLtMatmulAlgo_t> {
        let data = *self.algorithms.get(key)?.get(&rows)?;
        Some(cublasLtMatmulAlgo_t { data })
    }

    /// What was chosen for the number of rows that is nearest, if it is half to twice as many.
    pub(super) fn nearest(&self, key: &str, rows: usize) -> Option<cublasLtMatmulAlgo_t> {
        let near = self.algorithms.get(key)?.range(rows.div_ceil(2)..=2 * rows);
        let (_, &data) = near.min_by_key(|(known, _)| known.abs_diff(rows))?;
        Some(cublasLtMatmulAlgo_t { data })
    }

    /// Keeps an algorithm, beside those that other processes have kept meanwhile.
    pub(super) fn set(&mut self, key: String, rows: usize, algorithm: cublasLtMatmulAlgo_t) {
        let own = self.algorithms.entry(key.clone()).or_default();
        own.insert(rows, algorithm.data);
        let Some(path) = &self.path else { return };
        let mut all = read(path);
        all.entry(key).or_default().insert(rows, algorithm.data);
        let written = serde_json::to_vec_pretty(&all)
            .map_err(std::io::Error::other)
            .and_then(|text| write_whole(path, &text));
        if let Err(error) = written {
            tracing::warn!(path = %path.display(), %error, "a chosen algorithm cannot be kept");
        }
    }
}

fn read(path: &Path) -> BTreeMap<String, ByRows> {
    let file = fs::read(path).unwrap_or_default();
    serde_json::from_slice(&file).unwrap_or_default()
}

fn file_name(properties: &Properties) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() { c } else { '-' };
    let name: String = properties.name.chars().map(plain).collect();
    let libraries = properties.libraries;
    let (driver, cublaslt) = (libraries.driver, libraries.cublaslt);
    format!("algorithms-{name}-driver{driver}-cublaslt{cublaslt}.json")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::libraries::Libraries;

    fn properties(name: &str) -> Properties {
        Properties {
            name: name.to_owned(),
            capability: (9, 0),
            memory: 0,
            multiprocessors: 132,
            ecc: true,
            libraries: Libraries {
                driver: 13_000,
                nvrtc: 13_000,
                cublaslt: 130_100,
                cudnn: 91_900,
            },
        }
    }

    fn algorithm(number: u64) -> cublasLtMatmulAlgo_t {
        cublasLtMatmulAlgo_t { data: [number; 8] }
    }

    #[test]
    fn processes_add_to_one_file_and_read_it_at_the_start() {
        let folder = tempfile::tempdir().unwrap();
        let open = || Chosen::open(&properties("NVIDIA H100 80GB HBM3"), Some(folder.path()));
        let (mut first, mut second) = (open(), open());
        first.set("a".to_owned(), 64, algorithm(1));
        second.set("b".to_owned(), 64, algorithm(2));
        let third = open();
        assert_eq!(third.get("a", 64).unwrap().data, [1; 8]);
        assert_eq!(third.get("b", 64).unwrap().data, [2; 8]);
        assert!(first.get("b", 64).is_none());
    }

    #[test]
    fn a_product_of_nearly_as_many_rows_takes_the_nearest_ones_algorithm() {
        let mut chosen = Chosen::open(&properties("A"), None);
        chosen.set("a".to_owned(), 1088, algorithm(1));
        chosen.set("a".to_owned(), 4160, algorithm(4));
        let of = |rows| chosen.nearest("a", rows).map(|found| found.data[0]);
        assert_eq!([1120, 2100, 4608, 8000].map(of), [1, 1, 4, 4].map(Some));
        assert_eq!([100, 9000].map(of), [None, None]);
        assert!(chosen.nearest("b", 1088).is_none());
        assert!(chosen.get("a", 4096).is_none());
    }

    #[test]
    fn another_gpu_has_another_file() {
        let folder = tempfile::tempdir().unwrap();
        Chosen::open(&properties("A"), Some(folder.path())).set("a".to_owned(), 64, algorithm(1));
        assert!(
            Chosen::open(&properties("B"), Some(folder.path()))
                .get("a", 64)
                .is_none()
        );
    }

    #[test]
    fn a_damaged_file_is_as_good_as_none() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join(file_name(&properties("A"))), "{").unwrap();
        assert!(
            Chosen::open(&properties("A"), Some(folder.path()))
                .get("a", 64)
                .is_none()
        );
    }
}
