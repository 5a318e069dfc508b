//! Who a data directory belongs to, and how often it was started.
//!
//! `identity.json` names the cluster, the node and the store; `lock` beside it is held while a process uses
//! the directory. The generation in it grows, durably, before the process sends its first packet: a member
//! that restarts is then never mistaken for its earlier life.
//!
//! It also keeps the nonces of the store's last starts, each on disk before it is told to anybody. The cluster
//! remembers the latest: a directory that does not hold it is an older copy (`ringway_control::FatalReason`). Only a
//! start that is told leaves a nonce behind, so that a process that is restarted over and over, and refused each time,
//! does not push out the one that is remembered.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::path::{Path, PathBuf};

use ringway_member::Nonce;
use ringway_topology::{ClusterName, ClusterUuid, NodeId, StoreId};
use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Names the owner of a data directory.
pub const IDENTITY_FILE: &str = "identity.json";
/// Held, by `flock`, while a process uses the directory. Its content, a process id, is for people.
pub const LOCK_FILE: &str = "lock";
/// Disk space a store may set aside. A start that meets a full disk takes it: reads are to go on.
pub const BALLAST_FILE: &str = "ballast";
/// Version of `identity.json`.
pub const IDENTITY_FORMAT: u32 = 2;
/// Most nonces kept; the oldest goes first. The cluster remembers one start of a store: the last one told, or one of
/// the few before it where gossip was cut short.
pub const STARTS_MAX: usize = 256;

/// The format before, without nonces. It is read, and written anew in the present one.
const FORMAT_WITHOUT_STARTS: u32 = 1;

/// Longest `identity.json` that is read, in bytes.
const IDENTITY_BYTES_MAX: u64 = 64 * 1024;
/// Largest generation a start may have. Gossip takes no larger one off the wire (its `LIFE_MAX`): every other
/// member would drop whatever this one says. A directory started each second gets there in 278,000 years.
const GENERATION_MAX: u64 = 1 << 43;
/// What may lie in a directory that has no identity yet: nothing anybody would miss.
const HARMLESS: [&str; 3] = [LOCK_FILE, "lost+found", "identity.json.tmp"];

/// A claimed data directory: locked for as long as this lives, its start counted.
#[derive(Debug)]
pub struct Identity {
    record: IdentityRecord,
    lock: DirectoryLock,
}

/// `identity.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct IdentityRecord {
    format: u32,
    cluster: String,
    cluster_uuid: Option<String>,
    node: String,
    store: String,
    generation: u64,
    /// Nonces, newest last.
    #[serde(default)]
    starts: Vec<String>,
}

/// Why a data directory was refused. Nothing in it was changed.
#[derive(Debug, Error)]
pub enum IdentityError {
    /// Another process uses the directory.
    #[error(
        "{}: the data directory is in use by {holder}. Nothing was changed. Stop that process, or give this \
         node a directory of its own",
        .path.display()
    )]
    Locked {
        /// The lock file.
        path: PathBuf,
        /// `process 4711`, or `another process`.
        holder: String,
    },
    /// The directory belongs to another node or another cluster.
    #[error(
        "{}: this directory belongs to {field} `{found}`, and this process is {field} `{expected}`. Nothing \
         was changed. Point data_dir at this node's own directory, or correct {setting} in the configuration",
        .path.display()
    )]
    Foreign {
        /// The identity file.
        path: PathBuf,
        /// `node` or `cluster`.
        field: &'static str,
        /// The setting that names it.
        setting: &'static str,
        /// What the file says.
        found: String,
        /// What the configuration says.
        expected: String,
    },
    /// The identity was written by another version.
    #[error(
        "{}: the identity has format {found}, and this program reads format {IDENTITY_FORMAT}. Nothing was \
         changed. Use the version that wrote it",
        .path.display()
    )]
    Format {
        /// The identity file.
        path: PathBuf,
        /// The format found.
        found: String,
    },
    /// The identity is damaged.
    #[error(
        "{}: the identity is corrupt: {why}. Nothing was changed. Restore the file from a backup, or move the \
         whole directory away and start this node as a new one",
        .path.display()
    )]
    Corrupt {
        /// The identity file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// There is data, and nothing says whose.
    #[error(
        "{}: the identity is missing although the directory holds `{beside}`. Nothing was changed. Restore \
         {IDENTITY_FILE} from a backup, or point data_dir at an empty directory",
        .path.display()
    )]
    Missing {
        /// The identity file.
        path: PathBuf,
        /// The first other file, by name.
        beside: String,
    },
    /// A file or directory could not be read or written.
    #[error("{}: {source}", .path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl Identity {
    /// Locks and claims `data_dir` for `node` of `cluster`, creating it when it is not there, and counts the start.
    ///
    /// When this returns, the new generation is on disk.
    ///
    /// # Errors
    /// The directory is in use, is another node's or cluster's, or is damaged; nothing was changed.
    pub fn open(data_dir: &Path, cluster: &ClusterName, node: &NodeId) -> Result<Self, IdentityError> {
        create_directory(data_dir)?;
        let lock = DirectoryLock::take(data_dir)?;
        let path = data_dir.join(IDENTITY_FILE);
        let mut record = match read(&path)? {
            Some(record) => {
                record.check_belongs(&path, cluster, node)?;
                record
            }
            None => {
                check_empty(data_dir, &path)?;
                IdentityRecord::new(cluster, node)?
            }
        };
        record.format = IDENTITY_FORMAT;
        record.generation += 1;
        let written = on_ballast_if_full(data_dir, || record.write(data_dir));
        written.map_err(|source| IdentityError::Io { path, source })?;
        Ok(Self { record, lock })
    }

    /// The directory.
    #[must_use]
    pub fn data_dir(&self) -> &Path {
        &self.lock.dir
    }

    /// The store's id, born with the directory.
    #[must_use]
    pub fn store(&self) -> StoreId {
        // Checked when the record was read.
        self.record.store.parse().unwrap_or(StoreId(0))
    }

    /// How often this directory was started, this time included. From 1.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.record.generation
    }

    /// The formed cluster; `None` until ownership is claimed.
    #[must_use]
    pub fn cluster_uuid(&self) -> Option<ClusterUuid> {
        self.record.cluster_uuid.as_deref().and_then(|uuid| uuid.parse().ok())
    }

    /// Keeps the cluster that this directory belongs to from now on. Does nothing when it is known already.
    ///
    /// # Errors
    /// The directory belongs to another cluster of the same name, or the identity cannot be written; it is as before.
    pub fn belong_to(&mut self, cluster: ClusterUuid) -> Result<(), IdentityError> {
        match self.cluster_uuid() {
            Some(known) if known == cluster => return Ok(()),
            Some(known) => {
                return Err(IdentityError::Foreign {
                    path: self.data_dir().join(IDENTITY_FILE),
                    field: "cluster",
                    setting: "gossip.seeds",
                    found: known.to_string(),
                    expected: cluster.to_string(),
                });
            }
            None => {}
        }
        self.replace(IdentityRecord { cluster_uuid: Some(cluster.to_string()), ..self.record.clone() })
    }

    /// The nonces of the starts that this directory knows of, newest last.
    #[must_use]
    pub fn starts(&self) -> Vec<Nonce> {
        // Checked when the record was read.
        self.record.starts.iter().filter_map(|nonce| nonce.parse().ok()).collect()
    }

    /// Gives this start a nonce, which is on disk when this returns: from then on the cluster may be told.
    ///
    /// # Errors
    /// There is no randomness, or the identity cannot be written; it is as before.
    pub fn mark_start(&mut self) -> Result<Nonce, IdentityError> {
        let nonce = Nonce(random_bits()?);
        let mut record = self.record.clone();
        record.starts.push(nonce.to_string());
        let surplus = record.starts.len().saturating_sub(STARTS_MAX);
        record.starts.drain(..surplus);
        self.replace(record)?;
        Ok(nonce)
    }

    fn replace(&mut self, record: IdentityRecord) -> Result<(), IdentityError> {
        let written = on_ballast_if_full(self.data_dir(), || record.write(self.data_dir()));
        let path = self.data_dir().join(IDENTITY_FILE);
        written.map_err(|source| IdentityError::Io { path, source })?;
        self.record = record;
        Ok(())
    }
}

/// The lock of a data directory, released when this is dropped or the process ends.
#[derive(Debug)]
pub struct DirectoryLock {
    dir: PathBuf,
    _file: File,
}

impl DirectoryLock {
    /// Locks a directory that exists, without changing anything else in it.
    ///
    /// # Errors
    /// Another process has it, or the lock file cannot be opened.
    pub fn take(dir: &Path) -> Result<Self, IdentityError> {
        let path = dir.join(LOCK_FILE);
        let io = |source| IdentityError::Io { path: path.clone(), source };
        let mut file =
            OpenOptions::new().create(true).truncate(false).read(true).write(true).open(&path).map_err(io)?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => {
                return Err(IdentityError::Locked { holder: holder(&mut file), path });
            }
            Err(error) => return Err(io(error.into())),
        }
        // Best effort: the lock is what counts, and a full disk must not keep a node from starting.
        let noted = file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id()));
        if let Err(error) = noted {
            tracing::debug!(path = %path.display(), %error, "the process id was not noted in the lock file");
        }
        Ok(Self { dir: dir.to_owned(), _file: file })
    }

    /// The directory.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }
}

fn holder(file: &mut File) -> String {
    let mut text = String::new();
    let read = file.rewind().and_then(|()| file.take(20).read_to_string(&mut text));
    match (read, text.trim().parse::<u32>()) {
        (Ok(_), Ok(process)) => format!("process {process}"),
        _ => "another process".to_owned(),
    }
}

/// The store and node a directory belongs to, for reading a stopped node's data.
///
/// # Errors
/// As [`Identity::open`]; a directory without an identity is [`IdentityError::Corrupt`].
pub fn read_owner(dir: &Path) -> Result<(NodeId, StoreId), IdentityError> {
    let path = dir.join(IDENTITY_FILE);
    let Some(record) = read(&path)? else {
        return Err(IdentityError::Corrupt {
            path,
            why: "there is none, so this is no data directory".to_owned(),
        });
    };
    match (record.node.parse(), record.store.parse()) {
        (Ok(node), Ok(store)) => Ok((node, store)),
        _ => Err(IdentityError::Corrupt { path, why: "its ids are malformed".to_owned() }),
    }
}

fn create_directory(dir: &Path) -> Result<(), IdentityError> {
    if dir.is_dir() {
        return Ok(());
    }
    let io = |source| IdentityError::Io { path: dir.to_owned(), source };
    // Every directory made here is an entry of its parent that a crash must not lose.
    let made: Vec<&Path> =
        dir.ancestors().take_while(|dir| !dir.as_os_str().is_empty() && !dir.exists()).collect();
    fs::create_dir_all(dir).map_err(io)?;
    for made in made {
        let parent = made.parent().filter(|parent| !parent.as_os_str().is_empty());
        sync_directory(parent.unwrap_or(Path::new("."))).map_err(io)?;
    }
    Ok(())
}

/// `None` when there is no identity file.
fn read(path: &Path) -> Result<Option<IdentityRecord>, IdentityError> {
    let io = |source| IdentityError::Io { path: path.to_owned(), source };
    let corrupt = |why: String| IdentityError::Corrupt { path: path.to_owned(), why };
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(io(error)),
    };
    let mut bytes = Vec::new();
    file.take(IDENTITY_BYTES_MAX).read_to_end(&mut bytes).map_err(io)?;
    if bytes.is_empty() {
        return Err(corrupt("it is empty".to_owned()));
    }
    let value: serde_json::Value = serde_json::from_slice(&bytes).map_err(|e| corrupt(e.to_string()))?;
    match value.get("format") {
        Some(format) if *format == IDENTITY_FORMAT || *format == FORMAT_WITHOUT_STARTS => {}
        Some(format) => {
            return Err(IdentityError::Format { path: path.to_owned(), found: format.to_string() });
        }
        None => return Err(corrupt("it names no format".to_owned())),
    }
    let record: IdentityRecord = serde_json::from_value(value).map_err(|e| corrupt(e.to_string()))?;
    record.check_well_formed().map_err(|why| corrupt(why.to_owned()))?;
    Ok(Some(record))
}

/// A directory without an identity must hold nothing else: it is nobody's then.
fn check_empty(dir: &Path, identity: &Path) -> Result<(), IdentityError> {
    let io = |source| IdentityError::Io { path: dir.to_owned(), source };
    let mut names = Vec::new();
    for entry in fs::read_dir(dir).map_err(io)? {
        names.push(entry.map_err(io)?.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    match names.into_iter().find(|name| !HARMLESS.contains(&name.as_str())) {
        Some(beside) => Err(IdentityError::Missing { path: identity.to_owned(), beside }),
        None => Ok(()),
    }
}

impl IdentityRecord {
    fn new(cluster: &ClusterName, node: &NodeId) -> Result<Self, IdentityError> {
        Ok(Self {
            format: IDENTITY_FORMAT,
            cluster: cluster.to_string(),
            cluster_uuid: None,
            node: node.to_string(),
            store: StoreId(random_bits()?).to_string(),
            generation: 0,
            starts: Vec::new(),
        })
    }

    fn check_well_formed(&self) -> Result<(), &'static str> {
        if self.store.parse::<StoreId>().is_err() {
            return Err("`store` is not 32 lower-case hex digits");
        }
        if self.cluster_uuid.as_deref().is_some_and(|uuid| uuid.parse::<ClusterUuid>().is_err()) {
            return Err("`cluster_uuid` is neither null nor 32 lower-case hex digits");
        }
        if self.starts.len() > STARTS_MAX || self.starts.iter().any(|nonce| nonce.parse::<Nonce>().is_err()) {
            return Err("`starts` is not a list of at most 256 times 32 lower-case hex digits");
        }
        if self.generation >= GENERATION_MAX {
            return Err("`generation` cannot grow any more");
        }
        Ok(())
    }

    fn check_belongs(&self, path: &Path, cluster: &ClusterName, node: &NodeId) -> Result<(), IdentityError> {
        let foreign = |field, setting, found: &str, expected: &str| IdentityError::Foreign {
            path: path.to_owned(),
            field,
            setting,
            found: found.to_owned(),
            expected: expected.to_owned(),
        };
        if self.cluster != cluster.as_str() {
            return Err(foreign("cluster", "cluster.name", &self.cluster, cluster.as_str()));
        }
        if self.node != node.as_str() {
            return Err(foreign("node", "node.id", &self.node, node.as_str()));
        }
        Ok(())
    }

    fn write(&self, dir: &Path) -> io::Result<()> {
        let mut text = serde_json::to_string_pretty(self).map_err(io::Error::other)?;
        text.push('\n');
        write_durably(dir, IDENTITY_FILE, text.as_bytes())
    }
}

fn random_bits() -> Result<u128, IdentityError> {
    let mut bits = [0; 16];
    getrandom::fill(&mut bits).map_err(|error| IdentityError::Io {
        path: PathBuf::from("getrandom"),
        source: io::Error::other(error.to_string()),
    })?;
    Ok(u128::from_be_bytes(bits))
}

/// Runs `write`, and once more after emptying the ballast should the disk be full.
fn on_ballast_if_full(dir: &Path, write: impl Fn() -> io::Result<()>) -> io::Result<()> {
    let full = match write() {
        Err(error) if matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) => {
            error
        }
        other => return other,
    };
    let path = dir.join(BALLAST_FILE);
    match OpenOptions::new().write(true).open(&path).and_then(|ballast| ballast.set_len(0)) {
        Ok(()) => {
            tracing::error!(path = %path.display(), "the disk is full: the space set aside is given up to start");
            write()
        }
        Err(_) => Err(full),
    }
}

/// Writes a small file so that after a crash it is there whole, old or new: written aside, synced, renamed over
/// the old one, and the directory synced.
///
/// # Errors
/// Any of these steps failed; the old file is still there.
pub fn write_durably(dir: &Path, name: &str, bytes: &[u8]) -> io::Result<()> {
    let aside = dir.join(format!("{name}.tmp"));
    let mut file = File::create(&aside)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&aside, dir.join(name))?;
    sync_directory(dir)
}

fn sync_directory(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

#[cfg(test)]
mod tests;
