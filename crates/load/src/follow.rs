//! Follows the cluster while the load runs: its events, and what its metrics say of holds and moves.
//!
//! Nothing here can fail a run: an admin listener that is silent, older or restarted costs one note in the report.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::clock::Clock;
use crate::options::Target;
use crate::wire::Wire;

/// How often events are asked for.
const EVENTS_EVERY: Duration = Duration::from_millis(250);
/// How often metrics are read.
const METRICS_EVERY: Duration = Duration::from_secs(1);
/// An admin listener that takes longer is left alone until the next time.
const PATIENCE: Duration = Duration::from_secs(2);
/// Events kept; the rest is counted in a note.
const EVENTS_MAX: usize = 10_000;
/// Bytes of an event's words, and of a note, that are kept.
const WORDS_MAX: usize = 300;
/// An event's own time is believed when it was told at most this long after; else it counts from when it was heard.
const TOLD_WITHIN_MS: u64 = 10_000;

/// Something that happened in the cluster.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Event {
    /// Seconds from the first arrival; negative before it.
    pub at_seconds: f64,
    /// What kind, as the cluster names it.
    pub kind: String,
    /// Whom it is about.
    pub subject: String,
    /// In words.
    pub text: String,
}

/// What the metrics said at one moment.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Sample {
    /// On the run's clock.
    pub(crate) at: u64,
    /// Requests held, over all admin listeners.
    pub(crate) held: Option<f64>,
    /// Handoffs under way, over all admin listeners.
    pub(crate) handoffs: Option<f64>,
    /// The sum of all partitions' epochs, the greatest of all admin listeners: it grows by one with every claim.
    pub(crate) epochs: Option<f64>,
}

/// What was heard.
#[derive(Debug, Default)]
pub(crate) struct Heard {
    /// With their time on the run's clock, in nanoseconds.
    pub(crate) events: Vec<(i64, TheirEvent)>,
    pub(crate) samples: Vec<Sample>,
    pub(crate) notes: Vec<String>,
    dropped: u64,
}

/// An event as an admin listener tells it.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct TheirEvent {
    id: u64,
    at_ms: u64,
    pub(crate) kind: String,
    #[serde(default)]
    pub(crate) subject: String,
    #[serde(default)]
    pub(crate) text: String,
}

#[derive(Debug, Deserialize)]
struct TheirEvents {
    events: Vec<TheirEvent>,
    next: u64,
}

/// The followers of one run; they end when this goes.
#[derive(Debug)]
pub(crate) struct Followers {
    pub(crate) heard: Rc<RefCell<Heard>>,
    tasks: Vec<tokio::task::JoinHandle<()>>,
}

impl Followers {
    /// Must be called in a `LocalSet`.
    pub(crate) fn start(admins: &[(Target, SocketAddr)], clock: Clock) -> Self {
        let heard = Rc::new(RefCell::new(Heard::default()));
        let mut tasks = Vec::new();
        if let Some((target, address)) = admins.first() {
            let line = Line::new(target, *address);
            tasks.push(tokio::task::spawn_local(follow_events(line, clock, heard.clone())));
            let lines = admins.iter().map(|(target, address)| Line::new(target, *address)).collect();
            tasks.push(tokio::task::spawn_local(follow_metrics(lines, clock, heard.clone())));
        }
        Self { heard, tasks }
    }
}

impl Drop for Followers {
    fn drop(&mut self) {
        self.tasks.iter().for_each(tokio::task::JoinHandle::abort);
    }
}

async fn follow_events(mut line: Line, clock: Clock, heard: Rc<RefCell<Heard>>) {
    let mut every = tokio::time::interval(EVENTS_EVERY);
    every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let (mut after, mut warned) = (0, false);
    loop {
        every.tick().await;
        let answer = line.get(&format!("/v1/events?after={after}")).await;
        let mut heard = heard.borrow_mut();
        match answer {
            Ok((404, _)) => {
                heard.note(format!("{} has no /v1/events; no events are shown", line.authority));
                return;
            }
            Ok((200, body)) => match serde_json::from_slice::<TheirEvents>(&body) {
                // Numbers that went back: the process was started again and counts anew.
                Ok(told) if told.next < after => after = 0,
                Ok(told) => {
                    after = told.events.iter().map(|event| event.id).max().unwrap_or(after).max(after);
                    told.events.into_iter().for_each(|event| heard.hear(event, clock));
                }
                Err(_) if warned => {}
                Err(_) => {
                    warned = true;
                    heard.note(format!("{}: /v1/events is not understood", line.authority));
                }
            },
            Ok(_) | Err(()) if warned => {}
            Ok((status, _)) => {
                warned = true;
                heard.note(format!("{}: /v1/events answered {status}", line.authority));
            }
            Err(()) => {
                warned = true;
                heard.note(format!("{} does not answer; asked again until it does", line.authority));
            }
        }
    }
}

async fn follow_metrics(mut lines: Vec<Line>, clock: Clock, heard: Rc<RefCell<Heard>>) {
    let mut every = tokio::time::interval(METRICS_EVERY);
    every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        every.tick().await;
        let mut sample = Sample { at: clock.now(), ..Sample::default() };
        for line in &mut lines {
            if let Ok((200, body)) = line.get("/metrics").await {
                sample.add(&String::from_utf8_lossy(&body));
            }
        }
        heard.borrow_mut().samples.push(sample);
    }
}

impl Heard {
    fn note(&mut self, note: String) {
        self.notes.push(note);
    }

    fn hear(&mut self, mut event: TheirEvent, clock: Clock) {
        if self.events.len() == EVENTS_MAX {
            self.dropped += 1;
            if self.dropped == 1 {
                self.note(format!("more than {EVENTS_MAX} events; the later ones are left out"));
            }
            return;
        }
        for words in [&mut event.kind, &mut event.subject, &mut event.text] {
            *words = words.chars().filter(|c| !c.is_control()).take(WORDS_MAX).collect();
        }
        let now_ms = clock.origin_unix_ms + clock.now() / 1_000_000;
        let since = now_ms.saturating_sub(event.at_ms);
        if event.at_ms < clock.origin_unix_ms && since > TOLD_WITHIN_MS + clock.now() / 1_000_000 {
            // From before the run.
            return;
        }
        let believed =
            event.at_ms <= now_ms && (since <= TOLD_WITHIN_MS || event.at_ms < clock.origin_unix_ms);
        let at_ms = if believed { event.at_ms } else { now_ms };
        let at_ms = i64::try_from(at_ms).unwrap_or(i64::MAX);
        let origin = i64::try_from(clock.origin_unix_ms).unwrap_or(i64::MAX);
        self.events.push((at_ms.saturating_sub(origin).saturating_mul(1_000_000), event));
    }
}

impl Sample {
    /// Adds what one exposition (Prometheus text format) says.
    fn add(&mut self, text: &str) {
        let mut found: BTreeMap<&str, f64> = BTreeMap::new();
        for line in text.lines().filter(|line| line.starts_with("ringway_")) {
            let Some((series, value)) = line.rsplit_once(' ') else { continue };
            let Ok(value) = value.parse::<f64>() else { continue };
            let (name, labels) = series.split_once('{').unwrap_or((series, ""));
            // A handoff that is committed has moved its partition: it is not under way any more.
            let over =
                ["committed", "cleanup"].iter().any(|phase| labels.contains(&format!("phase=\"{phase}\"")));
            if matches!(name, "ringway_held_requests" | "ringway_map_epochs")
                || name == "ringway_handoffs" && !over
            {
                *found.entry(name).or_default() += value;
            }
        }
        let add = |sum: &mut Option<f64>, name| {
            if let Some(value) = found.get(name) {
                *sum = Some(sum.unwrap_or(0.0) + value);
            }
        };
        add(&mut self.held, "ringway_held_requests");
        add(&mut self.handoffs, "ringway_handoffs");
        let epochs = found.get("ringway_map_epochs").copied();
        self.epochs = self.epochs.into_iter().chain(epochs).reduce(f64::max);
    }
}

/// A connection to an admin listener, made anew when it breaks.
#[derive(Debug)]
struct Line {
    authority: String,
    base: String,
    address: SocketAddr,
    wire: Option<Wire>,
}

impl Line {
    fn new(target: &Target, address: SocketAddr) -> Self {
        let (authority, base) = (target.authority.clone(), target.base().to_owned());
        Self { authority, base, address, wire: None }
    }

    /// Status and body.
    async fn get(&mut self, path: &str) -> Result<(u16, Vec<u8>), ()> {
        let Self { authority, base, address, wire } = self;
        let request = format!("GET {base}{path} HTTP/1.1\r\nHost: {authority}\r\n\r\n");
        let exchange = async {
            let mut open = match wire.take().filter(Wire::is_usable) {
                Some(open) => open,
                None => Wire::connect(*address).await?,
            };
            let reply = open.exchange(request.as_bytes(), &Cell::new(false)).await?;
            let body = open.body().to_vec();
            *wire = Some(open);
            Ok::<_, crate::wire::Fault>((reply.status, body))
        };
        tokio::time::timeout(PATIENCE, exchange).await.map_err(drop)?.map_err(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_of_several_listeners_are_put_together() {
        let mut sample = Sample::default();
        sample.add(
            "# HELP ringway_held_requests x\nringway_held_requests 3\nringway_map_epochs 70\n\
             ringway_handoffs{phase=\"copying\"} 2\nringway_handoffs{phase=\"fenced\"} 1\nringway_handoffs{phase=\"cleanup\"} 9\n",
        );
        sample.add("ringway_map_epochs 72\nringway_handoffs{phase=\"copying\"} 1\nringway_held_requests_other 9\nnonsense\nringway_x y\n");
        let expected = Sample { at: 0, held: Some(3.0), handoffs: Some(4.0), epochs: Some(72.0) };
        assert_eq!(sample, expected);
    }

    #[test]
    fn events_from_before_the_run_are_left_out_and_odd_clocks_are_not_believed() {
        let clock = Clock::start();
        let mut heard = Heard::default();
        let event = |at_ms| TheirEvent {
            id: 1,
            at_ms,
            kind: "member_dead".to_owned(),
            subject: "n3\n".to_owned(),
            text: "x".repeat(1_000),
        };
        heard.hear(event(clock.origin_unix_ms - 100_000), clock);
        assert!(heard.events.is_empty());
        heard.hear(event(clock.origin_unix_ms - 1_000), clock);
        heard.hear(event(clock.origin_unix_ms + 1_000_000), clock);
        let at: Vec<i64> = heard.events.iter().map(|(at, _)| *at).collect();
        assert_eq!(at[0], -1_000_000_000);
        assert!((0..60_000_000_000).contains(&at[1]), "{at:?}");
        assert_eq!((heard.events[0].1.subject.as_str(), heard.events[0].1.text.len()), ("n3", WORDS_MAX));
    }
}
