//! `ringway kv` and `ringway kv dump`.

use std::io::{self, BufWriter, Write};
use std::path::Path;
use std::process::ExitCode;

use ringway_config::Config;
use ringway_kv::{DumpError, Dumped, KvStore};

use crate::admin::client::AdminClient;
use crate::cli::RunArgs;
use crate::commands::{load, runtime};
use crate::exit::Failure;
use crate::process;

/// Runs a storage node until it is told to stop.
///
/// # Errors
/// Exit code 2 for a file that cannot be used, 1 when something fails on the way.
pub(crate) fn run(args: &RunArgs) -> Result<ExitCode, Failure> {
    let config = match load(&args.file())? {
        Config::Kv(config) => *config,
        Config::Proxy(_) => {
            let file = args.file();
            return Err(Failure::bad_input(format!(
                "{} has no `node:` section, so it is a proxy's; run it with `ringway proxy {}`",
                file.display(),
                file.display()
            )));
        }
    };
    runtime()?.block_on(process::run(process::kv::start(config), args.ready_file.as_deref()))
}

/// Prints what a stopped node holds.
///
/// # Errors
/// The directory is in use, is no node's, or is damaged; the message says which file and why.
pub(crate) fn dump(dir: &Path) -> Result<ExitCode, Failure> {
    let mut out = BufWriter::new(io::stdout().lock());
    let outcome = KvStore::dump(dir, &mut out).and_then(|dumped| {
        out.flush()?;
        Ok(dumped)
    });
    match outcome {
        // A reader that has seen enough (`| head`) is no error.
        Err(DumpError::Write(error)) if error.kind() == io::ErrorKind::BrokenPipe => Ok(ExitCode::SUCCESS),
        Err(error) => Err(error.into()),
        Ok(Dumped { corrupt: 0, .. }) => Ok(ExitCode::SUCCESS),
        Ok(Dumped { values, corrupt }) => Err(Failure::from(anyhow::anyhow!(
            "{corrupt} of {} values do not match their checksums and are marked so in the dump",
            corrupt + values
        ))),
    }
}

/// Prints what a live node holds: a consistent snapshot.
///
/// # Errors
/// Exit code 4 when the listener does not answer, 1 when the dump ends early or a value is corrupt.
pub(crate) async fn dump_live(admin: &str) -> Result<ExitCode, Failure> {
    let mut client = AdminClient::connect(admin).await?;
    let mut out = BufWriter::new(io::stdout().lock());
    let mut corrupt = Corrupt::default();
    let written = client
        .stream("/v1/dump", |piece| {
            corrupt.look(piece);
            out.write_all(piece)
        })
        .await
        .and_then(|()| Ok(out.flush()?));
    match written {
        // A reader that has seen enough (`| head`) is no error.
        Err(failure) if failure.is_broken_pipe() => Ok(ExitCode::SUCCESS),
        Err(failure) => Err(failure),
        Ok(()) if corrupt.lines == 0 => Ok(ExitCode::SUCCESS),
        Ok(()) => Err(Failure::from(anyhow::anyhow!(
            "{} values do not match their checksums and are marked so in the dump",
            corrupt.lines
        ))),
    }
}

/// Counts the lines of a dump that tell of a corrupt value.
#[derive(Default)]
struct Corrupt {
    lines: u64,
    line: Vec<u8>,
}

impl Corrupt {
    /// What a line about a corrupt value holds, and no other: quotes in keys and values are escaped.
    const MARK: &[u8] = b"\"corrupt\":";

    fn look(&mut self, mut piece: &[u8]) {
        while let Some(end) = piece.iter().position(|&byte| byte == b'\n') {
            self.line.extend_from_slice(&piece[..end]);
            self.lines += u64::from(self.line.windows(Self::MARK.len()).any(|part| part == Self::MARK));
            self.line.clear();
            piece = &piece[end + 1..];
        }
        self.line.extend_from_slice(piece);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn corrupt_values_are_counted_wherever_the_pieces_end() {
        let dump = b"{\"key\":\"a\",\"corrupt\":\"x\"}\n{\"key\":\"\\\"corrupt\\\":\"}\n{\"corrupt\":1}\n";
        for size in 1..dump.len() {
            let mut corrupt = Corrupt::default();
            dump.chunks(size).for_each(|piece| corrupt.look(piece));
            assert_eq!(corrupt.lines, 2, "pieces of {size}");
        }
    }
}
