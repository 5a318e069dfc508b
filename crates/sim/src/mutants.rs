//! The rules of the protocol, each to be taken out, and how that is noticed.

use ringway_control::ownership::Mutant;

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
