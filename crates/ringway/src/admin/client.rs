//! A small HTTP/1.1 client for the admin listener.

use std::time::Duration;

use anyhow::{Context, bail};
use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1::{self, SendRequest};
use hyper::{Request, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use tokio::net::TcpStream;

use crate::exit::Failure;

/// An answer later than this counts as none.
const TIMEOUT: Duration = Duration::from_secs(30);
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

    async fn send<T: DeserializeOwned>(
        &mut self,
        request: hyper::http::request::Builder,
        body: Bytes,
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
        let (status, body) = tokio::time::timeout(TIMEOUT, exchange)
            .await
            .map_err(anyhow::Error::from)
            .and_then(|answer| answer)
            .with_context(|| format!("{} stopped answering {path}", self.url))
            .map_err(Failure::unreachable)?;
        parse(status, &body).with_context(|| format!("{}{path}", self.url)).map_err(Failure::from)
    }
}

fn parse<T: DeserializeOwned>(status: StatusCode, body: &[u8]) -> anyhow::Result<T> {
    if !status.is_success() {
        let text: String = String::from_utf8_lossy(body).chars().take(500).collect();
        bail!("answered {status}: {text}");
    }
    serde_json::from_slice(body).context("answered something that is not what this version understands")
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
