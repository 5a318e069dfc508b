//! The part of the node contract that says who may be served: `Ringway-Partition`, `Ringway-Epoch` and the
//! `Ringway-Claim` of a refusal.

use http::{HeaderMap, HeaderName, Method};
use ringway_proxy::Claim;
use ringway_topology::map::Location;
use ringway_topology::{Epoch, Map, Owner, Partition};

use crate::problem::Refusal;

/// Router → node: the partition the router found the key in.
pub const RINGWAY_PARTITION: HeaderName = HeaderName::from_static("ringway-partition");
/// Router → node: the epoch of the claim the router follows. Node → router: the epoch it served at.
pub const RINGWAY_EPOCH: HeaderName = HeaderName::from_static("ringway-epoch");
/// Node → router in a 421: the claim as the node knows it.
pub const RINGWAY_CLAIM: HeaderName = HeaderName::from_static("ringway-claim");

/// What a router says about a request it sends to a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Routed {
    pub(crate) partition: Partition,
    pub(crate) epoch: Epoch,
}

impl Routed {
    /// Reads the two headers; `None` when the request has neither, and so did not come by a router.
    ///
    /// *Errors*: one without the other, one twice, or one that is no decimal number.
    pub(crate) fn from_headers(headers: &HeaderMap) -> Result<Option<Self>, Refusal> {
        let partition = number(headers, &RINGWAY_PARTITION)?;
        let epoch = number(headers, &RINGWAY_EPOCH)?;
        match (partition, epoch) {
            (None, None) => Ok(None),
            (Some(partition), Some(epoch)) => {
                let partition = u32::try_from(partition).map_err(|_| Refusal::ContractMalformed)?;
                Ok(Some(Self { partition: Partition(partition), epoch: Epoch(epoch) }))
            }
            _ => Err(Refusal::ContractMalformed),
        }
    }
}

fn number(headers: &HeaderMap, name: &HeaderName) -> Result<Option<u64>, Refusal> {
    let mut lines = headers.get_all(name).iter();
    let Some(line) = lines.next() else { return Ok(None) };
    let digits = line.to_str().ok().filter(|text| text.bytes().all(|b| b.is_ascii_digit()));
    match (digits.and_then(|text| text.parse().ok()), lines.next()) {
        (Some(number), None) => Ok(Some(number)),
        _ => Err(Refusal::ContractMalformed),
    }
}

/// What to do with a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Admission {
    /// Serve it here.
    Serve,
    /// Not ours, and a router sent it: 421 with the claim. Never forwarded, or two nodes with different maps
    /// could send it back and forth.
    Misdirected,
    /// Not ours, and a client sent it: one hop to the owner.
    Forward,
}

/// Decides by this node's own map: a node serves what it owns, whatever a router believes.
pub(crate) fn admit(
    map: &Map,
    located: &Location,
    me: &Owner,
    method: &Method,
    routed: Option<Routed>,
) -> Result<Admission, Refusal> {
    match routed {
        None if is_primary(map, located, me) => Ok(Admission::Serve),
        None => Ok(Admission::Forward),
        Some(routed) if routed.partition != located.partition => Err(Refusal::PartitionMismatch),
        Some(routed) => {
            // Any owner may answer a read; the primary orders the writes.
            let reads = matches!(*method, Method::GET | Method::HEAD);
            let allowed = if reads { is_owner(map, located, me) } else { is_primary(map, located, me) };
            let serve = allowed && routed.epoch == located.epoch;
            Ok(if serve { Admission::Serve } else { Admission::Misdirected })
        }
    }
}

fn is_primary(map: &Map, located: &Location, me: &Owner) -> bool {
    located
        .owners
        .primary()
        .and_then(|index| map.node(index))
        .is_some_and(|n| n.id == me.node && n.store == me.store)
}

fn is_owner(map: &Map, located: &Location, me: &Owner) -> bool {
    let mut owners = located.owners.as_slice().iter().filter_map(|index| map.node(*index));
    owners.any(|n| n.id == me.node && n.store == me.store)
}

/// The claim of a partition as this node knows it.
pub(crate) fn claim(map: &Map, located: &Location) -> Claim {
    let owners = located.owners.as_slice().iter().filter_map(|index| map.node(*index));
    let owners = owners.map(|n| Owner { node: n.id.clone(), store: n.store }).collect();
    Claim { partition: located.partition, epoch: located.epoch, owners }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn read(lines: &[(&HeaderName, &str)]) -> Result<Option<Routed>, Refusal> {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(*name, HeaderValue::from_str(value).unwrap());
        }
        Routed::from_headers(&headers)
    }

    #[test]
    fn the_two_headers_come_together_or_not_at_all() {
        let (p, e) = (&RINGWAY_PARTITION, &RINGWAY_EPOCH);
        assert_eq!(read(&[]), Ok(None));
        let routed = Routed { partition: Partition(4_711), epoch: Epoch(8) };
        assert_eq!(read(&[(p, "4711"), (e, "8")]), Ok(Some(routed)));
        for bad in [
            vec![(p, "1")],
            vec![(e, "1")],
            vec![(p, ""), (e, "1")],
            vec![(p, "-1"), (e, "1")],
            vec![(p, "+1"), (e, "1")],
            vec![(p, "1x"), (e, "1")],
            vec![(p, "1"), (p, "1"), (e, "1")],
            vec![(p, "4294967296"), (e, "1")],
            vec![(p, "1"), (e, "18446744073709551616")],
        ] {
            assert_eq!(read(&bad), Err(Refusal::ContractMalformed), "{bad:?}");
        }
    }
}
