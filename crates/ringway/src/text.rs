//! Words and small tables for people.

use ringway_control::MemberKind;
use ringway_gossip::State;
use ringway_topology::{Health, Phase};

/// A node's health in the design's words.
pub(crate) fn health(health: Health) -> &'static str {
    match health {
        Health::Alive => "alive",
        Health::Suspect => "suspect",
        Health::Dead => "dead",
        Health::Left => "left",
        Health::Unknown => "unknown",
    }
}

/// A node's phase.
pub(crate) fn phase(phase: Phase) -> &'static str {
    match phase {
        Phase::Active => "active",
        Phase::Leaving => "leaving",
    }
}

/// A member's state in the gossip group.
pub(crate) fn state(state: State) -> &'static str {
    match state {
        State::Alive => "alive",
        State::Suspect => "suspect",
        State::Dead => "dead",
        State::Left => "left",
    }
}

/// A member's kind, once its record is known.
pub(crate) fn kind(kind: Option<MemberKind>) -> &'static str {
    match kind {
        Some(MemberKind::Node) => "node",
        Some(MemberKind::Router) => "router",
        None => "unknown",
    }
}

/// Left-aligned columns, two spaces apart, no trailing space.
pub(crate) fn table<const N: usize>(header: [&str; N], rows: &[[String; N]]) -> String {
    let mut widths = header.map(|cell| cell.chars().count());
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let line = |cells: [&str; N]| {
        let padded: Vec<String> =
            cells.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        format!("{}\n", padded.join("  ").trim_end())
    };
    let mut out = line(header);
    for row in rows {
        out.push_str(&line(std::array::from_fn(|i| row[i].as_str())));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_align_their_columns() {
        let rows = [["a".to_owned(), "1".to_owned()], ["long".to_owned(), String::new()]];
        assert_eq!(table(["id", "n"], &rows), "id    n\na     1\nlong\n");
    }
}
