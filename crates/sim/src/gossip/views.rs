//! Who holds whom for alive, of thousands: one bit a pair, and the number of pairs that are wrong at any time.

use super::member::Place;

/// What everybody believes, beside what is.
#[derive(Debug)]
pub struct Views {
    words: usize,
    rows: Vec<u64>,
    up: Vec<bool>,
    ups: usize,
    /// Per observer that is up: others that are up and not held for alive.
    lacking: Vec<u32>,
    missing: u64,
    /// Pairs of an observer that is up and a member that is not and is held for alive.
    ghosts: u64,
}

impl Views {
    /// Nobody is up.
    #[must_use]
    pub fn new(places: usize) -> Self {
        let words = places.div_ceil(64);
        Self {
            words,
            rows: vec![0; words * places],
            up: vec![false; places],
            ups: 0,
            lacking: vec![0; places],
            missing: 0,
            ghosts: 0,
        }
    }

    /// Whether it holds that one for alive.
    #[must_use]
    pub fn holds(&self, observer: Place, subject: Place) -> bool {
        self.rows[observer as usize * self.words + subject as usize / 64] >> (subject % 64) & 1 == 1
    }

    /// What it believes from now on.
    pub fn set(&mut self, observer: Place, subject: Place, alive: bool) {
        if observer == subject || self.holds(observer, subject) == alive {
            return;
        }
        self.rows[observer as usize * self.words + subject as usize / 64] ^= 1 << (subject % 64);
        if self.up[observer as usize] {
            self.count(observer, subject, alive);
        }
    }

    /// One pair changed.
    fn count(&mut self, observer: Place, subject: Place, alive: bool) {
        match (self.up[subject as usize], alive) {
            (true, true) => {
                self.missing -= 1;
                self.lacking[observer as usize] -= 1;
            }
            (true, false) => {
                self.missing += 1;
                self.lacking[observer as usize] += 1;
            }
            (false, true) => self.ghosts += 1,
            (false, false) => self.ghosts -= 1,
        }
    }

    /// A process starts, and knows nobody.
    pub fn rise(&mut self, place: Place) {
        debug_assert!(!self.up[place as usize]);
        for other in self.others(place) {
            if self.holds(other, place) {
                self.ghosts -= 1;
            } else {
                self.missing += 1;
                self.lacking[other as usize] += 1;
            }
        }
        self.lacking[place as usize] = self.ups as u32;
        self.missing += self.ups as u64;
        self.up[place as usize] = true;
        self.ups += 1;
    }

    /// A process ends.
    pub fn fall(&mut self, place: Place) {
        debug_assert!(self.up[place as usize]);
        self.up[place as usize] = false;
        self.ups -= 1;
        for other in self.others(place) {
            if self.holds(other, place) {
                self.ghosts += 1;
            } else {
                self.missing -= 1;
                self.lacking[other as usize] -= 1;
            }
        }
        self.missing -= u64::from(std::mem::take(&mut self.lacking[place as usize]));
        let down = (0..self.up.len() as Place).filter(|it| *it != place && !self.up[*it as usize]);
        self.ghosts -= down.filter(|it| self.holds(place, *it)).count() as u64;
        let row = place as usize * self.words;
        self.rows[row..row + self.words].fill(0);
    }

    fn others(&self, place: Place) -> Vec<Place> {
        (0..self.up.len() as Place).filter(|it| *it != place && self.up[*it as usize]).collect()
    }

    /// Whether its process is up.
    #[must_use]
    pub fn is_up(&self, place: Place) -> bool {
        self.up[place as usize]
    }

    /// How many processes are up.
    #[must_use]
    pub fn ups(&self) -> usize {
        self.ups
    }

    /// Whether it holds everybody who is up for alive.
    #[must_use]
    pub fn is_complete(&self, observer: Place) -> bool {
        self.lacking[observer as usize] == 0
    }

    /// Share of pairs of processes that are up in which one holds the other for alive.
    #[must_use]
    pub fn share(&self) -> f64 {
        let pairs = (self.ups * self.ups.saturating_sub(1)).max(1) as f64;
        1.0 - self.missing as f64 / pairs
    }

    /// Everybody holds for alive exactly those who are.
    #[must_use]
    pub fn is_true(&self) -> bool {
        self.missing == 0 && self.ghosts == 0
    }

    /// Pairs in which somebody who is up is not held for alive, and in which somebody who is not is.
    #[must_use]
    pub fn wrong(&self) -> (u64, u64) {
        (self.missing, self.ghosts)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Rng;

    fn counted(views: &Views) -> (u64, u64) {
        let (mut missing, mut ghosts) = (0, 0);
        let places = views.up.len() as Place;
        for (a, b) in (0..places).flat_map(|a| (0..places).map(move |b| (a, b))).filter(|(a, b)| a != b) {
            if views.is_up(a) {
                missing += u64::from(views.is_up(b) && !views.holds(a, b));
                ghosts += u64::from(!views.is_up(b) && views.holds(a, b));
            }
        }
        (missing, ghosts)
    }

    #[test]
    fn the_counts_are_those_of_the_pairs_whatever_happens() {
        let (mut views, mut rng) = (Views::new(70), Rng::new(5));
        for _ in 0..5_000 {
            let (a, b) = (rng.below(70) as Place, rng.below(70) as Place);
            match rng.below(20) {
                0 if views.is_up(a) => views.fall(a),
                0 => views.rise(a),
                _ if views.is_up(a) => views.set(a, b, rng.below(3) > 0),
                _ => {}
            }
        }
        assert!(views.ups() > 10 && views.missing > 0 && views.ghosts > 0);
        assert_eq!(counted(&views), views.wrong());
        assert_eq!((0..70).map(|at| u64::from(views.lacking[at])).sum::<u64>(), views.missing);
    }
}
