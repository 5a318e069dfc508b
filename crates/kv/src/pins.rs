//! Which chunks are in use: being uploaded, or being read.
//!
//! A value that is overwritten while somebody reads it keeps its chunks until that reader is done. A snapshot of
//! the engine held open per reader would do the same, but then one slow client would keep *every* page freed
//! since from being used again.

use std::collections::BTreeMap;
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, PoisonError};

use crate::writer::Job;

/// Use counts by chunk id.
#[derive(Debug)]
pub(crate) struct Pins {
    counts: Mutex<BTreeMap<u64, u32>>,
    jobs: Sender<Job>,
}

/// Keeps a value's chunks from being swept while it lives.
#[derive(Debug)]
pub(crate) struct Pin {
    id: u64,
    pins: Arc<Pins>,
}

impl Pins {
    pub(crate) fn new(jobs: Sender<Job>) -> Self {
        Self { counts: Mutex::default(), jobs }
    }

    pub(crate) fn pin(self: &Arc<Self>, id: u64) -> Pin {
        *self.counts.lock().unwrap_or_else(PoisonError::into_inner).entry(id).or_default() += 1;
        Pin { id, pins: Arc::clone(self) }
    }

    pub(crate) fn is_pinned(&self, id: u64) -> bool {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner).contains_key(&id)
    }
}

impl Pin {
    pub(crate) fn id(&self) -> u64 {
        self.id
    }
}

impl Drop for Pin {
    fn drop(&mut self) {
        let mut counts = self.pins.counts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(&self.id) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.id);
                // The writer may have ended already.
                drop(self.pins.jobs.send(Job::Wake));
            }
        }
    }
}
