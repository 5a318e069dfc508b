//! The decoder of gossip messages: any bytes are fine, and what reads back is what was read.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ringway_gossip::wire::{News, decode, encode, finish};

fuzz_target!(|bytes: &[u8]| {
    let Ok(message) = decode(bytes) else { return };
    let mut news = News::default();
    for update in &message.members {
        assert!(news.push_member(update, usize::MAX));
    }
    for record in &message.records {
        assert!(news.push_record(record, usize::MAX));
    }
    let mut again = encode(message.sender, message.generation, &message.body);
    finish(&mut again, &news);
    assert_eq!(decode(&again).as_ref(), Ok(&message), "a message survives being written again");
});
