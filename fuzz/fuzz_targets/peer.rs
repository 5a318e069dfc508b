//! The decoder of what owners say to each other: any bytes are fine, and what reads back is what was read.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ringway_control::ownership::wire::{Head, put_message, read_export, read_messages};

fuzz_target!(|bytes: &[u8]| {
    if let Ok((head, rest)) = Head::read(bytes) {
        let mut again = Vec::new();
        head.put(&mut again);
        again.extend_from_slice(rest);
        assert_eq!(Head::read(&again), Ok((head, rest)), "a head survives being written again");
    }
    let _ = read_export(bytes);
    let Ok(messages) = read_messages(bytes) else { return };
    let mut again = Vec::new();
    messages.iter().for_each(|message| put_message(&mut again, message));
    assert_eq!(read_messages(&again).as_ref(), Ok(&messages), "messages survive being written again");
});
