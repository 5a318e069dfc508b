//! The one taxonomy of every error the router itself makes.
//!
//! Status line, `problem+json`, `Proxy-Status`, log line and metric label all come from [`Reason`] by exhaustive
//! matches, so that none of them can drift from the others.

use std::fmt;

/// Why the router answered a request itself instead of passing on an upstream's answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reason {
    /// No route matches the request.
    NoRoute,
    /// The route found no key in the request, or an empty one.
    KeyMissing,
    /// The key is longer than [`ringway_topology::KEY_BYTES_MAX`].
    KeyTooLong,
    /// The key holds a broken percent-encoding.
    KeyMalformed,
    /// The request breaks a rule of HTTP that matters to a proxy.
    MalformedRequest,
    /// The client's body broke off or was malformed.
    RequestBody,
    /// The client took too long to send its request.
    RequestTimeout,
    /// The request's body is over the configured bound.
    BodyTooLarge,
    /// The request's header section is over the configured bound.
    HeaderTooLarge,
    /// The request's target is longer than any that is read.
    TargetTooLong,
    /// The request is in a version of HTTP that is not spoken here.
    VersionUnsupported,
    /// CONNECT is not supported.
    ConnectUnsupported,
    /// Upgrade is not supported.
    UpgradeUnsupported,
    /// TRACE or OPTIONS that may be forwarded no further, and that only a node would answer.
    HopsSpent,
    /// The request has been here before.
    Loop,
    /// This router's first map is not complete yet.
    NotReady,
    /// The partition has no owner at all.
    NoOwner,
    /// The partition's owners are all dead or gone, and nobody will replace them.
    NoLiveOwner,
    /// The partition could not be served before the hold's time was over.
    HoldExpired,
    /// No room to hold one more request.
    HoldFull,
    /// Nodes keep refusing the request as misdirected.
    Misdirected,
    /// The node does not know the partition's newest claim yet.
    Behind,
    /// The partition has a newer claim than the one the attempt was made under.
    Superseded,
    /// More requests at once than configured.
    Overloaded,
    /// This process is shutting down.
    Draining,
    /// The upstream refused the connection.
    UpstreamRefused,
    /// The upstream cannot be reached.
    UpstreamUnreachable,
    /// The connection to the upstream was not made in time.
    UpstreamConnectTimeout,
    /// The upstream closed the connection before it answered.
    UpstreamReset,
    /// The upstream's answer is not HTTP.
    UpstreamProtocol,
    /// The upstream did not begin to answer in time.
    UpstreamTimeout,
    /// The request's deadline passed.
    Deadline,
    /// A write was sent and whether it took effect cannot be found out; it may still do so.
    OutcomeUnknown,
    /// A fault of the router.
    Internal,
}

impl Reason {
    /// Every reason, once: for tables of metrics and for tests.
    pub const ALL: [Self; 34] = [
        Self::NoRoute,
        Self::KeyMissing,
        Self::KeyTooLong,
        Self::KeyMalformed,
        Self::MalformedRequest,
        Self::RequestBody,
        Self::RequestTimeout,
        Self::BodyTooLarge,
        Self::HeaderTooLarge,
        Self::TargetTooLong,
        Self::VersionUnsupported,
        Self::ConnectUnsupported,
        Self::UpgradeUnsupported,
        Self::HopsSpent,
        Self::Loop,
        Self::NotReady,
        Self::NoOwner,
        Self::NoLiveOwner,
        Self::HoldExpired,
        Self::HoldFull,
        Self::Misdirected,
        Self::Behind,
        Self::Superseded,
        Self::Overloaded,
        Self::Draining,
        Self::UpstreamRefused,
        Self::UpstreamUnreachable,
        Self::UpstreamConnectTimeout,
        Self::UpstreamReset,
        Self::UpstreamProtocol,
        Self::UpstreamTimeout,
        Self::Deadline,
        Self::OutcomeUnknown,
        Self::Internal,
    ];

    /// What a request can be sent again for: these series exist from the start.
    pub const REPEATED: [Self; 10] = [
        Self::Misdirected,
        Self::Behind,
        Self::Superseded,
        Self::UpstreamRefused,
        Self::UpstreamUnreachable,
        Self::UpstreamConnectTimeout,
        Self::UpstreamReset,
        Self::UpstreamProtocol,
        Self::UpstreamTimeout,
        Self::OutcomeUnknown,
    ];

    /// Position in [`Reason::ALL`]: an index for a table of counters.
    #[must_use]
    pub const fn index(self) -> usize {
        self as usize
    }

    /// The HTTP status (RFC 9110 §15; 431 is RFC 6585 §5).
    #[must_use]
    pub const fn status(self) -> u16 {
        match self {
            Self::KeyMissing
            | Self::KeyTooLong
            | Self::KeyMalformed
            | Self::MalformedRequest
            | Self::RequestBody => 400,
            Self::NoRoute => 404,
            Self::RequestTimeout => 408,
            Self::BodyTooLarge => 413,
            Self::TargetTooLong => 414,
            Self::HeaderTooLarge => 431,
            Self::Internal => 500,
            Self::ConnectUnsupported | Self::UpgradeUnsupported | Self::HopsSpent => 501,
            Self::Loop
            | Self::UpstreamRefused
            | Self::UpstreamUnreachable
            | Self::UpstreamReset
            | Self::UpstreamProtocol => 502,
            Self::NotReady
            | Self::NoOwner
            | Self::NoLiveOwner
            | Self::HoldExpired
            | Self::HoldFull
            | Self::Misdirected
            | Self::Behind
            | Self::Superseded
            | Self::Overloaded
            | Self::Draining => 503,
            Self::UpstreamConnectTimeout | Self::UpstreamTimeout | Self::Deadline | Self::OutcomeUnknown => {
                504
            }
            Self::VersionUnsupported => 505,
        }
    }

    /// The stable name: `reason` of the problem document, metric label, log field.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::NoRoute => "no_route",
            Self::KeyMissing => "key_missing",
            Self::KeyTooLong => "key_too_long",
            Self::KeyMalformed => "key_malformed",
            Self::MalformedRequest => "malformed_request",
            Self::RequestBody => "request_body",
            Self::RequestTimeout => "request_timeout",
            Self::BodyTooLarge => "body_too_large",
            Self::HeaderTooLarge => "header_too_large",
            Self::TargetTooLong => "target_too_long",
            Self::VersionUnsupported => "version_unsupported",
            Self::ConnectUnsupported => "connect_unsupported",
            Self::UpgradeUnsupported => "upgrade_unsupported",
            Self::HopsSpent => "max_forwards",
            Self::Loop => "loop",
            Self::NotReady => "not_ready",
            Self::NoOwner => "no_owner",
            Self::NoLiveOwner => "no_live_owner",
            Self::HoldExpired => "hold_expired",
            Self::HoldFull => "hold_full",
            Self::Misdirected => "misdirected",
            Self::Behind => "behind",
            Self::Superseded => "superseded",
            Self::Overloaded => "overloaded",
            Self::Draining => "draining",
            Self::UpstreamRefused => "upstream_refused",
            Self::UpstreamUnreachable => "upstream_unreachable",
            Self::UpstreamConnectTimeout => "upstream_connect_timeout",
            Self::UpstreamReset => "upstream_reset",
            Self::UpstreamProtocol => "upstream_protocol",
            Self::UpstreamTimeout => "upstream_timeout",
            Self::Deadline => "deadline",
            Self::OutcomeUnknown => "outcome_unknown",
            Self::Internal => "internal",
        }
    }

    /// One short sentence for people: `title` of the problem document.
    #[must_use]
    pub const fn title(self) -> &'static str {
        match self {
            Self::NoRoute => "No route matches this request",
            Self::KeyMissing => "The request has no key",
            Self::KeyTooLong => "The key is too long",
            Self::KeyMalformed => "The key is not correctly percent-encoded",
            Self::MalformedRequest => "The request is not valid HTTP",
            Self::RequestBody => "The request's body broke off",
            Self::RequestTimeout => "The request took too long to arrive",
            Self::BodyTooLarge => "The request's body is too large",
            Self::HeaderTooLarge => "The request's header section is too large",
            Self::TargetTooLong => "The request's target is too long",
            Self::VersionUnsupported => "This version of HTTP is not supported",
            Self::ConnectUnsupported => "CONNECT is not supported",
            Self::UpgradeUnsupported => "Upgrade is not supported",
            Self::HopsSpent => "The request may be forwarded no further, and is not answered here",
            Self::Loop => "The request has been here before",
            Self::NotReady => "The cluster's map is not complete here yet",
            Self::NoOwner => "The key's partition has no owner",
            Self::NoLiveOwner => "No owner of the key's partition is alive",
            Self::HoldExpired => "The key's partition did not become available in time",
            Self::HoldFull => "Too many requests wait for partitions to become available",
            Self::Misdirected => "The key's partition is changing hands",
            Self::Behind => "The node does not know yet who owns the key's partition",
            Self::Superseded => "The key's partition has another owner now",
            Self::Overloaded => "Too many requests at once",
            Self::Draining => "This process is shutting down",
            Self::UpstreamRefused => "The node refused the connection",
            Self::UpstreamUnreachable => "The node cannot be reached",
            Self::UpstreamConnectTimeout => "The node did not accept the connection in time",
            Self::UpstreamReset => "The node closed the connection before it answered",
            Self::UpstreamProtocol => "The node's answer is not valid HTTP",
            Self::UpstreamTimeout => "The node did not answer in time",
            Self::Deadline => "The request's deadline passed",
            Self::OutcomeUnknown => "Whether the write took effect is unknown",
            Self::Internal => "The router failed",
        }
    }

    /// The proxy error type of `Proxy-Status` (RFC 9209 §2.3).
    #[must_use]
    pub const fn proxy_status_error(self) -> &'static str {
        match self {
            Self::NoRoute => "destination_not_found",
            Self::KeyMissing
            | Self::KeyTooLong
            | Self::KeyMalformed
            | Self::MalformedRequest
            | Self::RequestBody
            | Self::RequestTimeout
            | Self::BodyTooLarge
            | Self::HeaderTooLarge
            | Self::TargetTooLong
            | Self::VersionUnsupported => "http_request_error",
            Self::ConnectUnsupported | Self::HopsSpent => "http_request_denied",
            Self::UpgradeUnsupported => "http_upgrade_failed",
            Self::Loop => "proxy_loop_detected",
            Self::NotReady | Self::Draining => "proxy_internal_response",
            Self::NoOwner
            | Self::NoLiveOwner
            | Self::HoldExpired
            | Self::Misdirected
            | Self::Behind
            | Self::Superseded => "destination_unavailable",
            Self::HoldFull | Self::Overloaded => "connection_limit_reached",
            Self::UpstreamRefused => "connection_refused",
            Self::UpstreamUnreachable => "destination_ip_unroutable",
            Self::UpstreamConnectTimeout => "connection_timeout",
            Self::UpstreamReset => "connection_terminated",
            Self::UpstreamProtocol => "http_protocol_error",
            Self::UpstreamTimeout | Self::Deadline | Self::OutcomeUnknown => "http_response_timeout",
            Self::Internal => "proxy_internal_error",
        }
    }

    /// Seconds for `Retry-After`; `None` where repeating the request helps nobody.
    #[must_use]
    pub const fn retry_after_seconds(self) -> Option<u32> {
        match self.status() {
            503 => Some(1),
            _ => None,
        }
    }

    /// The gRPC status code for callers of gRPC: `UNAVAILABLE`, `DEADLINE_EXCEEDED` and their kin.
    ///
    /// *Source*: gRPC's "HTTP to gRPC status code mapping", but for what is the caller's own mistake.
    #[must_use]
    pub const fn grpc_status(self) -> u8 {
        const INVALID_ARGUMENT: u8 = 3;
        const DEADLINE_EXCEEDED: u8 = 4;
        const RESOURCE_EXHAUSTED: u8 = 8;
        const UNIMPLEMENTED: u8 = 12;
        const INTERNAL: u8 = 13;
        const UNAVAILABLE: u8 = 14;
        match self.status() {
            400 | 408 => INVALID_ARGUMENT,
            404 | 501 | 505 => UNIMPLEMENTED,
            413 | 414 | 431 => RESOURCE_EXHAUSTED,
            502 | 503 => UNAVAILABLE,
            504 => DEADLINE_EXCEEDED,
            _ => INTERNAL,
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.label())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn all_lists_every_reason_at_its_own_index() {
        for (at, reason) in Reason::ALL.into_iter().enumerate() {
            assert_eq!(reason.index(), at, "{reason:?}");
        }
        let labels: BTreeSet<_> = Reason::ALL.iter().map(|r| r.label()).collect();
        assert_eq!(labels.len(), Reason::ALL.len(), "labels are unique");
        let repeated: BTreeSet<_> = Reason::REPEATED.into_iter().collect();
        assert_eq!(repeated.len(), Reason::REPEATED.len(), "each once");
    }

    #[test]
    fn labels_are_metric_labels_and_titles_are_sentences() {
        for reason in Reason::ALL {
            assert!(reason.label().bytes().all(|b| b.is_ascii_lowercase() || b == b'_'), "{reason:?}");
            assert!(reason.title().starts_with(|c: char| c.is_ascii_uppercase()), "{reason:?}");
            // A structured-field token (RFC 9651 §3.3.4).
            assert!(reason.proxy_status_error().bytes().all(|b| b.is_ascii_lowercase() || b == b'_'));
        }
    }

    #[test]
    fn unavailable_says_when_to_come_back_and_nothing_else_does() {
        for reason in Reason::ALL {
            assert_eq!(reason.retry_after_seconds().is_some(), reason.status() == 503, "{reason:?}");
            assert_ne!(reason.status(), 421, "the router never sends 421 to a client");
        }
    }

    #[test]
    fn grpc_callers_see_unavailable_and_deadline_exceeded() {
        assert_eq!(Reason::NoLiveOwner.grpc_status(), 14);
        assert_eq!(Reason::UpstreamReset.grpc_status(), 14);
        assert_eq!(Reason::Deadline.grpc_status(), 4);
        assert_eq!(Reason::OutcomeUnknown.grpc_status(), 4, "it may have completed");
    }
}
