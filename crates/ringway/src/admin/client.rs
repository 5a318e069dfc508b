//! A small HTTP/1.1 client for the admin listener.

use std::io;
use std::time::Duration;

use anyhow::Context;
use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1::{self, SendRequest};
use hyper::{Request, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokio::net::TcpStream;

use super::OPERATOR_HEADER;
use crate::exit::Failure;

/// An answer later than this counts as none.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(30);
/// Largest answer read: the partitions of Q = 2^20.
const ANSWER_BYTES_MAX: usize = 256 << 20;

/// One connection to an admin listener.
pub(crate) struct AdminClient {
    url: String,
    authority: String,
    sender: SendRequest<Full<Bytes>>,
}

impl AdminClient {
    /// Connects to an admin URL, `http://HOST:PORT`.
    ///
    /// # Errors
    /// Exit code 2 when the URL is none, 4 when nobody answers there.
    pub(crate) async fn connect(url: &str) -> Result<Self, Failure> {
        let authority = authority_of(url).map_err(Failure::bad_input)?;
        let io = tokio::time::timeout(TIMEOUT, TcpStream::connect(&authority))
            .await
            .map_err(anyhow::Error::from)
            .and_then(|connected| connected.map_err(anyhow::Error::from))
            .with_context(|| {
                format!("no admin listener answers at {url}; name another one with --admin URL (a proxy's or a node's)")
            })
            .map_err(Failure::unreachable)?;
        let (sender, connection) = http1::handshake(TokioIo::new(io)).await?;
        // Ends when the sender is dropped; an error shows in the request that meets it.
        tokio::spawn(connection);
        Ok(Self { url: url.to_owned(), authority, sender })
    }

    /// Gets a path and reads its JSON, whatever the status.
    ///
    /// # Errors
    /// Exit code 4 when the listener stops answering, 1 when it answers something else.
    pub(crate) async fn get<T: DeserializeOwned>(&mut self, path: &str) -> Result<T, Failure> {
        self.send(Request::get(path), Bytes::new()).await
    }

    /// Posts a text body and reads the JSON answer.
    ///
    /// # Errors
    /// As [`AdminClient::get`].
    pub(crate) async fn post<T: DeserializeOwned>(&mut self, path: &str, body: String) -> Result<T, Failure> {
        self.send(Request::post(path), Bytes::from(body)).await
    }

    /// Asks for a change and reads the JSON answer.
    ///
    /// # Errors
    /// Exit code 5 with the reason and the next step when it is refused; else as [`AdminClient::get`].
    pub(crate) async fn change<T: DeserializeOwned>(
        &mut self,
        path: &str,
        body: String,
        patience: Duration,
    ) -> Result<T, Failure> {
        let request = Request::post(path).header(OPERATOR_HEADER, "1");
        self.exchange(request.header("content-type", "application/json"), Bytes::from(body), patience).await
    }

    /// Gets a path and gives its body to `take`, piece by piece, however long it is.
    ///
    /// # Errors
    /// Exit code 4 when the listener does not answer or stops half-way, 1 when it refuses or `take` fails.
    pub(crate) async fn stream(
        &mut self,
        path: &str,
        mut take: impl FnMut(&[u8]) -> io::Result<()>,
    ) -> Result<(), Failure> {
        let request = Request::get(path).header("host", &self.authority).body(Full::default())?;
        let stopped = || format!("{} stopped answering {path}", self.url);
        let answered = async {
            self.sender.ready().await?;
            anyhow::Ok(self.sender.send_request(request).await?)
        };
        let response = tokio::time::timeout(TIMEOUT, answered).await.map_err(anyhow::Error::from);
        let response =
            response.and_then(|answer| answer).with_context(stopped).map_err(Failure::unreachable)?;
        let status = response.status();
        let mut body = response.into_body();
        if !status.is_success() {
            let body = Limited::new(body, ANSWER_BYTES_MAX).collect().await;
            let body = body.map_err(|error| anyhow::anyhow!("{error}"))?.to_bytes();
            return Err(refused(status, &body));
        }
        loop {
            let next = tokio::time::timeout(TIMEOUT, body.frame()).await.map_err(anyhow::Error::from);
            let piece = match next.with_context(stopped).map_err(Failure::unreachable)? {
                None => return Ok(()),
                Some(frame) => frame.with_context(stopped).map_err(Failure::unreachable)?,
            };
            if let Some(piece) = piece.data_ref() {
                take(piece)?;
            }
        }
    }

    async fn send<T: DeserializeOwned>(
        &mut self,
        request: hyper::http::request::Builder,
        body: Bytes,
    ) -> Result<T, Failure> {
        self.exchange(request, body, TIMEOUT).await
    }

    async fn exchange<T: DeserializeOwned>(
        &mut self,
        request: hyper::http::request::Builder,
        body: Bytes,
        patience: Duration,
    ) -> Result<T, Failure> {
        let request = request.header("host", &self.authority).body(Full::new(body))?;
        let path = request.uri().path().to_owned();
        let exchange = async {
            self.sender.ready().await?;
            let response = self.sender.send_request(request).await?;
            let status = response.status();
            let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await;
            let body = body.map_err(|error| anyhow::anyhow!("{error}"))?.to_bytes();
            anyhow::Ok((status, body))
        };
        let (status, body) = tokio::time::timeout(patience, exchange)
            .await
            .map_err(anyhow::Error::from)
            .and_then(|answer| answer)
            .with_context(|| format!("{} stopped answering {path}", self.url))
            .map_err(Failure::unreachable)?;
        if !status.is_success() {
            return Err(refused(status, &body));
        }
        let parsed = serde_json::from_slice(&body);
        let what =
            || format!("{}{path} answered something that is not what this version understands", self.url);
        Ok(parsed.with_context(what)?)
    }
}

/// What every problem of the admin listener has.
#[derive(Deserialize)]
struct Problem {
    reason: String,
    detail: String,
    #[serde(default)]
    next: String,
}

/// The failure of a command whose request was refused: in the listener's words, and what it says to do.
fn refused(status: StatusCode, body: &[u8]) -> Failure {
    match serde_json::from_slice(body) {
        Ok(Problem { reason, detail, next }) if next.is_empty() => {
            Failure::from(anyhow::anyhow!("{detail} ({reason})"))
        }
        Ok(Problem { reason, detail, next }) => {
            Failure::refused(format!("refused: {detail} ({reason})\n  next: {next}"))
        }
        Err(_) => {
            let text: String = String::from_utf8_lossy(body).chars().take(500).collect();
            Failure::from(anyhow::anyhow!("the admin listener answered {status}: {text}"))
        }
    }
}

fn authority_of(url: &str) -> Result<String, String> {
    let refuse = |problem: &str| format!("--admin {url}: {problem}; write http://HOST:PORT");
    let uri: Uri = url.parse().map_err(|error| refuse(&format!("{error}")))?;
    match (uri.scheme_str(), uri.authority()) {
        (Some("http"), Some(authority)) if authority.port_u16().is_some() => Ok(authority.to_string()),
        (Some("http"), Some(_)) => Err(refuse("it has no port")),
        _ => Err(refuse("it is not an http URL")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn admin_urls_are_http_with_host_and_port() {
        assert_eq!(authority_of("http://127.0.0.1:8081").unwrap(), "127.0.0.1:8081");
        assert_eq!(authority_of("http://[::1]:1/").unwrap(), "[::1]:1");
        for bad in ["127.0.0.1:8081", "https://a:1", "http://a", "", "http://"] {
            assert!(authority_of(bad).unwrap_err().contains("write http://HOST:PORT"), "{bad}");
        }
    }
}
