//! A device that computes no more, as in a driver call that never returns.

use crate::Scene;
use anyhow::{Context, Result};
use std::fs;
use std::path::PathBuf;
use std::time::Duration;
use zimage_tests::process::Process;
use zimage_tests::traffic::{Client, Kind};
use zimage_tests::wait;

/// A thread that stands still until this is dropped, by the freezer of cgroup version 1.
struct Frozen(PathBuf);

impl Frozen {
    fn thread(process: &Process, name: &str) -> Result<Self> {
        let threads = fs::read_dir(format!("/proc/{}/task", process.id()))?;
        let thread = threads
            .filter_map(Result::ok)
            .find(|thread| {
                fs::read_to_string(thread.path().join("comm")).is_ok_and(|comm| comm.trim() == name)
            })
            .with_context(|| format!("{} has no thread {name}", process.name()))?;
        let group = PathBuf::from(format!(
            "/sys/fs/cgroup/freezer/zimage-stuck-{}",
            process.id()
        ));
        fs::create_dir(&group).context("freezing a thread needs root and cgroup version 1")?;
        let frozen = Self(group);
        fs::write(
            frozen.0.join("tasks"),
            thread.file_name().to_string_lossy().as_bytes(),
        )?;
        fs::write(frozen.0.join("freezer.state"), "FROZEN")?;
        Ok(frozen)
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        // The process may have ended; the group goes with its last thread or stays empty.
        let _thawed = fs::write(self.0.join("freezer.state"), "THAWED");
        let _removed = fs::remove_dir(&self.0);
    }
}

mod faults {
    use super::*;

    /// Two minutes until it leaves the rotation, six until it is started again.
    const UNREADY: Duration = Duration::from_secs(120);
    const RESTARTED: Duration = Duration::from_secs(360);

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_server_whose_device_stands_still_is_unready_in_two_minutes_and_ends_in_six()
    -> Result<()> {
        let mut scene = Scene::start().await?;
        let address = scene.stack.servers[0].1.api;
        let client = Client::new(address, "64x64", Duration::from_secs(400))?;
        let made = client.send(Kind::Text, 0).await;
        assert_eq!(made.status, Some(200), "{made:?}");

        let frozen = Frozen::thread(&scene.stack.servers[0].1.process, "device")?;
        let waiting = tokio::spawn(async move { client.send(Kind::Text, 1).await });
        let ready = format!("http://{address}/readyz");
        wait::until(
            "the server to say that it is not ready",
            UNREADY,
            async || {
                let status = reqwest::get(&ready).await?.status();
                Ok((!status.is_success()).then_some(()))
            },
        )
        .await?;
        let server = &mut scene.stack.servers[0].1.process;
        wait::until("the server to give up", RESTARTED, async || {
            Ok(server.told().contains("stuck").then_some(()))
        })
        .await?;
        // A frozen thread cannot even be killed.
        drop(frozen);
        let status =
            wait::until("its end", Duration::from_secs(30), async || server.ended()).await?;
        assert!(!status.success(), "{status}");
        let answer = waiting.await?;
        assert_ne!(answer.status, Some(200), "{answer:?}");
        Ok(())
    }
}
