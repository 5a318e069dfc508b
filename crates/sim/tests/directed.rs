//! The schedules written by hand, with all rules in: they are clean, whatever features the build has.

use ringway_control::ownership::Mutant;
use ringway_sim::{directed, mutants};

#[test]
fn directed_schedules_are_clean_with_all_rules_in() {
    let mut count = 0;
    for mutant in Mutant::ALL {
        if let Some(schedule) = directed::of(mutant) {
            count += 1;
            assert_eq!(schedule(None), None, "{}", mutants::name(mutant));
        }
    }
    assert!(count >= 10);
}
