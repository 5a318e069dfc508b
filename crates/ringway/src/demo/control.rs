//! Stopping and starting nodes of a running demo, asked for at its proxy's admin listener.

use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot};

use crate::admin::DemoVerb;

/// Requests that wait while one is done; further callers wait with theirs.
const REQUESTS_MAX: usize = 8;

/// A reason in one word, the same in words, and what to do.
pub(super) type Refused = (&'static str, String, String);

/// One thing to do to one node.
pub(super) struct Request {
    pub(super) id: String,
    pub(super) verb: DemoVerb,
    pub(super) answer: oneshot::Sender<Result<DemoNode, Refused>>,
}

/// A node of the demo after it was stopped or started.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct DemoNode {
    /// Its name.
    pub id: String,
    /// Whether it runs.
    pub running: bool,
    /// Where it serves requests; none when it does not run.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub url: Option<String>,
    /// Where it answers operators.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub admin: Option<String>,
}

impl DemoNode {
    pub(super) fn stopped(id: &str) -> Self {
        Self { id: id.to_owned(), running: false, url: None, admin: None }
    }

    pub(super) fn running(id: &str, url: &str, admin: &str) -> Self {
        Self { id: id.to_owned(), running: true, url: Some(url.to_owned()), admin: Some(admin.to_owned()) }
    }
}

/// Asks the demo.
#[derive(Debug, Clone)]
pub(crate) struct DemoHandle(mpsc::Sender<Request>);

/// Both ends.
pub(super) fn channel() -> (DemoHandle, mpsc::Receiver<Request>) {
    let (asking, requests) = mpsc::channel(REQUESTS_MAX);
    (DemoHandle(asking), requests)
}

impl DemoHandle {
    /// Does something to a node, and says what became of it.
    ///
    /// # Errors
    /// Why it was refused or failed.
    pub(crate) async fn ask(&self, id: &str, verb: DemoVerb) -> Result<DemoNode, Refused> {
        let gone =
            || ("stopping", "the demo is ending".to_owned(), "start it anew with `ringway demo`".to_owned());
        let (answer, outcome) = oneshot::channel();
        self.0.send(Request { id: id.to_owned(), verb, answer }).await.map_err(|_| gone())?;
        outcome.await.unwrap_or_else(|_| Err(gone()))
    }
}
