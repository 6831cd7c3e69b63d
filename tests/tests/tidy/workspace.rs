//! What cargo says about the workspace.

use serde_json::Value;
use std::path::PathBuf;
use std::process::Command;
use zimage_tests::repository;

pub(crate) struct Workspace(Value);

/// Whether a package is one of the workspace's own.
pub(crate) fn ours(name: &str) -> bool {
    name.starts_with("zimage-")
}

impl Workspace {
    pub(crate) fn load() -> Self {
        Self::of("Cargo.toml")
    }

    /// The fuzz targets' workspace, which the main build knows nothing of.
    pub(crate) fn fuzz() -> Self {
        Self::of("tests/fuzz/Cargo.toml")
    }

    fn of(manifest: &str) -> Self {
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let output = Command::new(cargo)
            .args([
                "metadata",
                "--no-deps",
                "--offline",
                "--format-version",
                "1",
                "--manifest-path",
                manifest,
            ])
            .current_dir(repository::root())
            .output()
            .expect("cargo can be started");
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        Self(serde_json::from_slice(&output.stdout).expect("cargo prints JSON"))
    }

    fn packages(&self) -> impl Iterator<Item = &Value> {
        self.0["packages"].as_array().into_iter().flatten()
    }

    fn package(&self, name: &str) -> &Value {
        self.packages()
            .find(|package| package["name"] == name)
            .unwrap_or_else(|| panic!("no package {name}"))
    }

    /// The root file of every target: libraries, programs, tests, build scripts.
    pub(crate) fn roots(&self) -> Vec<PathBuf> {
        self.packages()
            .flat_map(|package| package["targets"].as_array().into_iter().flatten())
            .filter_map(|target| target["src_path"].as_str().map(PathBuf::from))
            .collect()
    }

    /// Names of what a package needs when it is built; what only its tests need is left out.
    pub(crate) fn dependencies(&self, package: &str) -> Vec<String> {
        let dependencies = self.package(package)["dependencies"]
            .as_array()
            .into_iter()
            .flatten();
        dependencies
            .filter(|dependency| dependency["kind"] != "dev")
            .filter_map(|dependency| dependency["name"].as_str().map(str::to_owned))
            .collect()
    }

    pub(crate) fn version(&self, package: &str) -> &str {
        self.package(package)["version"]
            .as_str()
            .expect("a package has a version")
    }
}
