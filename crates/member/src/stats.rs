//! What the shell counts, besides what gossip and the plane count themselves.

use std::sync::atomic::{AtomicU64, Ordering};

/// Declares the counters, their snapshot and their names in one place, so that none is forgotten in the metrics.
macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => {
        /// What the shell of a member has counted since it started. Every bound has its counter.
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
        #[non_exhaustive]
        pub struct MemberStats {
            $($(#[$doc])* pub $name: u64,)*
        }

        impl MemberStats {
            /// Every counter with its name, in declaration order: for metrics.
            #[must_use]
            pub fn fields(&self) -> Vec<(&'static str, u64)> {
                vec![$((stringify!($name), self.$name)),*]
            }
        }

        /// The live counters. Off the request path, so plain shared atomics.
        #[derive(Debug, Default)]
        pub(crate) struct Counters {
            $(pub(crate) $name: Counter,)*
        }

        impl Counters {
            pub(crate) fn snapshot(&self) -> MemberStats {
                MemberStats { $($name: self.$name.0.load(Ordering::Relaxed)),* }
            }
        }
    };
}

counters! {
    /// Datagrams the system would not take: a full send buffer or no route. Gossip repeats what matters.
    datagrams_unsent,
    /// Errors while receiving datagrams.
    receive_errors,
    /// Streams that could not be accepted, for want of file descriptors as a rule.
    accept_errors,
    /// Incoming streams cut off because newer ones needed their place.
    streams_in_evicted,
    /// Incoming streams that broke, ended early, or asked nothing this member answers.
    streams_in_failed,
    /// Incoming streams that took too long.
    streams_in_timed_out,
    /// Incoming streams that announced more bytes than a message may have.
    streams_in_oversized,
    /// Incoming streams refused because the others filled the memory for messages.
    streams_in_over_memory,
    /// Messages by stream dropped because too many were waiting.
    streams_out_dropped,
    /// Outgoing streams that failed.
    streams_out_failed,
    /// Outgoing streams that took too long.
    streams_out_timed_out,
    /// Seeds that could not be resolved.
    seed_lookups_failed,
    /// Times the seeds were asked for their state.
    seed_joins,
    /// Times the record file was written.
    record_file_writes,
    /// Times it could not be written.
    record_file_errors,
    /// Times a keyring of the cluster was put into the keyring file, or found there.
    keyring_file_writes,
    /// Times it could not be: a restart would come back with older keys.
    keyring_file_errors,
    /// Claims from refusals dropped because too many were waiting.
    hints_dropped,
}

/// One counter.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn add_one(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}
