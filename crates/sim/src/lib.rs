//! Simulator.
pub mod clock;
pub mod disk;
pub mod history;
pub mod network;
pub mod rng;
pub mod store;
