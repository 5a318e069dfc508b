//! The examples in the documents, for the tests that hold the code against them. Every crate that has such tests takes
//! this file in by its path.
//!
//! An example stands in a block that says so, with a name, and is read from there:
//!
//! ````text
//! ```text example head
//! head: 010473686f70…
//! ```
//! ````
//!
//! A line is what it is an example of, a colon and a space, and what the code writes or reads: bytes in hex, or text.
//! crates/control/tests/documents.rs sees to it that every block is read by a test, and that no bytes stand elsewhere.

#![allow(dead_code, reason = "each crate's tests read their own part of the documents")]

/// What a store speaks.
pub(crate) const NODE_CONTRACT: Document =
    Document { path: "docs/NODE_CONTRACT.md", text: include_str!("../../docs/NODE_CONTRACT.md") };
/// What gossip carries.
pub(crate) const CONTROL: Document =
    Document { path: "docs/CONTROL.md", text: include_str!("../../docs/CONTROL.md") };

/// How the block of an example begins; its name follows.
const OPENING: &str = "```text example ";

/// A document and its examples.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Document {
    pub(crate) path: &'static str,
    text: &'static str,
}

/// A block of examples: its name, and its lines as (what, value).
pub(crate) type Block = (&'static str, Vec<(&'static str, &'static str)>);

impl Document {
    /// Every block of examples, in order.
    pub(crate) fn blocks(&self) -> Vec<Block> {
        let mut blocks: Vec<Block> = Vec::new();
        let mut inside = false;
        for line in self.text.lines() {
            if let Some(name) = line.strip_prefix(OPENING) {
                blocks.push((name, Vec::new()));
                inside = true;
            } else if line.starts_with("```") {
                inside = false;
            } else if inside {
                let Some(example) = line.split_once(": ") else {
                    panic!("{}: `{line}` is no `what: value`", self.path);
                };
                blocks.last_mut().into_iter().for_each(|(_, lines)| lines.push(example));
            }
        }
        blocks
    }

    /// The document without its examples.
    pub(crate) fn prose(&self) -> Vec<&'static str> {
        let mut inside = false;
        let outside = |line: &&'static str| {
            inside = line.starts_with(OPENING) || (inside && !line.starts_with("```"));
            !inside
        };
        self.text.lines().filter(outside).collect()
    }

    /// The lines of the one block of that name.
    pub(crate) fn block(&self, name: &str) -> Vec<(&'static str, &'static str)> {
        let mut found: Vec<Block> = self.blocks();
        found.retain(|(block, _)| *block == name);
        assert!(found.len() == 1, "{} has {} blocks of examples `{name}`, not one", self.path, found.len());
        found.remove(0).1
    }

    /// The value of one line.
    pub(crate) fn value(&self, block: &str, what: &str) -> &'static str {
        match self.block(block).iter().find(|(line, _)| *line == what) {
            Some((_, value)) => value,
            None => panic!("{}, block `{block}`, has no `{what}`", self.path),
        }
    }

    /// The value of one line of hex, as bytes.
    pub(crate) fn bytes(&self, block: &str, what: &str) -> Vec<u8> {
        let hex = self.value(block, what);
        let byte = |at: usize| hex.get(at..at + 2).and_then(|digits| u8::from_str_radix(digits, 16).ok());
        let bytes = (0..hex.len()).step_by(2).map(byte).collect::<Option<Vec<u8>>>();
        bytes.unwrap_or_else(|| panic!("{}, block `{block}`: `{what}` is no hex", self.path))
    }

    /// Fails unless the block holds exactly these lines, in this order.
    pub(crate) fn shows(&self, block: &str, made: &[(&str, String)]) {
        let text = |lines: &mut dyn Iterator<Item = (&str, &str)>| -> String {
            lines.map(|(what, value)| format!("{what}: {value}\n")).collect()
        };
        let shown = text(&mut self.block(block).into_iter());
        let made = text(&mut made.iter().map(|(what, value)| (*what, value.as_str())));
        assert!(shown == made, "{}, block `{block}`, should be\n{made}and is\n{shown}", self.path);
    }
}

/// Bytes as the documents write them.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
