//! The algorithms that were fastest, on disk.

use super::Product;
use crate::error::LoadError;
use crate::gpu::{GpuOptions, Properties};
use crate::write_whole;
use cudarc::cublaslt::sys::cublasLtMatmulAlgo_t;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::{self, File, TryLockError};
use std::io;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

/// How long others may hold the file that is shared: writing it takes milliseconds.
const PATIENCE: Duration = Duration::from_secs(10);

/// Between two looks at whether they still do.
const PAUSE: Duration = Duration::from_millis(5);

/// Algorithms by the rows of the product.
type ByRows = BTreeMap<usize, [u64; 8]>;

/// The name of every product that differs in its rows alone.
pub(super) fn key(product: Product, bias: bool) -> String {
    let Product { n, k, output, .. } = product;
    let bias = if bias { " bias" } else { "" };
    format!("{n}x{k} {output:?}{bias}")
}

/// What an algorithm was chosen on: elsewhere the library may not know it, or another may be faster.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Platform {
    gpu: String,
    driver: i32,
    cublaslt: usize,
}

impl Platform {
    fn of(properties: &Properties) -> Self {
        Self {
            gpu: properties.name.clone(),
            driver: properties.libraries.driver,
            cublaslt: properties.libraries.cublaslt,
        }
    }

    fn file_name(&self) -> String {
        let plain = |c: char| if c.is_ascii_alphanumeric() { c } else { '-' };
        let name: String = self.gpu.chars().map(plain).collect();
        let Self {
            driver, cublaslt, ..
        } = self;
        format!("algorithms-{name}-driver{driver}-cublaslt{cublaslt}.json")
    }
}

/// Algorithms by product, as they stand in a file.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Table {
    #[serde(flatten)]
    platform: Platform,
    algorithms: BTreeMap<String, ByRows>,
}

impl Table {
    fn read(path: &Path) -> io::Result<Self> {
        Ok(serde_json::from_slice(&fs::read(path)?)?)
    }

    fn write(&self, path: &Path) -> io::Result<()> {
        write_whole(path, &serde_json::to_vec_pretty(self)?)
    }

    /// Takes another's algorithms, in place of its own where both have one.
    fn add(&mut self, other: Self) {
        for (key, algorithms) in other.algorithms {
            self.algorithms.entry(key).or_default().extend(algorithms);
        }
    }
}

/// What was chosen on a GPU, for others of its kind.
#[derive(Clone, Debug)]
pub(crate) struct Algorithms(Table);

/// Algorithms by product. Several processes may share the file: it changes as a whole, under a lock, and what one has
/// chosen the others take. Each keeps what it has read, so a running process never changes its algorithms.
pub(super) struct Chosen {
    path: Option<PathBuf>,
    table: Table,
    given: bool,
}

impl Chosen {
    /// Reads the table that was given, or else the cache's file of a GPU, driver and library version. A damaged file in
    /// the cache is as good as none: it costs time. So is a table of another platform, which the log tells.
    ///
    /// # Errors
    /// When the table that was given is none.
    pub(super) fn open(properties: &Properties, options: &GpuOptions) -> Result<Self, LoadError> {
        let platform = Platform::of(properties);
        let path = options
            .cache
            .as_ref()
            .map(|folder| folder.join(platform.file_name()));
        let mut table = Table {
            platform,
            ..Table::default()
        };
        let mut given = false;
        if let Some(path) = &options.tuning {
            let other = Table::read(path).map_err(|error| {
                LoadError::Tuning(format!("{} cannot be read: {error}", path.display()))
            })?;
            given = other.platform == table.platform;
            if given {
                table = other;
            } else {
                tracing::warn!(path = %path.display(), made_on = ?other.platform, this = ?table.platform,
                    "the tuning table is of another platform and is not used: make it again with tune");
            }
        }
        if !given {
            table.add(cached(path.as_deref()));
        }
        Ok(Self { path, table, given })
    }

    /// With what was chosen on another GPU of the process: the same requests give the same bytes on both. Another kind of
    /// GPU chooses for itself.
    pub(super) fn shared(
        properties: &Properties,
        options: &GpuOptions,
        algorithms: &Algorithms,
    ) -> Result<Self, LoadError> {
        if Platform::of(properties) != algorithms.0.platform {
            return Self::open(properties, options);
        }
        Ok(Self {
            path: None,
            table: algorithms.0.clone(),
            given: true,
        })
    }

    pub(super) fn algorithms(&self) -> Algorithms {
        Algorithms(self.table.clone())
    }

    /// Whether the table was given: then nothing is chosen here, and every process with the table computes the same.
    pub(super) const fn given(&self) -> bool {
        self.given
    }

    /// Writes the table to a file that [`GpuOptions::tuning`] takes.
    pub(super) fn export(&self, path: &Path) -> io::Result<()> {
        self.table.write(path)
    }

    pub(super) fn get(&self, key: &str, rows: usize) -> Option<cublasLtMatmulAlgo_t> {
        let data = *self.table.algorithms.get(key)?.get(&rows)?;
        Some(cublasLtMatmulAlgo_t { data })
    }

    /// What was chosen for the number of rows that is nearest, if it is half to twice as many.
    pub(super) fn nearest(&self, key: &str, rows: usize) -> Option<cublasLtMatmulAlgo_t> {
        self.within(key, rows, rows.div_ceil(2)..=2 * rows)
    }

    /// What was chosen for nearly the same number of rows, if anything: another search would hardly find another.
    pub(super) fn close(&self, key: &str, rows: usize) -> Option<cublasLtMatmulAlgo_t> {
        self.within(key, rows, rows - rows / 8..=rows + rows / 8)
    }

    fn within(
        &self,
        key: &str,
        rows: usize,
        range: RangeInclusive<usize>,
    ) -> Option<cublasLtMatmulAlgo_t> {
        let near = self.table.algorithms.get(key)?.range(range);
        let (_, &data) = near.min_by_key(|(known, _)| known.abs_diff(rows))?;
        Some(cublasLtMatmulAlgo_t { data })
    }

    /// Keeps an algorithm, beside those that other processes have kept meanwhile. Gives the one that counts: another
    /// process may have chosen for the same product before, and what it has chosen is taken if it is `accepted`.
    pub(super) fn set(
        &mut self,
        key: String,
        rows: usize,
        algorithm: cublasLtMatmulAlgo_t,
        accepted: impl Fn(&cublasLtMatmulAlgo_t) -> bool,
    ) -> cublasLtMatmulAlgo_t {
        let mut data = algorithm.data;
        if let Some(path) = &self.path {
            let accepted = |data| accepted(&cublasLtMatmulAlgo_t { data });
            match keep(path, &self.table.platform, &key, (rows, data), accepted) {
                Ok(kept) => data = kept,
                Err(error) => {
                    tracing::warn!(path = %path.display(), %error, "a chosen algorithm cannot be kept");
                }
            }
        }
        let of_product = self.table.algorithms.entry(key).or_default();
        of_product.insert(rows, data);
        cublasLtMatmulAlgo_t { data }
    }
}

/// Adds an algorithm to a file unless it has one for the product that is accepted; gives the file's.
fn keep(
    path: &Path,
    platform: &Platform,
    key: &str,
    (rows, data): (usize, [u64; 8]),
    accepted: impl Fn([u64; 8]) -> bool,
) -> io::Result<[u64; 8]> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    let _lock = lock(&path.with_extension("lock"))?;
    let mut all = cached(Some(path));
    all.platform = platform.clone();
    let of_product = all.algorithms.entry(key.to_owned()).or_default();
    if let Some(&known) = of_product.get(&rows)
        && accepted(known)
    {
        return Ok(known);
    }
    of_product.insert(rows, data);
    all.write(path)?;
    Ok(data)
}

/// Locks a file until it is closed. Another user's may only be read, which is enough.
fn lock(path: &Path) -> io::Result<File> {
    let file = File::open(path).or_else(|_| File::create(path))?;
    let began = Instant::now();
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) if began.elapsed() < PATIENCE => thread::sleep(PAUSE),
            Err(error) => return Err(error.into()),
        }
    }
}

fn cached(path: Option<&Path>) -> Table {
    path.and_then(|path| Table::read(path).ok())
        .unwrap_or_default()
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

    #[test]
    fn a_second_gpu_computes_with_what_the_first_chose_unless_it_is_of_another_kind() {
        let mut first = open("H100", None, None).unwrap();
        let algorithm = cublasLtMatmulAlgo_t { data: [7; 8] };
        first.set("a".to_owned(), 64, algorithm, |_| true);
        let algorithms = first.algorithms();
        let on = |name| Chosen::shared(&properties(name), &GpuOptions::default(), &algorithms);
        let second = on("H100").unwrap();
        assert!(second.given());
        assert_eq!(second.get("a", 64).unwrap().data, [7; 8]);
        let other = on("A100").unwrap();
        assert!(!other.given() && other.get("a", 64).is_none());
    }

    /// On a GPU, with a folder and a table.
    fn open(gpu: &str, cache: Option<&Path>, tuning: Option<&Path>) -> Result<Chosen, LoadError> {
        let options = GpuOptions {
            cache: cache.map(Path::to_owned),
            tuning: tuning.map(Path::to_owned),
            ..GpuOptions::default()
        };
        Chosen::open(&properties(gpu), &options)
    }

    fn algorithm(number: u64) -> cublasLtMatmulAlgo_t {
        cublasLtMatmulAlgo_t { data: [number; 8] }
    }

    fn set(chosen: &mut Chosen, (key, rows): (&str, usize), number: u64) -> u64 {
        chosen
            .set(key.to_owned(), rows, algorithm(number), |_| true)
            .data[0]
    }

    fn number(found: Option<cublasLtMatmulAlgo_t>) -> Option<u64> {
        found.map(|algorithm| algorithm.data[0])
    }

    #[test]
    fn processes_add_to_one_file_and_read_it_at_the_start() {
        let folder = tempfile::tempdir().unwrap();
        let open = || open("NVIDIA H100 80GB HBM3", Some(folder.path()), None).unwrap();
        let (mut first, mut second) = (open(), open());
        set(&mut first, ("a", 64), 1);
        set(&mut second, ("b", 64), 2);
        let third = open();
        assert_eq!(number(third.get("a", 64)), Some(1));
        assert_eq!(number(third.get("b", 64)), Some(2));
        assert_eq!(number(first.get("b", 64)), None);
    }

    #[test]
    fn of_two_processes_that_choose_for_one_product_the_first_counts() {
        let folder = tempfile::tempdir().unwrap();
        let open = || open("A", Some(folder.path()), None).unwrap();
        let (mut first, mut second) = (open(), open());
        assert_eq!(set(&mut first, ("a", 64), 1), 1);
        assert_eq!(set(&mut second, ("a", 64), 2), 1);
        assert_eq!(number(second.get("a", 64)), Some(1));
        assert_eq!(number(open().get("a", 64)), Some(1));
    }

    #[test]
    fn what_is_in_the_file_and_not_accepted_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let open = || open("A", Some(folder.path()), None).unwrap();
        set(&mut open(), ("a", 64), 1);
        let accepted = |algorithm: &cublasLtMatmulAlgo_t| algorithm.data[0] != 1;
        let kept = open().set("a".to_owned(), 64, algorithm(2), accepted);
        assert_eq!(kept.data[0], 2);
        assert_eq!(number(open().get("a", 64)), Some(2));
    }

    #[test]
    fn processes_that_write_at_once_lose_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let open = || open("A", Some(folder.path()), None).unwrap();
        std::thread::scope(|scope| {
            for writer in 0..4 {
                let mut chosen = open();
                scope.spawn(move || {
                    for rows in 0..25 {
                        set(&mut chosen, (&format!("product {writer}"), rows), writer);
                    }
                });
            }
        });
        let all = open();
        for writer in 0..4 {
            let key = format!("product {writer}");
            assert!((0..25).all(|rows| number(all.get(&key, rows)) == Some(writer)));
        }
    }

    #[test]
    fn a_product_of_nearly_as_many_rows_takes_the_nearest_ones_algorithm() {
        let mut chosen = open("A", None, None).unwrap();
        set(&mut chosen, ("a", 1088), 1);
        set(&mut chosen, ("a", 4160), 4);
        let of = |rows| number(chosen.nearest("a", rows));
        assert_eq!([1120, 2100, 4608, 8000].map(of), [1, 1, 4, 4].map(Some));
        assert_eq!([100, 9000].map(of), [None, None]);
        assert!(chosen.nearest("b", 1088).is_none());
        let close = |rows| number(chosen.close("a", rows));
        assert_eq!([1024, 4096, 4500].map(close), [1, 4, 4].map(Some));
        assert_eq!([900, 2048, 5000].map(close), [None; 3]);
        assert!(chosen.get("a", 4096).is_none());
    }

    #[test]
    fn another_gpu_has_another_file() {
        let folder = tempfile::tempdir().unwrap();
        let open = |gpu| open(gpu, Some(folder.path()), None).unwrap();
        set(&mut open("A"), ("a", 64), 1);
        assert!(open("B").get("a", 64).is_none());
    }

    #[test]
    fn a_damaged_file_in_the_cache_is_as_good_as_none() {
        let folder = tempfile::tempdir().unwrap();
        let name = Platform::of(&properties("A")).file_name();
        fs::write(folder.path().join(name), "{").unwrap();
        let chosen = open("A", Some(folder.path()), None).unwrap();
        assert!(chosen.get("a", 64).is_none());
    }

    #[test]
    fn an_exported_table_gives_another_machine_the_same_algorithms() {
        let folder = tempfile::tempdir().unwrap();
        let (cache, file) = (
            folder.path().join("cache"),
            folder.path().join("table.json"),
        );
        let mut tuned = open("A", None, None).unwrap();
        set(&mut tuned, ("a", 64), 1);
        tuned.export(&file).unwrap();
        let mut own = open("A", Some(&cache), None).unwrap();
        set(&mut own, ("a", 64), 2);
        set(&mut own, ("a", 96), 3);
        let other = open("A", Some(&cache), Some(&file)).unwrap();
        assert!(other.given());
        assert_eq!(number(other.get("a", 64)), Some(1));
        // What its own cache says no other machine has.
        assert_eq!(number(other.get("a", 96)), None);
    }

    #[test]
    fn a_table_of_another_platform_is_passed_over_and_one_that_is_none_refused() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("table.json");
        let mut tuned = open("A", None, None).unwrap();
        set(&mut tuned, ("a", 64), 1);
        tuned.export(&file).unwrap();
        let other = open("B", None, Some(&file)).unwrap();
        assert!(!other.given() && other.get("a", 64).is_none());
        fs::write(&file, "{").unwrap();
        let refused = open("A", None, Some(&file)).err().unwrap().to_string();
        assert!(refused.contains("table.json cannot be read"), "{refused}");
    }
}
