//! What a request costs our proxy, and what it costs others, on one machine in one run.
//!
//! [`install`] fetches and builds, [`peer`] starts proxies on a core of their own before the same backends, [`row`] says what
//! is measured, [`measure`] does so in rounds through [`load`], [`instructions`] counts, [`targets`] judges and [`mod@report`]
//! writes. [`mod@scale`] measures ours alone, at the size of large clusters, with the same programs. [`process`] is who was started and what that used, [`stats`] the arithmetic. Everything that is started ends with
//! the run, however that ends; everything that is written is under `target/peers`, but the page.

mod install;
mod instructions;
mod load;
mod measure;
mod peer;
mod process;
mod report;
mod row;
mod scale;
mod stats;
mod targets;

use std::fs;

use anyhow::{Context, Result, bail};

use crate::run::{root, target_dir};

use peer::{Peer, Stage};
use process::Machine;
use row::Row;

pub(crate) use scale::run as scale;

/// Rounds, where nothing else is asked for.
const ROUNDS: u32 = 8;
/// Seconds of each peer and row in a round.
const SECONDS: f64 = 3.0;
/// The page, when everything was measured.
const PAGE: &str = "benches/RESULTS.md";

/// What the command line asks for.
#[derive(Debug, Clone, PartialEq)]
struct Options {
    peers: Vec<Peer>,
    rows: Vec<Row>,
    rounds: u32,
    seconds: f64,
}

/// `cargo xtask peers [--rounds N] [--seconds S] [--only ROW,ROW] [--peers NAME,NAME]`.
///
/// *Cost*: with everything, about 3 min for a round, and 6 min besides; building takes longer, once.
pub(crate) fn run(args: &[&str]) -> Result<()> {
    let options = Options::read(args)?;
    let dir = target_dir().join("peers/run");
    fs::create_dir_all(&dir).with_context(|| dir.display().to_string())?;
    let machine = Machine::find(&dir)?;
    let programs = install::all(&options.peers, &options.rows)?;
    let stage = Stage::set(&machine, &programs, &options.peers)?;
    let results = measure::all(&stage, &options)?;
    drop(stage);
    let circumstances = report::Circumstances::find(&programs.versions)?;
    let page = report::page(&results, &options, &circumstances);
    println!("\n{page}");
    let path =
        if options.is_everything() { root().join(PAGE) } else { target_dir().join("peers/RESULTS.md") };
    fs::write(&path, page).with_context(|| path.display().to_string())?;
    println!("written to {}", path.display());
    Ok(())
}

/// Tells whoever waits where the run is.
fn progress(line: &str) {
    println!("{line}");
}

impl Options {
    fn read(args: &[&str]) -> Result<Self> {
        let mut options =
            Self { peers: Peer::ALL.to_vec(), rows: Row::ALL.to_vec(), rounds: ROUNDS, seconds: SECONDS };
        for pair in args.chunks(2) {
            let [name, value] = pair else { bail!("{} needs a value", pair[0]) };
            match *name {
                "--rounds" => {
                    options.rounds = value
                        .parse()
                        .ok()
                        .filter(|n| (1..=1_000).contains(n))
                        .with_context(|| format!("--rounds {value}: not a number from 1 to 1000"))?
                }
                "--seconds" => {
                    options.seconds = value
                        .parse()
                        .ok()
                        .filter(|n| (0.1..=600.0).contains(n))
                        .with_context(|| format!("--seconds {value}: not a number from 0.1 to 600"))?
                }
                "--only" => options.rows = chosen(value, &Row::ALL, Row::name).context("--only")?,
                "--peers" => options.peers = chosen(value, &Peer::ALL, Peer::name).context("--peers")?,
                _ => bail!(
                    "peers takes --rounds N, --seconds S, --only ROW,ROW and --peers NAME,NAME, not {name}"
                ),
            }
        }
        Ok(options)
    }

    /// Whether it is the whole comparison.
    fn is_everything(&self) -> bool {
        self.peers == Peer::ALL && self.rows == Row::ALL
    }
}

/// What a list with commas names, in the order of `all`.
fn chosen<T: Copy + PartialEq>(list: &str, all: &[T], name: fn(T) -> &'static str) -> Result<Vec<T>> {
    for word in list.split(',') {
        if !all.iter().any(|one| name(*one) == word) {
            let known: Vec<&str> = all.iter().map(|one| name(*one)).collect();
            bail!("there is no `{word}`; there are {}", known.join(", "));
        }
    }
    Ok(all.iter().copied().filter(|one| list.split(',').any(|word| word == name(*one))).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_options_everything_is_measured() {
        let options = Options::read(&[]).unwrap();
        assert!(options.is_everything());
        assert_eq!((options.rounds, options.seconds), (ROUNDS, SECONDS));
    }

    #[test]
    fn options_choose() {
        let args =
            ["--peers", "ringway,haproxy", "--only", "tls,h1-128", "--rounds", "3", "--seconds", "0.5"];
        let options = Options::read(&args).unwrap();
        assert_eq!(options.peers, [Peer::HaProxy, Peer::Ringway]);
        assert_eq!(options.rows, [Row::Small, Row::TlsRequests]);
        assert_eq!((options.rounds, options.seconds), (3, 0.5));
        assert!(!options.is_everything());
    }

    #[test]
    fn what_is_not_known_is_refused_with_what_is() {
        let message = |args: &[&str]| format!("{:#}", Options::read(args).unwrap_err());
        assert!(message(&["--peers", "haproxy,apache"]).contains("`apache`; there are floor, haproxy"));
        assert!(message(&["--only", "h3"]).contains("h1-128"));
        assert!(message(&["--rounds", "0"]).contains("1 to 1000"));
        assert!(message(&["--seconds", "soon"]).contains("600"));
        assert!(message(&["--seconds"]).contains("needs a value"));
        assert!(message(&["--quick", "1"]).contains("--quick"));
    }
}
