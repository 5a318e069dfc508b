//! `ringway proxy`.

use std::process::ExitCode;

use ringway_config::Config;

use crate::cli::RunArgs;
use crate::commands::{load, runtime};
use crate::exit::Failure;
use crate::process;

/// Runs the routing tier until it is told to stop.
///
/// # Errors
/// Exit code 2 for a file that cannot be used, 1 when something fails on the way.
pub(crate) fn run(args: &RunArgs) -> Result<ExitCode, Failure> {
    let config = match load(&args.file())? {
        Config::Proxy(config) => *config,
        Config::Kv(_) => {
            let file = args.file();
            return Err(Failure::bad_input(format!(
                "{} has a `node:` section, so it is a storage node's; run it with `ringway kv {}`",
                file.display(),
                file.display()
            )));
        }
    };
    runtime()?.block_on(process::run(process::proxy::start(config, None), args.ready_file.as_deref()))
}
