//! `ringway kv` and `ringway kv dump`.

use std::io::{self, BufWriter, Write};
use std::process::ExitCode;

use ringway_config::Config;
use ringway_kv::{DumpError, Dumped, KvStore};

use crate::cli::{DumpArgs, RunArgs};
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
pub(crate) fn dump(args: &DumpArgs) -> Result<ExitCode, Failure> {
    let mut out = BufWriter::new(io::stdout().lock());
    let outcome = KvStore::dump(&args.dir, &mut out).and_then(|dumped| {
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
