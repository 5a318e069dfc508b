//! Files with problems, and word for word what is said about them.
//!
//! Each `tests/rejected/NAME.yaml` is loaded and what comes out compared with `NAME.expected`. After a change of
//! wording, `RINGWAY_REGENERATE=1 cargo test -p ringway-config --test messages` writes them anew, for review.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::path::{Path, PathBuf};

/// Files that are let through with warnings; all others are refused.
const WARNED: [&str; 6] = [
    "claimed-claims-beyond-gossip",
    "claimed-one-replica",
    "claimed-warnings",
    "warnings",
    "warnings-of-a-proxy",
    "seeds-elsewhere-and-gossip-on-loopback",
];

#[test]
fn every_message_is_as_expected() {
    let files = fixtures();
    assert!(files.len() > 30, "the fixtures are gone: {} left", files.len());
    let mut wrong = Vec::new();
    for file in files {
        let said = said_about(&file);
        let expected = file.with_extension("expected");
        if std::env::var_os("RINGWAY_REGENERATE").is_some() {
            fs::write(&expected, &said).unwrap();
        }
        if fs::read_to_string(&expected).unwrap_or_default() != said {
            wrong.push(format!("{}:\n{said}", expected.display()));
        }
    }
    assert!(wrong.is_empty(), "messages differ from what is expected:\n{}", wrong.join("\n"));
}

#[test]
fn every_problem_says_where_what_would_be_right_and_what_to_do() {
    for file in fixtures() {
        let list = match ringway_config::load(&file) {
            Ok(loaded) => loaded.warnings,
            Err(problems) => problems.list,
        };
        for problem in list {
            assert!(problem.accepted.is_some() && problem.remedy.is_some(), "{problem}");
            assert!(problem.at.line >= 1 && problem.at.column >= 1, "{problem}");
        }
    }
}

#[test]
fn a_file_that_is_no_file_is_one_problem() {
    let said = ringway_config::load("tests/rejected/no-such-file.yaml").unwrap_err().to_string();
    assert!(said.starts_with("tests/rejected/no-such-file.yaml:1:1: error: cannot be read:"), "{said}");

    let dir = tempfile::tempdir().unwrap();
    let binary = dir.path().join("binary.yaml");
    fs::write(&binary, b"cluster:\n  name: \xff\n").unwrap();
    let problems = ringway_config::load(&binary).unwrap_err();
    assert_eq!((problems.list[0].at.line, problems.list[0].at.column), (2, 9));

    let long = dir.path().join("long.yaml");
    fs::write(&long, vec![b'#'; ringway_config::FILE_BYTES_MAX + 1]).unwrap();
    assert!(ringway_config::load(&long).unwrap_err().to_string().contains("too long"));
}

#[test]
fn keys_reach_no_message() {
    let dir = tempfile::tempdir().unwrap();
    let secret = "00112233445566778899aabbccddeeff00112233445566778899aabbccddee";
    let keyring = dir.path().join("keyring");
    fs::write(&keyring, format!("{secret}\n")).unwrap();
    let text = format!(
        "cluster: {{ name: shop, replicas: 1, ownership: derived }}\nnode: {{ id: n1, data_dir: ./data }}\n\
         gossip: {{ keyring_file: {} }}\n",
        keyring.display()
    );
    let problems = ringway_config::load_str("f.yaml", &text).unwrap_err();
    let said = problems.to_string();
    assert!(said.contains("line 1 is not a 32-byte key"), "{said}");
    assert!(!said.contains(&secret[..16]), "{said}");
    assert!(!format!("{problems:?}").contains(&secret[..16]));
    let pasted = said_about(Path::new("tests/rejected/key-pasted-into-the-file.yaml"));
    assert!(!pasted.contains("0011") && !pasted.contains("q83v"), "{pasted}");
}

#[cfg(unix)]
#[test]
fn a_keyring_that_others_may_read_is_a_warning() {
    use std::os::unix::fs::PermissionsExt;

    let dir = tempfile::tempdir().unwrap();
    let keyring = dir.path().join("keyring");
    fs::write(&keyring, "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff\n").unwrap();
    let text = format!(
        "cluster: {{ name: shop, replicas: 1, ownership: derived }}\nnode: {{ id: n1, data_dir: ./data }}\n\
         gossip: {{ keyring_file: {} }}\n",
        keyring.display()
    );
    let warnings = |mode| {
        fs::set_permissions(&keyring, fs::Permissions::from_mode(mode)).unwrap();
        let loaded = ringway_config::load_str("f.yaml", &text).unwrap();
        loaded.warnings.iter().filter(|warning| warning.path == "gossip.keyring_file").count()
    };
    assert_eq!((warnings(0o644), warnings(0o600)), (1, 0));
}

fn fixtures() -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = fs::read_dir("tests/rejected")
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "yaml"))
        .collect();
    files.sort();
    files
}

fn said_about(file: &Path) -> String {
    let name = file.file_stem().and_then(|stem| stem.to_str()).unwrap();
    match ringway_config::load(file) {
        Err(problems) => {
            assert!(!WARNED.contains(&name), "{name} is refused:\n{problems}");
            format!("{problems}\n")
        }
        Ok(loaded) => {
            assert!(WARNED.contains(&name), "{name} is let through");
            loaded.warnings.iter().map(|warning| format!("{warning}\n")).collect()
        }
    }
}
