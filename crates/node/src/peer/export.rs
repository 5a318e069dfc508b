//! A partition on its way out: the answer to a request on [`EXPORT_PATH`](super::EXPORT_PATH).

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::runtime::Handle;
use tokio::sync::mpsc;

use super::seal::FrameSeal;
use super::stream::FrameBody;
use crate::owner::stats::{Counters, Ended};
use crate::replica::Export;

/// Frames that wait for the network.
const FRAMES_WAITING_MAX: usize = 4;
/// A receiver that takes no frame for this long is given up: the export holds space in the store.
const RECEIVER_STALL_MAX: Duration = Duration::from_secs(15);

/// Starts to send what `export` gives, sealed frame by frame; `runtime` does the work. `permit` is held to the end.
///
/// The body ends early when the store fails or the receiver stalls; the receiver sees that, as the end frame is missing.
pub(crate) fn send<E: Export + 'static>(
    runtime: &Handle,
    export: E,
    seal: FrameSeal,
    counters: Arc<Counters>,
    permit: impl Send + 'static,
) -> FrameBody {
    let (frames, body) = FrameBody::channel(FRAMES_WAITING_MAX);
    runtime.spawn(async move {
        let ended = match copy_out(export, seal, &frames, &counters).await {
            Ok(()) => Ended::Done,
            Err(why) => {
                tracing::warn!(%why, "a copy was not given out whole");
                Ended::Failed
            }
        };
        counters.export(ended);
        drop(permit);
    });
    body
}

async fn copy_out<E: Export>(
    mut export: E,
    mut seal: FrameSeal,
    frames: &mpsc::Sender<Bytes>,
    counters: &Counters,
) -> Result<(), String> {
    while let Some(frame) = export.next().await.map_err(|error| error.to_string())? {
        let sealed = Bytes::from(seal.seal(&frame.encode()).map_err(|error| error.to_string())?);
        counters.sent_bytes.add(sealed.len());
        match frames.send_timeout(sealed, RECEIVER_STALL_MAX).await {
            Ok(()) => {}
            Err(mpsc::error::SendTimeoutError::Closed(_)) => return Err("the receiver went away".to_owned()),
            Err(mpsc::error::SendTimeoutError::Timeout(_)) => {
                return Err(format!("the receiver took nothing for {RECEIVER_STALL_MAX:?}"));
            }
        }
    }
    Ok(())
}
