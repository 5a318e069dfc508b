//! The pages of the admin listener: their paths, and how they may be asked for.

use hyper::Method;

use super::keys::KeyVerb;

/// What a path names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Page<'p> {
    /// `/livez`
    Livez,
    /// `/readyz`
    Readyz,
    /// `/metrics`
    Metrics,
    /// `/v1/map`
    Map,
    /// `/v1/members`
    Members,
    /// `/v1/partitions`
    Partitions,
    /// `/v1/partitions/{partition}`
    Partition(&'p str),
    /// `/v1/explain`
    Explain,
    /// `/v1/events`
    Events,
    /// `/v1/dump`
    Dump,
    /// `/v1/plans`
    Plans,
    /// `/v1/plans/{digest}/commit`
    Commit(&'p str),
    /// `/v1/members/{id}/{drain,evict,activate}`
    Order(&'p str, OrderVerb),
    /// `/v1/force`
    Force,
    /// `/v1/partitions/{partition}/force`
    ForceOne(&'p str),
    /// `/v1/pause` and `/v1/resume`
    Pause(bool),
    /// `/v1/keys`
    Keys,
    /// `/v1/keys/install`
    InstallKey,
    /// `/v1/keys/{id}/{use,remove}`
    Key(&'p str, KeyVerb),
    /// `/v1/demo/nodes/{id}/{stop,start}`
    Demo(&'p str, DemoVerb),
}

/// What an operator can say of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum OrderVerb {
    /// Move everything away from it; then it ends.
    Drain,
    /// It is gone for good: others take its place.
    Evict,
    /// Take a drain or an eviction back.
    Activate,
}

impl OrderVerb {
    /// As it stands in paths and messages.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Drain => "drain",
            Self::Evict => "evict",
            Self::Activate => "activate",
        }
    }
}

/// What can be done to a node of the demo.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DemoVerb {
    /// As SIGTERM does it.
    Stop,
    /// With the data it had.
    Start,
}

impl DemoVerb {
    /// As it stands in paths.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Stop => "stop",
            Self::Start => "start",
        }
    }
}

impl<'p> Page<'p> {
    /// The page of a path, if there is one.
    pub(super) fn of(path: &'p str) -> Option<Self> {
        let parts: Vec<&str> = path.strip_prefix('/')?.split('/').collect();
        Some(match parts[..] {
            ["livez"] => Self::Livez,
            ["readyz"] => Self::Readyz,
            ["metrics"] => Self::Metrics,
            ["v1", "map"] => Self::Map,
            ["v1", "members"] => Self::Members,
            ["v1", "partitions"] => Self::Partitions,
            ["v1", "partitions", partition] => Self::Partition(partition),
            ["v1", "explain"] => Self::Explain,
            ["v1", "events"] => Self::Events,
            ["v1", "dump"] => Self::Dump,
            ["v1", "plans"] => Self::Plans,
            ["v1", "plans", digest, "commit"] => Self::Commit(digest),
            ["v1", "members", id, "drain"] => Self::Order(id, OrderVerb::Drain),
            ["v1", "members", id, "evict"] => Self::Order(id, OrderVerb::Evict),
            ["v1", "members", id, "activate"] => Self::Order(id, OrderVerb::Activate),
            ["v1", "force"] => Self::Force,
            ["v1", "partitions", partition, "force"] => Self::ForceOne(partition),
            ["v1", "pause"] => Self::Pause(true),
            ["v1", "resume"] => Self::Pause(false),
            ["v1", "keys"] => Self::Keys,
            ["v1", "keys", "install"] => Self::InstallKey,
            ["v1", "keys", id, "use"] => Self::Key(id, KeyVerb::Use),
            ["v1", "keys", id, "remove"] => Self::Key(id, KeyVerb::Remove),
            ["v1", "demo", "nodes", id, "stop"] => Self::Demo(id, DemoVerb::Stop),
            ["v1", "demo", "nodes", id, "start"] => Self::Demo(id, DemoVerb::Start),
            _ => return None,
        })
    }

    /// The methods it takes.
    pub(super) fn methods(&self) -> &'static [Method] {
        match self {
            Self::Explain => &[Method::GET, Method::HEAD, Method::POST],
            Self::Plans => &[Method::POST],
            page if page.changes() => &[Method::POST],
            _ => &[Method::GET, Method::HEAD],
        }
    }

    /// Whether it changes something, so that it must be asked for in a way that no web page can make a browser ask.
    pub(super) fn changes(&self) -> bool {
        matches!(
            self,
            Self::Commit(_)
                | Self::Order(..)
                | Self::Force
                | Self::ForceOne(_)
                | Self::Pause(_)
                | Self::InstallKey
                | Self::Key(..)
                | Self::Demo(..)
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_name_pages_and_what_changes_is_posted() {
        assert_eq!(Page::of("/v1/members/n2/drain"), Some(Page::Order("n2", OrderVerb::Drain)));
        assert_eq!(Page::of("/v1/plans/0a1b/commit"), Some(Page::Commit("0a1b")));
        assert_eq!(Page::of("/v1/partitions/7"), Some(Page::Partition("7")));
        for none in
            ["", "/", "/v1", "/v1/map/", "/v1/members/n2", "/v1/members/n2/forget", "v1/map", "/v1/keys/a1b2"]
        {
            assert_eq!(Page::of(none), None, "{none}");
        }
        for path in [
            "/v1/force",
            "/v1/partitions/7/force",
            "/v1/pause",
            "/v1/resume",
            "/v1/keys/install",
            "/v1/keys/a1b2/use",
            "/v1/keys/a1b2/remove",
            "/v1/members/a/evict",
            "/v1/plans/x/commit",
        ] {
            let page = Page::of(path).unwrap();
            assert!(page.changes() && page.methods() == [Method::POST], "{path}");
        }
        assert!(!Page::Plans.changes(), "a preview changes nothing");
    }
}
