//! The audit: did the service keep every acknowledged write, and did no read go back in time?
//!
//! The load's thread only records (`Recorder`): operations of a key are gathered until none of them is under way, and
//! that *window* goes to a thread of its own (`Auditor`), which checks it (`check`) and keeps of it only what the key may
//! hold now. So memory is bounded by the operations under way and not by the length of the run.

mod check;
mod history;
mod key;
mod recorder;
mod search;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread::{self, JoinHandle};

use serde::Serialize;

pub use history::{Action, Content, Op, UNANSWERED};
pub use key::Kind;
pub(crate) use recorder::{Recorder, Seen};

use key::{Key, Offence};

/// Violations told in full; all are counted.
pub const VIOLATIONS_KEPT: usize = 100;
/// Operations of a violation's window that are told with it.
const HISTORY_KEPT: usize = 24;
/// Operations that may wait to be checked, about 100 MB. More, and the audit is incomplete, and says so.
pub const BACKLOG_OPS_MAX: usize = 4_000_000;

/// The verdict over the whole run.
#[derive(Debug, Clone, Default, Serialize)]
pub struct AuditReport {
    /// Keys whose acknowledged content was missing at the end.
    pub lost: u64,
    /// Reads that went back in time.
    pub stale: u64,
    /// Reads of what was never written to the key, or what was refused.
    pub phantom: u64,
    /// Conditional writes decided against what was there.
    pub condition: u64,
    /// Operations checked.
    pub operations: u64,
    /// Windows checked.
    pub windows: u64,
    /// Windows given up: too many orders to try, or too much of unknown outcome.
    pub undecided: u64,
    /// Keys that could not be read at the end.
    pub unread: u64,
    /// Operations that were never checked, as the audit fell behind.
    pub unchecked: u64,
    /// The first violations, in the order of their discovery.
    pub violations: Vec<Violation>,
}

impl AuditReport {
    /// Whether everything was checked and nothing is wrong.
    #[must_use]
    pub fn passed(&self) -> bool {
        self.violated() == 0 && self.undecided + self.unread + self.unchecked == 0
    }

    /// Violations of every kind.
    #[must_use]
    pub fn violated(&self) -> u64 {
        self.lost + self.stale + self.phantom + self.condition
    }
}

/// One violation.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Violation {
    /// `lost`, `stale`, `phantom` or `condition`.
    pub kind: &'static str,
    /// The key's name.
    pub key: String,
    /// When the operation was answered, in seconds of the run's clock.
    pub at_seconds: f64,
    /// The operation that fits into no order, and why.
    pub text: String,
    /// The operations of its window, by invocation.
    pub history: Vec<String>,
}

/// What the audit has found so far, for the progress line.
#[derive(Debug, Default)]
pub(crate) struct Live {
    pub(crate) violated: AtomicU64,
    pub(crate) undecided: AtomicU64,
    /// Operations that wait to be checked.
    backlog: AtomicUsize,
}

/// What the recorder says.
#[derive(Debug)]
enum Message {
    /// The key holds this before the load begins.
    Begin { key: u32, content: Content },
    /// A window.
    Window { key: u32, ops: Vec<Op>, last: bool },
    /// A read saw what is no value of this key in this run.
    Foreign { key: u32, answered: u64, what: String },
    /// A key could not be read at the end.
    Unread,
}

/// The thread that checks.
#[derive(Debug)]
pub(crate) struct Auditor {
    messages: mpsc::Sender<Message>,
    live: Arc<Live>,
    thread: JoinHandle<AuditReport>,
    unchecked: u64,
}

impl Auditor {
    /// Starts the thread.
    ///
    /// # Errors
    /// The system refuses a thread.
    pub(crate) fn start() -> std::io::Result<Self> {
        let (messages, inbox) = mpsc::channel();
        let live = Arc::new(Live::default());
        let judge = Judge { keys: BTreeMap::new(), report: AuditReport::default(), live: live.clone() };
        let thread =
            thread::Builder::new().name("ringway-audit".to_owned()).spawn(move || judge.run(&inbox))?;
        Ok(Self { messages, live, thread, unchecked: 0 })
    }

    pub(crate) fn live(&self) -> Arc<Live> {
        self.live.clone()
    }

    fn send(&mut self, message: Message) {
        if let Message::Window { ops, .. } = &message {
            let waiting = self.live.backlog.fetch_add(ops.len(), Ordering::Relaxed);
            if waiting + ops.len() > BACKLOG_OPS_MAX {
                self.live.backlog.fetch_sub(ops.len(), Ordering::Relaxed);
                self.unchecked += ops.len() as u64;
                return;
            }
        }
        // The other side only goes when its thread has panicked, which `finish` tells.
        let _ = self.messages.send(message);
    }

    /// Waits until everything is checked.
    pub(crate) fn finish(self) -> AuditReport {
        drop(self.messages);
        let mut report = match self.thread.join() {
            Ok(report) => report,
            Err(panic) => std::panic::resume_unwind(panic),
        };
        report.unchecked = self.unchecked;
        report
    }
}

/// The auditor's side of the channel.
struct Judge {
    keys: BTreeMap<u32, Key>,
    report: AuditReport,
    live: Arc<Live>,
}

impl Judge {
    fn run(mut self, inbox: &mpsc::Receiver<Message>) -> AuditReport {
        while let Ok(message) = inbox.recv() {
            match message {
                Message::Begin { key, content } => drop(self.keys.insert(key, Key::holding(content))),
                Message::Window { key, ops, last } => {
                    self.judge(key, &ops, last);
                    self.live.backlog.fetch_sub(ops.len(), Ordering::Relaxed);
                }
                Message::Foreign { key, answered, what } => {
                    let text = format!("read {what}, which was never written to this key");
                    self.violation(Kind::Phantom, key, answered, text, Vec::new());
                }
                Message::Unread => self.report.unread += 1,
            }
        }
        self.report
    }

    fn judge(&mut self, index: u32, ops: &[Op], last: bool) {
        let Some(key) = self.keys.get_mut(&index) else { return };
        let judged = key.judge(ops, last);
        self.report.windows += 1;
        self.report.operations += ops.len() as u64;
        if judged.undecided {
            self.report.undecided += 1;
            self.live.undecided.fetch_add(1, Ordering::Relaxed);
        }
        for Offence { kind, op, why } in judged.offences {
            let text = format!("{op}: {why}");
            self.violation(kind, index, op.answered, text, history(ops, &op));
        }
    }

    fn violation(&mut self, kind: Kind, key: u32, answered: u64, text: String, history: Vec<String>) {
        let report = &mut self.report;
        *match kind {
            Kind::Lost => &mut report.lost,
            Kind::Stale => &mut report.stale,
            Kind::Phantom => &mut report.phantom,
            Kind::Condition => &mut report.condition,
        } += 1;
        self.live.violated.fetch_add(1, Ordering::Relaxed);
        if report.violations.len() < VIOLATIONS_KEPT {
            report.violations.push(Violation {
                kind: kind.label(),
                key: crate::workload::key_name(key),
                at_seconds: answered as f64 / 1e9,
                text,
                history,
            });
        }
    }
}

/// The window as text, the part around the offender when it is long.
fn history(ops: &[Op], offender: &Op) -> Vec<String> {
    let mut ops = ops.to_vec();
    ops.sort_by_key(|op| op.invoked);
    let at = ops.iter().position(|op| op == offender).unwrap_or(0);
    let first = at.saturating_sub(HISTORY_KEPT / 2).min(ops.len().saturating_sub(HISTORY_KEPT));
    ops.iter().skip(first).take(HISTORY_KEPT).map(Op::to_string).collect()
}
