//! `kill -9` of source, target and proxy in every phase of a handoff.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::shop::{Scale, Shop};
use crate::support::{Client, now, timed};
use crate::traffic::Traffic;

/// The phases a source passes through, by the kind of the event that begins each.
const PHASES: [&str; 4] = ["move_copying", "move_fenced", "move_proposed", "move_committed"];

/// So often partitions are moved to and fro to catch one of them in a phase; in the last round having just passed through
/// it must do, as some phases last less than a look.
const ROUNDS_MAX: usize = 5;
/// A change of weight has begun all its moves by then.
const MOVES_TAKE_MAX: Duration = Duration::from_secs(20);

/// Who is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Victim {
    Source,
    Target,
    Proxy,
}

/// The node whose moves are watched.
const SOURCE: &str = "n1";
/// The node whose weight goes up, so that partitions of all others move to it.
const TARGET: &str = "n5";

#[test]
fn nobody_can_be_killed_at_a_wrong_moment() {
    let scale = Scale::chosen();
    let phases = if scale.runs > 1 { &PHASES[..] } else { &PHASES[1..2] };
    let mut shop = Shop::open();
    let seconds = scale.seconds + 60 * 3 * u32::try_from(phases.len()).expect("a few");
    let mut traffic = Traffic::start(&shop, "phases", scale, seconds);
    traffic.under_way();
    for victim in [Victim::Source, Victim::Target, Victim::Proxy] {
        for phase in phases {
            kill_in(&mut shop, victim, phase);
        }
    }
    // A client of a proxy that is killed sees its connection break: that is no fault of the cluster's.
    traffic.stop().is_linearizable("every phase of a handoff");
}

/// Makes partitions move, kills the victim when one of them enters the phase, starts it again and waits until nothing
/// is half-moved; then moves everything back.
fn kill_in(shop: &mut Shop, victim: Victim, phase: &str) {
    let inside = (1..=ROUNDS_MAX).find_map(|round| {
        let mut watch = Watch::of(&shop.node(SOURCE).admin);
        shop.operate(&["plan", "--weight", &format!("{TARGET}=4"), "--commit"]);
        let inside = watch.wait_for(phase, round == ROUNDS_MAX);
        if inside.is_none() {
            move_back(shop);
        }
        inside
    });
    match victim {
        Victim::Source => shop.node_mut(SOURCE).process.kill(),
        Victim::Target => shop.node_mut(TARGET).process.kill(),
        Victim::Proxy => shop.proxy.process.kill(),
    }
    let inside = inside.unwrap_or_else(|| panic!("no partition ever entered {phase}"));
    match victim {
        Victim::Source => shop.start_again(SOURCE),
        Victim::Target => shop.start_again(TARGET),
        Victim::Proxy => shop.start_proxy_again(),
    }
    let ((), settled) = timed(|| shop.wait_until_whole(&format!("{victim:?} killed in {phase}")));
    eprintln!("{victim:?} killed in {phase} ({inside} partitions were in it): whole again after {settled:?}");
    move_back(shop);
}

fn move_back(shop: &Shop) {
    shop.wait_until_whole("moved");
    shop.operate(&["plan", "--weight", &format!("{TARGET}=1"), "--commit"]);
    shop.wait_until_whole("moved back");
}

/// Follows the events of one node.
struct Watch {
    client: Client,
    url: String,
    next: u64,
    phase_of: BTreeMap<String, String>,
}

impl Watch {
    fn of(admin: &str) -> Self {
        let mut watch = Self {
            client: Client::with_timeout(Duration::from_secs(5)),
            url: format!("{admin}/v1/events"),
            next: 0,
            phase_of: BTreeMap::new(),
        };
        watch.look();
        watch.phase_of.clear();
        watch
    }

    /// Looks without a pause until a partition is in the phase, or has been since the last look if `passed` does; how
    /// many are in it by the last look. None when the moves are over and none was caught in it.
    fn wait_for(&mut self, phase: &str, passed: bool) -> Option<usize> {
        let deadline = now() + MOVES_TAKE_MAX;
        while now() < deadline {
            let entered = self.look().iter().any(|kind| kind == phase);
            let inside = self.phase_of.values().filter(|now| *now == phase).count();
            if inside > 0 || (passed && entered) {
                return Some(inside);
            }
        }
        None
    }

    /// Reads what happened since the last look: the phases that partitions entered.
    fn look(&mut self) -> Vec<String> {
        let answer = self.client.get(&format!("{}?after={}", self.url, self.next)).json();
        self.next = answer["next"].as_u64().expect("next");
        let text =
            |event: &serde_json::Value, name: &str| event[name].as_str().unwrap_or_default().to_owned();
        let events = answer["events"].as_array().into_iter().flatten();
        let moves: Vec<_> = events.filter(|event| text(event, "kind").starts_with("move_")).collect();
        self.phase_of.extend(moves.iter().map(|event| (text(event, "subject"), text(event, "kind"))));
        moves.into_iter().map(|event| text(event, "kind")).collect()
    }
}
