//! The programs under test as processes of this machine, with a limit of memory that the kernel enforces.

use crate::wait;
use anyhow::{Context, Result, bail, ensure};
use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

const START: Duration = Duration::from_secs(120);
const END: Duration = Duration::from_secs(20);

/// A program that was built beside the running one.
///
/// # Errors
/// When it was not built.
pub fn program(name: &str) -> Result<PathBuf> {
    let own = std::env::current_exe()?;
    let folders = own.ancestors().skip(1).take(2); // a test lies in target/PROFILE/deps
    let found = folders
        .map(|folder| folder.join(name))
        .find(|path| path.exists());
    found.with_context(|| {
        format!(
            "there is no {name} beside {}: run `make test`, or `cargo build --release --workspace`",
            own.display()
        )
    })
}

/// A loopback address that nothing listens on now.
///
/// # Errors
/// When no port is free.
pub fn free_address() -> Result<SocketAddr> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    Ok(listener.local_addr()?)
}

/// How a program is started.
#[derive(Clone, Debug)]
pub struct Launch {
    /// What it is called in reports, and its log's name.
    pub name: String,
    /// The program's file.
    pub program: PathBuf,
    /// Its arguments.
    pub arguments: Vec<String>,
    /// Variables of its environment beside the inherited ones.
    pub environment: Vec<(String, String)>,
    /// Bytes at which the kernel ends it, as a container's limit does.
    pub memory: Option<u64>,
}

/// A running program. It is killed when this is dropped.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
    group: Option<MemoryGroup>, // after the child: a group is removed when it is empty
}

impl Process {
    /// Starts a program, whose output goes to a file in `folder`.
    ///
    /// # Errors
    /// When it cannot be started, or memory cannot be limited: that needs root and the memory controller of cgroup version 1.
    pub fn start(launch: &Launch, folder: &Path) -> Result<Self> {
        let log = folder.join(format!("{}.log", launch.name));
        let output = File::create(&log)?;
        let group = launch.memory.map(MemoryGroup::new).transpose()?;
        let mut command = match &group {
            // The shell joins the group before it becomes the program.
            Some(group) => {
                let mut shell = Command::new("sh");
                shell
                    .args(["-c", r#"echo $$ > "$0/cgroup.procs" && exec "$@""#])
                    .arg(&group.0)
                    .arg(&launch.program);
                shell
            }
            None => Command::new(&launch.program),
        };
        let child = command
            .args(&launch.arguments)
            .envs(launch.environment.iter().cloned())
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .spawn()
            .with_context(|| format!("failed to start {}", launch.program.display()))?;
        let name = launch.name.clone();
        Ok(Self {
            name,
            child,
            log,
            group,
        })
    }

    /// Waits until `/readyz` of its API says so.
    ///
    /// # Errors
    /// When it ends, or says so in vain for two minutes; the message carries its log.
    pub async fn ready(&mut self, api: SocketAddr) -> Result<()> {
        let http = reqwest::Client::new();
        let url = format!("http://{api}/readyz");
        let outcome = wait::until("readiness", START, async || {
            if let Some(status) = self.child.try_wait()? {
                return Ok(Some(Some(status)));
            }
            let response = http
                .get(&url)
                .timeout(Duration::from_secs(5))
                .send()
                .await?;
            Ok(response.status().is_success().then_some(None))
        });
        let ended = outcome.await.with_context(|| self.told())?;
        ensure!(ended.is_none(), "{} ended: {}", self.name, self.told());
        Ok(())
    }

    /// What it is called.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its process number.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// How it ended, if it did.
    ///
    /// # Errors
    /// When the kernel does not tell.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        Ok(self.child.try_wait()?)
    }

    /// Asks it to stop, as the kubelet does, and waits until it has.
    ///
    /// # Errors
    /// When it cannot be asked, or goes on.
    pub fn stop(&mut self) -> Result<ExitStatus> {
        let id = self.id().to_string();
        let asked = Command::new("kill").args(["-TERM", &id]).status()?;
        ensure!(asked.success(), "{} has ended", self.name);
        let begun = Instant::now();
        while begun.elapsed() < END {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        bail!("{} goes on: {}", self.name, self.told())
    }

    /// Bytes of memory that it holds.
    ///
    /// # Errors
    /// When it has ended.
    pub fn resident(&self) -> Result<u64> {
        self.status("VmRSS:")
    }

    /// Most bytes of memory that it ever held.
    ///
    /// # Errors
    /// When it has ended.
    pub fn peak(&self) -> Result<u64> {
        self.status("VmHWM:")
    }

    fn status(&self, field: &str) -> Result<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.id()))
            .with_context(|| format!("{} has ended", self.name))?;
        let line = status.lines().find_map(|line| line.strip_prefix(field));
        let kibibytes = line.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok());
        let kibibytes = kibibytes.with_context(|| format!("{} has ended", self.name))?;
        Ok(kibibytes * 1024)
    }

    /// File descriptors that it has open.
    ///
    /// # Errors
    /// When it has ended.
    pub fn descriptors(&self) -> Result<usize> {
        let open = fs::read_dir(format!("/proc/{}/fd", self.id()))
            .with_context(|| format!("{} has ended", self.name))?;
        Ok(open.count())
    }

    /// What it wrote.
    pub fn log(&self) -> String {
        let text = fs::read(&self.log).unwrap_or_default();
        String::from_utf8_lossy(&text).into_owned()
    }

    /// The end of what it wrote.
    pub fn told(&self) -> String {
        let text = self.log();
        let lines: Vec<_> = text.lines().collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended already; either way nothing is left to do about a failure.
        let _ended = self.child.kill();
        let _status = self.child.wait();
        drop(self.group.take());
    }
}

/// A group of processes with a limit, in the memory controller of cgroup version 1.
#[derive(Debug)]
struct MemoryGroup(PathBuf);

impl MemoryGroup {
    fn new(limit: u64) -> Result<Self> {
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = PathBuf::from(format!(
            "/sys/fs/cgroup/memory/zimage-process-{}-{number}",
            std::process::id()
        ));
        fs::create_dir(&path).with_context(|| {
            format!(
                "failed to make {}: limits of memory need root and cgroup version 1",
                path.display()
            )
        })?;
        let group = Self(path);
        fs::write(group.0.join("memory.limit_in_bytes"), limit.to_string())
            .context("failed to limit memory")?;
        Ok(group)
    }
}

impl Drop for MemoryGroup {
    fn drop(&mut self) {
        // The kernel empties the group a moment after the last process was waited for.
        let begun = Instant::now();
        while fs::remove_dir(&self.0).is_err() && self.0.exists() && begun.elapsed() < END {
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}
