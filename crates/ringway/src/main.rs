//! The ringway binary: command line, admin listener, demo.
//!
//! Each subcommand is one file in [`commands`]; the long-running ones (`proxy`, `kv`, `demo`) are assembled in
//! [`process`] from the library crates and watched by [`process::run`].

mod admin;
mod cli;
mod commands;
mod demo;
mod events;
mod exit;
mod log;
mod plan;
mod process;
mod text;

use std::process::ExitCode;

use clap::Parser;
use mimalloc::MiMalloc;

use crate::admin::OrderVerb;
use crate::cli::{Cli, Command, KvCommand};
use crate::exit::Failure;

/// Requests allocate on one thread and free on another all the time: with the system's allocator that was an eighth of a
/// storage node's time under load.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

fn main() -> ExitCode {
    let cli = Cli::parse();
    match log::init(cli.log_format).and_then(|()| run(cli)) {
        Ok(code) => code,
        Err(failure) => failure.report(),
    }
}

fn run(cli: Cli) -> Result<ExitCode, Failure> {
    match cli.command {
        Command::Demo(args) => match args.command {
            Some(command) => commands::runtime()?.block_on(commands::demo::run(&command)),
            None => commands::runtime()?.block_on(demo::run(args)),
        },
        Command::Proxy(args) => commands::proxy::run(&args),
        Command::Kv(args) => match args.command {
            Some(KvCommand::Dump(dump)) => match (&dump.dir, &dump.admin) {
                (Some(dir), _) => commands::kv::dump(dir),
                (None, admin) => {
                    let admin = admin.as_deref().unwrap_or_default();
                    commands::runtime()?.block_on(commands::kv::dump_live(admin))
                }
            },
            None => commands::kv::run(&args.run),
        },
        Command::Load(args) => commands::load::run(*args),
        Command::Check(args) => commands::check::run(&args),
        Command::Status(args) => commands::runtime()?.block_on(commands::status::run(&args)),
        Command::Members(args) => commands::runtime()?.block_on(commands::members::run(&args)),
        Command::Explain(args) => commands::runtime()?.block_on(commands::explain::run(&args)),
        Command::Plan(args) => commands::runtime()?.block_on(commands::plan::run(&args)),
        Command::Commit(args) => commands::runtime()?.block_on(commands::plan::commit(&args)),
        Command::Drain(args) => commands::runtime()?.block_on(commands::orders::run(OrderVerb::Drain, &args)),
        Command::Evict(args) => commands::runtime()?.block_on(commands::orders::run(OrderVerb::Evict, &args)),
        Command::Activate(args) => {
            commands::runtime()?.block_on(commands::orders::run(OrderVerb::Activate, &args))
        }
        Command::Force(args) => commands::runtime()?.block_on(commands::force::run(&args)),
        Command::Pause(args) => commands::runtime()?.block_on(commands::orders::pause(true, &args)),
        Command::Keys(args) => commands::runtime()?.block_on(commands::keys::run(&args)),
        Command::Resume(args) => commands::runtime()?.block_on(commands::orders::pause(false, &args)),
        Command::Sim(args) => commands::sim::run(&args),
    }
}
