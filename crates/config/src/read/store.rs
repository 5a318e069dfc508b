//! `store:`: how the reference store behaves.

use std::time::Duration;

use ringway_kv::{Durability, KvOptions};

use crate::section::Section;

const EVERY_DEFAULT: Duration = Duration::from_millis(10);
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

pub(super) fn read(root: &Section<'_>) -> KvOptions {
    let mut options = KvOptions::default();
    let keys = [
        "durability",
        "sync_every",
        "value_bytes_max",
        "cache_bytes",
        "queue_max",
        "group_max",
        "free_bytes_min",
        "ballast_bytes",
    ];
    let Some(section) = root.section("store", &keys) else { return options };
    durability(&section, &mut options);
    let because =
        "a longer value is answered 413; it is streamed, so that its length costs disk and not memory";
    section.size("value_bytes_max", &mut options.value_bytes_max, 1..=GIB, because);
    let because = "pages that do not fit are read from disk again";
    section.size("cache_bytes", &mut options.cache_bytes, MIB..=1 << 40, because);
    let because = "writes beyond it are answered 503 at once instead of waiting without end";
    section.count("queue_max", &mut options.queue_max, 1..=65_536, because);
    let because = "one fsync pays for all writes of its group; a larger group makes each of them wait longer";
    section.count("group_max", &mut options.group_max, 1..=65_536, because);
    let because = "below it writes are answered 507, so that there is room left to delete and to recover";
    section.size("free_bytes_min", &mut options.free_bytes_min, 0..=1 << 40, because);
    let because = "it is given back when the disk is full all the same, so that writes under way can finish";
    section.size("ballast_bytes", &mut options.ballast_bytes, MIB..=GIB, because);
    if options.group_max > options.queue_max {
        section
            .refuse(
                "group_max",
                format!("a group of {} is larger than the queue of {}", options.group_max, options.queue_max),
            )
            .accepted(format!("at most `queue_max`, {}", options.queue_max))
            .because("no more writes can be committed together than may wait")
            .remedy("make `queue_max` larger or `group_max` smaller");
    }
    options
}

fn durability(section: &Section<'_>, options: &mut KvOptions) {
    let because = "it decides what a crash may take: with `commit` nothing that was acknowledged, with `relaxed` the last `sync_every`";
    let relaxed = section.choice("durability", &[("commit", false), ("relaxed", true)], because);
    let mut every = EVERY_DEFAULT;
    let because = "a crash loses at most this much of the last writes";
    section.time("sync_every", &mut every, Duration::from_millis(1)..=Duration::from_secs(60), because);
    if relaxed == Some(true) {
        options.durability = Durability::Relaxed { every };
    } else if section.field("sync_every").is_some() {
        section
            .refuse("sync_every", "is set, and `durability` is not `relaxed`")
            .accepted("only with `durability: relaxed`")
            .because("with `commit` every write is synced before it is acknowledged")
            .remedy("take the line out, or write `durability: relaxed`");
    }
}
