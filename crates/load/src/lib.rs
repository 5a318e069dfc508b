//! Load with an audit: does a service keep its promises while its cluster changes?
//!
//! [`run()`] sends requests on a fixed schedule (open loop: a slow answer delays no later request, and latency counts from
//! the scheduled time, so that a stall shows as long as it lasted), follows the cluster's events, and with an audit keeps
//! every key's history and checks that it is linearizable. The result is a [`Summary`]: a JSON document, and an HTML report
//! by [`report`].
//!
//! The book for its user is docs/LOAD.md.

pub mod audit;
mod clock;
mod engine;
mod follow;
mod histogram;
mod options;
mod outcome;
mod progress;
pub mod random;
pub mod report;
mod run;
mod stats;
mod summary;
mod value;
mod wire;
pub mod workload;

pub use engine::IN_FLIGHT_MAX;
pub use follow::Event;
pub use histogram::{Histogram, Percentiles};
pub use options::{
    CONNECTIONS_MAX, DURATION_MAX, KEYS_MAX, Objectives, Options, OptionsError, RATE_MAX, Target,
    VALUE_BYTES_MAX,
};
pub use progress::Tick;
pub use run::{LoadError, run};
pub use summary::{AskedFor, Part, SecondOf, Summary};
pub use value::VALUE_BYTES_MIN;
