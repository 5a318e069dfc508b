//! What the benches measure by itself, and nobody else needs.

use http::request;
use ringway_route::Reason;

use crate::edge::ConnectionInfo;
use crate::headers::{Found, Identity, screen_request};
use crate::options::HeaderOptions;

/// The pass over a request's headers, as the router does it.
#[derive(Debug)]
pub struct HeaderPass {
    identity: Identity,
    options: HeaderOptions,
}

impl HeaderPass {
    /// That of a router of this name which adds no headers by choice.
    #[must_use]
    pub fn new(pseudonym: &str) -> Self {
        Self { identity: Identity::new(pseudonym.to_owned()), options: HeaderOptions::default() }
    }

    /// Checks and cleans a head.
    ///
    /// # Errors
    /// What a client would be told; the head is then half changed.
    pub fn screen(&self, parts: &mut request::Parts, connection: &ConnectionInfo) -> Result<(), Reason> {
        let found = Found::of(&parts.headers);
        screen_request(parts, &found, connection, &self.identity, &self.options, &[]).map(drop)
    }
}
