//! What a line looks like. Pure: bytes in, bytes out.
//!
//! Whatever a client sends stays inside its field and its line: in JSON by the escapes of RFC 8259, in the Common Log
//! Format by `\xHH` for every byte that is not printable ASCII, a quote or a backslash.

use std::io::Write;

use http::Version;
use ringway_topology::Partition;

use super::lane::{End, Record};

/// Follows a target that was cut, in the Common Log Format.
const CUT_MARK: &str = "...";

/// The texts of one record.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Texts<'a> {
    /// Empty when the request was not read.
    pub(super) method: &'a [u8],
    pub(super) target: &'a [u8],
    /// Empty when no attempt was made.
    pub(super) node: &'a [u8],
    pub(super) request_id: &'a [u8],
}

impl<'a> Texts<'a> {
    /// Takes the texts of `record` off the front of `text`.
    pub(super) fn take(record: &Record, text: &mut &'a [u8]) -> Self {
        let mut next = |length: u16| {
            let (head, rest) = text.split_at(usize::from(length).min(text.len()));
            *text = rest;
            head
        };
        let lengths = record.lengths;
        Self {
            method: next(lengths.method),
            target: next(lengths.target),
            node: next(lengths.node),
            request_id: next(lengths.request_id),
        }
    }
}

/// Adds a line of JSON.
pub(super) fn json(out: &mut Vec<u8>, record: &Record, texts: &Texts<'_>, route: Option<&str>) {
    out.extend_from_slice(b"{\"time\":\"");
    push_rfc3339(out, record.started_ms);
    push(out, format_args!("\",\"client\":\"{}\"", record.client));
    push_member(out, "method", some(texts.method));
    push_member(out, "target", some(texts.target));
    if record.target_bytes > texts.target.len() {
        push(out, format_args!(",\"target_bytes\":{}", record.target_bytes));
    }
    let Record { status, bytes, attempts, .. } = record;
    let (whole, micros) = (record.duration.as_millis(), record.duration.subsec_micros() % 1_000);
    push_member(out, "version", Some(version(record.version).as_bytes()));
    push(out, format_args!(",\"status\":{status},\"bytes\":{bytes},\"duration_ms\":{whole}.{micros:03}"));
    push_member(out, "route", route.map(str::as_bytes));
    push_number(out, "partition", record.partition.map(|Partition(partition)| partition.into()));
    push_number(out, "epoch", record.epoch.map(|epoch| epoch.0));
    push_member(out, "node", some(texts.node));
    push(out, format_args!(",\"attempts\":{attempts}"));
    push_member(out, "reason", record.reason.map(|reason| reason.label().as_bytes()));
    push_member(out, "request_id", some(texts.request_id));
    let end = match record.end {
        End::Complete => "complete",
        End::ClientGone => "client_gone",
        End::Broken => "broken",
    };
    push_member(out, "end", Some(end.as_bytes()));
    out.extend_from_slice(b"}\n");
}

/// Adds a line in the Common Log Format.
pub(super) fn common(out: &mut Vec<u8>, record: &Record, texts: &Texts<'_>) {
    let Record { status, bytes, .. } = record;
    push(out, format_args!("{} - - [", record.client.ip()));
    push_common_time(out, record.started_ms);
    out.extend_from_slice(b"] \"");
    if texts.method.is_empty() {
        out.push(b'-');
    } else {
        push_hex_escaped(out, texts.method);
        out.push(b' ');
        push_hex_escaped(out, texts.target);
        let mark = if record.target_bytes > texts.target.len() { CUT_MARK } else { "" };
        push(out, format_args!("{mark} {}", version(record.version)));
    }
    push(out, format_args!("\" {status} "));
    match bytes {
        0 => out.extend_from_slice(b"-\n"),
        bytes => push(out, format_args!("{bytes}\n")),
    }
}

fn some(text: &[u8]) -> Option<&[u8]> {
    (!text.is_empty()).then_some(text)
}

fn version(version: Version) -> &'static str {
    match version {
        Version::HTTP_10 => "HTTP/1.0",
        Version::HTTP_2 => "HTTP/2.0",
        _ => "HTTP/1.1",
    }
}

fn push(out: &mut Vec<u8>, text: std::fmt::Arguments<'_>) {
    // Writing to memory does not fail.
    let _ = out.write_fmt(text);
}

fn push_number(out: &mut Vec<u8>, name: &str, number: Option<u64>) {
    match number {
        Some(number) => push(out, format_args!(",\"{name}\":{number}")),
        None => push(out, format_args!(",\"{name}\":null")),
    }
}

fn push_member(out: &mut Vec<u8>, name: &str, text: Option<&[u8]>) {
    push(out, format_args!(",\"{name}\":"));
    match text {
        Some(text) => push_json_string(out, text),
        None => out.extend_from_slice(b"null"),
    }
}

/// A JSON string. What is not UTF-8 becomes U+FFFD, as JSON has no other bytes. Control characters and line separators
/// beyond ASCII are escaped, too: some readers of lines break at them.
fn push_json_string(out: &mut Vec<u8>, text: &[u8]) {
    out.push(b'"');
    if text.iter().all(|byte| matches!(byte, b' '..=b'~') && !matches!(byte, b'"' | b'\\')) {
        out.extend_from_slice(text);
    } else {
        for chunk in text.utf8_chunks() {
            chunk.valid().chars().for_each(|c| push_json_char(out, c));
            if !chunk.invalid().is_empty() {
                out.extend_from_slice("\u{fffd}".as_bytes());
            }
        }
    }
    out.push(b'"');
}

fn push_json_char(out: &mut Vec<u8>, c: char) {
    match c {
        '"' => out.extend_from_slice(b"\\\""),
        '\\' => out.extend_from_slice(b"\\\\"),
        '\u{2028}' | '\u{2029}' => push(out, format_args!("\\u{:04x}", u32::from(c))),
        // All of them are below U+00A0.
        c if c.is_control() => push(out, format_args!("\\u{:04x}", u32::from(c))),
        c => out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
    }
}

fn push_hex_escaped(out: &mut Vec<u8>, text: &[u8]) {
    for &byte in text {
        match byte {
            b'"' | b'\\' => push(out, format_args!("\\x{byte:02X}")),
            b' '..=b'~' => out.push(byte),
            _ => push(out, format_args!("\\x{byte:02X}")),
        }
    }
}

/// `2026-11-22T22:06:20.123Z`
fn push_rfc3339(out: &mut Vec<u8>, ms: u64) {
    let Moment { year, month, day, hour, minute, second, ms } = Moment::of(ms);
    push(out, format_args!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{ms:03}Z"));
}

/// `22/Nov/2026:22:06:20 +0000`
fn push_common_time(out: &mut Vec<u8>, ms: u64) {
    const MONTHS: [&str; 12] =
        ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let Moment { year, month, day, hour, minute, second, .. } = Moment::of(ms);
    let name = MONTHS[(month as usize).saturating_sub(1) % MONTHS.len()];
    push(out, format_args!("{day:02}/{name}/{year:04}:{hour:02}:{minute:02}:{second:02} +0000"));
}

/// A moment by the calendar, UTC.
struct Moment {
    year: u64,
    /// From 1.
    month: u64,
    /// From 1.
    day: u64,
    hour: u64,
    minute: u64,
    second: u64,
    ms: u64,
}

impl Moment {
    /// From milliseconds since 1970. *Source*: Hinnant, "chrono-Compatible Low-Level Date Algorithms", `civil_from_days`,
    /// without the years before 1970.
    fn of(ms: u64) -> Self {
        const DAYS_FROM_MARCH_0000: u64 = 719_468;
        const ERA_DAYS: u64 = 146_097;
        let (seconds, ms) = (ms / 1_000, ms % 1_000);
        let days = seconds / 86_400 + DAYS_FROM_MARCH_0000;
        let (era, day_of_era) = (days / ERA_DAYS, days % ERA_DAYS);
        let year_of_era =
            (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        // Years begin in March, so that the leap day is their last.
        let month_from_march = (5 * day_of_year + 2) / 153;
        let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
        Self {
            year: era * 400 + year_of_era + u64::from(month <= 2),
            month,
            day: day_of_year - (153 * month_from_march + 2) / 5 + 1,
            hour: seconds / 3_600 % 24,
            minute: seconds / 60 % 60,
            second: seconds % 60,
            ms,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use ringway_route::Reason;
    use ringway_topology::Epoch;

    use super::super::lane::TextLengths;
    use super::*;

    fn record() -> Record {
        Record {
            // 2024-02-29T23:59:59.007Z
            started_ms: 1_709_251_199_007,
            duration: Duration::from_micros(1_234_567),
            client: "[2001:db8::1]:4711".parse().unwrap(),
            version: Version::HTTP_11,
            status: 200,
            bytes: 5,
            route: Some(0),
            partition: Some(Partition(7)),
            epoch: Some(Epoch(3)),
            attempts: 2,
            reason: None,
            end: End::Complete,
            target_bytes: 0,
            lengths: TextLengths { method: 0, target: 0, node: 0, request_id: 0 },
        }
    }

    fn in_json(record: &Record, texts: &Texts<'_>, route: Option<&str>) -> String {
        let mut out = Vec::new();
        json(&mut out, record, texts, route);
        String::from_utf8(out).unwrap()
    }

    fn in_common(record: &Record, texts: &Texts<'_>) -> String {
        let mut out = Vec::new();
        common(&mut out, record, texts);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn every_field_has_its_place() {
        let texts = Texts { method: b"GET", target: b"/kv/a?b=c", node: b"n1", request_id: b"id" };
        assert_eq!(
            in_json(&record(), &texts, Some("kv")),
            "{\"time\":\"2024-02-29T23:59:59.007Z\",\"client\":\"[2001:db8::1]:4711\",\"method\":\"GET\",\
             \"target\":\"/kv/a?b=c\",\"version\":\"HTTP/1.1\",\"status\":200,\"bytes\":5,\"duration_ms\":1234.567,\
             \"route\":\"kv\",\"partition\":7,\"epoch\":3,\"node\":\"n1\",\"attempts\":2,\"reason\":null,\
             \"request_id\":\"id\",\"end\":\"complete\"}\n"
        );
        assert_eq!(
            in_common(&record(), &texts),
            "2001:db8::1 - - [29/Feb/2024:23:59:59 +0000] \"GET /kv/a?b=c HTTP/1.1\" 200 5\n"
        );
    }

    #[test]
    fn what_is_not_known_is_null_or_a_dash() {
        let unread = Record {
            status: 503,
            bytes: 0,
            route: None,
            partition: None,
            epoch: None,
            attempts: 0,
            reason: Some(Reason::Overloaded),
            end: End::ClientGone,
            ..record()
        };
        let line = in_json(&unread, &Texts::default(), None);
        assert!(line.contains("\"method\":null,\"target\":null,\"version\""), "{line}");
        assert!(line.contains("\"route\":null,\"partition\":null,\"epoch\":null,\"node\":null,"), "{line}");
        assert!(
            line.ends_with("\"reason\":\"overloaded\",\"request_id\":null,\"end\":\"client_gone\"}\n"),
            "{line}"
        );
        let line = in_common(&unread, &Texts::default());
        assert!(line.ends_with("] \"-\" 503 -\n"), "{line}");
    }

    #[test]
    fn a_cut_target_says_so() {
        let cut = Record { target_bytes: 4_000, ..record() };
        let texts = Texts { method: b"GET", target: b"/long", ..Texts::default() };
        let line = in_json(&cut, &texts, None);
        assert!(line.contains("\"target\":\"/long\",\"target_bytes\":4000,"), "{line}");
        assert!(in_common(&cut, &texts).contains("\"GET /long... HTTP/1.1\""));
    }

    #[test]
    fn no_bytes_leave_their_field_or_their_line() {
        let all: Vec<u8> = (0..=255).collect();
        let forged = "\"} {\"time\":\"x\"}\r\n127.0.0.1 - - [x] \"GET / HTTP/1.1\" 200 1\n\\\u{85}\u{2028}\u{2029}\u{7f}é";
        for hostile in [&all[..], forged.as_bytes(), b"\\", b"\"", b"\\\"", b"\n", b"\xff\xfe", b"a\xc3"] {
            let texts = Texts { method: hostile, target: hostile, node: b"n1", request_id: hostile };
            let line = in_json(&record(), &texts, Some("a \"route\"\n"));
            let lossy = String::from_utf8_lossy(hostile);
            let parsed: serde_json::Value = serde_json::from_str(&line).unwrap();
            for field in ["method", "target", "request_id"] {
                assert_eq!(parsed[field], *lossy, "{line}");
            }
            assert_eq!(parsed["route"], "a \"route\"\n");
            assert_eq!(parsed["end"], "complete");
            let breaks = |c: char| c.is_control() || matches!(c, '\u{2028}' | '\u{2029}');
            assert_eq!(line.chars().filter(|c| breaks(*c)).collect::<String>(), "\n", "{line}");

            let line = in_common(&record(), &texts);
            assert!(line.strip_suffix('\n').unwrap().bytes().all(|b| matches!(b, b' '..=b'~')), "{line}");
            assert_eq!(line.matches('"').count(), 2, "{line}");
            assert_eq!(unescaped(line.split('"').nth(1).unwrap()), line_of(hostile), "{line}");
        }
    }

    /// The request line that `common` is to say, byte by byte.
    fn line_of(text: &[u8]) -> Vec<u8> {
        [text, b" ", text, b" HTTP/1.1"].concat()
    }

    /// Takes the escapes out.
    fn unescaped(text: &str) -> Vec<u8> {
        let mut parts = text.split("\\x");
        let mut bytes = parts.next().unwrap().as_bytes().to_vec();
        for part in parts {
            bytes.push(u8::from_str_radix(&part[..2], 16).unwrap());
            bytes.extend_from_slice(&part.as_bytes()[2..]);
        }
        bytes
    }

    #[test]
    fn the_calendar_is_right() {
        let shown = |ms| {
            let mut out = Vec::new();
            push_rfc3339(&mut out, ms);
            String::from_utf8(out).unwrap()
        };
        for (ms, text) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_400_000, "2000-02-29T00:00:00.000Z"),
            (951_868_799_999, "2000-02-29T23:59:59.999Z"),
            (951_868_800_000, "2000-03-01T00:00:00.000Z"),
            (1_798_761_599_999, "2026-12-31T23:59:59.999Z"),
            (1_798_761_600_000, "2027-01-01T00:00:00.000Z"),
            (4_107_542_400_000, "2100-03-01T00:00:00.000Z"),
        ] {
            assert_eq!(shown(ms), text);
        }
        // Nothing an absurd clock says panics.
        let _ = shown(u64::MAX);
    }
}
