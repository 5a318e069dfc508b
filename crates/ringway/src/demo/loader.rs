//! Stores the data set through the proxy, as any client would.

use std::net::SocketAddr;

use anyhow::{Context, bail};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::header::{CONTENT_TYPE, HOST, IF_NONE_MATCH};
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use crate::admin::percent_encode;

/// Stores every entry whose key is not there yet, so that what a user changed stays changed.
///
/// # Errors
/// The proxy refuses an entry or stops answering.
pub(super) async fn store(
    proxy: SocketAddr,
    entries: impl Iterator<Item = (String, String)>,
) -> anyhow::Result<()> {
    let stream =
        TcpStream::connect(proxy).await.with_context(|| format!("the proxy at {proxy} does not answer"))?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    for (key, value) in entries {
        let request = Request::put(format!("/kv/{}", percent_encode(key.as_bytes())))
            .header(HOST, proxy.to_string())
            .header(CONTENT_TYPE, "application/json")
            .header(IF_NONE_MATCH, "*")
            .body(Full::new(Bytes::from(value)))?;
        sender.ready().await?;
        let response = sender.send_request(request).await.with_context(|| format!("storing {key}"))?;
        let status = response.status();
        let body = response.into_body().collect().await?.to_bytes();
        if !matches!(status, StatusCode::CREATED | StatusCode::PRECONDITION_FAILED) {
            bail!("storing {key} through the proxy: {status}: {}", String::from_utf8_lossy(&body));
        }
    }
    Ok(())
}
