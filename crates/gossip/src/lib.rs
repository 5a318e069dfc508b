//! Membership and record spread: SWIM, Lifeguard, anti-entropy. Pure: no sockets, no clock.
