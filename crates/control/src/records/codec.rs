//! How fields are written and read back.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use ringway_topology::{NodeId, StoreId, Weight, ZoneName};

use super::{FORMAT, RecordProblem, VERSION_TEXT_BYTES_MAX};

/// Appends text of at most 255 bytes behind its length. Names and cut versions are shorter.
pub(super) fn put_text(out: &mut Vec<u8>, text: &str) {
    let text = cut(text, usize::from(u8::MAX));
    out.push(text.len() as u8);
    out.extend(text.as_bytes());
}

/// Appends a number in groups of 7 bits, the lowest first.
pub(super) fn put_number(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Appends 0 for none, or 4 or 6, the address and the port.
pub(super) fn put_address(out: &mut Vec<u8>, address: Option<SocketAddr>) {
    let Some(address) = address else { return out.push(0) };
    match address.ip() {
        IpAddr::V4(ip) => {
            out.push(4);
            out.extend(ip.octets());
        }
        IpAddr::V6(ip) => {
            out.push(6);
            out.extend(ip.octets());
        }
    }
    out.extend(address.port().to_be_bytes());
}

/// The longest prefix of `text` of at most `bytes_max` bytes that ends between characters.
pub(super) fn cut(text: &str, bytes_max: usize) -> &str {
    let mut end = text.len().min(bytes_max);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

/// Takes fields off the front of a record.
pub(super) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(super) fn open(bytes: &'a [u8]) -> Result<Self, RecordProblem> {
        match bytes.split_first() {
            Some((&FORMAT, rest)) => Ok(Self { rest }),
            Some((&other, _)) => Err(RecordProblem::UnknownFormat(other)),
            None => Err(RecordProblem::Truncated),
        }
    }

    pub(super) fn close<T>(self, record: T) -> Result<T, RecordProblem> {
        if self.rest.is_empty() { Ok(record) } else { Err(RecordProblem::TrailingBytes) }
    }

    fn take(&mut self, len: usize) -> Result<&'a [u8], RecordProblem> {
        let (taken, rest) = self.rest.split_at_checked(len).ok_or(RecordProblem::Truncated)?;
        self.rest = rest;
        Ok(taken)
    }

    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], RecordProblem> {
        let (taken, rest) = self.rest.split_first_chunk().ok_or(RecordProblem::Truncated)?;
        self.rest = rest;
        Ok(*taken)
    }

    pub(super) fn byte(&mut self) -> Result<u8, RecordProblem> {
        self.array::<1>().map(|[byte]| byte)
    }

    pub(super) fn text(&mut self) -> Result<&'a str, RecordProblem> {
        let len = usize::from(self.byte()?);
        std::str::from_utf8(self.take(len)?).map_err(|_| RecordProblem::Field("text"))
    }

    /// Text that may be shown to people: bounded and printable.
    pub(super) fn version(&mut self) -> Result<&'a str, RecordProblem> {
        self.shown("version", VERSION_TEXT_BYTES_MAX)
    }

    /// Text of the named field that may be shown to people: bounded and printable.
    pub(super) fn shown(&mut self, field: &'static str, bytes_max: usize) -> Result<&'a str, RecordProblem> {
        let text = self.text()?;
        let fit = text.len() <= bytes_max && !text.chars().any(char::is_control);
        fit.then_some(text).ok_or(RecordProblem::Field(field))
    }

    /// Text of the named field, behind a length of two bytes.
    pub(super) fn long_text(
        &mut self,
        field: &'static str,
        bytes_max: usize,
    ) -> Result<&'a str, RecordProblem> {
        let len = usize::from(u16::from_be_bytes(self.array()?));
        if len > bytes_max {
            return Err(RecordProblem::Field(field));
        }
        std::str::from_utf8(self.take(len)?).map_err(|_| RecordProblem::Field(field))
    }

    pub(super) fn flag(&mut self, field: &'static str) -> Result<bool, RecordProblem> {
        match self.byte()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(RecordProblem::Field(field)),
        }
    }

    pub(super) fn node(&mut self) -> Result<NodeId, RecordProblem> {
        NodeId::new(self.text()?).map_err(|_| RecordProblem::Field("id"))
    }

    pub(super) fn zone(&mut self) -> Result<ZoneName, RecordProblem> {
        ZoneName::new(self.text()?).map_err(|_| RecordProblem::Field("zone"))
    }

    pub(super) fn weight(&mut self) -> Result<Weight, RecordProblem> {
        Weight::new(u32::from_be_bytes(self.array()?)).ok_or(RecordProblem::Field("weight"))
    }

    pub(super) fn store(&mut self) -> Result<StoreId, RecordProblem> {
        Ok(StoreId(u128::from_be_bytes(self.array()?)))
    }

    /// A number in groups of 7 bits, the lowest first, as short as it can be.
    pub(super) fn number(&mut self, field: &'static str) -> Result<u64, RecordProblem> {
        let mut value = 0;
        for shift in (0..u64::BITS).step_by(7) {
            let byte = self.byte()?;
            let group = u64::from(byte & 0x7f);
            // The last group holds one bit; a zero group at the end makes a number longer than it must be.
            if group << shift >> shift != group || (byte == 0 && shift > 0) {
                return Err(RecordProblem::Field(field));
            }
            value |= group << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(RecordProblem::Field(field))
    }

    /// An address somebody can be reached at: neither the unspecified address nor port 0.
    pub(super) fn address(&mut self, field: &'static str) -> Result<Option<SocketAddr>, RecordProblem> {
        let ip = match self.byte()? {
            0 => return Ok(None),
            4 => IpAddr::V4(Ipv4Addr::from(self.array::<4>()?)),
            6 => IpAddr::V6(Ipv6Addr::from(self.array::<16>()?)),
            _ => return Err(RecordProblem::Field(field)),
        };
        let port = u16::from_be_bytes(self.array()?);
        if ip.is_unspecified() || port == 0 {
            return Err(RecordProblem::Field(field));
        }
        Ok(Some(SocketAddr::new(ip, port)))
    }
}
