//! Whole clusters and single partitions on virtual time, with every fault the design promises to survive.
//!
//! A run is its seed: one stream of randomness gives the schedule, the weather and the workload, and the same pure code
//! that ships (`ringway-control`, `ringway-gossip`, `ringway-route`) does the rest. Read top-down:
//!
//! - [`play`] has every scenario by name, and one report for all of them: what `ringway sim` is made of;
//! - [`explorer`] runs one partition on a few nodes through a random schedule of everything that goes wrong, [`sweep`]
//!   many schedules at once, [`mutants`] the same with one rule of the protocol taken out;
//! - [`script`] plays a schedule written by hand, and [`directed`] has those for what is too rare to be met by chance;
//! - [`cluster`] runs whole clusters with their control planes, by the seed or by scenarios that are data;
//! - [`gossip`] runs thousands of gossip members, and measures them;
//! - [`world`] holds nodes, routers and network together and lets time go on;
//! - [`node`] is a process on a disk and a clock, [`plane`] its control plane, [`router`] a router with its clients;
//! - [`disk`], [`store`], [`network`], [`clock`] and [`rng`] are the models below;
//! - [`trace`] and [`story`] tell of a run and change nothing about it;
//! - [`checkers`] and [`history`] look at what came of it, and know nothing of how.

pub mod checkers;
pub mod clock;
pub mod cluster;
pub mod digest;
pub mod digests;
pub mod directed;
pub mod disk;
pub mod explorer;
pub mod gossip;
pub mod history;
pub mod mutants;
pub mod network;
pub mod node;
pub mod plane;
pub mod play;
pub mod rng;
pub mod router;
pub mod script;
pub mod show;
pub mod store;
pub mod story;
pub mod sweep;
pub mod trace;
pub mod world;
