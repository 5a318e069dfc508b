//! How a claim travels: the key names the partition, the version is the epoch, the value is the rest.
//!
//! ```text
//! format 1 · end: epoch, seq (numbers of 7 bits a byte, lowest first)
//! count: u8, 1 to 7 · count × (node: u8 length, bytes · store: 16 bytes, big-endian)     primary first
//! ```
//!
//! The claims of the first epoch are no records: everybody derives them from the bootstrap record.
//!
//! A claim of three owners with short names takes about 80 bytes with its key ([`bytes_of`]). Gossip holds
//! [`RECORDS_BYTES_MAX`](ringway_gossip::RECORDS_BYTES_MAX) of records: 65,536 claims of up to 192 bytes each. Whether those
//! of a cluster fit is checked in its configuration.

use std::sync::Arc;

use ringway_topology::{Epoch, Owner, Partition, REPLICAS_MAX};

use super::codec::{Reader, put_number, put_text};
use super::{FORMAT, RecordProblem};
use crate::bootstrap::FIRST_EPOCH;
use crate::ownership::{Claim, Position};

/// Bytes of a claim's record beside its owners: a key with five digits, a version and a length of two bytes each, the format,
/// the end and the count. Epochs and logs beyond 127 entries add a byte or two.
pub const CLAIM_BYTES: usize = 20;
/// Bytes of an owner in a claim beside its name.
pub const OWNER_BYTES: usize = 17;

/// About how much room the claim of a partition takes among the records of gossip, with so many owners whose names have so
/// many bytes.
#[must_use]
pub const fn bytes_of(owners: usize, name_bytes: usize) -> usize {
    CLAIM_BYTES + owners * (OWNER_BYTES + name_bytes)
}

/// Keys of claims start with this.
pub const CLAIM_KEY_PREFIX: &str = "claim/";

/// The key of a partition's claim: `claim/<partition>`.
#[must_use]
pub fn key(partition: Partition) -> String {
    format!("{CLAIM_KEY_PREFIX}{partition}")
}

/// The partition a key of [`key`]'s form names; `None` for any other, and for one written another way.
#[must_use]
pub fn partition_of(key: &str) -> Option<Partition> {
    let digits = key.strip_prefix(CLAIM_KEY_PREFIX)?;
    let canonical = digits.bytes().all(|b| b.is_ascii_digit()) && (digits == "0" || !digits.starts_with('0'));
    digits.parse().ok().filter(|_| canonical).map(Partition)
}

/// The value of a claim's record. At most 582 bytes.
#[must_use]
pub fn encode(claim: &Claim) -> Vec<u8> {
    let mut out = vec![FORMAT];
    put_number(&mut out, claim.end.epoch.0);
    put_number(&mut out, claim.end.seq);
    let owners = &claim.owners[..claim.owners.len().min(REPLICAS_MAX)];
    out.push(owners.len() as u8);
    for Owner { node, store } in owners {
        put_text(&mut out, node.as_str());
        out.extend(store.0.to_be_bytes());
    }
    out
}

/// Reads what [`encode`] wrote, under the partition of the key and the epoch of the version.
///
/// # Errors
/// [`RecordProblem`]; any input is fine.
pub fn decode(partition: Partition, epoch: Epoch, bytes: &[u8]) -> Result<Claim, RecordProblem> {
    let mut reader = Reader::open(bytes)?;
    let end = Position { epoch: Epoch(reader.number("end")?), seq: reader.number("end")? };
    let count = usize::from(reader.byte()?);
    if epoch <= FIRST_EPOCH {
        return Err(RecordProblem::Field("epoch"));
    }
    if end.epoch >= epoch {
        return Err(RecordProblem::Field("end"));
    }
    if !(1..=REPLICAS_MAX).contains(&count) {
        return Err(RecordProblem::Field("owners"));
    }
    let mut owners: Vec<Owner> = Vec::with_capacity(count);
    for _ in 0..count {
        let owner = Owner { node: reader.node()?, store: reader.store()? };
        if owners.iter().any(|known| known.node == owner.node) {
            return Err(RecordProblem::Field("owners"));
        }
        owners.push(owner);
    }
    reader.close(Claim { partition, epoch, owners: Arc::from(owners), end })
}
