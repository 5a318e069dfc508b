//! A living member among others: whatever arrives, by datagram or stream, it neither panics nor contradicts itself.
//!
//! The input is packets: a control byte (bits 0–1: datagram, request, response; bits 2–4: time that passes first;
//! bit 7: raw, without a good envelope), a big-endian length of two bytes, the payload.
#![no_main]

use std::net::SocketAddr;
use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use ringway_gossip::{Config, Gossip, Identity, Keyring};

/// Packets of one input; more say nothing new.
const PACKETS_MAX: usize = 256;
const STEPS_MS: [u64; 8] = [0, 1, 50, 250, 1_000, 5_000, 12_000, 60_000];

fn addr(host: u8) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, host], 7946))
}

fn member(index: u8, now: Duration) -> Gossip {
    let identity = Identity { id: format!("n00{index}").into(), generation: 1, addr: addr(index + 1) };
    let terms = b"q=16384".to_vec();
    Gossip::new(Config::default(), "shop", terms, identity, Keyring::none(), u64::from(index), now)
}

/// Delivers everything two members have to say to each other, once.
fn talk(a: &mut Gossip, b: &mut Gossip, now: Duration) {
    while let Some(said) = a.poll_transmit() {
        match b.handle_stream_request(now, addr(1), &said.bytes) {
            Some(answer) => a.handle_stream_response(now, said.to, &answer),
            None => b.handle_datagram(now, addr(1), &said.bytes),
        }
    }
}

fn drain(gossip: &mut Gossip) {
    while gossip.poll_transmit().is_some() {}
    while gossip.poll_event().is_some() {}
}

fuzz_target!(|bytes: &[u8]| {
    let mut now = Duration::from_secs(1_000);
    let (mut one, mut other) = (member(0, now), member(1, now));
    let _ = other.set_record(now, "node/1", 1, b"a record".to_vec());
    one.join(now, &[addr(2)]);
    // The envelope of an unencrypted message of this cluster.
    let envelope = one.poll_transmit().map(|said| said.bytes[..6].to_vec()).unwrap_or_default();
    one.join(now, &[addr(2)]);
    talk(&mut one, &mut other, now);
    let mut rest = bytes;
    for _ in 0..PACKETS_MAX {
        let [control, high, low, tail @ ..] = rest else { break };
        let len = usize::from(u16::from_be_bytes([*high, *low])).min(tail.len());
        let (payload, tail) = tail.split_at(len);
        rest = tail;
        now += Duration::from_millis(STEPS_MS[usize::from(control >> 2 & 7)]);
        if one.poll_timeout().is_some_and(|due| due <= now) {
            one.handle_timeout(now);
        }
        let packet = if control & 0x80 == 0 { [&envelope, payload].concat() } else { payload.to_vec() };
        match control & 3 {
            0 => one.handle_datagram(now, addr(2), &packet),
            1 => drop(one.handle_stream_request(now, addr(3), &packet)),
            _ => one.handle_stream_response(now, addr(2), &packet),
        }
        drain(&mut one);
    }
    one.check_invariants();
});
