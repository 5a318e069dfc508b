//! Values that say which write they come from.

use crate::random::mix;

/// Bytes of the line that opens every value: `ringway-load`, run, key and number in hex, newline.
pub const VALUE_BYTES_MIN: usize = 13 + 17 + 9 + 9;

/// Makes and recognises the values of one run.
///
/// The opening line names run, key and write; the rest is filler that follows from them, incompressible, so that a value of
/// another length or with a flipped bit is not taken for one of ours.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Values {
    run: u64,
    bytes: usize,
}

impl Values {
    /// `run` tells the values of this run from those that earlier runs left behind.
    pub(crate) fn new(run: u64, bytes: usize) -> Self {
        Self { run, bytes }
    }

    /// Appends the value of a key's n-th write; shorter than [`VALUE_BYTES_MIN`], it is cut and cannot be recognised.
    pub(crate) fn write(&self, key: u32, number: u32, out: &mut Vec<u8>) {
        let end = out.len() + self.bytes;
        out.extend_from_slice(self.opening(key, number).as_bytes());
        let mut state = self.run ^ (u64::from(key) << 32 | u64::from(number));
        while out.len() < end {
            state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
            out.extend_from_slice(&mix(state).to_le_bytes());
        }
        out.truncate(end);
    }

    /// The number of the write whose value this is, or what it is instead.
    pub(crate) fn number(&self, key: u32, body: &[u8]) -> Result<u32, String> {
        let number = Self::parse(body).ok_or_else(|| format!("{} bytes that no load wrote", body.len()))?;
        let (run, of_key, number) = number;
        if run != self.run {
            return Err("a value of another run".to_owned());
        }
        if of_key != key {
            return Err(format!("value {number} of {}", crate::workload::key_name(of_key)));
        }
        let mut expected = Vec::with_capacity(self.bytes);
        self.write(key, number, &mut expected);
        if expected != body {
            return Err(format!("value {number} damaged ({} of {} bytes)", body.len(), self.bytes));
        }
        Ok(number)
    }

    fn opening(&self, key: u32, number: u32) -> String {
        format!("ringway-load {:016x} {key:08x} {number:08x}\n", self.run)
    }

    fn parse(body: &[u8]) -> Option<(u64, u32, u32)> {
        let line = std::str::from_utf8(body.get(..VALUE_BYTES_MIN)?).ok()?;
        let mut words = line.strip_prefix("ringway-load ")?.strip_suffix('\n')?.split(' ');
        let run = u64::from_str_radix(words.next()?, 16).ok()?;
        let key = u32::from_str_radix(words.next()?, 16).ok()?;
        let number = u32::from_str_radix(words.next()?, 16).ok()?;
        words.next().is_none().then_some((run, key, number))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_names_its_write_and_nothing_else_does() {
        let values = Values::new(7, 100);
        let mut body = Vec::new();
        values.write(3, 9, &mut body);
        assert_eq!((body.len(), values.number(3, &body)), (100, Ok(9)));
        assert_eq!(values.number(4, &body).unwrap_err(), "value 9 of k00000003");
        assert_eq!(Values::new(8, 100).number(3, &body).unwrap_err(), "a value of another run");
        assert_eq!(values.number(3, &body[..99]).unwrap_err(), "value 9 damaged (99 of 100 bytes)");
        *body.last_mut().unwrap() ^= 1;
        assert_eq!(values.number(3, &body).unwrap_err(), "value 9 damaged (100 of 100 bytes)");
        assert_eq!(values.number(3, b"hello").unwrap_err(), "5 bytes that no load wrote");
    }

    #[test]
    fn the_shortest_value_is_its_opening() {
        let values = Values::new(u64::MAX, VALUE_BYTES_MIN);
        let mut body = Vec::new();
        values.write(u32::MAX, u32::MAX, &mut body);
        assert_eq!((body.len(), values.number(u32::MAX, &body)), (VALUE_BYTES_MIN, Ok(u32::MAX)));
    }
}
