//! How long things took, and how many bytes: figures, not verdicts.

use std::collections::BTreeMap;
use std::time::Duration;

use super::member::{Note, Place};
use super::views::Views;

/// A figure. Times in seconds; infinite when it never came to that.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Metric {
    /// From a crash until the first member calls it dead.
    Detection,
    /// From a crash until every member that is well knows.
    Told,
    /// Pairs of a crash and a member that was well and never heard of it.
    NeverTold,
    /// From the first verdict until 99 % know.
    SpreadP99,
    /// Healthy members declared dead, once per observer.
    FalseDeaths,
    /// Verdicts of any kind on members whose process was up.
    LivingDeclared,
    /// Bytes of messages per member and second with nothing going on.
    IdleBytes,
    /// From setting a record until every member has it.
    Record,
    /// From the start of a newcomer until it knows all members and has all records.
    Joiner,
    /// From mending a network until 99 % of the pairs see each other.
    Heal99,
    /// The same for all pairs.
    HealAll,
    /// Bytes that the busiest member sent between mending and all pairs.
    HealBytes,
    /// From a restart until every member accepts the new life.
    Accepted,
    /// From the last fault until everybody agrees on who lives.
    Settled,
}

impl Metric {
    /// All of them.
    pub const ALL: [Self; 14] = [
        Self::Detection,
        Self::Told,
        Self::NeverTold,
        Self::SpreadP99,
        Self::FalseDeaths,
        Self::LivingDeclared,
        Self::IdleBytes,
        Self::Record,
        Self::Joiner,
        Self::Heal99,
        Self::HealAll,
        Self::HealBytes,
        Self::Accepted,
        Self::Settled,
    ];

    /// Its name, in output and in files.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Detection => "detection_s",
            Self::Told => "told_s",
            Self::NeverTold => "never_told",
            Self::SpreadP99 => "spread_p99_s",
            Self::FalseDeaths => "false_deaths",
            Self::LivingDeclared => "living_declared_dead",
            Self::IdleBytes => "idle_bytes_per_s",
            Self::Record => "record_s",
            Self::Joiner => "joiner_s",
            Self::Heal99 => "heal_99_s",
            Self::HealAll => "heal_all_s",
            Self::HealBytes => "heal_bytes",
            Self::Accepted => "accepted_s",
            Self::Settled => "settled_s",
        }
    }

    /// The metric of a name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|metric| metric.name() == name)
    }
}

/// Figures of one run or of many.
pub type Samples = BTreeMap<Metric, Vec<f64>>;

/// The value below which that share of the samples lies, infinite ones last; `None` when there are none.
#[must_use]
pub fn quantile(samples: &[f64], share: f64) -> Option<f64> {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let at = (share * sorted.len() as f64).ceil() as usize;
    sorted.get(at.clamp(1, sorted.len().max(1)) - 1).copied()
}

/// Something that everybody is to hear of.
#[derive(Debug)]
struct Spreading {
    since: Duration,
    first: Option<Duration>,
    awaiting: Vec<bool>,
    left: usize,
    heard: Vec<Duration>,
}

impl Spreading {
    fn new(since: Duration, awaiting: Vec<bool>) -> Self {
        let left = awaiting.iter().filter(|it| **it).count();
        Self { since, first: None, awaiting, left, heard: Vec::with_capacity(left) }
    }

    fn heard(&mut self, at: Duration, place: Place) {
        self.first.get_or_insert(at);
        if self.awaiting.get_mut(place as usize).is_some_and(std::mem::take) {
            self.left -= 1;
            self.heard.push(at);
        }
    }

    fn gone(&mut self, place: Place) {
        self.left -= usize::from(self.awaiting.get_mut(place as usize).is_some_and(std::mem::take));
    }

    /// Until the last has heard.
    fn took(&self) -> f64 {
        let last = self.heard.iter().max().copied().unwrap_or(self.since);
        if self.left > 0 { f64::INFINITY } else { last.saturating_sub(self.since).as_secs_f64() }
    }

    /// From the first who knew until 99 % did.
    fn spread_p99(&self) -> Option<f64> {
        let first = self.first?;
        let mut times: Vec<f64> = self.heard.iter().map(|at| (*at - first).as_secs_f64()).collect();
        times.extend(std::iter::repeat_n(f64::INFINITY, self.left));
        quantile(&times, 0.99)
    }
}

#[derive(Debug)]
struct Healing {
    since: Duration,
    nearly: Option<Duration>,
    sent_before: Vec<u64>,
}

/// What is being measured.
#[derive(Debug, Default)]
pub struct Meters {
    deaths: BTreeMap<Place, Spreading>,
    lives: BTreeMap<(Place, u64), Spreading>,
    records: BTreeMap<(u32, u64), Spreading>,
    joiners: BTreeMap<Place, Duration>,
    healing: Option<Healing>,
    settling: Option<Duration>,
    idle: Option<(Duration, u64)>,
    samples: Samples,
}

impl Meters {
    /// One sample.
    pub fn add(&mut self, metric: Metric, sample: f64) {
        self.samples.entry(metric).or_default().push(sample);
    }

    /// A process ended by a crash; these are to hear of it.
    pub fn died(&mut self, at: Duration, place: Place, awaiting: Vec<bool>) {
        self.deaths.insert(place, Spreading::new(at, awaiting));
    }

    /// A process comes back then, in this life; these are to accept it.
    pub fn returned(&mut self, at: Duration, place: Place, life: u64, awaiting: Vec<bool>) {
        self.lives.insert((place, life), Spreading::new(at, awaiting));
    }

    /// Those who are to accept the latest lives of these: everybody who is up and well.
    pub fn await_returned(&mut self, places: &[Place], awaiting: &[bool]) {
        for ((place, _), spreading) in &mut self.lives {
            if places.contains(place) && spreading.awaiting.is_empty() {
                *spreading = Spreading::new(spreading.since, awaiting.to_vec());
            }
        }
    }

    /// A record was set; these are to have it.
    pub fn record_set(&mut self, at: Duration, key: u32, version: u64, awaiting: Vec<bool>) {
        self.records.insert((key, version), Spreading::new(at, awaiting));
    }

    /// A newcomer started.
    pub fn joined(&mut self, at: Duration, place: Place) {
        self.joiners.insert(place, at);
    }

    /// Every link is whole again; so much had everybody sent.
    pub fn mended(&mut self, at: Duration, sent_before: Vec<u64>) {
        self.healing = Some(Healing { since: at, nearly: None, sent_before });
    }

    /// Something went wrong, or was mended: agreement is measured from here.
    pub fn disturbed(&mut self, at: Duration) {
        self.settling = Some(at);
    }

    /// Whether something went wrong or was mended, and not everybody agrees yet.
    #[must_use]
    pub fn is_settling(&self) -> bool {
        self.settling.is_some()
    }

    /// Nothing goes on from here; so many bytes were sent so far, by all.
    pub fn idle_begins(&mut self, at: Duration, sent: u64) {
        self.idle = Some((at, sent));
    }

    /// Until here.
    pub fn idle_ends(&mut self, at: Duration, sent: u64, members: usize) {
        if let Some((since, before)) = self.idle.take() {
            let member_seconds = (at - since).as_secs_f64() * members as f64;
            self.add(Metric::IdleBytes, (sent - before) as f64 / member_seconds);
        }
    }

    /// A member said something.
    pub fn said(&mut self, at: Duration, observer: Place, note: Note) {
        match note {
            Note::Dead(subject) => {
                if let Some(death) = self.deaths.get_mut(&subject) {
                    death.heard(at, observer);
                }
            }
            Note::Up { place, life } => {
                for (_, spreading) in self.lives.range_mut((place, 0)..=(place, life)) {
                    spreading.heard(at, observer);
                }
            }
            Note::Record { key, version } => {
                for (_, spreading) in self.records.range_mut((key, 0)..=(key, version)) {
                    spreading.heard(at, observer);
                }
            }
            Note::Suspect(_) | Note::Expired(_) | Note::Left(_) | Note::Synced => {}
        }
    }

    /// A process ended: nobody waits for what it hears any more.
    pub fn fell(&mut self, place: Place) {
        self.deaths.values_mut().for_each(|it| it.gone(place));
        self.lives.values_mut().for_each(|it| it.gone(place));
        self.records.values_mut().for_each(|it| it.gone(place));
        self.joiners.remove(&place);
    }

    /// Those who have not caught up yet.
    #[must_use]
    pub fn joining(&self) -> Vec<Place> {
        self.joiners.keys().copied().collect()
    }

    /// A newcomer has everything.
    pub fn caught_up(&mut self, at: Duration, place: Place) {
        if let Some(since) = self.joiners.remove(&place) {
            self.add(Metric::Joiner, (at - since).as_secs_f64());
        }
    }

    /// Looks at the views: how far a mended network has healed, and whether all agree.
    pub fn look(&mut self, at: Duration, views: &Views, sent: impl Fn(Place) -> u64) {
        if let Some(since) = self.settling
            && views.is_true()
        {
            self.settling = None;
            self.add(Metric::Settled, at.saturating_sub(since).as_secs_f64());
        }
        let Some(healing) = self.healing.as_mut() else { return };
        let since = healing.since;
        if healing.nearly.is_none() && views.share() >= 0.99 {
            healing.nearly = Some(at);
            self.samples.entry(Metric::Heal99).or_default().push((at - since).as_secs_f64());
        }
        if views.wrong().0 == 0 {
            let before = healing.sent_before.iter().enumerate();
            let most = before.map(|(place, before)| sent(place as Place).saturating_sub(*before)).max();
            self.healing = None;
            self.add(Metric::HealAll, (at - since).as_secs_f64());
            self.add(Metric::HealBytes, most.unwrap_or(0) as f64);
        }
    }

    /// The end: what has not come about by now never did.
    #[must_use]
    pub fn finish(mut self) -> Samples {
        for death in std::mem::take(&mut self.deaths).into_values() {
            let first = death.first.map_or(f64::INFINITY, |at| (at - death.since).as_secs_f64());
            self.add(Metric::Detection, first);
            self.add(Metric::Told, death.took());
            self.add(Metric::NeverTold, death.left as f64);
            if let Some(spread) = death.spread_p99() {
                self.add(Metric::SpreadP99, spread);
            }
        }
        for life in std::mem::take(&mut self.lives).into_values() {
            self.add(Metric::Accepted, life.took());
        }
        for record in std::mem::take(&mut self.records).into_values() {
            self.add(Metric::Record, record.took());
        }
        for _ in std::mem::take(&mut self.joiners) {
            self.add(Metric::Joiner, f64::INFINITY);
        }
        if let Some(healing) = self.healing.take() {
            if healing.nearly.is_none() {
                self.add(Metric::Heal99, f64::INFINITY);
            }
            self.add(Metric::HealAll, f64::INFINITY);
        }
        if self.settling.take().is_some() {
            self.add(Metric::Settled, f64::INFINITY);
        }
        self.samples
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: fn(u64) -> Duration = Duration::from_secs;

    #[test]
    fn quantiles_count_what_never_happened() {
        assert_eq!(quantile(&[], 0.5), None);
        assert_eq!(quantile(&[3.0, 1.0, 2.0], 0.5), Some(2.0));
        assert_eq!(quantile(&[1.0, f64::INFINITY, 2.0], 0.99), Some(f64::INFINITY));
        let hundred: Vec<f64> = (1..=100).map(f64::from).collect();
        assert_eq!((quantile(&hundred, 0.99), quantile(&hundred, 1.0)), (Some(99.0), Some(100.0)));
    }

    #[test]
    fn a_death_is_told_when_the_last_who_is_awaited_has_heard() {
        let mut meters = Meters::default();
        meters.died(S(10), 3, vec![true, true, true, false, false]);
        meters.said(S(14), 4, Note::Dead(3));
        meters.said(S(15), 0, Note::Dead(3));
        meters.said(S(16), 1, Note::Dead(3));
        meters.fell(2);
        let samples = meters.finish();
        assert_eq!(samples[&Metric::Detection], [4.0]);
        assert_eq!(samples[&Metric::Told], [6.0]);
        assert_eq!(samples[&Metric::NeverTold], [0.0]);
    }

    #[test]
    fn what_nobody_hears_is_never_told() {
        let mut meters = Meters::default();
        meters.died(S(10), 2, vec![true, true, false]);
        meters.record_set(S(10), 5, 2, vec![true, false, true]);
        meters.said(S(11), 0, Note::Dead(2));
        meters.said(S(11), 0, Note::Record { key: 5, version: 1 });
        meters.said(S(12), 0, Note::Record { key: 5, version: 3 });
        let samples = meters.finish();
        assert_eq!(
            (&samples[&Metric::Told][..], &samples[&Metric::NeverTold][..]),
            (&[f64::INFINITY][..], &[1.0][..])
        );
        assert_eq!(samples[&Metric::Record], [f64::INFINITY]);
    }

    #[test]
    fn names_are_unique() {
        for metric in Metric::ALL {
            assert_eq!(Metric::named(metric.name()), Some(metric));
        }
    }
}
