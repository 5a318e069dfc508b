//! The rounds: each peer once in each, in another order each time, so that what the machine does meanwhile hits all alike.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result};

use super::instructions::{Counted, Counter};
use super::load::{self, Length, Memory, Sample};
use super::peer::{Front, Peer, Proxy, Stage};
use super::row::{Load, Row};
use super::stats::Shuffler;
use super::{Options, progress};

/// Connections that memory is measured with, where files enough may be open.
const CONNECTIONS: usize = 5_000;
/// Files that a proxy has open besides its connections.
const OWN_FILES: u64 = 400;

/// All that was measured.
#[derive(Debug, Default)]
pub(super) struct Results {
    /// By round.
    pub(super) samples: BTreeMap<(Row, Peer), Vec<Sample>>,
    /// The latency row without a proxy, by round.
    pub(super) direct: Vec<Sample>,
    pub(super) memory: BTreeMap<Peer, Memory>,
    pub(super) counter: Option<Counter>,
    pub(super) instructions: BTreeMap<Peer, Result<Counted, String>>,
}

/// Measures everything that the options ask for.
///
/// # Errors
/// A peer does not start, or gave a wrong answer.
pub(super) fn all(stage: &Stage<'_>, options: &Options) -> Result<Results> {
    let mut results = Results::default();
    let mut shuffler = Shuffler::new();
    let rows: Vec<Row> = options.rows.iter().copied().filter(|row| row.load() != Load::Apart).collect();
    if !rows.is_empty() {
        for round in 1..=options.rounds {
            progress(&format!("round {round} of {}", options.rounds));
            self::round(stage, options, &rows, &mut shuffler, &mut results)?;
        }
    }
    if options.rows.contains(&Row::Memory) {
        for peer in &options.peers {
            progress(&format!("memory: {}", peer.name()));
            let found = memory(stage, *peer).with_context(|| format!("memory of {}", peer.name()))?;
            results.memory.insert(*peer, found);
        }
    }
    if options.rows.contains(&Row::Instructions) {
        let counter = Counter::find();
        results.counter = Some(counter);
        for peer in &options.peers {
            progress(&format!("instructions: {}", peer.name()));
            let found =
                counter.count(stage, *peer).with_context(|| format!("instructions of {}", peer.name()))?;
            results.instructions.insert(*peer, found);
        }
    }
    Ok(results)
}

/// Every row once, with peers that are started for this round: where a program happens to lie in memory is chance too.
fn round(
    stage: &Stage<'_>,
    options: &Options,
    rows: &[Row],
    shuffler: &mut Shuffler,
    results: &mut Results,
) -> Result<()> {
    let takes_part = |row: Row, peer: Peer| row.without(peer).is_none();
    let mut wanted: BTreeSet<(Peer, Front)> = BTreeSet::new();
    for row in rows {
        wanted.extend(
            options.peers.iter().filter(|peer| takes_part(*row, **peer)).map(|peer| (*peer, row.front())),
        );
    }
    let mut running: BTreeMap<(Peer, Front), Proxy> = BTreeMap::new();
    for (peer, front) in wanted {
        running.insert((peer, front), stage.start(peer, front)?);
    }
    for row in rows {
        if *row == Row::Latency {
            results.direct.push(load::direct(stage, *row, Length::Seconds(options.seconds))?);
        }
        let mut peers: Vec<Peer> =
            options.peers.iter().copied().filter(|peer| takes_part(*row, *peer)).collect();
        shuffler.shuffle(&mut peers);
        for peer in peers {
            let Some(proxy) = running.get(&(peer, row.front())) else { continue };
            let sample =
                load::run(stage, proxy, *row, Length::Seconds(options.seconds)).with_context(|| {
                    format!(
                        "{} under {}; its log ends:\n{}",
                        peer.name(),
                        row.name(),
                        proxy.running.log_tail()
                    )
                })?;
            progress(&format!(
                "  {:<9} {:<8} {:>8.2} µs of processor time per request, {:>7.0} requests/s",
                row.name(),
                peer.name(),
                sample.cpu(),
                sample.rate(),
            ));
            results.samples.entry((*row, peer)).or_default().push(sample);
        }
    }
    Ok(())
}

fn memory(stage: &Stage<'_>, peer: Peer) -> Result<Memory> {
    let files = stage.machine.files.saturating_sub(OWN_FILES) / 2;
    let connections = CONNECTIONS.min(usize::try_from(files)?);
    let proxy = stage.start(peer, Front::Plain)?;
    load::memory(stage, &proxy, connections)
}
