//! A key-value store of one map behind HTTP/1.1, with one fault.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

/// What it does wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    None,
    /// Acknowledges every n-th write and forgets it.
    DropsEvery(u64),
    /// Acknowledges and forgets every write after the n-th request.
    DropsAfter(u64),
    /// Answers every n-th read with what was there before the last write.
    StaleEvery(u64),
    /// Answers every n-th read with another key's value.
    OtherKeyEvery(u64),
    /// Flips a bit of every n-th value read.
    DamagesEvery(u64),
    /// Answers every n-th write 400 and keeps it.
    RefusesAndKeepsEvery(u64),
    /// Answers every n-th write that its outcome is unknown; every other of those takes effect.
    UnknownEvery(u64),
    /// Closes the connection instead of every n-th answer, when the request has taken effect.
    ResetsEvery(u64),
    /// Answers every n-th request 503 without doing it.
    OverloadedEvery(u64),
    /// Answers every request after the n-th 503 without doing it.
    OverloadedAfter(u64),
    /// Takes conditional writes for unconditional ones, and answers reads late, so that others write in between.
    IgnoresConditions,
    /// Answers nobody for a while, once, from this request on.
    StallsOnce {
        at: u64,
        for_ms: u64,
    },
    /// Has no `/v1/events`.
    NoEvents,
}

/// Ends with the test process.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
}

#[derive(Default)]
struct Store {
    /// Value, version.
    entries: BTreeMap<String, (Vec<u8>, u64)>,
    /// What was there before the last write.
    before: BTreeMap<String, Option<(Vec<u8>, u64)>>,
    version: u64,
    /// Requests for keys, and of these writes and reads that found something.
    requests: u64,
    writes: u64,
    found: u64,
    scrapes: u64,
}

struct Request {
    method: String,
    path: String,
    if_match: Option<String>,
    if_none_match: bool,
    body: Vec<u8>,
}

impl Server {
    pub(crate) fn start(fault: Fault) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback works");
        let address = listener.local_addr().expect("loopback works");
        let store = Arc::new(Mutex::new(Store::default()));
        thread::spawn(move || {
            for stream in listener.incoming() {
                let (stream, store) = (stream.expect("loopback works"), store.clone());
                thread::spawn(move || serve(stream, &store, fault));
            }
        });
        Self { address }
    }
}

fn serve(stream: TcpStream, store: &Mutex<Store>, fault: Fault) {
    stream.set_nodelay(true).expect("loopback works");
    let mut reader = BufReader::new(stream.try_clone().expect("loopback works"));
    let mut stream = stream;
    while let Some(request) = read(&mut reader) {
        let Some(answer) = store.lock().expect("loopback works").answer(&request, fault) else { return };
        if fault == Fault::IgnoresConditions && request.method == "GET" {
            stall(Duration::from_millis(5));
        }
        if stream.write_all(&answer).is_err() {
            return;
        }
    }
}

fn read(reader: &mut BufReader<TcpStream>) -> Option<Request> {
    let mut line = String::new();
    if reader.read_line(&mut line).ok()? == 0 {
        return None;
    }
    let mut words = line.split(' ');
    let (method, path) = (words.next()?.to_owned(), words.next()?.to_owned());
    let mut request = Request { method, path, if_match: None, if_none_match: false, body: Vec::new() };
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        let Some((name, value)) = line.trim_end().split_once(": ") else { break };
        match name {
            "If-Match" => request.if_match = Some(value.to_owned()),
            "If-None-Match" => request.if_none_match = true,
            "Content-Length" => request.body = vec![0; value.parse().expect("loopback works")],
            _ => {}
        }
    }
    reader.read_exact(&mut request.body).ok()?;
    Some(request)
}

impl Store {
    /// `None`: close the connection.
    fn answer(&mut self, request: &Request, fault: Fault) -> Option<Vec<u8>> {
        let Some(key) = request.path.strip_prefix("/kv/") else {
            return Some(self.admin(&request.path, fault));
        };
        self.requests += 1;
        let hits = |n: u64, of: u64| of % n == n - 1;
        match fault {
            // The lock is held: nobody is answered.
            Fault::StallsOnce { at, for_ms } if self.requests == at => {
                stall(Duration::from_millis(for_ms));
            }
            Fault::OverloadedEvery(n) if hits(n, self.requests) => return Some(problem(503, "overloaded")),
            Fault::OverloadedAfter(n) if self.requests > n => return Some(problem(503, "overloaded")),
            _ => {}
        }
        let answer = match request.method.as_str() {
            "GET" => self.get(key, fault),
            "PUT" => self.put(key, request, fault),
            "DELETE" => {
                self.set(key, None);
                reply(204, "", b"")
            }
            other => panic!("{other}"),
        };
        let reset = matches!(fault, Fault::ResetsEvery(n) if hits(n, self.requests));
        (!reset).then_some(answer)
    }

    fn get(&mut self, key: &str, fault: Fault) -> Vec<u8> {
        let Some((value, version)) = self.entries.get(key).cloned() else {
            return problem(404, "no_such_key");
        };
        self.found += 1;
        let hit = |n: u64| self.found % n == n - 1;
        let (value, version) = match fault {
            Fault::StaleEvery(n) if hit(n) => match self.before.get(key).cloned().flatten() {
                Some(before) => before,
                None => return problem(404, "no_such_key"),
            },
            Fault::OtherKeyEvery(n) if hit(n) => {
                let other = self.entries.iter().find(|(other, _)| *other != key);
                other.map_or((value, version), |(_, other)| other.clone())
            }
            Fault::DamagesEvery(n) if hit(n) => {
                let mut value = value;
                *value.last_mut().expect("loopback works") ^= 1;
                (value, version)
            }
            _ => (value, version),
        };
        reply(200, &format!("ETag: \"{version}\"\r\n"), &value)
    }

    fn put(&mut self, key: &str, request: &Request, fault: Fault) -> Vec<u8> {
        let current = self.entries.get(key).map(|(_, version)| format!("\"{version}\""));
        let met = request.if_match.as_ref().is_none_or(|tag| Some(tag) == current.as_ref())
            && !(request.if_none_match && current.is_some());
        if !met && fault != Fault::IgnoresConditions {
            return problem(412, "condition_failed");
        }
        self.writes += 1;
        let hit = |n: u64| self.writes % n == n - 1;
        match fault {
            Fault::DropsEvery(n) if hit(n) => return reply(204, "", b""),
            Fault::DropsAfter(n) if self.requests > n => return reply(204, "", b""),
            Fault::UnknownEvery(n) if hit(n) => {
                if (self.writes / n).is_multiple_of(2) {
                    self.set(key, Some(&request.body));
                }
                return problem(504, "outcome_unknown");
            }
            _ => {}
        }
        let refuse = matches!(fault, Fault::RefusesAndKeepsEvery(n) if hit(n));
        self.set(key, Some(&request.body));
        if refuse { problem(400, "malformed_request") } else { reply(204, "", b"") }
    }

    fn set(&mut self, key: &str, value: Option<&[u8]>) {
        self.version += 1;
        let entry = value.map(|value| (value.to_vec(), self.version));
        let before = match entry {
            Some(entry) => self.entries.insert(key.to_owned(), entry),
            None => self.entries.remove(key),
        };
        self.before.insert(key.to_owned(), before);
    }

    fn admin(&mut self, path: &str, fault: Fault) -> Vec<u8> {
        if path == "/metrics" {
            self.scrapes += 1;
            let (held, epochs) = (if self.scrapes == 2 { 4 } else { 0 }, 100 + self.scrapes);
            return reply(
                200,
                "",
                format!("ringway_held_requests {held}\nringway_map_epochs {epochs}\n").as_bytes(),
            );
        }
        let Some(after) = path.strip_prefix("/v1/events?after=") else { return problem(404, "no_such_page") };
        if fault == Fault::NoEvents {
            return problem(404, "no_such_page");
        }
        let after: u64 = after.parse().expect("loopback works");
        let wall = std::time::UNIX_EPOCH.elapsed().expect("loopback works").as_millis();
        let event = |id: u64, node: &str| {
            format!(
                r#"{{"id":{id},"at_ms":{wall},"kind":"member_dead","subject":"{node}","text":"{node} is dead"}}"#
            )
        };
        // One event at once, the other when the first was heard; one from long ago.
        let old =
            r#"{"id":1,"at_ms":1000,"kind":"member_dead","subject":"n1","text":"n1 is dead"}"#.to_owned();
        let events = match after {
            0 => format!("{old},{}", event(2, "n3")),
            2 => event(3, "n6"),
            _ => String::new(),
        };
        let body = format!(r#"{{"events":[{events}],"next":{}}}"#, (after + 1).max(3));
        reply(200, "Content-Type: application/json\r\n", body.as_bytes())
    }
}

#[expect(clippy::disallowed_methods, reason = "the fault is to keep clients waiting")]
fn stall(time: Duration) {
    thread::sleep(time);
}

fn problem(status: u16, reason: &str) -> Vec<u8> {
    let body = format!(r#"{{"status":{status},"reason":"{reason}"}}"#);
    reply(status, "Content-Type: application/problem+json\r\n", body.as_bytes())
}

fn reply(status: u16, headers: &str, body: &[u8]) -> Vec<u8> {
    let length = if status == 204 { String::new() } else { format!("Content-Length: {}\r\n", body.len()) };
    let mut out = format!("HTTP/1.1 {status} X\r\n{headers}{length}\r\n").into_bytes();
    out.extend_from_slice(body);
    out
}
