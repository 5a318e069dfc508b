//! The name somebody probably meant.

/// Longest name that is compared; edit distance is quadratic.
const NAME_CHARS_MAX: usize = 64;

/// The known name nearest to `name`, when it is near enough to be meant: a third of its letters differ at most,
/// or one is the beginning of the other.
pub(crate) fn nearest<'n>(name: &str, known: &[&'n str]) -> Option<&'n str> {
    if name.chars().nth(NAME_CHARS_MAX).is_some() {
        return None;
    }
    let plain = |text: &str| text.to_ascii_lowercase().replace('-', "_");
    let name = plain(name);
    let by_distance =
        known.iter().map(|known| (distance(&name, &plain(known)), *known)).min_by_key(|(d, _)| *d);
    let near =
        |(distance, known): &(usize, &str)| *distance <= known.chars().count().max(name.len()).div_ceil(3);
    let by_beginning = || {
        let mut starting = known.iter().filter(|known| name.len() >= 3 && known.starts_with(&name));
        starting.next().filter(|_| starting.next().is_none())
    };
    by_distance.filter(near).map(|(_, known)| known).or_else(|| by_beginning().copied())
}

/// Levenshtein distance in characters, one row at a time.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let substitute = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = substitute.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_names_are_suggested_and_far_ones_are_not() {
        let known = ["connect_timeout", "total_timeout", "retries", "idle_timeout"];
        assert_eq!(nearest("conect_timeout", &known), Some("connect_timeout"));
        assert_eq!(nearest("connect-timeout", &known), Some("connect_timeout"));
        assert_eq!(nearest("Retries", &known), Some("retries"));
        assert_eq!(nearest("retry", &known), Some("retries"));
        assert_eq!(nearest("connect", &known), Some("connect_timeout"));
        assert_eq!(nearest("compression", &known), None);
        assert_eq!(nearest(&"x".repeat(100_000), &known), None);
        assert_eq!(nearest("x", &[]), None);
    }

    #[test]
    fn distances() {
        for (a, b, expected) in [("", "", 0), ("a", "", 1), ("kitten", "sitting", 3), ("retry", "retries", 3)]
        {
            assert_eq!(distance(a, b), expected, "{a} {b}");
        }
    }
}
