//! `kill -9` of source, target and proxy in every phase of a handoff.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde_json::Value;

use crate::shop::{PARTITIONS, SETTLING_MAX, Scale, Shop, rest};
use crate::support::{Client, now, timed};
use crate::traffic::{Traffic, UNTIL_STOPPED};

/// The phases a source passes through, by the kind of the event that begins each.
const PHASES: [&str; 4] = ["move_copying", "move_fenced", "move_proposed", "move_committed"];
/// Those in which a partition is half-moved: what was begun must end, well or not at all.
const HALF_MOVED: [&str; 3] = ["copying", "fenced", "proposed"];

/// So often partitions are moved to and fro to catch one of them in a phase; in the last round having just passed through
/// it must do, as some phases last less than a look.
const ROUNDS_MAX: usize = 5;
/// A change of weight has begun all its moves by then.
const MOVES_TAKE_MAX: Duration = Duration::from_secs(20);
/// Nothing is half-moved any more so long after a kill, at full scale.
const HALF_MOVED_MAX: Duration = Duration::from_secs(30);

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

/// At full scale everybody is killed in every phase; else everybody once, each in another phase.
#[test]
fn nobody_can_be_killed_at_a_wrong_moment() {
    let scale = Scale::chosen();
    let mut shop = Shop::open();
    let mut traffic = Traffic::start(&shop, "phases", scale, UNTIL_STOPPED);
    traffic.under_way();
    for (number, victim) in [Victim::Source, Victim::Target, Victim::Proxy].into_iter().enumerate() {
        let phases = if scale.runs > 1 { &PHASES[..] } else { &PHASES[number..=number] };
        for phase in phases {
            let half_moved = kill_in(&mut shop, victim, phase);
            assert!(
                scale.runs == 1 || half_moved <= HALF_MOVED_MAX,
                "{victim:?} killed in {phase}: something stayed half-moved for {half_moved:?}"
            );
        }
    }
    // A client of a proxy that is killed sees its connection break: that is no fault of the cluster's.
    traffic.stop().is_linearizable("every phase of a handoff");
}

/// Makes partitions move, kills the victim when one of them enters the phase, starts it again and waits until nothing
/// is half-moved, then until all is where it is wanted; then moves everything back. How long after the kill something
/// was still half-moved.
fn kill_in(shop: &mut Shop, victim: Victim, phase: &str) -> Duration {
    let caught = (1..=ROUNDS_MAX).find_map(|round| {
        let mut watch = Watch::of(&shop.node(SOURCE).admin);
        shop.operate(&["plan", "--weight", &format!("{TARGET}=4"), "--commit"]);
        let inside = watch.wait_for(phase, round == ROUNDS_MAX);
        if inside.is_none() {
            move_back(shop);
        }
        inside.map(|inside| (watch, inside))
    });
    let (mut watch, inside) = caught.unwrap_or_else(|| panic!("no partition ever entered {phase}"));
    match victim {
        Victim::Source => shop.node_mut(SOURCE).process.kill(),
        Victim::Target => shop.node_mut(TARGET).process.kill(),
        Victim::Proxy => shop.proxy.process.kill(),
    }
    let (still, half_moved) = timed(|| {
        // Some may have left the phase between the look and the kill; those that are in it still were in it then.
        let still = (victim != Victim::Source).then(|| watch.still(phase));
        match victim {
            Victim::Source => shop.start_again(SOURCE),
            Victim::Target => shop.start_again(TARGET),
            Victim::Proxy => shop.start_proxy_again(),
        }
        wait_until_nothing_is_half_moved(shop, &format!("{victim:?} killed in {phase}"));
        still
    });
    let ((), wanted) = timed(|| shop.wait_until_whole(&format!("{victim:?} killed in {phase}")));
    let still = still.map_or_else(|| "unknown".to_owned(), |still| still.to_string());
    eprintln!(
        "{victim:?} killed in {phase}: in it were {inside} partitions at the last look before, {still} after; \
         nothing half-moved {half_moved:?} after the kill, all where it is wanted after {wanted:?} more"
    );
    move_back(shop);
    half_moved
}

fn move_back(shop: &Shop) {
    shop.wait_until_whole("moved");
    shop.operate(&["plan", "--weight", &format!("{TARGET}=1"), "--commit"]);
    shop.wait_until_whole("moved back");
}

/// Waits until every partition has been at rest: everybody names the same owners at the same epoch for it, one node
/// serves it, and nobody has a move of it under way.
///
/// Once is enough. The weight is still changed and moves go on, of other partitions and home; one that was at rest, and
/// moves then, is no leftover of what was killed.
fn wait_until_nothing_is_half_moved(shop: &Shop, what: &str) {
    let deadline = now() + SETTLING_MAX;
    let mut half_moved: BTreeSet<u64> = (0..u64::from(PARTITIONS)).collect();
    loop {
        let rows_of: Vec<BTreeMap<u64, Value>> = shop
            .nodes
            .iter()
            .chain([&shop.proxy])
            .map(|member| shop.partitions(&member.admin))
            .map(|rows| rows.into_iter().filter_map(|row| Some((row["partition"].as_u64()?, row))).collect())
            .collect();
        half_moved.retain(|partition| {
            let rows: Option<Vec<&Value>> = rows_of.iter().map(|rows| rows.get(partition)).collect();
            !rows.is_some_and(|rows| is_at_rest(&rows))
        });
        if half_moved.is_empty() {
            return;
        }
        assert!(now() < deadline, "not within {SETTLING_MAX:?}: {what}: still half-moved: {half_moved:?}");
        rest();
    }
}

/// Whether a partition is at rest, by what each member says about it.
fn is_at_rest(rows: &[&Value]) -> bool {
    let claim = |row: &Value| (row["epoch"].clone(), row["owners"].clone());
    let alike = rows.iter().all(|row| claim(row) == claim(rows[0]));
    let serving = rows.iter().filter(|row| row["role"] == "primary").count();
    let moving = rows.iter().any(|row| {
        let phase = row["move"]["phase"].as_str();
        row["move"]["why"].is_null() && phase.is_some_and(|phase| HALF_MOVED.contains(&phase))
    });
    alike && serving == 1 && !moving
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

    /// How many partitions have been in the phase since the last look and still are.
    fn still(&mut self, phase: &str) -> usize {
        let inside = |watch: &Self| -> BTreeSet<String> {
            let now = watch.phase_of.iter().filter(|(_, now)| *now == phase);
            now.map(|(partition, _)| partition.clone()).collect()
        };
        let before = inside(self);
        self.look();
        inside(self).intersection(&before).count()
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
        let text = |event: &Value, name: &str| event[name].as_str().unwrap_or_default().to_owned();
        let events = answer["events"].as_array().into_iter().flatten();
        let moves: Vec<_> = events.filter(|event| text(event, "kind").starts_with("move_")).collect();
        self.phase_of.extend(moves.iter().map(|event| (text(event, "subject"), text(event, "kind"))));
        moves.into_iter().map(|event| text(event, "kind")).collect()
    }
}
