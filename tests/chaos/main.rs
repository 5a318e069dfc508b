//! The promise of claimed ownership, shown on the built binary: nodes join, leave, restart, crash, stop and are cut
//! off while an audited load runs, and no acknowledged write is lost, no read goes back, and no client sees an error.
//!
//! Every test runs at two scales. `cargo xtask test` takes the small one; `cargo xtask long chaos` the full one: five
//! nodes with 100 MB each, 2,000 requests/s, three runs. What needs network namespaces, and so root, is in `cuts` and
//! runs by `cargo xtask long cuts`.

mod crash;
mod cuts;
mod direct;
mod moves;
mod pause;
mod phases;
mod shop;
mod steady;
#[path = "../support/mod.rs"]
mod support;
mod traffic;
