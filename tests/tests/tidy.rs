//! The tree keeps its rules.

#[path = "tidy/imports.rs"]
mod imports;
#[path = "tidy/modules.rs"]
mod modules;
#[path = "tidy/workspace.rs"]
mod workspace;

use imports::Crate;
use modules::{code_lines, reachable, rust_files};
use std::collections::BTreeSet;
use std::path::Path;
use workspace::{Workspace, ours};
use zimage_tests::repository;

const MOST_LINES: usize = 500;

fn relative(path: &Path) -> String {
    path.strip_prefix(repository::root())
        .expect("a path of the tree")
        .display()
        .to_string()
}

fn is_test(path: &str) -> bool {
    path.starts_with("tests/")
        || path
            .split('/')
            .any(|part| part == "tests" || part == "tests.rs")
}

#[test]
fn no_source_file_is_longer_than_500_lines() {
    let long: Vec<_> = rust_files()
        .into_iter()
        .map(|path| {
            (
                relative(&path),
                code_lines(&std::fs::read_to_string(&path).unwrap()),
            )
        })
        .filter(|(path, lines)| *lines > MOST_LINES && !is_test(path))
        .collect();
    assert!(long.is_empty(), "{long:?}");
}

#[test]
fn every_source_file_is_reached_from_a_crate_root() {
    let reached: BTreeSet<_> = [Workspace::load(), Workspace::fuzz()]
        .iter()
        .flat_map(Workspace::roots)
        .collect::<Vec<_>>()
        .iter()
        .flat_map(|root| reachable(root))
        .collect();
    let orphans: Vec<_> = rust_files()
        .into_iter()
        .filter(|path| !reached.contains(path))
        .map(|path| relative(&path))
        .collect();
    assert!(orphans.is_empty(), "no `mod` declares {orphans:?}");
}

/// A crate whose files still do what the others must not.
const CIRCULAR: &str = "operator/src/";

#[test]
fn files_do_not_import_each_other_in_a_circle() {
    let circles = Workspace::load()
        .roots()
        .iter()
        .filter(|root| !relative(root).starts_with(CIRCULAR))
        .flat_map(|root| {
            let circles = Crate::read(root, &reachable(root)).circles();
            let named = circles.into_iter();
            named.map(|circle| format!("{}: {circle}", relative(root)))
        })
        .collect::<Vec<_>>();
    assert!(circles.is_empty(), "{circles:#?}");
}

#[test]
fn modules_are_foo_rs_and_never_mod_rs() {
    let found: Vec<_> = rust_files()
        .into_iter()
        .filter(|path| path.ends_with("mod.rs"))
        .collect();
    assert!(found.is_empty(), "{found:?}");
}

#[test]
fn every_crate_root_says_what_the_crate_is() {
    let silent: Vec<_> = [Workspace::load(), Workspace::fuzz()]
        .iter()
        .flat_map(Workspace::roots)
        .filter(|root| !std::fs::read_to_string(root).unwrap().starts_with("//!"))
        .map(|root| relative(&root))
        .collect();
    assert!(silent.is_empty(), "no crate documentation: {silent:?}");
}

#[test]
fn crates_depend_on_each_other_only_as_designed() {
    let workspace = Workspace::load();
    for (package, allowed) in [
        ("zimage-crds", &[][..]),
        ("zimage-edge", &[]),
        ("zimage-operator", &["zimage-crds", "zimage-edge"]),
        ("zimage-gateway", &["zimage-crds", "zimage-edge"]),
        ("zimage-core", &[]),
        ("zimage-checkpoint", &[]),
        ("zimage-engine", &["zimage-core"]),
        (
            "zimage-http",
            &["zimage-core", "zimage-edge", "zimage-engine"],
        ),
        ("zimage-models", &["zimage-core", "zimage-checkpoint"]),
        ("zimage-nvml", &[]),
        ("zimage-cuda", &["zimage-core", "zimage-checkpoint"]),
        (
            "zimage-server",
            &[
                "zimage-core",
                "zimage-edge",
                "zimage-engine",
                "zimage-http",
                "zimage-checkpoint",
                "zimage-models",
                "zimage-cuda",
                "zimage-nvml",
            ],
        ),
        (
            "zimage-testserver",
            &[
                "zimage-core",
                "zimage-edge",
                "zimage-engine",
                "zimage-http",
                "zimage-nvml",
            ],
        ),
    ] {
        let unexpected: Vec<_> = workspace
            .dependencies(package)
            .into_iter()
            .filter(|name| ours(name) && !allowed.contains(&name.as_str()))
            .collect();
        assert!(
            unexpected.is_empty(),
            "{package} must not depend on {unexpected:?}"
        );
    }
}

#[test]
fn what_serves_requests_knows_no_tensor_library() {
    let workspace = Workspace::load();
    for package in [
        "zimage-core",
        "zimage-engine",
        "zimage-http",
        "zimage-checkpoint",
    ] {
        for name in workspace.dependencies(package) {
            assert!(
                !name.starts_with("candle") && name != "cudarc",
                "{package} must not depend on {name}"
            );
        }
    }
}

#[test]
fn the_core_has_no_async_runtime() {
    let dependencies = Workspace::load().dependencies("zimage-core");
    assert!(
        !dependencies
            .iter()
            .any(|name| name.starts_with("tokio") || name == "futures"),
        "{dependencies:?}"
    );
}

#[test]
fn unsafe_code_is_in_the_cuda_crate_a_vector_loop_and_a_fuzz_targets_allocator() {
    let mut elsewhere: Vec<_> = rust_files()
        .into_iter()
        .filter(|path| {
            std::fs::read_to_string(path)
                .unwrap()
                .lines()
                .any(modules::opens_unsafe)
        })
        .map(|path| relative(&path))
        .filter(|path| !path.starts_with("server/cuda/"))
        .collect();
    elsewhere.sort();
    assert_eq!(
        elsewhere,
        [
            "server/core/src/noise.rs",
            "tests/fuzz/fuzz_targets/image_file.rs",
        ]
    );
}

#[test]
fn files_that_the_readme_names_exist() {
    let readme = repository::read("README.md");
    let folders = [
        "charts",
        "crds",
        "gateway",
        "images",
        "manifests",
        "operator",
        "server",
        "tests",
    ];
    let named: BTreeSet<&str> = readme
        .split(|character: char| character.is_whitespace() || "`()[],;|\"'<>".contains(character))
        .map(|word| word.trim_end_matches(['.', ':']))
        .filter(|word| {
            word.split_once('/')
                .is_some_and(|(folder, _)| folders.contains(&folder))
        })
        .filter(|word| !word.contains(['*', '{', '$', '=']))
        .collect();
    assert!(!named.is_empty(), "README.md names the tree");
    let missing: Vec<_> = named
        .into_iter()
        .filter(|name| !repository::path(name).exists())
        .collect();
    assert!(missing.is_empty(), "{missing:?}");
}

#[test]
fn chart_and_workspace_have_one_version() {
    let workspace = Workspace::load();
    let version = workspace.version("zimage-operator");
    let chart = repository::read("charts/zimage-operator/Chart.yaml");
    for line in [
        format!("version: {version}"),
        format!("appVersion: {version}"),
    ] {
        assert!(
            chart.lines().any(|candidate| candidate == line),
            "Chart.yaml lacks `{line}`"
        );
    }
}
