//! Processes that end with the value that stands for them, and what the system knows of what they used.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::run;

/// How long a process may take to end by itself.
const STOP_PATIENCE: Duration = Duration::from_secs(5);
/// The same for one under valgrind, which writes what it counted.
pub(super) const SLOW_STOP_PATIENCE: Duration = Duration::from_secs(60);
/// Between two looks at something that is awaited.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// Open files that every process may have: enough for what is measured, little enough that no one's tables by number of
/// file grow for nothing.
const FILES_MAX: u64 = 32_768;
/// Lines of a log that an error shows.
const LOG_LINES: usize = 20;
/// The system's clock ticks per second, in which it counts processor time; fixed on Linux.
const TICKS_PER_SECOND: f64 = 100.0;

#[expect(clippy::disallowed_methods, reason = "bounds a wait for real processes")]
pub(super) fn now() -> Instant {
    Instant::now()
}

#[expect(clippy::disallowed_methods, reason = "waits for real processes")]
pub(super) fn sleep(time: Duration) {
    std::thread::sleep(time);
}

/// Where the processes of a run live.
pub(super) struct Machine {
    /// The core that is the peers' own.
    pub(super) peer_core: usize,
    /// The core of loader and backends.
    pub(super) load_core: usize,
    /// Open files a process may have.
    pub(super) files: u64,
    /// Configurations and logs.
    pub(super) dir: PathBuf,
}

impl Machine {
    /// The first two cores that this process may use.
    ///
    /// # Errors
    /// There is one only: what is measured would take turns with what measures.
    pub(super) fn find(dir: &Path) -> Result<Self> {
        let status = fs::read_to_string("/proc/self/status")?;
        let list =
            status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:")).unwrap_or_default();
        let [peer_core, load_core] = cores(list)[..] else {
            bail!(
                "this needs two processor cores, one for the proxy and one for the load; there are: {}",
                list.trim()
            );
        };
        let limits = fs::read_to_string("/proc/self/limits")?;
        let files =
            hard_file_limit(&limits).context("/proc/self/limits does not say how many files may be open")?;
        Ok(Self { peer_core, load_core, files: files.min(FILES_MAX), dir: dir.to_owned() })
    }

    /// A command that runs on one core and ends with this process, however this process ends.
    pub(super) fn pinned(&self, core: usize, words: &[String]) -> Command {
        let files = format!("--nofile={0}:{0}", self.files);
        let core = core.to_string();
        let fixed = ["--pdeathsig", "TERM", "prlimit", &files, "taskset", "--cpu-list", &core];
        let mut command = run::command("setpriv", &fixed);
        command.args(words).current_dir(&self.dir);
        command
    }
}

/// The first two of a list like `0-3,8`.
fn cores(list: &str) -> Vec<usize> {
    let range = |part: &str| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        Some(first.trim().parse::<usize>().ok()?..=last.trim().parse().ok()?)
    };
    list.trim().split(',').filter_map(range).flatten().take(2).collect()
}

fn hard_file_limit(limits: &str) -> Option<u64> {
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    let hard = line.split_whitespace().nth(1)?;
    if hard == "unlimited" { Some(u64::MAX) } else { hard.parse().ok() }
}

/// A process, and those it starts. All of them end with it.
pub(super) struct Running {
    name: String,
    child: Child,
    log: PathBuf,
    patience: Duration,
}

impl Running {
    /// Starts it; what it says goes to `NAME.log` in the machine's folder.
    ///
    /// # Errors
    /// It cannot be started.
    pub(super) fn start(machine: &Machine, name: &str, mut command: Command) -> Result<Self> {
        let log = machine.dir.join(format!("{name}.log"));
        let file = File::create(&log).with_context(|| log.display().to_string())?;
        command.stdout(file.try_clone()?).stderr(file);
        let child = command.spawn().with_context(|| format!("cannot start {name}"))?;
        Ok(Self { name: name.to_owned(), child, log, patience: STOP_PATIENCE })
    }

    /// Gives it more time to end by itself.
    pub(super) fn with_patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// Waits until `look` gives a value.
    ///
    /// # Errors
    /// The process ended, or it takes too long; the error shows its log.
    pub(super) fn wait_for<T>(
        &mut self,
        what: &str,
        patience: Duration,
        mut look: impl FnMut() -> Option<T>,
    ) -> Result<T> {
        let deadline = now() + patience;
        loop {
            if let Some(found) = look() {
                return Ok(found);
            }
            if let Some(status) = self.child.try_wait()? {
                bail!("{} ended with {status}:\n{}", self.name, self.log_tail());
            }
            if now() > deadline {
                bail!("{}: {what}: not within {patience:?}:\n{}", self.name, self.log_tail());
            }
            sleep(LOOK_EVERY);
        }
    }

    /// The end of its log.
    pub(super) fn log_tail(&self) -> String {
        let text = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(LOG_LINES)..].join("\n")
    }

    /// The process and all it started, directly and not.
    pub(super) fn pids(&self) -> BTreeSet<u32> {
        Self::tree(self.child.id())
    }

    /// Those of them that started nobody.
    pub(super) fn leaves(&self) -> BTreeSet<u32> {
        self.pids().into_iter().filter(|pid| Self::tree(*pid).len() == 1).collect()
    }

    fn tree(root: u32) -> BTreeSet<u32> {
        let mut pids = BTreeSet::from([root]);
        let mut new = vec![root];
        while let Some(pid) = new.pop() {
            let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
            for task in tasks {
                let children = fs::read_to_string(task.path().join("children")).unwrap_or_default();
                new.extend(
                    children
                        .split_whitespace()
                        .filter_map(|pid| pid.parse().ok())
                        .filter(|pid| pids.insert(*pid)),
                );
            }
        }
        pids
    }

    /// What its threads have used so far.
    pub(super) fn usage(&self) -> Usage {
        Usage::of(&self.pids())
    }

    /// Memory in KiB that it has resident; what processes share counts for each.
    pub(super) fn resident_kib(&self) -> u64 {
        let of = |pid: &u32| resident(&fs::read_to_string(format!("/proc/{pid}/status")).ok()?);
        self.pids().iter().filter_map(of).sum()
    }

    /// Waits until it ends by itself.
    ///
    /// # Errors
    /// It ends badly; the error shows its log.
    pub(super) fn wait_for_end(mut self) -> Result<()> {
        let status = self.child.wait()?;
        if !status.success() {
            bail!("{} ended with {status}:\n{}", self.name, self.log_tail());
        }
        Ok(())
    }

    /// Asks it to end, waits, and says no to what would not.
    fn stop(&mut self) {
        let pids = self.pids();
        if !matches!(self.child.try_wait(), Ok(None)) {
            return;
        }
        signal("TERM", [self.child.id()]);
        let deadline = now() + self.patience;
        while now() < deadline {
            if !matches!(self.child.try_wait(), Ok(None)) {
                break;
            }
            sleep(LOOK_EVERY);
        }
        if matches!(self.child.try_wait(), Ok(None)) {
            signal("KILL", pids);
            let _ = self.child.wait();
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop();
    }
}

/// The shell's own `kill`, as not every system has the program.
pub(super) fn signal(name: &str, pids: impl IntoIterator<Item = u32>) {
    let line = pids.into_iter().fold(format!("kill -{name}"), |line, pid| format!("{line} {pid}"));
    // One that is gone already is what was wanted.
    let _ = run::succeeds("sh", &["-c", &line]);
}

fn resident(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().strip_suffix("kB")?.trim().parse().ok()
}

/// Processor time of the threads of a process, since they began.
#[derive(Debug, Clone, Default)]
pub(super) struct Usage(BTreeMap<(u32, u32), Thread>);

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Thread {
    /// Nanoseconds on a core, from the scheduler; 0 where it does not count them.
    nanos: u64,
    /// The system's division into user and system, in ticks.
    user: u64,
    system: u64,
}

impl Usage {
    fn of(pids: &BTreeSet<u32>) -> Self {
        let mut threads = BTreeMap::new();
        for pid in pids {
            for task in fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten() {
                let read = |name| fs::read_to_string(task.path().join(name)).unwrap_or_default();
                let Some(id) = task.file_name().to_str().and_then(|id| id.parse().ok()) else { continue };
                threads.extend(thread(&read("stat"), &read("schedstat")).map(|thread| ((*pid, id), thread)));
            }
        }
        Self(threads)
    }

    /// Seconds of user and of system time since `earlier`.
    ///
    /// The sum is the scheduler's, which is exact; how it divides is the system's statistics.
    pub(super) fn since(&self, earlier: &Self) -> (f64, f64) {
        let (mut nanos, mut user, mut system) = (0, 0, 0);
        for (id, thread) in &self.0 {
            let before = earlier.0.get(id).copied().unwrap_or_default();
            nanos += thread.nanos.saturating_sub(before.nanos);
            user += thread.user.saturating_sub(before.user);
            system += thread.system.saturating_sub(before.system);
        }
        let ticks = (user + system) as f64;
        let total = if nanos > 0 { nanos as f64 / 1e9 } else { ticks / TICKS_PER_SECOND };
        let share = if ticks > 0.0 { user as f64 / ticks } else { 0.0 };
        (total * share, total * (1.0 - share))
    }
}

/// Reads a thread's `stat` and `schedstat`.
fn thread(stat: &str, schedstat: &str) -> Option<Thread> {
    // The name, in parentheses, may hold spaces and parentheses; the fields behind it are the third and on.
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_whitespace().skip(11);
    let user = fields.next()?.parse().ok()?;
    let system = fields.next()?.parse().ok()?;
    let nanos = schedstat.split_whitespace().next().and_then(|nanos| nanos.parse().ok()).unwrap_or(0);
    Some(Thread { nanos, user, system })
}

/// A process that is talked with by lines.
pub(super) struct Talking {
    name: String,
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: BufReader<ChildStdout>,
    log: PathBuf,
}

impl Talking {
    /// Starts it on the core of the load; what it complains about goes to `NAME.log`.
    ///
    /// # Errors
    /// It cannot be started.
    pub(super) fn start(machine: &Machine, name: &str, words: &[String]) -> Result<Self> {
        Self::start_on(machine.load_core, machine, name, words)
    }

    /// [`Self::start`] on this core.
    pub(super) fn start_on(core: usize, machine: &Machine, name: &str, words: &[String]) -> Result<Self> {
        let log = machine.dir.join(format!("{name}.log"));
        let file = File::create(&log).with_context(|| log.display().to_string())?;
        let mut command = machine.pinned(core, words);
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(file)
            .spawn()
            .with_context(|| format!("cannot start {name}"))?;
        let stdin = child.stdin.take();
        let stdout = BufReader::new(child.stdout.take().context("stdout was piped")?);
        Ok(Self { name: name.to_owned(), child, stdin, stdout, log })
    }

    /// The next line, which begins with `word`; what stands behind it.
    ///
    /// # Errors
    /// It says something else, or ends; the error shows why.
    pub(super) fn hear(&mut self, word: &str) -> Result<String> {
        let mut line = String::new();
        self.stdout.read_line(&mut line)?;
        let Some(rest) = line.trim_end().strip_prefix(word) else {
            // It is about to end; what it complained about is the reason.
            let _ = self.child.wait();
            let complaint = fs::read_to_string(&self.log).unwrap_or_default();
            bail!("{}: no `{word}` but {:?}: {}", self.name, line.trim_end(), complaint.trim_end());
        };
        Ok(rest.trim().to_owned())
    }

    /// Lets it go on.
    ///
    /// # Errors
    /// It has ended.
    pub(super) fn go(&mut self) -> Result<()> {
        let stdin = self.stdin.as_mut().context("its stdin was piped")?;
        stdin.write_all(b"go\n").with_context(|| format!("{} has ended", self.name))
    }
}

impl Drop for Talking {
    fn drop(&mut self) {
        // The end of its stdin is how it learns that it may close its connections and go.
        self.stdin = None;
        let deadline = now() + STOP_PATIENCE;
        while now() < deadline && matches!(self.child.try_wait(), Ok(None)) {
            sleep(LOOK_EVERY);
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cores_are_read_from_a_list_of_ranges() {
        assert_eq!(cores("\t0-7\n"), [0, 1]);
        assert_eq!(cores("3,9-11"), [3, 9]);
        assert_eq!(cores("5"), [5]);
    }

    #[test]
    fn limits_are_read() {
        let limits = "Limit  Soft Limit  Hard Limit  Units\nMax open files            1024                 20000                files\n";
        assert_eq!(hard_file_limit(limits), Some(20_000));
        assert_eq!(hard_file_limit(&limits.replace("20000", "unlimited")), Some(u64::MAX));
        assert_eq!(hard_file_limit("nothing of the kind"), None);
    }

    #[test]
    fn resident_memory_is_read() {
        assert_eq!(resident("Name:\tx\nVmRSS:\t    5212 kB\n"), Some(5_212));
        assert_eq!(resident("Name:\tx\n"), None);
    }

    const STAT: &str = "42 (a name) with)) S 1 42 42 0 -1 4194560 1 2 3 4 1050 3120 0 0 20 0 1 0 100 1000 10";

    #[test]
    fn times_of_a_thread_are_read_whatever_its_name() {
        assert_eq!(
            thread(STAT, "41700000000 5 9\n"),
            Some(Thread { nanos: 41_700_000_000, user: 1_050, system: 3_120 })
        );
        assert_eq!(thread("42 (short) S 1", ""), None);
    }

    #[test]
    fn time_since_is_the_schedulers_sum_divided_as_the_system_says() {
        let usage = |threads: &[(u32, u64, u64, u64)]| {
            let thread =
                |&(id, nanos, user, system): &(u32, u64, u64, u64)| ((1, id), Thread { nanos, user, system });
            Usage(threads.iter().map(thread).collect())
        };
        let before = usage(&[(1, 1_000_000_000, 50, 50), (2, 7, 7, 7)]);
        // Thread 2 is gone, thread 3 is new.
        let after = usage(&[(1, 2_000_000_000, 100, 200), (3, 1_000_000_000, 0, 200)]);
        let (user, system) = after.since(&before);
        assert!((user - 0.25).abs() < 1e-9 && (system - 1.75).abs() < 1e-9, "{user} {system}");
        // Without the scheduler's figures, the ticks are all there is.
        let (user, system) = usage(&[(1, 0, 100, 200)]).since(&usage(&[(1, 0, 50, 50)]));
        assert!((user - 0.5).abs() < 1e-9 && (system - 1.5).abs() < 1e-9, "{user} {system}");
    }

    #[test]
    fn a_process_ends_with_its_value_and_takes_its_children_along() {
        let machine = Machine { peer_core: 0, load_core: 0, files: 64, dir: std::env::temp_dir() };
        let mut command = Command::new("sh");
        // Neither of them ends because it is asked to.
        command.args(["-c", "trap '' TERM; sh -c \"trap '' TERM; sleep 600; true\"; true"]);
        let name = format!("xtask-running-{}", std::process::id());
        let mut running = Running::start(&machine, &name, command).unwrap().with_patience(Duration::ZERO);
        let (id, log) = (running.child.id(), running.log.clone());
        let tree = || {
            let pids = Running::tree(id);
            (pids.len() == 3).then_some(pids)
        };
        let pids = running.wait_for("its children", Duration::from_secs(60), tree).unwrap();
        drop(running);
        std::fs::remove_file(log).unwrap();
        let deadline = now() + Duration::from_secs(60);
        while pids.iter().any(|pid| is_alive(*pid)) {
            assert!(now() < deadline, "{pids:?}");
            sleep(LOOK_EVERY);
        }
    }

    /// One that has ended and whom nobody has asked how is not alive.
    fn is_alive(pid: u32) -> bool {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        stat.rsplit_once(')').is_some_and(|(_, rest)| !rest.trim_start().starts_with('Z'))
    }
}
