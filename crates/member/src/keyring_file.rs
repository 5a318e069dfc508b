//! The keyring file: the keys this member starts with, replaced when the cluster's keys change.
//!
//! Written whole to a temporary file beside it that nobody else may read, synced, and renamed over it: a crash leaves the
//! old or the new one, and perhaps the temporary one, which the next write of this member removes. A link stays a link. Several members of one machine may share a file; whoever finds a later version
//! there leaves it. A file that cannot be written is as good as written when it holds the keys already, put there by
//! whoever may.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ringway_gossip::KeyringFile;
use tokio::task::{JoinError, JoinSet};

use crate::record_file::ended;
use crate::stats::Counters;

/// Shortest time between a failed write and the next.
const RETRY_GAP: Duration = Duration::from_secs(10);
/// Who may read and write it: its owner.
const MODE: u32 = 0o600;

/// What became of a write.
pub(crate) type Written = (KeyringFile, Result<(), String>);

/// Replaces the file by one with these keys, durably.
///
/// # Errors
/// What the system says; the old file stands, and holds other keys.
fn keep(path: &Path, member: &str, wanted: &KeyringFile) -> io::Result<()> {
    // The target of a link is replaced, not the link.
    let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let there = fs::read_to_string(&path).ok().and_then(|text| KeyringFile::parse(&text).ok());
    if there.as_ref().is_some_and(|there| there == wanted || there.version > wanted.version) {
        return Ok(());
    }
    match replace(&path, member, wanted.text().as_bytes()) {
        Err(_) if there.is_some_and(|there| there.keyring == wanted.keyring) => Ok(()),
        outcome => outcome,
    }
}

fn replace(path: &Path, member: &str, text: &[u8]) -> io::Result<()> {
    // Members that share the file do not share this one.
    let mut beside = path.as_os_str().to_owned();
    beside.push(format!(".{member}.tmp"));
    let beside = PathBuf::from(beside);
    let replaced = create(&beside, text).and_then(|()| fs::rename(&beside, path));
    if replaced.is_err() {
        // No key stays behind; the error that is told is the first one.
        let _ = fs::remove_file(&beside);
    }
    replaced?;
    // The rename itself is durable once the directory is.
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    File::open(directory.unwrap_or(Path::new(".")))?.sync_all()
}

/// A new file: one that was left behind, or prepared with other permissions, is gone.
fn create(path: &Path, text: &[u8]) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(MODE).open(path)?;
    file.write_all(text)?;
    file.sync_all()
}

/// Puts keyrings into the file, off the driver's thread: the latest, until it is there.
#[derive(Debug)]
pub(crate) struct KeyringKeeper {
    path: Option<PathBuf>,
    /// This member's name.
    member: String,
    wanted: Option<KeyringFile>,
    not_before: Duration,
    /// At most one write at a time, and what it writes.
    writes: JoinSet<io::Result<()>>,
    writing: Option<KeyringFile>,
}

impl KeyringKeeper {
    pub(crate) fn new(path: Option<PathBuf>, member: String) -> Self {
        let writes = JoinSet::new();
        Self { path, member, wanted: None, not_before: Duration::ZERO, writes, writing: None }
    }

    /// This is the keyring now.
    pub(crate) fn want(&mut self, file: KeyringFile) {
        self.wanted = Some(file);
        self.not_before = Duration::ZERO;
    }

    /// When to call [`Self::start`].
    pub(crate) fn due(&self) -> Option<Duration> {
        (self.wanted.is_some() && self.writes.is_empty()).then_some(self.not_before)
    }

    /// Starts to write what is wanted.
    pub(crate) fn start(&mut self) {
        let Some(file) = self.wanted.take() else { return };
        self.writing = Some(file.clone());
        let member = self.member.clone();
        match self.path.clone() {
            Some(path) => self.writes.spawn_blocking(move || keep(&path, &member, &file)),
            None => self.writes.spawn(async { Err(io::Error::other("this member has no keyring file")) }),
        };
    }

    /// Waits for a write to end, for ever if there is none.
    pub(crate) async fn ended(&mut self) -> Result<io::Result<()>, JoinError> {
        ended(&mut self.writes).await
    }

    /// What a write came to. A failed one is repeated, unless there is a newer keyring, or no file to write to.
    pub(crate) fn end(
        &mut self,
        now: Duration,
        ended: Result<io::Result<()>, JoinError>,
        counters: &Counters,
    ) -> Option<Written> {
        let file = self.writing.take()?;
        let error = match ended {
            Ok(Ok(())) => {
                counters.keyring_file_writes.add_one();
                return Some((file, Ok(())));
            }
            Ok(Err(error)) => error.to_string(),
            Err(error) => error.to_string(),
        };
        counters.keyring_file_errors.add_one();
        if self.wanted.is_none() && self.path.is_some() {
            self.wanted = Some(file.clone());
            self.not_before = now + RETRY_GAP;
        }
        Some((file, Err(error)))
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use ringway_gossip::{Key, Keyring};

    use super::*;

    fn file(version: u64, keys: &[u8]) -> KeyringFile {
        let mut keyring = Keyring::none();
        keys.iter().for_each(|key| keyring.install(Key::new([*key; 32])).unwrap());
        KeyringFile { keyring, version }
    }

    fn read(path: &Path) -> KeyringFile {
        KeyringFile::parse(&fs::read_to_string(path).unwrap()).unwrap()
    }

    fn names(dir: &Path) -> Vec<String> {
        let names = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name());
        let mut names: Vec<String> = names.map(|name| name.into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn the_file_is_replaced_whole_and_only_its_owner_may_read_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("keyring");
        fs::write(&path, format!("{} # mine\n", "01".repeat(32))).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        // A crash in the middle of a write left this.
        fs::write(dir.path().join("keyring.n1.tmp"), "half a k").unwrap();
        for wanted in [file(1, &[1, 2]), file(2, &[2, 1]), file(3, &[2])] {
            keep(&path, "n1", &wanted).unwrap();
            assert_eq!(read(&path), wanted);
            assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
            assert_eq!(names(dir.path()), ["keyring"], "nothing stays behind");
        }
    }

    #[test]
    fn a_link_stays_one_and_a_later_version_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let (path, link) = (dir.path().join("target"), dir.path().join("keyring"));
        symlink("target", &link).unwrap();
        keep(&link, "n1", &file(2, &[2])).unwrap();
        // The link led nowhere, so it was replaced; from now on it leads to a file.
        fs::rename(&link, &path).unwrap();
        symlink("target", &link).unwrap();
        keep(&link, "n1", &file(3, &[3])).unwrap();
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(read(&path), file(3, &[3]));
        keep(&link, "n1", &file(2, &[2])).unwrap();
        assert_eq!(read(&path), file(3, &[3]), "another member of this machine knows better");
        keep(&link, "n1", &file(3, &[4])).unwrap();
        assert_eq!(read(&path), file(3, &[4]), "of two of one version the one that is told counts");
    }

    #[test]
    fn a_file_that_cannot_be_written_is_told_unless_it_holds_the_keys() {
        let dir = tempfile::tempdir().unwrap();
        let missing = dir.path().join("gone/keyring");
        assert_eq!(keep(&missing, "n1", &file(1, &[1])).unwrap_err().kind(), io::ErrorKind::NotFound);
        // Another file system may be full or read-only; here a directory stands where the file should be.
        let taken = dir.path().join("taken");
        fs::create_dir_all(taken.join("x")).unwrap();
        assert!(keep(&taken, "n1", &file(1, &[1])).is_err());
        assert_eq!(names(dir.path()), ["taken"], "no key stays behind");
    }

    #[tokio::test(start_paused = true)]
    async fn the_latest_keyring_is_written_and_a_failure_tried_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("later/keyring");
        let (mut keeper, counters) =
            (KeyringKeeper::new(Some(path.clone()), "n1".to_owned()), Counters::default());
        let now = Duration::from_secs(100);
        assert_eq!(keeper.due(), None);
        keeper.want(file(1, &[1]));
        keeper.start();
        let ended = keeper.ended().await;
        let (told, outcome) = keeper.end(now, ended, &counters).unwrap();
        assert_eq!((told, outcome.is_err()), (file(1, &[1]), true));
        assert_eq!(keeper.due(), Some(now + RETRY_GAP));
        fs::create_dir(dir.path().join("later")).unwrap();
        keeper.want(file(2, &[2]));
        assert_eq!(keeper.due(), Some(Duration::ZERO), "a newer one does not wait");
        keeper.start();
        let ended = keeper.ended().await;
        assert_eq!(keeper.end(now, ended, &counters), Some((file(2, &[2]), Ok(()))));
        assert_eq!((keeper.due(), read(&path)), (None, file(2, &[2])));
        let stats = counters.snapshot();
        assert_eq!((stats.keyring_file_writes, stats.keyring_file_errors), (1, 1));

        let mut nowhere = KeyringKeeper::new(None, "n1".to_owned());
        nowhere.want(file(1, &[1]));
        nowhere.start();
        let ended = nowhere.ended().await;
        assert!(nowhere.end(now, ended, &counters).unwrap().1.is_err());
        assert_eq!(nowhere.due(), None, "there is nothing to try again");
    }
}
