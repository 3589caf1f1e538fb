//! Progress bars; none where there is no terminal.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// A bar that counts bytes.
pub fn bytes(what: &'static str) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
    // The template is a constant; should it be wrong, the plain bar does.
    let style = ProgressStyle::with_template(
        "{msg} {wide_bar} {bytes}/{total_bytes} {bytes_per_sec} {eta}",
    )
    .unwrap_or_else(|_| ProgressStyle::default_bar());
    bar.set_style(style);
    bar.set_message(what);
    bar
}

/// Passes `(position, total)` on to a bar.
pub fn report(bar: &ProgressBar) -> impl FnMut(u64, u64) + use<> {
    let bar = bar.clone();
    move |position, total| {
        bar.set_length(total);
        bar.set_position(position);
    }
}
