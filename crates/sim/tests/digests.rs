//! A seed is a history, byte for byte, in every build.

use ringway_sim::digests::{digests, written_down};

/// After a change of the protocol, its timers or the simulator: `cargo run -p ringway-sim -- digests`, and write them down.
#[test]
fn runs_are_what_was_written_down() {
    assert_eq!(digests(), written_down());
}
