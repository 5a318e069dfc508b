//! Durations and sizes as people write them: a number and a unit, never a bare number.

use std::time::Duration;

/// Units of time, in nanoseconds; the largest first, so that writing picks the shortest form.
const TIME_UNITS: [(&str, u128); 6] = [
    ("h", 3_600_000_000_000),
    ("m", 60_000_000_000),
    ("s", 1_000_000_000),
    ("ms", 1_000_000),
    ("us", 1_000),
    ("ns", 1),
];

/// Units of size, in bytes; the largest first.
const SIZE_UNITS: [(&str, u64); 7] = [
    ("GiB", 1 << 30),
    ("GB", 1_000_000_000),
    ("MiB", 1 << 20),
    ("MB", 1_000_000),
    ("KiB", 1 << 10),
    ("KB", 1_000),
    ("B", 1),
];

/// Why a text is no duration or size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum UnitError {
    /// A number alone.
    NoUnit,
    /// A unit that does not exist; the one that was probably meant, if any.
    UnknownUnit(Option<&'static str>),
    /// No number in front.
    NoNumber,
    /// More than can be counted.
    TooLarge,
}

/// `500ms`, `10s`, `1m`, `2h`, `1.5s`.
pub(crate) fn parse_duration(text: &str) -> Result<Duration, UnitError> {
    let (number, unit) = split(text)?;
    let nanos = scale(number, unit_of(unit, &TIME_UNITS)?)?;
    u64::try_from(nanos).map(Duration::from_nanos).map_err(|_| UnitError::TooLarge)
}

/// `64KiB`, `16MB`, `100B`.
pub(crate) fn parse_size(text: &str) -> Result<u64, UnitError> {
    let (number, unit) = split(text)?;
    let units = SIZE_UNITS.map(|(name, bytes)| (name, u128::from(bytes)));
    let bytes = scale(number, unit_of(unit, &units)?)?;
    u64::try_from(bytes).map_err(|_| UnitError::TooLarge)
}

/// A number and its unit; spaces between them do not matter.
fn split(text: &str) -> Result<(&str, &str), UnitError> {
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.' && c != '_').unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    if !number.starts_with(|c: char| c.is_ascii_digit()) {
        return Err(UnitError::NoNumber);
    }
    match unit.trim() {
        "" => Err(UnitError::NoUnit),
        unit => Ok((number, unit)),
    }
}

fn unit_of(unit: &str, units: &[(&'static str, u128)]) -> Result<u128, UnitError> {
    if let Some((_, value)) = units.iter().find(|(name, _)| *name == unit) {
        return Ok(*value);
    }
    let near = |name: &str| name.eq_ignore_ascii_case(unit) || synonym(unit) == Some(name);
    Err(UnitError::UnknownUnit(units.iter().map(|(name, _)| *name).find(|name| near(name))))
}

/// What people write for a unit elsewhere.
fn synonym(unit: &str) -> Option<&'static str> {
    Some(match unit.to_ascii_lowercase().as_str() {
        "sec" | "secs" | "second" | "seconds" => "s",
        "min" | "mins" | "minute" | "minutes" => "m",
        "hr" | "hour" | "hours" => "h",
        "msec" | "millis" | "milliseconds" => "ms",
        "µs" | "usec" | "micros" => "us",
        "k" | "ki" => "KiB",
        "mi" => "MiB",
        "g" | "gi" => "GiB",
        "byte" | "bytes" => "B",
        _ => return None,
    })
}

/// A decimal number times a unit, exactly: `1.5` × 1,000 = 1,500. What is below one is cut.
fn scale(number: &str, unit: u128) -> Result<u128, UnitError> {
    let number = number.replace('_', "");
    let (whole, fraction) = number.split_once('.').unwrap_or((&number, "0"));
    if fraction.len() > 9 || whole.len() > 20 {
        return Err(UnitError::TooLarge);
    }
    let digits = |text: &str| text.parse::<u128>().map_err(|_| UnitError::NoNumber);
    let below = digits(fraction)? * unit / 10u128.pow(fraction.len() as u32);
    Ok(digits(whole)? * unit + below)
}

/// The shortest exact form: `1500ms`, `10s`, `2m`.
pub(crate) fn show_duration(duration: Duration) -> String {
    let nanos = duration.as_nanos();
    if nanos == 0 {
        return "0s".to_owned();
    }
    let exact = TIME_UNITS.iter().find(|(_, unit)| nanos.is_multiple_of(*unit));
    exact.map_or_else(String::new, |(name, unit)| format!("{}{name}", nanos / unit))
}

/// The shortest exact form: `64KiB`, `100B`.
pub(crate) fn show_size(bytes: u64) -> String {
    if bytes == 0 {
        return "0B".to_owned();
    }
    let binary = SIZE_UNITS.iter().filter(|(name, _)| name.ends_with("iB") || *name == "B");
    let exact = binary.clone().find(|(_, unit)| bytes.is_multiple_of(*unit));
    exact.map_or_else(String::new, |(name, unit)| format!("{}{name}", bytes / unit))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_carry_units() {
        for (text, expected) in [
            ("500ms", Duration::from_millis(500)),
            ("10s", Duration::from_secs(10)),
            ("1m", Duration::from_secs(60)),
            ("2 h", Duration::from_secs(7_200)),
            ("1.5s", Duration::from_millis(1_500)),
            ("0s", Duration::ZERO),
            ("250us", Duration::from_micros(250)),
        ] {
            assert_eq!(parse_duration(text), Ok(expected), "{text}");
        }
        assert_eq!(parse_duration("10"), Err(UnitError::NoUnit));
        assert_eq!(parse_duration("10 sec"), Err(UnitError::UnknownUnit(Some("s"))));
        assert_eq!(parse_duration("10 parsecs"), Err(UnitError::UnknownUnit(None)));
        assert_eq!(parse_duration("s"), Err(UnitError::NoNumber));
        assert_eq!(parse_duration("-1s"), Err(UnitError::NoNumber));
        assert_eq!(parse_duration("1.2.3s"), Err(UnitError::NoNumber));
        assert_eq!(parse_duration("99999999999999999999h"), Err(UnitError::TooLarge));
        assert_eq!(parse_duration("1.s"), Err(UnitError::NoNumber));
    }

    #[test]
    fn sizes_carry_units() {
        for (text, expected) in
            [("64KiB", 65_536), ("16MB", 16_000_000), ("1.5KiB", 1_536), ("100B", 100), ("1GiB", 1 << 30)]
        {
            assert_eq!(parse_size(text), Ok(expected), "{text}");
        }
        assert_eq!(parse_size("64"), Err(UnitError::NoUnit));
        assert_eq!(parse_size("64kib"), Err(UnitError::UnknownUnit(Some("KiB"))));
        assert_eq!(parse_size("99999999999GiB"), Err(UnitError::TooLarge));
    }

    #[test]
    fn what_is_shown_reads_back_the_same() {
        for millis in [0, 1, 500, 1_000, 1_500, 60_000, 90_000, 3_600_000] {
            let duration = Duration::from_millis(millis);
            assert_eq!(parse_duration(&show_duration(duration)), Ok(duration));
        }
        for bytes in [0, 1, 1_000, 1_024, 65_536, 65_024, 1 << 30, u64::MAX] {
            assert_eq!(parse_size(&show_size(bytes)), Ok(bytes));
        }
        assert_eq!(
            (show_duration(Duration::from_secs(120)).as_str(), show_size(1 << 16).as_str()),
            ("2m", "64KiB")
        );
    }
}
