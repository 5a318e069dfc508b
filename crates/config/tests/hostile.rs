//! Bytes that no editor wrote: they are refused, soon, and nothing panics.

use std::time::Duration;

use proptest::prelude::*;
use ringway_config::{DEPTH_MAX, NODES_MAX, PROBLEMS_MAX, load_str};

const NODE: &str = include_str!("../../../config/reference-kv.yaml");
const PROXY: &str = include_str!("../../../config/reference-proxy.yaml");

/// Long for a debug build on a busy machine, and nothing against what an expanded file would take.
const SOON: Duration = Duration::from_secs(10);

#[test]
fn a_billion_laughs_are_refused_soon() {
    let mut text = String::from("a0: &a0 lol\n");
    for level in 1..100 {
        let items = vec![format!("*a{}", level - 1); 50].join(", ");
        text.push_str(&format!("a{level}: &a{level} [{items}]\n"));
    }
    let problems = soon(|| load_str("laughs.yaml", &text)).unwrap_err();
    assert_eq!(problems.list.len(), PROBLEMS_MAX);
    assert!(problems.dropped > 0);
}

#[test]
fn depth_is_bounded() {
    let refused = |text: &str| soon(|| load_str("deep.yaml", text)).unwrap_err().to_string();
    for (open, close) in [("[", "]"), ("{a: ", "}")] {
        let text = format!("a: {}x{}", open.repeat(DEPTH_MAX), close.repeat(DEPTH_MAX));
        assert!(refused(&text).contains("nested too deeply"));
        // The parser's own bound comes first when brackets are the only thing there is.
        refused(&format!("{}x{}", open.repeat(100_000), close.repeat(100_000)));
    }
    let text: String = (0..1_000).map(|level| format!("{}a:\n", " ".repeat(level))).collect();
    assert!(refused(&text).contains("nested too deeply"));
}

#[test]
fn width_is_bounded() {
    let many = "x, ".repeat(NODES_MAX + 1);
    assert!(
        soon(|| load_str("wide.yaml", &format!("a: [{many}]"))).unwrap_err().to_string().contains("too many")
    );
    let keys: String = (0..30_000).map(|n| format!("k{n}: 1\n")).collect();
    let problems = soon(|| load_str("keys.yaml", &keys)).unwrap_err();
    assert_eq!(problems.list.len(), PROBLEMS_MAX, "each is unknown");
    assert!(problems.dropped >= 29_000);
}

fn soon<T>(work: impl FnOnce() -> T) -> T {
    #[expect(clippy::disallowed_methods, reason = "measures real time")]
    let started = std::time::Instant::now();
    let out = work();
    assert!(started.elapsed() < SOON, "took {:?}", started.elapsed());
    out
}

/// A reference file with some of its bytes changed, cut or doubled: the deep parts of the reader get to see bad input too.
fn mutated() -> impl Strategy<Value = String> {
    let edit = (any::<prop::sample::Index>(), prop_oneof![Just(None), any::<char>().prop_map(Some)]);
    (prop_oneof![Just(NODE), Just(PROXY)], prop::collection::vec(edit, 1..8)).prop_map(|(text, edits)| {
        let mut chars: Vec<char> = text
            .lines()
            .filter(|line| !line.trim_start().starts_with('#'))
            .flat_map(|line| line.chars().chain(['\n']))
            .collect();
        for (index, change) in edits {
            let index = index.index(chars.len());
            match change {
                Some(c) => chars[index] = c,
                None => {
                    chars.remove(index);
                }
            }
        }
        chars.into_iter().collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn arbitrary_text_never_panics(text in ".{0,200}") {
        prop_assert!(load_str("any.yaml", &text).is_err());
    }

    #[test]
    fn yaml_punctuation_never_panics(text in "[-:{}\\[\\],&*!|>'\"%@`#?~ \n\ta-c0-9.]{0,200}") {
        prop_assert!(load_str("any.yaml", &text).is_err());
    }

    #[test]
    fn damaged_files_never_panic(text in mutated()) {
        if let Err(problems) = load_str("damaged.yaml", &text) {
            prop_assert!(!problems.list.is_empty());
            prop_assert!(!problems.to_string().is_empty());
        }
    }
}
