//! What `make up` and `make test` say when something is amiss.

use anyhow::Result;
use std::process::{Command, Output};
use zimage_tests::repository;

/// Runs a script in the repository's root with a cache of its own, its arguments from $1 on.
fn bash(script: &str, arguments: &[&str]) -> Result<Output> {
    let cache = tempfile::tempdir()?;
    Ok(Command::new("bash")
        .args(["-c", script, "-"])
        .args(arguments)
        .current_dir(repository::root())
        .env("XDG_CACHE_HOME", cache.path())
        .output()?)
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

const VERSION_2_ALONE: &str = "\
22 1 254:0 / / rw,relatime - ext4 /dev/vda rw
29 22 0:26 / /sys/fs/cgroup rw,nosuid,nodev,noexec,relatime shared:9 - cgroup2 cgroup2 rw,nsdelegate
";
const VERSION_1: &str = "\
22 1 254:0 / / rw,relatime - ext4 /dev/vda rw
30 22 0:27 / /sys/fs/cgroup/memory rw,nosuid,nodev,noexec,relatime shared:10 - cgroup cgroup rw,memory
";

fn require_cgroup_v1(mounts: &str) -> Result<Output> {
    let script = r#"
        fail() { printf '%s\n' "$@" >&2; exit 1; }
        . tests/cluster/lib/cgroups.sh
        mountinfo=$1
        require_cgroup_v1
    "#;
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("mountinfo");
    std::fs::write(&file, mounts)?;
    bash(script, &[&file.display().to_string()])
}

#[test]
fn cgroup_version_2_alone_is_refused_and_the_section_it_points_to_exists() -> Result<()> {
    let refused = require_cgroup_v1(VERSION_2_ALONE)?;
    let told = text(&refused.stderr);
    assert!(!refused.status.success(), "{told}");
    assert!(told.contains("cgroup version 2 alone"), "{told}");
    let section = told.split('"').nth(1).unwrap_or_default();
    let heading = format!("## {section}");
    assert!(
        repository::read("README.md")
            .lines()
            .any(|line| line == heading),
        "README.md has no section {section:?}"
    );
    Ok(())
}

#[test]
fn cgroup_version_1_is_accepted() -> Result<()> {
    let accepted = require_cgroup_v1(VERSION_1)?;
    assert!(accepted.status.success(), "{}", text(&accepted.stderr));
    Ok(())
}

/// Both commands look at the machine before their first step.
#[test]
fn the_machine_is_checked_before_anything_is_built() {
    assert!(repository::read("tests/steps.sh").contains("cluster/cluster\" check\n"));
    for script in ["tests/quickstart", "tests/run"] {
        let text = repository::read(script);
        let at = |line: &str| {
            text.lines()
                .position(|candidate| candidate.starts_with(line))
        };
        let (checked, first) = (at("check_tools"), at("run_steps"));
        assert!(checked.is_some() && checked < first, "{script}");
    }
}

/// The steps that `make test` would take for these layers, in their order.
fn steps(layers: &str) -> Result<Vec<String>> {
    let run = repository::read("tests/run");
    let (definitions, _) = run.split_once("\ncheck_tools\n").unwrap_or_default();
    let script = definitions.replace("cd \"$(dirname", "# cd \"$(dirname");
    let listed = bash(&format!("LAYER=$1\n{script}\nsteps"), &[layers])?;
    anyhow::ensure!(listed.status.success(), "{}", text_of_both(&listed));
    let lines = text(&listed.stdout);
    let names = lines.lines().filter_map(|line| line.split(" | ").next());
    Ok(names.map(str::to_owned).collect())
}

fn text_of_both(output: &Output) -> String {
    format!("{}{}", text(&output.stdout), text(&output.stderr))
}

#[test]
fn a_layer_takes_the_steps_that_it_needs_and_no_other() -> Result<()> {
    assert_eq!(steps("unit")?, ["packages", "compile", "unit"]);
    let end_to_end = [
        "packages",
        "compile",
        "images",
        "kubernetes",
        "start",
        "load",
        "e2e",
        "stop",
    ];
    assert_eq!(steps("e2e")?, end_to_end);
    let usual = steps("")?;
    for apart in ["hostile", "faults"] {
        assert!(!usual.contains(&apart.to_owned()), "{usual:?}");
        assert!(steps(apart)?.contains(&apart.to_owned()));
    }
    Ok(())
}

#[test]
fn an_unknown_layer_is_refused_with_those_that_there_are() {
    let refused = steps("no-such-layer").unwrap_err().to_string();
    assert!(
        refused.contains("There is no layer 'no-such-layer'; there are: lint unit"),
        "{refused}"
    );
}

#[test]
fn what_is_missing_or_too_old_is_named_with_what_is_needed() -> Result<()> {
    for (programs, told) in [
        ("rustc() { return 127; }", "Rust 1.95 or later is needed: "),
        ("rustc() { echo rustc 1.80.1; }", "and this is 1.80.1."),
    ] {
        let script = format!(
            "set -euo pipefail
            job=test-of-steps
            . tests/steps.sh
            require_root() {{ :; }}
            PATH=/usr/bin:/bin
            {programs}
            check_tools"
        );
        let refused = bash(&script, &[])?;
        let complaint = text(&refused.stderr);
        assert!(!refused.status.success(), "{complaint}");
        assert!(complaint.contains(told), "{complaint}");
    }
    let old_go = r#"
        fail() { printf '%s\n' "$@" >&2; exit 1; }
        . tests/cluster/lib/check.sh
        go() { echo go1.25.3; }
        require_go
    "#;
    let complaint = text(&bash(old_go, &[])?.stderr);
    assert!(complaint.contains("Go 1.26 or later"), "{complaint}");
    assert!(complaint.contains("1.25.3 is installed"), "{complaint}");
    Ok(())
}

#[test]
fn a_failed_step_ends_the_job_and_the_costs_are_still_told() -> Result<()> {
    let script = r"
        set -euo pipefail
        job=test-of-steps
        . tests/steps.sh
        good() { true; }
        bad() { false; echo 'went on after a failure'; }
        later() { true; }
        run_steps << STEPS
good | 1 | 1 | the first thing
bad | 1 | 1 | the second thing
later | 1 | 1 | the third thing
STEPS
    ";
    let ended = bash(script, &[])?;
    std::fs::remove_dir_all(repository::path("out/logs/test-of-steps"))?;
    let (told, complaint) = (text(&ended.stdout), text(&ended.stderr));
    assert!(!ended.status.success(), "{told}");
    let costs = told.split("What it cost:").nth(1).unwrap_or_default();
    assert!(costs.contains("the first thing"), "{told}");
    assert!(costs.contains("the second thing"), "{told}");
    assert!(!told.contains("the third thing"), "{told}");
    assert!(!complaint.contains("went on"), "{complaint}");
    assert!(
        complaint.contains("out/logs/test-of-steps/bad.log"),
        "{complaint}"
    );
    Ok(())
}

/// Runs tests/advisories with a cargo-deny that cannot fetch and finds `verdict`, with or without an older database.
fn advisories(verdict: &str, has_database: bool) -> Result<Output> {
    let script = r#"
        version=$(sed -n 's/^version=//p' tests/cargo-deny.sh)
        program=$XDG_CACHE_HOME/zimage/cargo-deny-$version/bin/cargo-deny
        mkdir -p "$(dirname "$program")"
        printf '#!/bin/sh\ncase "$*" in *fetch\ db*) echo unreachable >&2; exit 1;; *) %s;; esac\n' "$1" > "$program"
        chmod +x "$program"
        export CARGO_HOME=$XDG_CACHE_HOME/cargo
        [ "$2" = false ] || mkdir -p "$CARGO_HOME/advisory-dbs/github.com-1/crates"
        tests/advisories
    "#;
    bash(script, &[verdict, &has_database.to_string()])
}

#[test]
fn advisories_without_any_database_are_no_pass_and_no_failure() -> Result<()> {
    let unreachable = advisories("exit 0", false)?;
    assert_eq!(unreachable.status.code(), Some(3));
    let told = text(&unreachable.stderr);
    assert!(told.contains("cannot be fetched: unreachable"), "{told}");
    Ok(())
}

#[test]
fn an_older_database_of_advisories_counts_when_there_is_no_newer() -> Result<()> {
    assert_eq!(advisories("exit 0", true)?.status.code(), Some(0));
    assert_eq!(advisories("exit 1", true)?.status.code(), Some(1));
    Ok(())
}

#[test]
fn the_summary_counts_layers_and_repeats_what_was_not_run() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let log = |name: &str, text: &str| -> Result<String> {
        let path = folder.path().join(name);
        std::fs::write(&path, text)?;
        Ok(path.display().to_string())
    };
    let lint = log("lint.log", "NOT RUN: shellcheck is not installed\n")?;
    let unit = "     Running unittests src/lib.rs (/t/release/deps/zimage_crds-0123abcd)\n\
        test result: ok. 3 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.50s\n";
    let unit = log("unit.log", unit)?;
    let gpu = "SKIPPED: every test, because there is no driver\n\
        test result: ok. 0 passed; 0 failed; 7 ignored; 0 measured; 0 filtered out; finished in 0.00s\n";
    let gpu = log("gpu.log", gpu)?;
    let summary = bash(
        r#"awk -f tests/summary.awk "$@""#,
        &[lint.as_str(), &unit, &gpu],
    )?;
    let told = text(&summary.stdout);
    for line in [
        "unit                     3       1        0       0.5",
        "on a GPU                 0       0        7       0.0",
        "3 passed, 1 failed, 7 skipped",
        "NOT RUN: shellcheck is not installed",
        "SKIPPED: every test, because there is no driver",
    ] {
        assert!(told.lines().any(|shown| shown == line), "{told}");
    }
    Ok(())
}
