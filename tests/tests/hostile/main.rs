//! No client takes a gateway or a server down.
//!
//! Real programs with the limits of memory that pods have, a tiny model, and clients that mean harm; beside them honest ones
//! that ask for small images, and probes as a kubelet sends them. Whatever happens, nothing ends, at least 99 % of the
//! honest requests get their image, and the probes are answered in time.
//!
//! Tests of one program at a time: they measure times. Those in `faults` take minutes and are run by `make test LAYER=faults`.

mod announced;
mod bodies;
mod heads;
mod honest;
mod images;
mod stuck;
mod told;

use anyhow::Result;
use std::net::SocketAddr;
use tokio::sync::{Mutex, MutexGuard};
use zimage_crds::Tier;
use zimage_tests::stack::{GATEWAY_MEMORY, SERVER_MEMORY, Served, Setup, Stack};

static ALONE: Mutex<()> = Mutex::const_new(());

/// A gateway with three servers that has the machine to itself, as far as these tests are concerned.
struct Scene {
    stack: Stack,
    _alone: MutexGuard<'static, ()>,
}

/// Where the harm is done.
#[derive(Clone, Copy, Debug)]
enum Front {
    Gateway,
    Server,
}

impl Scene {
    async fn start() -> Result<Self> {
        let alone = ALONE.lock().await;
        honest::open_many_files()?;
        let setup = Setup {
            tiers: vec![Tier::Primary, Tier::Primary, Tier::Fallback],
            limited: true,
            ..Setup::default()
        };
        let stack = Stack::start(&setup).await?;
        Ok(Self {
            stack,
            _alone: alone,
        })
    }

    fn front(&self, front: Front) -> &Served {
        match front {
            Front::Gateway => &self.stack.gateway,
            Front::Server => &self.stack.servers[0].1,
        }
    }

    fn address(&self, front: Front) -> SocketAddr {
        self.front(front).api
    }

    /// Does harm at a front while honest clients and probes are there, whom it must not hurt.
    async fn withstands<T>(
        &self,
        front: Front,
        harm: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        let (done, seen) = honest::during(self.front(front), harm).await?;
        seen.nobody_was_hurt();
        Ok(done)
    }

    /// Nothing has ended, and nothing came near its limit.
    fn stands(&mut self) -> Result<()> {
        self.stack.all_run()?;
        let servers = self
            .stack
            .servers
            .iter()
            .map(|(_, server)| (server, SERVER_MEMORY));
        for (served, limit) in servers.chain([(&self.stack.gateway, GATEWAY_MEMORY)]) {
            let peak = served.process.peak()?;
            let name = served.process.name();
            assert!(
                peak < limit,
                "{name} held {} of {} MiB",
                peak >> 20,
                limit >> 20
            );
        }
        Ok(())
    }
}
