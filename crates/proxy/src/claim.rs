//! The claim a node sends along with a 421.

use http::HeaderValue;
use ringway_topology::{Epoch, NodeId, Owner, Partition, REPLICAS_MAX, StoreId};

/// `Ringway-Claim`: who owns a partition at which epoch, as one node knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// The partition.
    pub partition: Partition,
    /// The claim's epoch.
    pub epoch: Epoch,
    /// The owners, primary first.
    pub owners: Vec<Owner>,
}

impl Claim {
    /// Reads `4711;epoch=8;owners="n1:3f9c… n4:09aa…"` (a structured-field item with parameters, RFC 9651).
    ///
    /// Unknown parameters are skipped. Bytes from the network: anything that is not a claim is `None`.
    #[must_use]
    pub fn parse(value: &HeaderValue) -> Option<Self> {
        let text = value.to_str().ok()?;
        let mut fields = text.split(';').map(str::trim);
        let partition = Partition(fields.next()?.parse().ok()?);
        let (mut epoch, mut owners) = (None, None);
        for field in fields {
            match field.split_once('=')? {
                ("epoch", number) => epoch = Some(Epoch(number.parse().ok()?)),
                ("owners", list) => owners = Some(parse_owners(list)?),
                _ => {}
            }
        }
        Some(Self { partition, epoch: epoch?, owners: owners? })
    }

    /// The header value that [`Claim::parse`] reads.
    #[must_use]
    pub fn to_header(&self) -> HeaderValue {
        let owners: Vec<_> = self.owners.iter().map(Owner::to_string).collect();
        let text = format!("{};epoch={};owners=\"{}\"", self.partition, self.epoch, owners.join(" "));
        // Names and hex digits are visible ASCII: the fallback is never taken.
        HeaderValue::try_from(text).unwrap_or_else(|_| HeaderValue::from_static(""))
    }
}

fn parse_owners(list: &str) -> Option<Vec<Owner>> {
    let list = list.strip_prefix('"')?.strip_suffix('"')?;
    let owners: Option<Vec<Owner>> = list.split_ascii_whitespace().map(parse_owner).collect();
    owners.filter(|owners| owners.len() <= REPLICAS_MAX)
}

fn parse_owner(text: &str) -> Option<Owner> {
    let (node, store) = text.split_once(':')?;
    Some(Owner { node: NodeId::new(node).ok()?, store: store.parse::<StoreId>().ok()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn claims_survive_the_wire() {
        let owner = |node: &str, store| Owner { node: NodeId::new(node).unwrap(), store: StoreId(store) };
        let claim = Claim {
            partition: Partition(4_711),
            epoch: Epoch(8),
            owners: vec![owner("n1", 1 << 100), owner("n4", 2)],
        };
        assert_eq!(Claim::parse(&claim.to_header()), Some(claim.clone()));
        let none = Claim { owners: vec![], ..claim };
        assert_eq!(Claim::parse(&none.to_header()), Some(none));
    }

    #[test]
    fn what_is_no_claim_is_refused() {
        let store = "0".repeat(32);
        let eight = vec![format!("n1:{store}"); 8].join(" ");
        for bad in [
            "",
            "x",
            "1",
            "1;epoch=1",
            "1;owners=\"\"",
            "1;epoch=-1;owners=\"\"",
            "1;epoch=1;owners=n1",
            "1;epoch=1;owners=\"n1\"",
            "1;epoch=1;owners=\"n1:zz\"",
            "-1;epoch=1;owners=\"\"",
            "1;epoch=18446744073709551616;owners=\"\"",
            &format!("1;epoch=1;owners=\"{eight}\""),
        ] {
            assert_eq!(Claim::parse(&HeaderValue::from_str(bad).unwrap()), None, "{bad}");
        }
        let extra = HeaderValue::from_str(&format!("1;epoch=2;owners=\"n1:{store}\";future=7")).unwrap();
        assert!(Claim::parse(&extra).is_some());
    }
}
