//! What the process may use: memory by its cgroup, files by its limit. Defaults are derived from it.

use std::fs;
use std::path::{Path, PathBuf};

/// Share of the memory that bodies may take.
const BODIES: u64 = 4;
/// Share of the memory that connections may take.
const CONNECTIONS: u64 = 8;
/// Memory of a connection that works: hyper's buffers, ours, the kernel's, its task.
const BYTES_PER_CONNECTION: u64 = 48 << 10;
const FEWEST_BODY_BYTES: u64 = 16 << 20;
const MOST_BODY_BYTES: u64 = 4 << 30;
const FEWEST_CONNECTIONS: u64 = 64;
const MOST_CONNECTIONS: u64 = 16 << 10;
/// Files that the process needs for other things than connections of clients.
const OTHER_FILES: u64 = 64;

/// Memory and files of the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Resources {
    /// Bytes of memory: the cgroup's limit where there is one, else the machine's memory.
    pub memory: u64,
    /// Files that may be open.
    pub files: u64,
}

impl Resources {
    /// What the kernel says. Where it says nothing, 1 GiB and 1,024 files.
    pub fn read() -> Self {
        let text = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let cgroup = cgroup_limit(&text("/proc/self/cgroup"), Path::new("/sys/fs/cgroup"));
        let machine = machine_memory(&text("/proc/meminfo"));
        Self {
            memory: cgroup.into_iter().chain(machine).min().unwrap_or(1 << 30),
            files: open_files(&text("/proc/self/limits")).unwrap_or(1024),
        }
    }

    /// Bytes for the bodies of all requests: a quarter of the memory.
    pub fn body_bytes(self) -> usize {
        let bytes = (self.memory / BODIES).clamp(FEWEST_BODY_BYTES, MOST_BODY_BYTES);
        usize::try_from(bytes).unwrap_or(usize::MAX)
    }

    /// Connections of clients: an eighth of the memory, and half of the files (the others go to pods).
    pub fn connections(self) -> usize {
        let by_memory = self.memory / CONNECTIONS / BYTES_PER_CONNECTION;
        let by_files = self.files.saturating_sub(OTHER_FILES) / 2;
        let most = by_memory
            .clamp(FEWEST_CONNECTIONS, MOST_CONNECTIONS)
            .min(by_files.max(1));
        usize::try_from(most).unwrap_or(usize::MAX)
    }
}

/// The lowest limit of the process's cgroup and those above it, of version 2 or 1.
fn cgroup_limit(own: &str, root: &Path) -> Option<u64> {
    own.lines()
        .filter_map(|line| {
            let mut fields = line.splitn(3, ':').skip(1);
            let (controllers, path) = (fields.next()?, fields.next()?);
            match controllers {
                "" => Some((root.to_owned(), "memory.max", path)),
                _ if controllers.split(',').any(|name| name == "memory") => {
                    Some((root.join("memory"), "memory.limit_in_bytes", path))
                }
                _ => None,
            }
        })
        .flat_map(|(root, file, path)| {
            // In a namespace of its own the process sees its cgroup as the root.
            let below = path.trim_start_matches('/');
            let folders: Vec<PathBuf> =
                Path::new(below).ancestors().map(|p| root.join(p)).collect();
            folders.into_iter().map(move |folder| folder.join(file))
        })
        .filter_map(|path| fs::read_to_string(path).ok()?.trim().parse().ok())
        .min()
}

fn machine_memory(meminfo: &str) -> Option<u64> {
    let line = meminfo
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kibibytes: u64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kibibytes << 10)
}

fn open_files(limits: &str) -> Option<u64> {
    let line = limits
        .lines()
        .find_map(|line| line.strip_prefix("Max open files"))?;
    let soft = line.split_whitespace().next()?;
    if soft == "unlimited" {
        return Some(u64::MAX);
    }
    soft.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(files: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        root
    }

    #[test]
    fn the_lowest_limit_of_the_cgroups_above_counts() {
        let root = tree(&[
            ("memory.max", "max\n"),
            ("pods/memory.max", "1000\n"),
            ("pods/a/memory.max", "max\n"),
        ]);
        assert_eq!(cgroup_limit("0::/pods/a\n", root.path()), Some(1000));
        assert_eq!(cgroup_limit("0::/\n", root.path()), None);
    }

    #[test]
    fn a_namespaced_cgroup_is_the_root() {
        let root = tree(&[("memory.max", "268435456\n")]);
        assert_eq!(cgroup_limit("0::/\n", root.path()), Some(256 << 20));
    }

    #[test]
    fn version_1_has_the_limit_in_a_file_of_its_own() {
        let root = tree(&[("memory/pod/memory.limit_in_bytes", "5000\n")]);
        let own = "5:cpu,cpuacct:/pod\n4:memory:/pod\n";
        assert_eq!(cgroup_limit(own, root.path()), Some(5000));
    }

    #[test]
    fn the_kernels_own_words_are_read() {
        assert_eq!(
            machine_memory("MemTotal:  16 kB\nMemFree: 1 kB\n"),
            Some(16 << 10)
        );
        let limits = "Limit  Soft Limit  Hard Limit  Units\nMax open files            1024                 4096                 files\n";
        assert_eq!(open_files(limits), Some(1024));
        let here = Resources::read();
        assert!(here.memory > 1 << 20 && here.files > 3, "{here:?}");
    }

    #[test]
    fn a_pod_of_256_mebibytes_has_room_for_bodies_and_connections_together() {
        let pod = Resources {
            memory: 256 << 20,
            files: 1 << 20,
        };
        assert_eq!(pod.body_bytes(), 64 << 20);
        let connections = u64::try_from(pod.connections()).unwrap() * BYTES_PER_CONNECTION;
        assert!(
            connections <= 32 << 20 && pod.connections() > 500,
            "{connections}"
        );
        let few_files = Resources {
            memory: 1 << 40,
            files: 1024,
        };
        assert_eq!(few_files.connections(), 480);
    }
}
