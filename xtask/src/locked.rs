//! Which instructions of a request lock the memory that they change, and whose memory that is.
//!
//! What several cores change must be changed by such an instruction (`lock …`, or `xchg` with memory); so a list of all that
//! a request executes holds all that it could share. Callgrind says how often each instruction ran, and a disassembly
//! which of them lock.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::{Result, bail};

use crate::instructions::{self, EXAMPLE, REQUESTS};
use crate::run;

/// Below this many per request an instruction belongs to something that does not happen with each.
const RARE: f64 = 0.02;

/// By the beginning of a function's name: whose memory it locks. All of these belong to the one thread that runs the worker;
/// they lock because the libraries' types may also be sent to other threads.
const OWNERS: [(&str, &str); 11] = [
    ("bytes::", "reference counts of the request's and the answer's own bytes"),
    ("tokio::runtime::task::", "state and wakers of the connection's task"),
    ("tokio::task::", "the worker's list of tasks"),
    ("tokio::util::", "wakers of the worker's own loop"),
    ("tokio::sync::task::", "who waits for the connection's socket"),
    ("tokio::net::", "what is known of the connection's socket"),
    ("tokio::runtime::", "the worker's runtime: its event queue, the sockets in it, its timers"),
    ("tokio::time::", "the worker's timers"),
    ("std::thread::local::", "the worker's runtime, by way of a thread's own variable"),
    ("__pthread_", "the thread's own mark that it is in a system call"),
    // The binary that ships has an allocator with a heap for each thread; the example has the system's.
    ("malloc", "the allocator"),
];
/// More names of the system's allocator.
const ALLOCATOR: [&str; 5] = ["_int_malloc", "_int_free", "free", "realloc", "calloc"];

/// A function that locks.
#[derive(Debug, PartialEq)]
pub(crate) struct Locks {
    pub(crate) function: String,
    /// Executed per request.
    pub(crate) count: f64,
    /// `None`: nobody has said so.
    pub(crate) owner: Option<&'static str>,
}

/// What locks memory in a request of a series, the most frequent first. The example must have been built.
///
/// # Errors
/// A request failed, or nothing could be read.
pub(crate) fn per_request(case: &str) -> Result<Vec<Locks>> {
    let [few, many] = REQUESTS;
    let profile = |requests| instructions::profile(case, requests, &["--dump-instr=yes"], &[]);
    let (first, second) = (Executed::read(&profile(few)?), Executed::read(&profile(many)?));
    let objects: BTreeSet<&String> = second.0.keys().map(|(object, _)| object).collect();
    let mut counts: BTreeMap<&str, u64> = BTreeMap::new();
    for object in objects.into_iter().filter(|object| Path::new(object.as_str()).exists()) {
        let locking = locking(&run::capture("objdump", &["-d", "--no-show-raw-insn", object])?);
        if locking.is_empty() && object.ends_with(EXAMPLE) {
            bail!("{object} has no instruction that locks: is this another kind of processor?");
        }
        for (place, (function, count)) in
            second.0.iter().filter(|((of, at), _)| of == object && locking.contains(at))
        {
            let before = first.0.get(place).map_or(0, |(_, count)| *count);
            *counts.entry(function).or_default() += count.saturating_sub(before);
        }
    }
    let per_request = |count: u64| count as f64 / (many - few) as f64;
    let mut found: Vec<Locks> = counts
        .into_iter()
        .map(|(function, count)| Locks {
            function: function.to_owned(),
            count: per_request(count),
            owner: owner(function),
        })
        .filter(|locks| locks.count >= RARE)
        .collect();
    found.sort_by(|a, b| b.count.total_cmp(&a.count));
    if found.is_empty() {
        bail!("{case}: no instruction locks anything, which cannot be: tokens of sockets do");
    }
    Ok(found)
}

fn owner(function: &str) -> Option<&'static str> {
    // `<tokio::… as core::future::…>::poll` is a function of the first.
    let name = function.trim_start_matches('<');
    if ALLOCATOR.contains(&name) {
        return Some("the allocator");
    }
    OWNERS.iter().find(|(start, _)| name.starts_with(start)).map(|(_, owner)| *owner)
}

/// How often each instruction ran, by object and address, and in which function.
struct Executed(BTreeMap<(String, u64), (String, u64)>);

impl Executed {
    /// Reads a profile that has addresses: names are written once and then called by a number, addresses may be told by
    /// their distance from the last.
    fn read(profile: &str) -> Self {
        let (mut objects, mut functions) = (BTreeMap::new(), BTreeMap::new());
        let (mut object, mut function) = (String::new(), String::new());
        let mut executed: BTreeMap<(String, u64), (String, u64)> = BTreeMap::new();
        let (mut address, mut is_call) = (0_u64, false);
        for line in profile.lines() {
            if let Some(name) = line.strip_prefix("ob=") {
                object = named(&mut objects, name);
            } else if let Some(name) = line.strip_prefix("fn=") {
                function = named(&mut functions, name);
            } else if let Some(name) = line.strip_prefix("cob=") {
                named(&mut objects, name);
            } else if let Some(name) = line.strip_prefix("cfn=") {
                named(&mut functions, name);
            } else if line.starts_with("calls=") {
                is_call = true;
            } else if line.starts_with(|c: char| c.is_ascii_digit() || matches!(c, '+' | '-' | '*')) {
                let mut words = line.split(' ');
                address = moved(address, words.next().unwrap_or_default());
                // What a call cost as a whole is no instruction's own.
                if std::mem::take(&mut is_call) {
                    continue;
                }
                let count: u64 = words.nth(1).and_then(|word| word.parse().ok()).unwrap_or(0);
                let place =
                    executed.entry((object.clone(), address)).or_insert_with(|| (function.clone(), 0));
                place.1 += count;
            }
        }
        Self(executed)
    }
}

/// `(7) name` says what 7 stands for, `(7)` uses it.
fn named(names: &mut BTreeMap<String, String>, text: &str) -> String {
    let Some((number, name)) = text.split_once(')') else { return text.to_owned() };
    if !name.is_empty() {
        names.insert(number.to_owned(), name.trim_start().to_owned());
    }
    names.get(number).cloned().unwrap_or_default()
}

fn moved(address: u64, word: &str) -> u64 {
    let number = |text: &str| match text.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16).unwrap_or(0),
        None => text.parse().unwrap_or(0),
    };
    match word.split_at_checked(1) {
        Some(("*", _)) | None => address,
        Some(("+", by)) => address.wrapping_add(number(by)),
        Some(("-", by)) => address.wrapping_sub(number(by)),
        Some(_) => number(word),
    }
}

/// The addresses of the instructions that lock, in a disassembly.
fn locking(disassembly: &str) -> BTreeSet<u64> {
    let address = |line: &str| -> Option<u64> {
        let (address, instruction) = line.split_once(":\t")?;
        // An exchange with memory locks without being told to.
        let locks = instruction.starts_with("lock ")
            || (instruction.starts_with("xchg") && instruction.contains('('));
        if locks { u64::from_str_radix(address.trim_start(), 16).ok() } else { None }
    };
    disassembly.lines().filter_map(address).collect()
}

/// The list as a table, and what of it nobody owns.
pub(crate) fn show(found: &[Locks]) -> (String, Vec<&str>) {
    let mut by_owner: BTreeMap<&str, f64> = BTreeMap::new();
    for locks in found {
        *by_owner.entry(locks.owner.unwrap_or("NOBODY HAS SAID SO")).or_default() += locks.count;
    }
    let mut rows: Vec<(&str, f64)> = by_owner.into_iter().collect();
    rows.sort_by(|a, b| b.1.total_cmp(&a.1));
    let mut text: String = rows.iter().map(|(owner, count)| format!("{count:>8.2}  {owner}\n")).collect();
    text.push_str("of these, by function:\n");
    text.extend(found.iter().map(|locks| format!("{:>8.2}  {}\n", locks.count, locks.function)));
    let unowned = found.iter().filter(|locks| locks.owner.is_none()).map(|locks| locks.function.as_str());
    (text, unowned.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    const PROFILE: &str = "\
positions: instr line
events: Ir
ob=(1) /bin/x
fl=(1) a.rs
fn=(1) bytes::clone
0x100 10 5
+4 10 7
cob=(2) /lib/c
cfn=(2) free
calls=3 0x40
* 11 900
-4 12 1
ob=(2)
fn=(2)
0x40 0 3
* 0 1
totals: 17
";

    #[test]
    fn a_profile_says_how_often_each_instruction_ran() {
        let Executed(executed) = Executed::read(PROFILE);
        let at = |object: &str, address| executed[&(object.to_owned(), address)].clone();
        assert_eq!(at("/bin/x", 0x100), ("bytes::clone".to_owned(), 6));
        assert_eq!(at("/bin/x", 0x104), ("bytes::clone".to_owned(), 7));
        assert_eq!(at("/lib/c", 0x40), ("free".to_owned(), 4));
        assert_eq!(executed.len(), 3);
    }

    #[test]
    fn locks_are_found_in_a_disassembly() {
        let text = "0000000000000100 <f>:\n     100:\tlock incq 0x10(%rax)\n     104:\txchg   %eax,(%rdi)\n     106:\txchg   %ax,%ax\n     108:\tmov    (%rax),%rbx\n";
        assert_eq!(locking(text), BTreeSet::from([0x100, 0x104]));
    }

    #[test]
    fn what_nobody_owns_is_told() {
        let locks =
            |function: &str| Locks { function: function.to_owned(), count: 1.0, owner: owner(function) };
        let found = [
            locks("bytes::drop"),
            locks("<tokio::net::Tcp as core::future::Future>::poll"),
            locks("arc_swap::load"),
        ];
        let (text, unowned) = show(&found);
        assert_eq!(unowned, ["arc_swap::load"]);
        assert!(text.contains("1.00  NOBODY HAS SAID SO"), "{text}");
    }
}
