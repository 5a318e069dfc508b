//! Words and small tables for people.

use ringway_control::MemberKind;
use ringway_control::ownership::{MovePhase, Role};
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

/// Where a move stands.
pub(crate) fn move_phase(phase: MovePhase) -> &'static str {
    match phase {
        MovePhase::Preparing => "preparing",
        MovePhase::Copying => "copying",
        MovePhase::Fenced => "fenced",
        MovePhase::Proposed => "proposed",
        MovePhase::Committed => "committed",
        MovePhase::Aborted => "aborted",
    }
}

/// What a node is in a partition.
pub(crate) fn role(role: Role) -> &'static str {
    match role {
        Role::Primary => "primary",
        Role::TakingOffice => "taking_office",
        Role::Replica => "replica",
        Role::Sealed => "sealed",
        Role::Joiner => "joiner",
        Role::Former => "former",
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

/// A number of bytes for people: `1.5 MiB`.
pub(crate) fn bytes(count: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    let mut value = count as f64 / 1024.0;
    if count < 1024 {
        return format!("{count} B");
    }
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
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
    fn bytes_have_a_unit_that_fits() {
        for (count, shown) in [(0, "0 B"), (1_023, "1023 B"), (1_536, "1.5 KiB"), (3 << 30, "3.0 GiB")] {
            assert_eq!(bytes(count), shown);
        }
        assert!(bytes(u64::MAX).ends_with("PiB"));
    }

    #[test]
    fn tables_align_their_columns() {
        let rows = [["a".to_owned(), "1".to_owned()], ["long".to_owned(), String::new()]];
        assert_eq!(table(["id", "n"], &rows), "id    n\na     1\nlong\n");
    }
}
