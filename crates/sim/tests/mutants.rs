//! Every rule of the protocol that is taken out is noticed, and the schedule that notices it is clean with the rule in.
#![cfg(feature = "mutants")]

use ringway_control::ownership::Mutant;
use ringway_sim::mutants;

const JOBS: usize = 2;

#[test]
fn every_rule_that_is_taken_out_is_missed() {
    let missed: Vec<String> = Mutant::ALL
        .into_iter()
        .filter_map(|mutant| {
            let problem = mutants::hunt(mutant, JOBS).err()?;
            Some(format!("{}: {problem}", mutants::name(mutant)))
        })
        .collect();
    assert!(missed.is_empty(), "{}", missed.join("\n"));
}
