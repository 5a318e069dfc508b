//! A network that loses, delays, doubles, reorders and is cut.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::rng::Rng;

/// Somebody who sends and receives: an index into the world's nodes, routers behind them.
pub type Place = usize;

/// What happens to what is sent. Probabilities in parts per million.
#[derive(Debug, Clone)]
pub struct Weather {
    /// How much is lost.
    pub loss_ppm: u32,
    /// How much arrives twice.
    pub double_ppm: u32,
    /// How much is late: takes up to `late_max` in place of up to `delay_max`, and so is overtaken.
    pub late_ppm: u32,
    /// Longest usual delay.
    pub delay_max: Duration,
    /// Longest delay of what is late.
    pub late_max: Duration,
}

impl Weather {
    /// Nothing is lost, doubled or late.
    #[must_use]
    pub fn fair(delay_max: Duration) -> Self {
        Self { loss_ppm: 0, double_ppm: 0, late_ppm: 0, delay_max, late_max: delay_max }
    }
}

/// Shortest delay of all.
const DELAY_MIN: Duration = Duration::from_micros(50);

/// The weather, and the links that are cut.
#[derive(Debug, Clone)]
pub struct Network {
    /// For every link alike.
    pub weather: Weather,
    cut: BTreeSet<(Place, Place)>,
}

impl Network {
    /// All links whole.
    #[must_use]
    pub fn new(weather: Weather) -> Self {
        Self { weather, cut: BTreeSet::new() }
    }

    /// How long each copy of something sent now takes: none when it is lost, two when it is doubled. What was sent
    /// before a cut still arrives behind it.
    pub fn send(&self, rng: &mut Rng, from: Place, to: Place) -> [Option<Duration>; 2] {
        if self.cut.contains(&(from, to)) || rng.chance(self.weather.loss_ppm) {
            return [None, None];
        }
        let first = self.delay(rng);
        let second = rng.chance(self.weather.double_ppm).then(|| self.delay(rng));
        [Some(first), second]
    }

    fn delay(&self, rng: &mut Rng) -> Duration {
        let late = rng.chance(self.weather.late_ppm);
        let longest = if late { self.weather.late_max } else { self.weather.delay_max };
        rng.time(DELAY_MIN, longest)
    }

    /// Whether anything sent there arrives at all.
    #[must_use]
    pub fn is_cut(&self, from: Place, to: Place) -> bool {
        self.cut.contains(&(from, to))
    }

    /// Cuts every link from one of `from` to one of `to`, and not the way back.
    pub fn cut_one_way(&mut self, from: &[Place], to: &[Place]) {
        let pairs = from.iter().flat_map(|from| to.iter().map(move |to| (*from, *to)));
        self.cut.extend(pairs.filter(|(from, to)| from != to));
    }

    /// Cuts every link between one of `these` and one of `those`.
    pub fn cut(&mut self, these: &[Place], those: &[Place]) {
        self.cut_one_way(these, those);
        self.cut_one_way(those, these);
    }

    /// Makes every link whole.
    pub fn mend(&mut self) {
        self.cut.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cut_has_a_direction() {
        let mut network = Network::new(Weather::fair(Duration::from_millis(1)));
        let mut rng = Rng::new(0);
        network.cut_one_way(&[0], &[1, 2]);
        assert_eq!(network.send(&mut rng, 0, 1), [None, None]);
        assert!(network.send(&mut rng, 1, 0)[0].is_some());
        network.cut(&[1], &[0]);
        assert_eq!(network.send(&mut rng, 1, 0), [None, None]);
        network.mend();
        assert!(network.send(&mut rng, 0, 1)[0].is_some());
    }

    #[test]
    fn bad_weather_loses_doubles_and_reorders() {
        let late = Duration::from_millis(100);
        let weather = Weather {
            loss_ppm: 200_000,
            double_ppm: 200_000,
            late_ppm: 200_000,
            late_max: late,
            ..Weather::fair(Duration::from_millis(1))
        };
        let network = Network::new(weather);
        let mut rng = Rng::new(3);
        let sent: Vec<_> = (0..1_000).map(|_| network.send(&mut rng, 0, 1)).collect();
        let count =
            |wanted: fn(&[Option<Duration>; 2]) -> bool| sent.iter().filter(|copies| wanted(copies)).count();
        assert!((100..300).contains(&count(|copies| copies[0].is_none())));
        assert!((100..300).contains(&count(|copies| copies[1].is_some())));
        assert!(
            (100..300).contains(&count(|copies| copies[0].is_some_and(|it| it > Duration::from_millis(1))))
        );
    }
}
