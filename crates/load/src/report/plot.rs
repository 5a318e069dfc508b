//! Plots as SVG, drawn here so that the report needs no script to show them.

use std::fmt::Write;

use super::escape;

/// Size of a plot's drawing, in SVG units, and of the margins around its data.
pub(super) const WIDTH: f64 = 960.0;
const HEIGHT: f64 = 150.0;
pub(super) const LEFT: f64 = 62.0;
pub(super) const RIGHT: f64 = 14.0;
const TOP: f64 = 10.0;
const BOTTOM: f64 = 24.0;
/// Labels of events stand in rows above the first plot.
const LABEL_ROW: f64 = 15.0;
const LABEL_ROWS_MAX: usize = 6;
/// About the width of a letter of a label.
const LETTER: f64 = 6.3;
/// A label longer than this is cut.
const LABEL_LETTERS_MAX: usize = 34;

/// One curve.
#[derive(Debug)]
pub(super) struct Curve {
    pub(super) name: &'static str,
    /// Class of the style sheet: its colour.
    pub(super) class: &'static str,
    /// By second; `None` where nothing is known.
    pub(super) points: Vec<(f64, Option<f64>)>,
}

/// One plot.
#[derive(Debug)]
pub(super) struct Plot {
    pub(super) title: &'static str,
    pub(super) unit: &'static str,
    pub(super) logarithmic: bool,
    pub(super) curves: Vec<Curve>,
}

/// A moment marked in every plot.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Mark {
    pub(super) at: f64,
    pub(super) label: String,
}

/// What all plots of a report share: the time axis.
#[derive(Debug)]
pub(super) struct Axis {
    /// Seconds at the right edge.
    pub(super) end: f64,
    /// Seconds of warm-up, shaded.
    pub(super) warmup: f64,
}

impl Axis {
    fn x(&self, second: f64) -> f64 {
        LEFT + (second / self.end).clamp(0.0, 1.0) * (WIDTH - LEFT - RIGHT)
    }
}

/// How values become heights.
#[derive(Debug, PartialEq)]
struct Scale {
    low: f64,
    high: f64,
    logarithmic: bool,
    ticks: Vec<f64>,
}

impl Scale {
    fn of(values: impl Iterator<Item = f64> + Clone, logarithmic: bool) -> Self {
        if logarithmic {
            let positive = values.filter(|value| *value > 0.0);
            let low = positive.clone().fold(f64::INFINITY, f64::min);
            let high = positive.fold(f64::NEG_INFINITY, f64::max);
            let (low, high) = if low.is_finite() { (low, high) } else { (1.0, 10.0) };
            let (first, last) = (low.log10().floor(), high.log10().ceil());
            let last = last.max(first + 1.0);
            let decades = (last - first) as i32;
            let ticks = (0..=decades).map(|decade| 10_f64.powi(first as i32 + decade)).collect();
            return Self { low: first, high: last, logarithmic, ticks };
        }
        let high = values.fold(0.0, f64::max);
        let step = step_for(if high > 0.0 { high } else { 1.0 }, 4.0);
        let count = (high / step).ceil().max(1.0);
        let ticks = (0..=count as u32).map(|tick| f64::from(tick) * step).collect();
        Self { low: 0.0, high: count * step, logarithmic, ticks }
    }

    fn y(&self, top: f64, value: f64) -> f64 {
        let value = if self.logarithmic { value.max(1e-9).log10() } else { value };
        let share = ((value - self.low) / (self.high - self.low)).clamp(0.0, 1.0);
        top + (1.0 - share) * (HEIGHT - TOP - BOTTOM)
    }
}

/// A step of 1, 2 or 5 times a power of ten that divides `range` into about `parts`.
fn step_for(range: f64, parts: f64) -> f64 {
    let raw = range / parts;
    let power = 10_f64.powf(raw.log10().floor());
    let factor = [1.0, 2.0, 5.0].into_iter().find(|factor| factor * power >= raw * 0.999).unwrap_or(10.0);
    factor * power
}

impl Plot {
    /// The plot as an SVG element; with the labels of the marks above it when `labelled`.
    pub(super) fn svg(&self, axis: &Axis, marks: &[Mark], labelled: bool) -> String {
        let labels = if labelled { place(axis, marks) } else { Vec::new() };
        let rows = labels.iter().map(|label| label.row + 1).max().unwrap_or(0);
        let top = TOP + rows as f64 * LABEL_ROW;
        let height = HEIGHT + rows as f64 * LABEL_ROW;
        let bottom = height - BOTTOM;
        let values = self.curves.iter().flat_map(|curve| curve.points.iter().filter_map(|(_, value)| *value));
        let scale = Scale::of(values, self.logarithmic);
        let mut out = String::new();
        // Writing to a string cannot fail.
        let _ = write!(
            out,
            r#"<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{}, {}"><title>{}</title>"#,
            escape(self.title),
            escape(self.unit),
            escape(self.title)
        );
        if axis.warmup > 0.0 {
            let (from, to) = (axis.x(0.0), axis.x(axis.warmup));
            let _ = write!(
                out,
                r#"<rect class="warmup" x="{from:.1}" y="{top:.1}" width="{:.1}" height="{:.1}"/>"#,
                to - from,
                bottom - top
            );
        }
        grid(&mut out, axis, &scale, top, bottom);
        for mark in marks {
            let x = axis.x(mark.at);
            let _ = write!(
                out,
                r#"<line class="mark" x1="{x:.1}" y1="{top:.1}" x2="{x:.1}" y2="{bottom:.1}"><title>{}</title></line>"#,
                escape(&mark.label)
            );
        }
        for label in &labels {
            let y = TOP + (label.row as f64 + 0.75) * LABEL_ROW;
            let x = axis.x(label.at);
            let _ = write!(
                out,
                r#"<line class="mark" x1="{x:.1}" y1="{y:.1}" x2="{x:.1}" y2="{top:.1}"/><text class="label" x="{:.1}" y="{y:.1}" text-anchor="{}">{}</text>"#,
                label.x,
                if label.leftward { "end" } else { "start" },
                escape(&label.text)
            );
        }
        for curve in &self.curves {
            curve.draw(&mut out, axis, &scale, top);
        }
        let _ = write!(out, r#"<line class="cursor" x1="0" x2="0" y1="{top:.1}" y2="{bottom:.1}"/></svg>"#);
        out
    }

    /// The names of the curves with their colours.
    pub(super) fn legend(&self) -> String {
        let entry = |curve: &Curve| {
            format!(r#"<span class="key"><i class="{}"></i>{}</span>"#, curve.class, escape(curve.name))
        };
        self.curves.iter().map(entry).collect()
    }
}

fn grid(out: &mut String, axis: &Axis, scale: &Scale, top: f64, bottom: f64) {
    for tick in &scale.ticks {
        let y = scale.y(top, *tick);
        let _ = write!(
            out,
            r#"<line class="grid" x1="{LEFT}" y1="{y:.1}" x2="{:.1}" y2="{y:.1}"/><text class="tick" x="{:.1}" y="{:.1}" text-anchor="end">{}</text>"#,
            WIDTH - RIGHT,
            LEFT - 6.0,
            y + 4.0,
            number(*tick)
        );
    }
    let step =
        [1.0, 2.0, 5.0, 10.0, 15.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1_800.0, 3_600.0, 7_200.0, 14_400.0]
            .into_iter()
            .find(|step| axis.end / step <= 12.0)
            .unwrap_or(14_400.0);
    let mut second = 0.0;
    while second <= axis.end {
        let x = axis.x(second);
        let _ = write!(
            out,
            r#"<line class="grid" x1="{x:.1}" y1="{bottom:.1}" x2="{x:.1}" y2="{:.1}"/><text class="tick" x="{x:.1}" y="{:.1}" text-anchor="middle">{}</text>"#,
            bottom + 4.0,
            bottom + 17.0,
            clock(second)
        );
        second += step;
    }
}

impl Curve {
    fn draw(&self, out: &mut String, axis: &Axis, scale: &Scale, top: f64) {
        let mut path = String::new();
        let mut pen_down = false;
        for (second, value) in &self.points {
            let Some(value) = value else {
                pen_down = false;
                continue;
            };
            let (x, y) = (axis.x(second + 0.5), scale.y(top, *value));
            // A point between gaps would draw nothing: a stroke of no length with round ends draws a dot.
            let _ = if pen_down { write!(path, "L{x:.1} {y:.1}") } else { write!(path, "M{x:.1} {y:.1}h0") };
            pen_down = true;
        }
        if !path.is_empty() {
            let _ = write!(out, r#"<path class="curve {}" d="{path}"/>"#, self.class);
        }
    }
}

/// Where a label stands.
#[derive(Debug, PartialEq)]
struct Label {
    at: f64,
    x: f64,
    row: usize,
    leftward: bool,
    text: String,
}

/// Puts labels into rows so that none covers another; one that fits nowhere is left to the list of events.
fn place(axis: &Axis, marks: &[Mark]) -> Vec<Label> {
    let mut taken: [Vec<(f64, f64)>; LABEL_ROWS_MAX] = Default::default();
    let mut labels = Vec::new();
    for mark in marks {
        let mut text: String = mark.label.chars().take(LABEL_LETTERS_MAX).collect();
        if text.len() < mark.label.len() {
            text.push('…');
        }
        let width = text.chars().count() as f64 * LETTER;
        let at = axis.x(mark.at);
        let leftward = at + 4.0 + width > WIDTH - 2.0;
        let x = if leftward { at - 4.0 } else { at + 4.0 };
        let (from, to) = if leftward { (x - width, at + 2.0) } else { (at - 2.0, x + width) };
        // A label's own line goes down through the rows below it.
        let free = |row: usize, taken: &[Vec<(f64, f64)>]| {
            taken[row].iter().all(|(a, b)| to < *a || from > *b)
                && (row..LABEL_ROWS_MAX)
                    .all(|below| taken[below].iter().all(|(a, b)| at + 2.0 < *a || at - 2.0 > *b))
        };
        if let Some(row) = (0..LABEL_ROWS_MAX).find(|row| free(*row, &taken)) {
            taken[row].push((from, to));
            (row + 1..LABEL_ROWS_MAX).for_each(|below| taken[below].push((at - 2.0, at + 2.0)));
            labels.push(Label { at: mark.at, x, row, leftward, text });
        }
    }
    labels
}

/// A tick's value, short.
fn number(value: f64) -> String {
    match value.abs() {
        size if size >= 1e6 => format!("{} M", trim(value / 1e6)),
        size if size >= 1e4 => format!("{} k", trim(value / 1e3)),
        _ => trim(value),
    }
}

fn trim(value: f64) -> String {
    let text = format!("{value:.3}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// Seconds, or minutes and seconds once they are many.
pub(super) fn clock(seconds: f64) -> String {
    let whole = seconds.round() as u64;
    match whole {
        0..120 => format!("{whole} s"),
        120..7_200 => format!("{}:{:02}", whole / 60, whole % 60),
        _ => format!("{}:{:02} h", whole / 3_600, whole / 60 % 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scales_hold_their_values() {
        for values in [vec![], vec![0.0], vec![0.3], vec![1.0, 7.0], vec![1999.0, 2001.0], vec![1e7]] {
            let scale = Scale::of(values.iter().copied(), false);
            assert!(values.iter().all(|value| *value <= scale.high), "{scale:?}");
            assert!((2..=9).contains(&scale.ticks.len()), "{scale:?}");
        }
        let scale = Scale::of([0.3, 250.0].into_iter(), true);
        assert_eq!((scale.low, scale.high, scale.ticks.len()), (-1.0, 3.0, 5));
        assert_eq!(Scale::of([].into_iter(), true).ticks.len(), 2);
        assert!((Scale::of([10.0].into_iter(), true).y(0.0, 10.0) - 116.0).abs() < 1e-9);
    }

    #[test]
    fn gaps_break_a_curve_and_a_lone_point_is_drawn() {
        let points = vec![(0.0, Some(1.0)), (1.0, Some(2.0)), (2.0, None), (3.0, Some(1.0))];
        let curve = Curve { name: "a", class: "c1", points };
        let plot = Plot { title: "t", unit: "u", logarithmic: false, curves: vec![curve] };
        let svg = plot.svg(&Axis { end: 4.0, warmup: 1.0 }, &[], true);
        let path = svg.split(" d=\"").nth(1).unwrap().split('"').next().unwrap();
        assert_eq!((path.matches('M').count(), path.matches('L').count()), (2, 1));
        assert!(svg.contains("class=\"warmup\""));
    }

    #[test]
    fn labels_do_not_cover_each_other() {
        let axis = Axis { end: 60.0, warmup: 0.0 };
        let marks: Vec<Mark> =
            (0..40).map(|n| Mark { at: f64::from(n) * 1.5, label: format!("member_dead n{n}") }).collect();
        let labels = place(&axis, &marks);
        assert!(labels.len() >= 20, "{}", labels.len());
        for (index, a) in labels.iter().enumerate() {
            for b in &labels[..index] {
                let span = |label: &Label| {
                    let width = label.text.len() as f64 * LETTER;
                    if label.leftward { (label.x - width, label.x) } else { (label.x, label.x + width) }
                };
                let ((a0, a1), (b0, b1)) = (span(a), span(b));
                assert!(a.row != b.row || a1 < b0 || b1 < a0, "{a:?} {b:?}");
            }
        }
        assert!(labels.iter().all(|label| label.x > 0.0 && label.x < WIDTH));
    }
}
