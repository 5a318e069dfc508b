//! From a worker's line to bytes in a file.

use std::fs;
use std::io::{self, Write};
use std::rc::Rc;
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, Sender, channel};

use http::Request;
use tokio::task::LocalSet;

use super::lane::{BATCH_LINES_MAX, BATCHES_MAX};
use super::*;
use crate::body::Body;
use crate::metrics::Metrics;

/// Where a test's lines end.
#[derive(Clone, Default)]
struct Paper(Arc<Mutex<Vec<u8>>>);

impl Paper {
    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

impl Write for Paper {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A disk that hangs until it is told to go on.
struct Hanging {
    paper: Paper,
    go_on: Receiver<()>,
}

impl Write for Hanging {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // Goes on for good when nobody is there any more to tell it.
        let _ = self.go_on.recv();
        self.paper.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A disk with room for so many bytes, and more when somebody makes some.
struct Full {
    paper: Paper,
    room: Arc<Mutex<usize>>,
}

impl Write for Full {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut room = self.room.lock().unwrap();
        if *room == 0 {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let taken = bytes.len().min(*room);
        *room -= taken;
        self.paper.write(&bytes[..taken])
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn to(path: &std::path::Path) -> AccessLogOptions {
    AccessLogOptions { format: AccessLogFormat::Common, to: AccessLogOutput::File(path.to_owned()) }
}

fn on(sink: impl Write + Send + 'static) -> AccessLog {
    let options = AccessLogOptions { format: AccessLogFormat::Common, to: AccessLogOutput::Stdout };
    AccessLog::start_with(&options, Vec::new(), Box::new(sink)).unwrap()
}

fn metrics() -> Metrics {
    Metrics::new("test", Vec::new()).unwrap()
}

fn counted(metrics: &Metrics, name: &str) -> u64 {
    let text = metrics.encode().unwrap();
    let prefix = format!("ringway_access_log_{name}_total ");
    text.lines().find_map(|line| line.strip_prefix(&prefix)?.parse().ok()).unwrap()
}

fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    LocalSet::new().block_on(&runtime, test);
}

/// A request that ends unanswered at once.
fn log(lane: &Rc<Lane>, target: &str) {
    let (parts, _) = Request::get(target).body(Body::empty()).unwrap().into_parts();
    drop(lane.open(&parts, "192.0.2.1:5".parse().unwrap(), Instant::now()));
}

async fn eventually(mut condition: impl FnMut() -> bool) {
    while !condition() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

#[test]
fn a_single_line_does_not_wait_for_others() {
    run(async {
        let (paper, metrics) = (Paper::default(), metrics());
        let access_log = on(paper.clone());
        let lane = Rc::new(access_log.lane(&metrics.worker(0)));
        for n in 1..=3 {
            log(&lane, &format!("/{n}"));
            eventually(|| counted(&metrics, "lines") == n).await;
            assert!(paper.text().ends_with(&format!("\"GET /{n} HTTP/1.1\" 499 -\n")), "{}", paper.text());
        }
        assert_eq!(counted(&metrics, "dropped"), 0);
    });
}

#[test]
fn a_disk_that_hangs_costs_lines_and_no_request_waits() {
    run(async {
        let (paper, metrics) = (Paper::default(), metrics());
        let (release, go_on): (Sender<()>, _) = channel();
        let access_log = on(Hanging { paper: paper.clone(), go_on });
        let lane = Rc::new(access_log.lane(&metrics.worker(0)));
        let room = BATCHES_MAX * BATCH_LINES_MAX;
        for n in 0..room {
            log(&lane, &format!("/{n}"));
        }
        assert_eq!(counted(&metrics, "dropped"), 0, "there is room for {room}");
        for _ in 0..10 {
            log(&lane, "/too-much");
        }
        assert_eq!((counted(&metrics, "dropped"), counted(&metrics, "lines")), (10, 0));
        drop(release);
        eventually(|| counted(&metrics, "lines") == room as u64).await;
        log(&lane, "/later");
        drop(lane);
        access_log.close().await;
        let text = paper.text();
        assert_eq!(text.lines().count(), room + 1, "each line once");
        assert!(!text.contains("too-much") && text.contains("GET /0 ") && text.contains("GET /later "));
        assert_eq!(counted(&metrics, "dropped"), 10);
    });
}

#[test]
fn another_workers_lines_do_not_take_this_ones_room() {
    run(async {
        let metrics = metrics();
        let (_hold, go_on): (Sender<()>, _) = channel();
        let access_log = on(Hanging { paper: Paper::default(), go_on });
        let lanes = [0, 1].map(|n| Rc::new(access_log.lane(&metrics.worker(n))));
        for _ in 0..=BATCHES_MAX * BATCH_LINES_MAX {
            log(&lanes[0], "/");
        }
        assert_eq!(counted(&metrics, "dropped"), 1);
        log(&lanes[1], "/");
        assert_eq!(counted(&metrics, "dropped"), 1);
    });
}

#[test]
fn a_full_disk_costs_the_lines_that_do_not_fit_and_no_other() {
    run(async {
        let (paper, metrics) = (Paper::default(), metrics());
        let room = Arc::new(Mutex::new(150));
        let access_log = on(Full { paper: paper.clone(), room: Arc::clone(&room) });
        let lane = Rc::new(access_log.lane(&metrics.worker(0)));
        for n in 0..3 {
            log(&lane, &format!("/{n}"));
        }
        eventually(|| counted(&metrics, "write_errors") == 1).await;
        assert_eq!((counted(&metrics, "lines"), counted(&metrics, "dropped")), (2, 1), "{}", paper.text());
        log(&lane, "/nothing-fits");
        eventually(|| counted(&metrics, "write_errors") == 2).await;
        assert_eq!(counted(&metrics, "dropped"), 2);
        *room.lock().unwrap() = 1 << 20;
        log(&lane, "/room-again");
        eventually(|| counted(&metrics, "lines") == 3).await;
        let text = paper.text();
        let lines: Vec<&str> = text.lines().collect();
        // The third was torn: what follows begins a line of its own.
        assert_eq!(lines.len(), 4, "{text}");
        assert!(lines[1].ends_with("\"GET /1 HTTP/1.1\" 499 -") && !lines[2].ends_with('-'), "{text}");
        assert!(
            lines[3].starts_with("192.0.2.1 - - [") && lines[3].ends_with("/room-again HTTP/1.1\" 499 -")
        );
    });
}

#[test]
fn closing_writes_what_is_left_and_what_comes_later_is_counted_as_dropped() {
    run(async {
        let (paper, metrics) = (Paper::default(), metrics());
        let access_log = on(paper.clone());
        let (early, late) = (metrics.worker(0), metrics.worker(1));
        let (early, late) = (Rc::new(access_log.lane(&early)), Rc::new(access_log.lane(&late)));
        for n in 0..BATCH_LINES_MAX + 5 {
            log(&early, &format!("/{n}"));
        }
        drop(early);
        access_log.close().await;
        assert_eq!(paper.text().lines().count(), BATCH_LINES_MAX + 5);
        log(&late, "/late");
        drop(late);
        eventually(|| counted(&metrics, "dropped") == 1).await;
        access_log.close().await;
    });
}

#[tokio::test(start_paused = true)]
async fn closing_does_not_wait_for_a_disk_that_hangs() {
    let metrics = metrics();
    let (_hold, go_on): (Sender<()>, _) = channel();
    let access_log = on(Hanging { paper: Paper::default(), go_on });
    LocalSet::new()
        .run_until(async {
            let lane = Rc::new(access_log.lane(&metrics.worker(0)));
            log(&lane, "/");
            drop(lane);
            access_log.close().await;
        })
        .await;
    assert_eq!(counted(&metrics, "lines"), 0);
}

#[test]
fn a_renamed_file_gets_what_came_before_the_order_and_the_new_one_the_rest() {
    run(async {
        let dir = tempfile::tempdir().unwrap();
        let [path, newer, old] =
            ["access.log", "access.log.1", "access.log.2"].map(|name| dir.path().join(name));
        fs::write(&path, "what was there\n").unwrap();
        let metrics = metrics();
        let access_log = AccessLog::start(&to(&path), Vec::new()).unwrap();
        let lane = Rc::new(access_log.lane(&metrics.worker(0)));
        log(&lane, "/before");
        eventually(|| counted(&metrics, "lines") == 1).await;
        fs::rename(&path, &old).unwrap();
        access_log.reopen();
        eventually(|| path.exists()).await;
        log(&lane, "/between");
        eventually(|| counted(&metrics, "lines") == 2).await;
        fs::rename(&path, &newer).unwrap();
        access_log.reopen();
        eventually(|| path.exists()).await;
        log(&lane, "/after");
        drop(lane);
        access_log.close().await;
        let [old, newer, new] = [old, newer, path].map(|path| fs::read_to_string(path).unwrap());
        assert!(old.starts_with("what was there\n") && old.contains("GET /before "), "{old}");
        assert!(newer.contains("GET /between ") && newer.lines().count() == 1, "{newer}");
        assert!(new.contains("GET /after ") && new.lines().count() == 1, "{new}");
    });
}

#[test]
fn a_file_that_cannot_be_opened_anew_leaves_the_old_one_in_use() {
    run(async {
        let dir = tempfile::tempdir().unwrap();
        let (inner, moved) = (dir.path().join("logs"), dir.path().join("moved"));
        fs::create_dir(&inner).unwrap();
        let metrics = metrics();
        let access_log = AccessLog::start(&to(&inner.join("a.log")), Vec::new()).unwrap();
        fs::rename(&inner, &moved).unwrap();
        access_log.reopen();
        let lane = Rc::new(access_log.lane(&metrics.worker(0)));
        log(&lane, "/");
        drop(lane);
        access_log.close().await;
        assert!(fs::read_to_string(moved.join("a.log")).unwrap().contains("GET / "));
    });
}

#[test]
fn what_cannot_be_opened_is_refused_with_what_where_and_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let pipe = dir.path().join("pipe");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    for (path, why) in [
        (dir.path().join("no/access.log"), "No such file"),
        (dir.path().to_owned(), "directory"),
        (pipe, "a pipe"),
    ] {
        let error = AccessLog::start(&to(&path), Vec::new()).unwrap_err().to_string();
        assert!(error.starts_with(&format!("cannot open the access log `{}`", path.display())), "{error}");
        assert!(error.contains(why) && error.contains("`access_log.to` must name a file"), "{error}");
    }
}

#[test]
fn a_new_file_is_not_for_everybody() {
    use std::os::unix::fs::PermissionsExt;

    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("access.log");
    let _log = AccessLog::start(&to(&path), Vec::new()).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o007, 0);
}

#[test]
fn a_long_target_is_cut_and_texts_stay_with_their_lines() {
    run(async {
        let (paper, metrics) = (Paper::default(), metrics());
        let access_log = on(paper.clone());
        let lane = Rc::new(access_log.lane(&metrics.worker(0)));
        let long = format!("/{}", "x".repeat(TARGET_BYTES_MAX));
        log(&lane, &long);
        log(&lane, &long[..TARGET_BYTES_MAX]);
        log(&lane, "http://h.example:80/a?b");
        log(&lane, "/z");
        drop(lane);
        access_log.close().await;
        let text = paper.text();
        let targets: Vec<&str> = text.lines().map(|line| line.split(' ').nth(6).unwrap()).collect();
        assert_eq!(
            targets,
            [&format!("{}...", &long[..TARGET_BYTES_MAX]), &long[..TARGET_BYTES_MAX], "/a?b", "/z"]
        );
        assert_eq!((lane::cut("aéb", 2), lane::cut("aéb", 3), lane::cut("aéb", 9)), (1, 3, 4));
    });
}

#[test]
fn the_wall_clock_stands_in_the_line() {
    run(async {
        #[expect(clippy::disallowed_methods, reason = "what the line is held against")]
        let now =
            || std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis() as u64;
        let (orders, received) = channel();
        let shared = on(Paper::default()).shared;
        let lane = Rc::new(Lane::new(orders, shared, Arc::clone(&metrics().worker(0).cells)));
        let before = now();
        let started = Instant::now();
        tokio::time::sleep(Duration::from_millis(20)).await;
        let (parts, _) = Request::get("/").body(Body::empty()).unwrap().into_parts();
        drop(lane.open(&parts, "192.0.2.1:5".parse().unwrap(), started));
        drop(lane);
        let after = now();
        let Ok(Order::Write(batch)) = received.try_recv() else { panic!("nothing was handed over") };
        let record = batch.records[0];
        // The two clocks are read one after the other, and the wall clock may be set meanwhile: a generous comparison.
        assert!(record.started_ms + 1_000 >= before && record.started_ms <= after + 1_000);
        assert!(record.duration >= Duration::from_millis(20));
    });
}

#[tokio::test(start_paused = true)]
async fn one_complaint_a_minute() {
    let shared = on(Paper::default()).shared;
    let at = |seconds| shared.may_complain(shared.origin + Duration::from_secs(seconds));
    assert_eq!([0, 1, 59, 60, 61, 119, 120].map(at), [true, false, false, true, false, false, true]);
}
