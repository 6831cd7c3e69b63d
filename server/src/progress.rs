//! A bar for jobs that take longer than a glance.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use zimage_checkpoint::Progress;

/// A bar over bytes, on standard error when that is a terminal.
pub(crate) struct Bytes {
    bar: ProgressBar,
}

impl Bytes {
    pub(crate) fn new(what: &'static str) -> Self {
        let template = "{msg} {bytes}/{total_bytes} [{bar:30}] {binary_bytes_per_sec}, {eta} left";
        let style = ProgressStyle::with_template(template);
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
        Self {
            bar: bar
                .with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
                .with_message(what),
        }
    }

    pub(crate) fn show(&self, progress: Progress) {
        self.bar.set_length(progress.total);
        self.bar.set_position(progress.done);
    }
}

impl Drop for Bytes {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
