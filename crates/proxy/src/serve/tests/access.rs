//! What the access log says of requests that went through the router.

use std::fs;

use serde_json::Value;

use super::*;
use crate::edge::WorkerService;
use crate::{AccessLogFormat, AccessLogOptions, AccessLogOutput};

/// The access log of a test's router.
struct Log {
    dir: tempfile::TempDir,
}

impl Log {
    fn new() -> (Self, RoutingOptions) {
        let log = Self { dir: tempfile::tempdir().unwrap() };
        let to = AccessLogOutput::File(log.path());
        let access_log = Some(AccessLogOptions { format: AccessLogFormat::Json, to });
        (log, RoutingOptions { access_log, ..options() })
    }

    fn path(&self) -> std::path::PathBuf {
        self.dir.path().join("access.log")
    }

    /// The next `count` lines; waits for them.
    async fn lines<const COUNT: usize>(&self) -> [Value; COUNT] {
        let text = || fs::read_to_string(self.path()).unwrap();
        eventually(|| text().matches('\n').count() >= COUNT).await;
        let parsed: Vec<Value> = text().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        fs::write(self.path(), "").unwrap();
        parsed.try_into().unwrap()
    }
}

fn from_client() -> ConnectionInfo {
    ConnectionInfo { peer: "192.0.2.1:4711".parse().unwrap(), ..info() }
}

async fn called(router: &Router, request: Request<Body>) -> u16 {
    let response = router.serve(request, from_client()).await;
    let status = response.status().as_u16();
    // Broken answers are what some tests are about.
    let _ = response.into_body().collect().await;
    status
}

fn named(uri: &str) -> Request<Body> {
    Request::get(uri).header("host", "h").header("x-request-id", "id-1").body(Body::empty()).unwrap()
}

/// The fields of a line, without the times.
fn fields(line: &Value, names: &[&str]) -> Vec<Value> {
    names.iter().map(|name| line[*name].clone()).collect()
}

const ALL: [&str; 14] = [
    "client",
    "method",
    "target",
    "version",
    "status",
    "bytes",
    "route",
    "partition",
    "epoch",
    "node",
    "attempts",
    "reason",
    "request_id",
    "end",
];

#[test]
fn an_answer_an_error_of_our_own_and_a_request_without_route() {
    run(async {
        let node = FakeNode::start([]).await;
        let cluster = Cluster::at_epoch_1(&[(node.addr, Alive)]);
        let (log, options) = Log::new();
        let router = cluster.router(options);
        assert_eq!(called(&router, named("http://h/kv/a?b=%22c")).await, 200);
        assert_eq!(called(&router, named("/kv/%zz")).await, 400);
        assert_eq!(called(&router, named("/other")).await, 404);
        let [answer, malformed, lost] = log.lines().await;
        let expected = serde_json::json!([
            "192.0.2.1:4711",
            "GET",
            "/kv/a?b=%22c",
            "HTTP/1.1",
            200,
            2,
            "/kv/{key}",
            0,
            1,
            "n0",
            1,
            null,
            "id-1",
            "complete"
        ]);
        assert_eq!(Value::Array(fields(&answer, &ALL)), expected);
        assert_eq!(answer.as_object().unwrap().len(), ALL.len() + 2, "those, and two times: {answer}");
        assert!(
            answer["time"].as_str().unwrap().starts_with("20") && answer["duration_ms"].as_f64() > Some(0.0)
        );
        let own = |line: &Value| {
            fields(line, &["status", "route", "partition", "epoch", "node", "attempts", "reason"])
        };
        let expected = serde_json::json!([400, "/kv/{key}", null, null, null, 0, "key_malformed"]);
        assert_eq!(Value::Array(own(&malformed)), expected);
        assert_eq!(Value::Array(own(&lost)), serde_json::json!([404, null, null, null, null, 0, "no_route"]));
        let bytes = serde_json::to_string(&lost["bytes"]).unwrap().parse::<usize>().unwrap();
        assert!(bytes > 50, "the problem document was counted");
        assert_eq!(lost["end"], "complete");
    });
}

#[test]
fn a_retry_is_one_line_with_the_node_that_answered() {
    run(async {
        let node = FakeNode::start([]).await;
        let cluster = Cluster::derived(&[(refused_addr().await, Alive), (node.addr, Alive)]);
        let (log, options) = Log::new();
        assert_eq!(called(&cluster.router(options), get()).await, 200);
        let [line] = log.lines().await;
        assert_eq!(
            fields(&line, &["status", "node", "attempts", "reason"]),
            ["200".parse().unwrap(), Value::from("n1"), 2.into(), Value::Null]
        );
    });
}

#[test]
fn a_client_that_goes_away_is_told_from_a_node_that_breaks_off() {
    run(async {
        let head = "HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhello";
        let never = std::sync::Arc::new(tokio::sync::Notify::new());
        let node = FakeNode::start([
            Act::Parts(head.to_owned(), never, String::new()),
            Act::ReplyAndClose(head.to_owned()),
            Act::Hang,
        ])
        .await;
        let cluster = Cluster::derived(&[(node.addr, Alive)]);
        let (log, options) = Log::new();
        let router = cluster.router(options);
        let said = |line: &Value| fields(line, &["status", "bytes", "attempts", "node", "end"]);

        let mut body = router.serve(get(), from_client()).await.into_body();
        assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "hello");
        drop(body);
        let [line] = log.lines().await;
        assert_eq!(Value::Array(said(&line)), serde_json::json!([200, 5, 1, "n0", "client_gone"]));

        assert_eq!(called(&router, get()).await, 200);
        let [line] = log.lines().await;
        assert_eq!(Value::Array(said(&line)), serde_json::json!([200, 5, 1, "n0", "broken"]));

        let mut waiting = Box::pin(router.serve(get(), from_client()));
        tokio::select! {
            _ = &mut waiting => panic!("the node never answers"),
            () = eventually(|| node.heads().len() == 3) => {}
        }
        drop(waiting);
        let [line] = log.lines().await;
        assert_eq!(Value::Array(said(&line)), serde_json::json!([499, 0, 1, "n0", "client_gone"]));
        assert_eq!(line["request_id"].as_str().map(str::len), Some(32), "one was made");
    });
}

#[test]
fn answers_without_a_body_are_complete_though_nobody_reads_them() {
    run(async {
        let node = FakeNode::start([reply("HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n")]).await;
        let cluster = Cluster::derived(&[(node.addr, Alive)]);
        let (log, options) = Log::new();
        let router = cluster.router(options);
        for uri in ["/kv/a", "/other"] {
            let head = Request::head(uri).header("host", "h").body(Body::empty()).unwrap();
            drop(router.serve(head, from_client()).await);
        }
        let lines: [Value; 2] = log.lines().await;
        let said = lines.map(|line| (line["status"].clone(), line["bytes"].clone(), line["end"].clone()));
        assert_eq!(
            said,
            [(200.into(), 0.into(), "complete".into()), (404.into(), 0.into(), "complete".into())]
        );
    });
}

#[test]
fn a_request_that_was_turned_away_unread_says_who_asked() {
    run(async {
        let cluster = Cluster::derived(&[]);
        let (log, options) = Log::new();
        let router = cluster.router(options);
        let mut body = router.overloaded(from_client()).into_body();
        // As a server does: the only frame, and no question whether there is another.
        assert!(body.frame().await.is_some_and(|frame| frame.is_ok()));
        drop(body);
        let [line] = log.lines().await;
        let said = fields(&line, &["client", "method", "target", "status", "reason", "end"]);
        let expected = serde_json::json!(["192.0.2.1:4711", null, null, 503, "overloaded", "complete"]);
        assert_eq!(Value::Array(said), expected);
    });
}

#[test]
fn a_router_without_a_log_opens_no_line() {
    run(async {
        let node = FakeNode::start([]).await;
        let cluster = Cluster::derived(&[(node.addr, Alive)]);
        let router = cluster.router(options());
        let response = router.serve(get(), from_client()).await;
        assert!(format!("{:?}", response.body()).starts_with("Body::Upstream"));
        assert!(cluster.counted("ringway_access_log_lines_total 0"));
    });
}
