//! Progress bars; none where there is no terminal.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// A bar that counts bytes. It shows itself once there is something to count.
pub fn bar() -> ProgressBar {
    let bar = ProgressBar::hidden();
    // The template is a constant; should it be wrong, the plain bar does.
    let style = ProgressStyle::with_template(
        "{msg} {wide_bar} {bytes}/{total_bytes} {bytes_per_sec} {eta}",
    )
    .unwrap_or_else(|_| ProgressStyle::default_bar());
    bar.set_style(style);
    bar
}

/// Shows how far `what` came.
pub fn show(bar: &ProgressBar, what: &'static str, position: u64, total: u64) {
    if bar.length().is_none() {
        bar.set_draw_target(ProgressDrawTarget::stderr());
    }
    bar.set_message(what);
    bar.set_length(total);
    bar.set_position(position);
}

/// Passes `(position, total)` on to a bar.
pub fn report(bar: &ProgressBar, what: &'static str) -> impl FnMut(u64, u64) {
    move |position, total| show(bar, what, position, total)
}

/// A count of bytes of which nobody knows how many there will be.
pub fn counter() -> ProgressBar {
    let bar = ProgressBar::hidden();
    let style = ProgressStyle::with_template("{spinner} {bytes} {bytes_per_sec} {elapsed}");
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_spinner()));
    bar
}

/// Shows how many bytes there are.
pub fn show_count(bar: &ProgressBar, count: u64) {
    if bar.is_hidden() {
        bar.set_draw_target(ProgressDrawTarget::stderr());
    }
    bar.set_position(count);
}
