//! Request-time decisions: which owner, what an attempt's outcome means, whether to retry or hold.
