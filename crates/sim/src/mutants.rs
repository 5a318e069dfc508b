//! The rules of the protocol, each to be taken out, and how that is noticed.

use ringway_control::ownership::Mutant;

use crate::checkers::Violation;
use crate::directed;
use crate::explorer::{ExploreOptions, explore};
use crate::sweep::{guarded, sweep};

/// Seeds that a rule is looked for in, at most.
pub const SEEDS_MAX: u64 = 20_000;

/// How a rule taken out was noticed.
#[derive(Debug, Clone)]
pub struct Caught {
    /// By which schedule, in words.
    pub by: String,
    /// What was violated.
    pub violation: Violation,
}

/// Takes a rule out and looks for a violation: in the schedule written for it, else in random ones. The same schedule must
/// be clean with the rule in.
///
/// # Errors
/// It was not noticed, or the schedule violates something with the rule in as well; in words.
pub fn hunt(mutant: Mutant, jobs: usize) -> Result<Caught, String> {
    if let Some(directed) = directed::of(mutant) {
        if let Some(violation) = directed(None) {
            return Err(format!("its directed schedule fails with the rule in: {violation}"));
        }
        let outcome = guarded(0, &|_| directed_outcome(directed, mutant));
        let violation = outcome.violation.ok_or("its directed schedule is clean without the rule")?;
        return Ok(Caught { by: "its directed schedule".to_owned(), violation });
    }
    let run = |seed, mutant| {
        explore(ExploreOptions { seed, mutant, safety_only: true, ..ExploreOptions::default() })
    };
    let swept = sweep(0..SEEDS_MAX, jobs, true, |seed| run(seed, Some(mutant)));
    let (seed, violation) =
        swept.first.ok_or(format!("{SEEDS_MAX} random schedules are clean without the rule"))?;
    if let Some(violation) = guarded(seed, &|seed| run(seed, None)).violation {
        return Err(format!("seed {seed} fails with the rule in: {violation}"));
    }
    Ok(Caught { by: format!("seed {seed}, after {} random schedules", seed + 1), violation })
}

fn directed_outcome(directed: directed::Directed, mutant: Mutant) -> crate::explorer::Outcome {
    crate::explorer::Outcome {
        violation: directed(Some(mutant)),
        tally: crate::world::Tally::default(),
        lasted: std::time::Duration::ZERO,
        digest: None,
    }
}

/// `no-seal` for [`Mutant::NoSeal`].
#[must_use]
pub fn name(mutant: Mutant) -> String {
    let mut name = String::new();
    for letter in format!("{mutant:?}").chars() {
        if letter.is_ascii_uppercase() && !name.is_empty() {
            name.push('-');
        }
        name.push(letter.to_ascii_lowercase());
    }
    name
}

/// The mutant of a name.
#[must_use]
pub fn by_name(wanted: &str) -> Option<Mutant> {
    Mutant::ALL.into_iter().find(|mutant| name(*mutant) == wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_come_back() {
        assert_eq!(name(Mutant::NoEmptyEntry), "no-empty-entry");
        for mutant in Mutant::ALL {
            assert_eq!(by_name(&name(mutant)), Some(mutant));
        }
        assert_eq!(by_name("no-such"), None);
    }
}
