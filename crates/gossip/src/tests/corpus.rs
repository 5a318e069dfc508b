//! The seeds of the fuzzers: real messages, checked in under `fuzz/corpus`.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::{env, fs};

use super::harness::*;
use crate::Keyring;
use crate::wire::decode;

/// Set to write the seeds anew after a change of the wire format.
const BLESS: &str = "RINGWAY_BLESS";
/// Packets of the seed that tells a whole story.
const STORY_PACKETS: usize = 120;

/// What three members say to each other in a rich life, unencrypted.
fn story() -> Vec<Packet> {
    let plain = Make { keyring: Keyring::none(), ..Make::default() };
    let mut three = Cluster::empty(60);
    three.capture = Some(Vec::new());
    for index in 0..3 {
        three.add(&name(index), 1, index, &plain);
        if index > 0 {
            three.join(index, 0);
        }
        three.set_record(index, &format!("node/{index}"), 1, b"a record");
        three.run(S(1));
    }
    let foreign = three.add("f", 1, 9, &Make { terms: "q=1", ..plain.clone() });
    three.join(foreign, 0);
    three.loss_percent = 100;
    three.set_record(1, "lost", 1, b"only by anti-entropy");
    three.run(S(4));
    three.loss_percent = 0;
    three.run(S(30));
    for i in 0..70 {
        three.set_record(0, &format!("many/{i}"), 1, b"x");
    }
    three.run(S(5));
    three.loss_percent = 100;
    three.set_record(1, "lost", 2, b"by buckets");
    three.run(S(4));
    three.loss_percent = 0;
    three.run(S(30));
    let clone = three.add("n001", 2, 8, &plain);
    three.join(clone, 0);
    three.run(S(2));
    three.crash(clone);
    three.crash(2);
    three.run(S(30));
    three.with(1, |g, now| g.leave(now));
    three.run(S(1));
    three.capture.take().unwrap()
}

/// File name → content, per fuzz target.
fn seeds() -> BTreeMap<&'static str, BTreeMap<String, Vec<u8>>> {
    let story = story();
    let envelope = 6;
    let mut wire = BTreeMap::new();
    for packet in &story {
        let payload = &packet.bytes[envelope..];
        let message = decode(payload).unwrap();
        let said = format!("{:?}", message.body).to_lowercase();
        let kind: String = said.chars().take_while(char::is_ascii_alphabetic).collect();
        let form = if said.contains("buckets") { "-buckets" } else { "" };
        // The richest of each kind, within reason.
        let seed: &mut Vec<u8> = wire.entry(format!("{kind}{form}.bin")).or_default();
        if payload.len() > seed.len() && (payload.len() < 600 || seed.is_empty()) {
            *seed = payload.to_vec();
        }
    }
    let to_first: Vec<_> = story.iter().filter(|packet| packet.to == addr(0)).collect();
    let mut gossip = BTreeMap::new();
    for (index, part) in to_first.chunks(STORY_PACKETS).take(4).enumerate() {
        let mut seed = Vec::new();
        for packet in part {
            // Bits 0–1: how it arrives; bits 2–4: how much time passes first. As in fuzz/fuzz_targets/gossip.rs.
            seed.push(packet.kind as u8 | 3 << 2);
            let payload = &packet.bytes[envelope..];
            seed.extend_from_slice(&(payload.len() as u16).to_be_bytes());
            seed.extend_from_slice(payload);
        }
        gossip.insert(format!("story-{index}.bin"), seed);
    }
    BTreeMap::from([("wire", wire), ("gossip", gossip)])
}

#[test]
fn the_fuzz_corpus_has_every_kind_of_message_in_the_present_format() {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus");
    let seeds = seeds();
    assert_eq!(seeds["wire"].len(), 16, "every kind of message: {:?}", seeds["wire"].keys());
    for (target, files) in seeds {
        for (file, bytes) in files {
            let path = root.join(target).join(file);
            if env::var_os(BLESS).is_some() {
                fs::create_dir_all(root.join(target)).unwrap();
                fs::write(&path, &bytes).unwrap();
            }
            let remedy = format!("{}: run once with {BLESS}=1", path.display());
            let mut found = &fs::read(&path).expect(&remedy)[..];
            if target == "wire" {
                decode(found).expect(&remedy);
                continue;
            }
            while let [_, high, low, tail @ ..] = found {
                let (payload, tail) = tail.split_at(usize::from(u16::from_be_bytes([*high, *low])));
                decode(payload).expect(&remedy);
                found = tail;
            }
        }
    }
}
