//! What the documents show is held against the code, all of it.

use std::path::Path;

#[path = "../../../tests/support/document.rs"]
mod document;

use document::{CONTROL, Document, NODE_CONTRACT};

/// Which tests read a block of examples.
const READERS: [(Document, &str, &[&str]); 15] = [
    (NODE_CONTRACT, "write", &["crates/proxy/src/headers/tests.rs", "crates/node/src/contract.rs"]),
    (NODE_CONTRACT, "read", &["crates/proxy/src/headers/tests.rs", "crates/node/src/contract.rs"]),
    (
        NODE_CONTRACT,
        "answers",
        &[
            "crates/proxy/src/headers/tests.rs",
            "crates/node/src/contract.rs",
            "crates/node/tests/owners/data.rs",
            "crates/node/tests/owners/takeover.rs",
        ],
    ),
    (NODE_CONTRACT, "head", &["crates/control/src/ownership/wire/tests.rs"]),
    (NODE_CONTRACT, "stream", &["crates/node/src/peer/link.rs"]),
    (NODE_CONTRACT, "export", &["crates/node/src/peer/seal.rs"]),
    (NODE_CONTRACT, "sealing", &["crates/node/src/peer/seal.rs"]),
    (NODE_CONTRACT, "sealed frame", &["crates/node/src/peer/seal.rs"]),
    (NODE_CONTRACT, "messages", &["crates/control/src/ownership/wire/tests.rs"]),
    (NODE_CONTRACT, "writes", &["crates/node/src/replica/tests.rs"]),
    (NODE_CONTRACT, "results", &["crates/node/src/replica/tests.rs"]),
    (NODE_CONTRACT, "frames", &["crates/node/src/replica/tests.rs"]),
    (NODE_CONTRACT, "checksum", &["crates/node/src/replica/tests.rs"]),
    (CONTROL, "terms", &["crates/control/tests/claimed_records.rs"]),
    (CONTROL, "records", &["crates/control/tests/claimed_records.rs"]),
];

/// Bytes of hex from which on something is an example, and not a word.
const HEX_DIGITS_MAX: usize = 12;

#[test]
fn every_example_is_read_by_a_test() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    for document in [NODE_CONTRACT, CONTROL] {
        let shown: Vec<&str> = document.blocks().iter().map(|(name, _)| *name).collect();
        let here = READERS.iter().filter(|(of, ..)| of.path == document.path);
        let read: Vec<&str> = here.map(|(_, block, _)| *block).collect();
        assert_eq!(shown, read, "{}: name here the test that reads a new block", document.path);
    }
    for (document, block, readers) in READERS {
        for reader in readers {
            let text = std::fs::read_to_string(root.join(reader)).unwrap();
            assert!(
                text.contains(&format!("\"{block}\"")),
                "{reader} does not read `{block}` of {}",
                document.path
            );
        }
    }
}

#[test]
fn bytes_and_headers_stand_in_examples_only() {
    for line in NODE_CONTRACT.prose() {
        let digits = line.split(|c: char| !c.is_ascii_hexdigit()).map(str::len).max();
        assert!(digits <= Some(HEX_DIGITS_MAX), "no test reads these bytes: {line}");
        let header = line.split('`').any(|code| code.starts_with("Ringway-") && code.contains(": "));
        assert!(!header, "no test reads this header: {line}");
    }
}
