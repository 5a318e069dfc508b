//! A connection without a socket: for tests and fuzzers that compare the two HTTP/1.1 paths byte by byte.

use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::connection::{Connections, serve_opened};
use super::drain::Drain;
use super::gate::gate;
use super::http1::Transport;
use super::options::EdgeOptions;
use super::timing::Sniffed;
use super::{ConnectionInfo, WorkerService};
use crate::headers::no_connection;
use crate::metrics::WorkerMetrics;
use crate::metrics::cells::Label as _;

/// Serves HTTP/1.1 on `stream` by the path that `options` name until the connection ends, and says how it did: the
/// label of `connections_ended_total`.
///
/// Call it inside a [`tokio::task::LocalSet`] on a current-thread runtime with a timer. Nothing of `options` but the path
/// and the bounds is used.
pub async fn serve_in_memory<T, S>(
    stream: T,
    options: EdgeOptions,
    metrics: WorkerMetrics,
    service: S,
) -> &'static str
where
    T: AsyncRead + AsyncWrite + Unpin + 'static,
    S: WorkerService,
{
    let service = Rc::new(service);
    let gate = gate(Rc::clone(&service), options.concurrency_max);
    let drain = Rc::new(Drain::default());
    let watch = drain.watch();
    let worker = Connections::new(Arc::new(options), None, metrics, drain, service);
    let info = ConnectionInfo { http2: false, ..no_connection() };
    serve_opened(Blind(stream), Sniffed::default(), info, Rc::new(worker), gate, watch).await.text()
}

/// A stream that cannot say when it is readable, and so is asked.
struct Blind<T>(T);

impl<T: AsyncRead + AsyncWrite + Unpin + 'static> Transport for Blind<T> {
    fn poll_readable(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Blind<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Blind<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}
