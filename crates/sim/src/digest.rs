//! What happened in a run, as one number: two runs with the same one went the same way.

use std::fmt;

/// A digest of words and of text. Not for hashing what somebody may have chosen.
#[derive(Debug, Clone)]
pub struct Digest(u64);

impl Default for Digest {
    fn default() -> Self {
        Self(0x7269_6e67_7761_7921)
    }
}

impl Digest {
    /// Mixes in a word.
    pub fn mix(&mut self, word: u64) {
        let mixed = (self.0.rotate_left(29) ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.0 = mixed ^ mixed >> 32;
    }

    /// Mixes in a text. How it is cut into pieces does not matter.
    pub fn tell(&mut self, text: fmt::Arguments<'_>) {
        // Writing to it cannot fail.
        let _ = fmt::write(self, text);
        self.mix(0);
    }

    /// So far.
    #[must_use]
    pub fn value(&self) -> u64 {
        self.0
    }
}

impl fmt::Write for Digest {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        text.bytes().for_each(|byte| self.mix(u64::from(byte) + 1));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(texts: &[&str]) -> u64 {
        let mut digest = Digest::default();
        texts.iter().for_each(|text| digest.tell(format_args!("{text}")));
        digest.value()
    }

    #[test]
    fn it_depends_on_what_was_told_and_in_which_order() {
        assert_eq!(of(&["a", "b"]), of(&["a", "b"]));
        assert_ne!(of(&["a", "b"]), of(&["b", "a"]));
        assert_ne!(of(&["a", "b"]), of(&["ab"]));
        let mut one = Digest::default();
        one.tell(format_args!("{}{}", "a", "b"));
        assert_eq!(one.value(), of(&["ab"]));
    }
}
