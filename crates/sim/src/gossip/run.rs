//! Plays a scenario.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use super::checkers::{Rule, Violation};
use super::history::What;
use super::member::{Place, Protocol, Settings, keyring_of};
use super::meters::{Metric, Samples, quantile};
use super::mixture;
use super::scenario::{Act, Scenario, Who};
use super::world::{Setup, World};
use crate::rng::Rng;
use crate::story::Story;
use crate::trace::Trace;

/// Before anything happens: every member has probed, and exchanged its state once.
const WARM_UP: Duration = Duration::from_secs(12);
/// From a goodbye to the end of the process.
const GOODBYE: Duration = Duration::from_secs(2);

/// What a run is, beside its scenario.
#[derive(Debug, Clone)]
pub struct Options {
    /// Everything random comes of it.
    pub seed: u64,
    /// Members.
    pub nodes: usize,
    /// The expiry gate is on; off only to show what it is for.
    pub expiry_gate: bool,
    /// To whom to tell what happens.
    pub trace: Trace,
}

impl Options {
    /// A seed and a number of members.
    #[must_use]
    pub fn new(seed: u64, nodes: usize) -> Self {
        Self { seed, nodes, expiry_gate: true, trace: Trace::Off }
    }
}

/// What became of a run.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    /// Equal exactly when everything happened in the same way.
    pub digest: u64,
    /// How much happened.
    pub events: u64,
    /// The figures.
    pub samples: Samples,
    /// The first violation.
    pub violation: Option<Violation>,
    /// The last that happened.
    pub last: Vec<String>,
    /// What it comes to, for a person.
    pub story: Story,
    /// How much virtual time passed.
    pub lasted: Duration,
    /// How often what happened.
    pub counts: BTreeMap<&'static str, u64>,
}

/// Runs a scenario.
///
/// # Panics
/// With fewer than 8 members, or fewer than join late and two more.
#[must_use]
pub fn run<P: Protocol>(scenario: &Scenario, options: &Options) -> Outcome {
    let nodes = options.nodes;
    assert!(nodes >= 8 && nodes > scenario.late + 1, "{}: {nodes} members are too few", scenario.name);
    let settings = Settings { sealed: scenario.sealed, expiry_gate: options.expiry_gate };
    let setup = Setup {
        seed: options.seed,
        places: nodes,
        weather: super::links::FAIR,
        drift_ppm: scenario.drift_ppm,
        inbox_max: scenario.inbox_max,
        settings,
    };
    let mut world: World<P> = World::new(setup);
    world.history.trace = options.trace.clone();
    world.checkers.expect_late_news(scenario.news_late);
    let founders = nodes - scenario.late;
    world.history.story.tell(world.now, format!("{founders} members have known each other for long"));
    let records = scenario.record_bytes.map_or(0, |_| founders);
    world.found(founders, records, scenario.record_bytes.unwrap_or(0));
    world.run_until(world.now + WARM_UP);
    world.links.weather = scenario.weather;
    let start = world.now;
    let mut stage = Stage {
        start,
        // Not the world's stream: what happens does not depend on how many messages were sent before.
        rng: Rng::new(options.seed ^ 0x5ce0_a210),
        steps: BTreeMap::new(),
        planned: 0,
        same: Vec::new(),
        cut: Vec::new(),
        next_place: founders as Place,
        next_key: records as u32,
        keys: None,
        told_within: scenario.told_within,
        spares: scenario.spares_among.is_some_and(|among| nodes >= among),
        told_from: Duration::ZERO,
        world,
    };
    for (at, act) in &scenario.timeline {
        stage.plan(start + *at, Step::Act(*act));
    }
    let last = stage.play();
    stage.finish(last + scenario.agrees_within)
}

/// Something to be done at a time.
#[derive(Debug, Clone, Copy)]
enum Step {
    Act(Act),
    Start(Place, bool),
    End(Place),
    /// Everybody should know by now that this one is dead, in that life.
    CheckTold(Place, u64),
}

struct Stage<P: Protocol> {
    start: Duration,
    rng: Rng,
    steps: BTreeMap<(Duration, usize), Step>,
    planned: usize,
    same: Vec<Place>,
    cut: Vec<Place>,
    next_place: Place,
    next_key: u32,
    /// The keys that were given last, and which change that was.
    keys: Option<(u64, &'static [u8])>,
    told_within: Duration,
    /// Nobody that lives may be declared dead, whatever is wrong with it.
    spares: bool,
    /// Before that nobody is asked whether it was told of a crash.
    told_from: Duration,
    world: World<P>,
}

impl<P: Protocol> Stage<P> {
    fn plan(&mut self, at: Duration, step: Step) {
        self.planned += 1;
        self.steps.insert((at, self.planned), step);
    }

    /// Does everything that is planned; when the last of it happened that is not only a check.
    fn play(&mut self) -> Duration {
        let mut last = self.start;
        while let Some(((at, _), step)) = self.steps.pop_first() {
            self.world.run_until(at);
            match step {
                Step::Act(act) => last = self.act(act).max(last),
                Step::Start(place, disk) => {
                    self.world.start(place, disk);
                    last = at;
                }
                Step::End(place) => {
                    self.world.kill(place);
                    last = at;
                }
                Step::CheckTold(subject, life) => self.check_told(subject, life),
            }
        }
        last
    }

    /// Does it; until when it lasts.
    fn act(&mut self, act: Act) -> Duration {
        let now = self.world.now;
        let mut until = now;
        match act {
            Act::Crash(who) => self.choose(who).into_iter().for_each(|place| self.crash(place)),
            Act::Restart { who, down, disk } => {
                for place in self.choose(who) {
                    let life = self.world.life(place);
                    self.world.kill(place);
                    self.plan(now + down, Step::Start(place, disk));
                    // Measured from when it is back: the others are told by it.
                    self.world.meters.returned(now + down, place, life + 1, Vec::new());
                }
                let (awaiting, same) = (self.world.well(), self.same.clone());
                self.world.meters.await_returned(&same, &awaiting);
            }
            Act::Slow(who, time) => {
                self.choose(who).into_iter().for_each(|place| self.world.slow_down(place, time));
                until += time;
            }
            Act::Pause(who, time) => {
                self.choose(who).into_iter().for_each(|place| self.world.pause(place, time));
                until += time;
            }
            Act::Cut { who, one_way } => self.cut(who, one_way),
            Act::CutLink => {
                if let [a, b] = self.choose(Who::Some(2))[..] {
                    self.world.links.cut_link(a, b);
                    self.world.links.cut_link(b, a);
                }
            }
            Act::Mend => self.mend(),
            Act::Join(count) => (0..count).for_each(|_| self.join()),
            Act::Leave(who) => {
                for place in self.choose(who) {
                    self.world.leave(place);
                    self.plan(now + GOODBYE, Step::End(place));
                }
            }
            Act::Record(bytes) => self.set_record(bytes),
            Act::Keys(keys) => self.set_keys(keys),
            Act::Weather(weather) => self.world.links.weather = weather,
            Act::Idle(begins) => self.idle(begins),
            Act::Mixture(lasts) => {
                for (at, act) in mixture::timeline(&mut self.rng, lasts) {
                    self.plan(now + at, Step::Act(act));
                }
                until += lasts;
                self.told_from = until;
            }
        }
        if let Some(words) = mixture::words(&act, &self.same) {
            self.world.history.story.tell(now, words);
        }
        self.world.meters.disturbed(until);
        until
    }

    fn choose(&mut self, who: Who) -> Vec<Place> {
        let well = self.world.well();
        let mut up: Vec<Place> = self.world.up().filter(|place| well[*place as usize]).collect();
        let count = match who {
            Who::Same => return self.same.clone(),
            Who::Some(count) => count,
            Who::Percent(percent) => (up.len() * percent).div_ceil(100),
        };
        self.rng.shuffle(&mut up);
        // Somebody stays as it was.
        up.truncate(count.min(up.len().saturating_sub(1)));
        self.same.clone_from(&up);
        up
    }

    fn crash(&mut self, place: Place) {
        let (now, life) = (self.world.now, self.world.life(place));
        self.world.kill(place);
        self.world.meters.died(now, place, self.world.well());
        self.plan(now.max(self.told_from) + self.told_within, Step::CheckTold(place, life));
    }

    fn check_told(&mut self, subject: Place, life: u64) {
        for observer in self.world.up().collect::<Vec<_>>() {
            let believed = self.world.evidence(observer, subject);
            self.world.checkers.told(self.world.now, observer, subject, life, believed);
        }
    }

    fn cut(&mut self, who: Who, one_way: bool) {
        let places = self.choose(who);
        self.world.history.happened(self.world.now, What::Cut(places.len()));
        places.iter().for_each(|place| self.world.links.set_side(*place, 1));
        self.world.links.cut_side(1, 0);
        if !one_way {
            self.world.links.cut_side(0, 1);
        }
        // Of two halves neither is the one that is cut off.
        let halves = places.len() * 2 >= self.world.views.ups();
        self.cut = if halves { self.world.up().collect() } else { places };
        let now = self.world.now;
        self.cut.iter().for_each(|place| self.world.checkers.cut_off(now, *place));
    }

    fn mend(&mut self) {
        let now = self.world.now;
        self.world.history.happened(now, What::Mended);
        self.world.links.mend();
        for place in std::mem::take(&mut self.cut) {
            self.world.checkers.reconnected(now, place);
        }
        let sent = (0..self.next_place).map(|place| self.world.sent_bytes(place)).collect();
        self.world.meters.mended(now, sent);
    }

    fn join(&mut self) {
        let place = self.next_place;
        self.next_place += 1;
        self.world.meters.joined(self.world.now, place);
        self.world.history.story.gather(self.world.now, "a newcomer starts", place as usize);
        self.world.start(place, true);
    }

    fn set_record(&mut self, bytes: usize) {
        let Some(place) = self.choose(Who::Some(1)).first().copied() else { return };
        let key = self.next_key;
        self.next_key += 1;
        let mut awaiting = self.world.well();
        awaiting[place as usize] = false;
        self.world.meters.record_set(self.world.now, key, 1, awaiting);
        self.world.set_record(place, key, 1, bytes);
    }

    fn set_keys(&mut self, keys: &'static [u8]) {
        let version = self.keys.map_or(1, |(version, _)| version + 1);
        self.keys = Some((version, keys));
        // By one who is well, and not the ones that something happened to last.
        let same = std::mem::take(&mut self.same);
        if let Some(place) = self.choose(Who::Some(1)).first().copied() {
            self.world.set_keys(place, version, keys);
        }
        self.same = same;
    }

    fn check_keys(&mut self) {
        let Some((_, keys)) = self.keys else { return };
        let given: Vec<_> = keyring_of(keys).ids().collect();
        for place in self.world.up().collect::<Vec<_>>() {
            let has = self.world.member(place).map(P::keys).unwrap_or_default();
            self.world.checkers.keys(self.world.now, place, &has, &given);
        }
    }

    fn idle(&mut self, begins: bool) {
        let (now, sent) = (self.world.now, self.world.sent_bytes_of_all());
        if begins {
            self.world.meters.idle_begins(now, sent);
        } else {
            let members = self.world.views.ups();
            self.world.meters.idle_ends(now, sent, members);
        }
    }

    fn finish(mut self, end: Duration) -> Outcome {
        self.world.run_until(end.max(self.world.now));
        self.check_keys();
        let world = &mut self.world;
        world.check_bounds();
        let (wrong, states) = (world.views.wrong(), world.states());
        world.checkers.agreement(world.now, wrong, states);
        world.meters.add(Metric::FalseDeaths, world.checkers.count(Rule::FalseDeath) as f64);
        let mut world = self.world;
        let mut samples = std::mem::take(&mut world.meters).finish();
        let declared = samples.entry(Metric::LivingDeclared).or_default();
        *declared = vec![declared.iter().fold(0.0, |sum, it| sum + it)];
        if self.spares {
            world.checkers.spared(world.now, declared[0]);
        }
        let counts = BTreeMap::from([
            ("bytes sent", world.sent_bytes_of_all()),
            ("message delivered", world.history.messages()),
            ("message lost in a full inbox", world.inbox_dropped()),
            ("word said by a member", world.history.words()),
        ]);
        Outcome {
            digest: world.history.digest(),
            events: world.history.events(),
            samples,
            violation: world.checkers.first().cloned(),
            last: world.history.last(),
            story: world.history.story,
            lasted: world.now,
            counts,
        }
    }
}

impl Outcome {
    /// One line of JSON.
    #[must_use]
    pub fn json(&self, scenario: &str, options: &Options) -> String {
        let mut out = format!(
            "{{\"scenario\":\"{scenario}\",\"seed\":{},\"nodes\":{},\"digest\":\"{:016x}\",\"events\":{}",
            options.seed, options.nodes, self.digest, self.events
        );
        for (metric, samples) in &self.samples {
            let numbers: Vec<String> = samples.iter().map(|it| number(*it)).collect();
            // Writing to a string does not fail.
            let _ = write!(out, ",\"{}\":[{}]", metric.name(), numbers.join(","));
        }
        let violation =
            self.violation.as_ref().map_or("null".to_owned(), |it| format!("{:?}", it.to_string()));
        let _ = write!(out, ",\"violation\":{violation}}}");
        out
    }

    /// A few lines for a person.
    #[must_use]
    pub fn lines(&self) -> String {
        let mut out = String::new();
        for (metric, samples) in &self.samples {
            let at = |share| quantile(samples, share).unwrap_or(f64::NAN);
            let _ = writeln!(
                out,
                "  {:<22} median {:>10.3}   p99 {:>10.3}   max {:>10.3}   of {}",
                metric.name(),
                at(0.5),
                at(0.99),
                at(1.0),
                samples.len()
            );
        }
        out
    }
}

/// JSON knows no infinity.
fn number(it: f64) -> String {
    if it.is_finite() { format!("{it}") } else { "null".to_owned() }
}
