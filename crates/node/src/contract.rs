//! The headers of the node contract, and, in derived ownership, who may be served. docs/NODE_CONTRACT.md has them all.

use http::{HeaderMap, HeaderName, Method};
use ringway_control::ownership::RequestId;
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
/// Router → node, writes: the write's name, by which a repeat of it is recognised.
pub const RINGWAY_REQUEST_ID: HeaderName = HeaderName::from_static("ringway-request-id");
/// Router → node, reads: `any` lets every owner answer.
pub const RINGWAY_READS: HeaderName = HeaderName::from_static("ringway-reads");
/// Node → router → client on `any` reads: how stale the answer may be, in milliseconds.
pub const RINGWAY_STALENESS: HeaderName = HeaderName::from_static("ringway-staleness");
/// Node → router, writes: `unknown` (503) when the write may take effect or not, `forgotten` (409) when its id is older
/// than what is remembered.
pub const RINGWAY_OUTCOME: HeaderName = HeaderName::from_static("ringway-outcome");

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

/// Whether a read may be answered by any owner.
pub(crate) fn asks_for_any(headers: &HeaderMap) -> bool {
    headers.get(RINGWAY_READS).is_some_and(|reads| reads.as_bytes().eq_ignore_ascii_case(b"any"))
}

/// Reads `<128 bits hex>;n=<counter>;open=<lowest counter still open>`; `None` when a write has no name.
///
/// *Errors*: the header comes twice, or is not that. A write whose name is not understood must not be made: a repeat of
/// it would not be recognised.
pub(crate) fn request_id(headers: &HeaderMap) -> Result<Option<RequestId>, Refusal> {
    let mut lines = headers.get_all(&RINGWAY_REQUEST_ID).iter();
    let Some(line) = lines.next() else { return Ok(None) };
    let parsed = line.to_str().ok().and_then(parse_request_id).filter(|id| id.open <= id.counter);
    match (parsed, lines.next()) {
        (Some(id), None) => Ok(Some(id)),
        _ => Err(Refusal::ContractMalformed),
    }
}

fn parse_request_id(text: &str) -> Option<RequestId> {
    let mut fields = text.split(';').map(str::trim);
    let hex = fields.next().filter(|hex| hex.len() == 32 && hex.bytes().all(|b| b.is_ascii_hexdigit()))?;
    let router = u128::from_str_radix(hex, 16).ok()?;
    let (mut counter, mut open) = (None, None);
    for field in fields {
        let (name, value) = field.split_once('=')?;
        let number = || value.bytes().all(|b| b.is_ascii_digit()).then(|| value.parse().ok()).flatten();
        match name {
            "n" => counter = Some(number()?),
            "open" => open = Some(number()?),
            _ => {}
        }
    }
    Some(RequestId { router, counter: counter?, open: open? })
}

/// What to do with a request in derived ownership.
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

/// The claim of a partition as this node's map has it.
pub(crate) fn claim(map: &Map, partition: Partition) -> Claim {
    let row = map.owners(partition);
    let owners = row.as_slice().iter().filter_map(|index| map.node(*index));
    let owners = owners.map(|n| Owner { node: n.id.clone(), store: n.store }).collect();
    Claim { partition, epoch: map.epoch(partition), owners }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use ringway_topology::StoreId;

    use super::*;
    use crate::document::NODE_CONTRACT;
    use crate::precondition::Etag;

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

    #[test]
    fn a_request_id_is_read_whole_or_refused() {
        let read = |lines: &[&str]| {
            let mut headers = HeaderMap::new();
            for line in lines {
                headers.append(RINGWAY_REQUEST_ID, HeaderValue::from_str(line).unwrap());
            }
            request_id(&headers)
        };
        let hex = "000000000000000000000000000000ab";
        assert_eq!(read(&[]), Ok(None));
        let id = RequestId { router: 0xab, counter: 17, open: 15 };
        assert_eq!(read(&[&format!("{hex};n=17;open=15")]), Ok(Some(id)));
        assert_eq!(read(&[&format!("{hex}; n=17; open=15; later=x")]), Ok(Some(id)));
        let good = format!("{hex};n=17;open=15");
        for bad in [
            "",
            hex,
            &format!("{hex};n=17"),
            &format!("{hex};open=17"),
            &format!("{hex};n=1;open=2"),
            &format!("{hex};n=-1;open=0"),
            &format!("{hex};n=+1;open=1"),
            &format!("{hex};n=18446744073709551616;open=1"),
            &format!("{};n=17;open=15", &hex[1..]),
            &format!("{};n=17;open=15", "g".repeat(32)),
        ] {
            assert_eq!(read(&[bad]), Err(Refusal::ContractMalformed), "{bad}");
        }
        assert_eq!(read(&[&good, &good]), Err(Refusal::ContractMalformed), "two names");
    }

    #[test]
    fn what_a_router_sends_is_read_as_documented() {
        let read = |block: &str| {
            let mut headers = HeaderMap::new();
            for (name, value) in NODE_CONTRACT.block(block) {
                let name: HeaderName = name.parse().unwrap();
                headers.append(name, HeaderValue::from_str(value).unwrap());
            }
            let routed = Routed::from_headers(&headers).unwrap();
            (routed, request_id(&headers).unwrap(), asks_for_any(&headers))
        };
        let routed = Some(Routed { partition: Partition(4_711), epoch: Epoch(8) });
        let id = RequestId { router: 0xab, counter: 17, open: 15 };
        assert_eq!(read("write"), (routed, Some(id), false));
        assert_eq!(read("read"), (routed, None, true));
    }

    /// The values of the outcomes are read where a node answers with them: crates/node/tests/owners.
    #[test]
    fn what_a_node_answers_is_written_as_documented() {
        let owner =
            |name: &str, store: u128| Owner { node: name.parse().unwrap(), store: StoreId(store << 112) };
        let claim = Claim {
            partition: Partition(4_711),
            epoch: Epoch(8),
            owners: vec![owner("n1", 0x3f9c), owner("n4", 0x09aa)],
        };
        let etag = Etag { version: 301, checksum: xxhash_rust::xxh3::xxh3_64(b"hello") };
        let claim = claim.to_header();
        let lines = [
            (200, RINGWAY_EPOCH, "8".to_owned()),
            (200, http::header::ETAG, etag.to_string()),
            (200, RINGWAY_STALENESS, "120".to_owned()),
            (421, RINGWAY_CLAIM, claim.to_str().unwrap().to_owned()),
            (503, RINGWAY_OUTCOME, "unknown".to_owned()),
            (409, RINGWAY_OUTCOME, "forgotten".to_owned()),
        ];
        let shown = NODE_CONTRACT.block("answers");
        assert_eq!(shown.len(), lines.len());
        for ((what, shown), (status, name, value)) in shown.into_iter().zip(lines) {
            assert_eq!(what.to_lowercase(), format!("{status} {name}"));
            assert_eq!(shown, value, "{what}");
        }
    }
}
