//! Counters, all since the start of the process.

/// Declares [`Stats`] and its name table in one place, so that no counter is forgotten in the metrics.
macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => {
        /// What a member has done and dropped since it started. Every bound has its counter.
        #[derive(Debug, Clone, Default, PartialEq, Eq)]
        #[non_exhaustive]
        pub struct Stats {
            $($(#[$doc])* pub $name: u64,)*
        }

        impl Stats {
            /// Every counter with its name, in declaration order: for metrics.
            #[must_use]
            pub fn fields(&self) -> Vec<(&'static str, u64)> {
                vec![$((stringify!($name), self.$name)),*]
            }
        }
    };
}

counters! {
    /// Datagrams handed to the driver.
    datagrams_sent,
    /// Bytes of them.
    datagram_bytes_sent,
    /// Datagrams received, good or bad.
    datagrams_received,
    /// Bytes of them.
    datagram_bytes_received,
    /// Stream messages handed to the driver, answers included.
    streams_sent,
    /// Bytes of them.
    stream_bytes_sent,
    /// Stream messages received, answers included, good or bad.
    streams_received,
    /// Bytes of them.
    stream_bytes_received,
    /// Dropped: larger than a datagram or a stream message may be.
    dropped_oversized,
    /// Dropped: of a wire version we do not speak.
    dropped_version,
    /// Dropped: of another cluster.
    dropped_cluster,
    /// Dropped: not encrypted, and we have a keyring.
    dropped_unsealed,
    /// Dropped: encrypted with a key we do not have.
    dropped_key,
    /// Opened with a key of the ring that is not the one in use: its sender has not heard of a change of keys that we
    /// have heard of, or the other way round.
    opened_by_other_key,
    /// Dropped: the tag does not fit: wrong key or changed on the way.
    dropped_tag,
    /// Dropped: ends too early.
    dropped_truncated,
    /// Dropped: a message kind we do not know.
    dropped_kind,
    /// Dropped: has the right shape and impossible content.
    dropped_malformed,
    /// Dropped: a message that makes no sense by this transport (a join by datagram, a ping by stream).
    dropped_transport,
    /// Dropped: we have left, or lost a conflict over our id, and take no part any more.
    dropped_retired,
    /// Dropped: under our own name, and not about it: an echo, or the other process of a conflict.
    dropped_own_name,
    /// Probes begun.
    probes,
    /// Probes that nobody answered.
    probes_failed,
    /// Pings sent on behalf of another member.
    relays,
    /// Relays refused: too many under way.
    relays_refused,
    /// Pings meant for another id or an earlier life at our address.
    pings_misaddressed,
    /// Acks and nacks nobody waited for: late, or replayed.
    answers_unexpected,
    /// Members we began to suspect, by our own probe or on somebody's word.
    suspicions,
    /// Suspects told again of a doubt that nobody shares.
    warnings,
    /// Suspicions whose end was put off by the expiry gate.
    expiries_gated,
    /// Suspicions whose end was put off since so many members were doubted at once: the network may be in two parts.
    expiries_held,
    /// Members declared dead by our own clock.
    expiries,
    /// Times we refuted an accusation against ourselves.
    refutations,
    /// Dead members that spoke to us and were told so.
    dead_answered,
    /// Members that spoke in a life we hold for over, and were told so.
    replaced_answered,
    /// Times our own timers fired so late that we must have been paused.
    pauses,
    /// Members forgotten.
    members_forgotten,
    /// Members not admitted: the table is full.
    members_refused,
    /// Updates that carried another address for the same life of a member.
    members_address_conflicts,
    /// Records not stored: the table is full.
    records_refused,
    /// Pairs of different values seen under one version of a record.
    records_conflicted,
    /// Messages of which nothing was taken: they told another value of the pinned record.
    strangers,
    /// Backlogs of records sent by stream.
    backlogs_streamed,
    /// Anti-entropy rounds begun with a live member.
    hellos,
    /// Hellos to dead members.
    hellos_to_dead,
    /// Hellos with the sum that we have: a peer confirmed our state.
    hellos_matched,
    /// Hellos answered with a digest: the states differed.
    digests_sent,
    /// Deltas sent.
    deltas_sent,
    /// Entries that anti-entropy brought us.
    entries_repaired,
    /// Joins answered with our state.
    joins_accepted,
    /// Joins refused for their terms or their cluster, by us.
    joins_refused,
    /// Our joins that were refused.
    joins_refused_by_peer,
    /// Join answers nobody waited for: late, or replayed.
    joins_unexpected,
    /// Joins not sent: too many under way.
    joins_dropped,
    /// Living processes found under our own id.
    conflicts,
    /// Packets not sent: the queue to the driver was full.
    transmits_dropped,
    /// Events not delivered: the queue to the program was full. It must read the whole state again.
    events_dropped,
}
