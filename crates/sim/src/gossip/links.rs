//! The network between thousands: one weather for all, members on sides that may be cut from each other, and single links.

use std::collections::BTreeSet;
use std::time::Duration;

use super::member::{Place, Via};
use crate::rng::Rng;

/// What happens to what is sent. Probabilities in parts per million.
#[derive(Debug, Clone, Copy)]
pub struct Weather {
    /// Shortest delay, one way.
    pub delay_min: Duration,
    /// Longest usual delay.
    pub delay_max: Duration,
    /// Datagrams lost; a connection repeats what it loses.
    pub loss_ppm: u32,
    /// Datagrams that arrive twice.
    pub double_ppm: u32,
    /// Datagrams that take up to `late_max`, and so are overtaken.
    pub late_ppm: u32,
    /// Longest delay of those.
    pub late_max: Duration,
}

/// A LAN on a good day.
pub const FAIR: Weather = Weather {
    delay_min: Duration::from_micros(300),
    delay_max: Duration::from_micros(1_500),
    loss_ppm: 0,
    double_ppm: 0,
    late_ppm: 0,
    late_max: Duration::from_micros(1_500),
};

/// A connection waits so long before it repeats.
const REPEAT_AFTER: Duration = Duration::from_millis(200);
/// A connection fails after that many repetitions.
const REPEATS_MAX: u32 = 6;
/// Delays of a request over a new connection: there, back, and there again.
const CONNECT_TRIPS: u32 = 3;
/// Sides that members can be on.
pub const SIDES_MAX: usize = 16;

/// Who cannot reach whom.
#[derive(Debug)]
pub struct Links {
    /// For every link alike.
    pub weather: Weather,
    sides: Vec<u8>,
    /// By sender's side, one bit per receiver's side.
    cut_sides: [u16; SIDES_MAX],
    cut_links: BTreeSet<(Place, Place)>,
}

impl Links {
    /// All links whole, everybody on side 0.
    #[must_use]
    pub fn new(places: usize, weather: Weather) -> Self {
        Self { weather, sides: vec![0; places], cut_sides: [0; SIDES_MAX], cut_links: BTreeSet::new() }
    }

    /// Moves somebody to a side below [`SIDES_MAX`].
    pub fn set_side(&mut self, place: Place, side: usize) {
        self.sides[place as usize] = (side % SIDES_MAX) as u8;
    }

    /// Nothing from one side reaches the other any more; the way back stays.
    pub fn cut_side(&mut self, from: usize, to: usize) {
        self.cut_sides[from % SIDES_MAX] |= 1 << (to % SIDES_MAX);
    }

    /// Nothing from one reaches the other any more; the way back stays.
    pub fn cut_link(&mut self, from: Place, to: Place) {
        self.cut_links.insert((from, to));
    }

    /// Makes every link whole.
    pub fn mend(&mut self) {
        self.cut_sides = [0; SIDES_MAX];
        self.cut_links.clear();
        self.sides.fill(0);
    }

    /// Whether nothing sent from there arrives here.
    #[must_use]
    pub fn is_cut(&self, from: Place, to: Place) -> bool {
        let (a, b) = (self.sides[from as usize], self.sides[to as usize]);
        self.cut_sides[a as usize] >> b & 1 == 1
            || !self.cut_links.is_empty() && self.cut_links.contains(&(from, to))
    }

    /// How long each copy takes of what is sent now: none when it is lost, two when it is doubled.
    pub fn send(&self, rng: &mut Rng, from: Place, to: Place, via: Via) -> [Option<Duration>; 2] {
        // A connection needs both ways.
        if self.is_cut(from, to) || via != Via::Datagram && self.is_cut(to, from) {
            return [None, None];
        }
        match via {
            Via::Datagram if rng.chance(self.weather.loss_ppm) => [None, None],
            Via::Datagram => {
                let first = self.delay(rng);
                [Some(first), rng.chance(self.weather.double_ppm).then(|| self.delay(rng))]
            }
            Via::Request => [self.connected(rng, CONNECT_TRIPS), None],
            Via::Response => [self.connected(rng, 1), None],
        }
    }

    fn delay(&self, rng: &mut Rng) -> Duration {
        let late = rng.chance(self.weather.late_ppm);
        rng.time(self.weather.delay_min, if late { self.weather.late_max } else { self.weather.delay_max })
    }

    fn connected(&self, rng: &mut Rng, trips: u32) -> Option<Duration> {
        let repeats = (0..=REPEATS_MAX).find(|_| !rng.chance(self.weather.loss_ppm))?;
        Some(self.delay(rng) * trips + REPEAT_AFTER * repeats)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ARRIVES: fn(&Links, Place, Place) -> bool =
        |links, from, to| links.send(&mut Rng::new(1), from, to, Via::Datagram)[0].is_some();

    #[test]
    fn sides_and_links_are_cut_one_way_and_mended() {
        let mut links = Links::new(4, FAIR);
        links.set_side(2, 1);
        links.set_side(3, 1);
        links.cut_side(0, 1);
        links.cut_link(0, 1);
        assert!(!ARRIVES(&links, 0, 2) && !ARRIVES(&links, 1, 3) && !ARRIVES(&links, 0, 1));
        assert!(ARRIVES(&links, 2, 0) && ARRIVES(&links, 2, 3) && ARRIVES(&links, 1, 0));
        let stream = links.send(&mut Rng::new(1), 2, 0, Via::Request);
        assert_eq!(stream, [None, None], "a connection needs both ways");
        links.mend();
        assert!(ARRIVES(&links, 0, 2) && ARRIVES(&links, 0, 1));
    }

    #[test]
    fn bad_weather_loses_doubles_and_reorders_datagrams_and_delays_connections() {
        let late_max = Duration::from_millis(80);
        let weather = Weather { loss_ppm: 200_000, double_ppm: 200_000, late_ppm: 200_000, late_max, ..FAIR };
        let (links, mut rng) = (Links::new(2, weather), Rng::new(3));
        let sent: Vec<_> = (0..1_000).map(|_| links.send(&mut rng, 0, 1, Via::Datagram)).collect();
        let count =
            |wanted: fn(&[Option<Duration>; 2]) -> bool| sent.iter().filter(|copies| wanted(copies)).count();
        assert!((150..250).contains(&count(|copies| copies[0].is_none())));
        assert!((100..250).contains(&count(|copies| copies[1].is_some())));
        assert!((100..250).contains(&count(|copies| copies[0].is_some_and(|it| it > FAIR.delay_max))));
        let streams: Vec<_> = (0..1_000).map(|_| links.send(&mut rng, 0, 1, Via::Request)[0]).collect();
        assert!(streams.iter().filter(|it| it.is_none()).count() < 10);
        assert!(streams.iter().flatten().filter(|it| **it > REPEAT_AFTER).count() > 100);
    }
}
