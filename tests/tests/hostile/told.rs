//! What a front tells of those that it refused: figures, and lines in its log.

use anyhow::{Context, Result, ensure};
use zimage_tests::stack::Served;

/// Connections that ended without an answer, and those that were told so before there was a request.
const CONNECTIONS: [&str; 4] = ["connections", "evicted", "head_timeout", "write_timeout"];

/// Fails unless a front has counted `least` requests and connections that it did not serve, and its log tells of such.
pub(crate) async fn of_the_refused(front: &Served, least: usize) -> Result<()> {
    let figures = front.figures().await?;
    let name = front.process.name();
    let counted = refused(&figures)?;
    let log = front.process.log();
    let lines = log.lines().filter(|line| is_of_refused(line)).count();
    ensure!(
        counted >= least as f64,
        "{name} counted {counted} that it did not serve, of {least}: {figures}"
    );
    ensure!(lines > 0, "no line about them: {}", front.process.told());
    // Floods of them do not fill its disk.
    ensure!(log.len() < 64 << 20, "{} bytes of log", log.len());
    Ok(())
}

/// Requests that were answered with an error, and connections that were ended.
fn refused(figures: &str) -> Result<f64> {
    let mut sum = 0.0;
    for line in figures.lines() {
        let is_request = line.contains("_requests_total{")
            && ["code=\"4", "code=\"5"]
                .iter()
                .any(|code| line.contains(code));
        let of = |reason| line.contains(&format!("reason=\"{reason}\",listener=\"api\""));
        if is_request || CONNECTIONS.into_iter().any(of) {
            let count = line.rsplit(' ').next().context("a figure has a number")?;
            sum += count.parse::<f64>()?;
        }
    }
    Ok(sum)
}

/// Servers write for people here, gateways in JSON.
fn is_of_refused(line: &str) -> bool {
    let status = ["status=4", "status=5", "\"status\":4", "\"status\":5"];
    line.contains("not taken") || status.iter().any(|status| line.contains(status))
}
