//! The demo's data: the chemical elements, under `element:<symbol>`.

/// Number, symbol and name of every element, tab-separated, one a line.
const ELEMENTS: &str = include_str!("elements.tsv");

/// `(key, JSON value)` of every element.
pub(super) fn entries() -> impl Iterator<Item = (String, String)> {
    ELEMENTS.lines().filter_map(|line| {
        let mut cells = line.split('\t');
        let (number, symbol, name) = (cells.next()?, cells.next()?, cells.next()?);
        let value = format!("{{\"number\":{number},\"symbol\":\"{symbol}\",\"name\":\"{name}\"}}\n");
        Some((format!("element:{symbol}"), value))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_are_118_elements_and_each_is_json() {
        let entries: Vec<_> = entries().collect();
        assert_eq!(entries.len(), 118);
        for (key, value) in entries {
            let json: serde_json::Value = serde_json::from_str(&value).unwrap();
            assert_eq!(key, format!("element:{}", json["symbol"].as_str().unwrap()));
        }
    }
}
