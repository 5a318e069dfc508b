//! The project's automation, as code: what continuous integration runs is what a person runs.
//!
//! `cargo xtask test | ci | tidy | sweep | sim-compare | instructions | peers | long NAME`. The story: [`ci`] strings the steps
//! together, [`mod@test`] runs the tests and counts them, [`tidy`] checks what compilers do not, [`sim`] runs the simulator,
//! [`instructions`] counts what a request costs, [`peers`] runs other proxies beside ours, [`long`] is what takes longer than a
//! coffee, and [`tools`] installs what any of them lacks.
#![expect(clippy::print_stdout, reason = "a command line tool talks on stdout")]

mod ci;
mod instructions;
mod locked;
mod long;
mod peers;
mod run;
mod sim;
mod test;
mod tidy;
mod tools;

use std::process::ExitCode;

const USAGE: &str = "\
cargo xtask COMMAND
  test              install what the tests need, run every test and every bench once on small inputs
  ci                test, sweep, instructions, clippy, rustdoc, tidy, cargo deny, cargo machete: what CI runs
  tidy              formatting, dependency direction, file sizes, links, leftovers
  sweep             simulated clusters in every kind of trouble: [--seeds N]
  sim-compare       our membership beside foca's, simulated: [--nodes N] [--seeds N]
  instructions      what a request costs the worker, beside what is written down: [--write]
  peers             our proxy beside HAProxy, nginx, Envoy, Pingora and a bare forwarder, on one core each:
                    [--rounds N] [--seconds S] [--only ROW,ROW] [--peers NAME,NAME]
  long NAME         a long run; without NAME, lists them";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let outcome = match args.as_slice() {
        ["test"] => test::run(),
        ["ci"] => ci::run(),
        ["tidy"] => tidy::run().map(|()| ExitCode::SUCCESS),
        ["sweep", rest @ ..] => sim::sweep(rest).map(|()| ExitCode::SUCCESS),
        ["sim-compare", rest @ ..] => sim::compare(rest).map(|()| ExitCode::SUCCESS),
        ["instructions", rest @ ..] => instructions::run(rest).map(|()| ExitCode::SUCCESS),
        ["peers", rest @ ..] => peers::run(rest).map(|()| ExitCode::SUCCESS),
        ["long", rest @ ..] => long::run(rest).map(|()| ExitCode::SUCCESS),
        _ => {
            eprintln!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    match outcome {
        Ok(code) => code,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}
