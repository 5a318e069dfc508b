//! The small programs that `cargo xtask peers` needs, in one binary, so that one build makes them all.
//!
//! `bench-peer floor | backend | load | announce`. [`backend`] answers, [`load`] asks and checks the answers, [`floor`] is what a
//! proxy costs that does nothing but forward, and [`announce`] makes the backends known to ringway. What they share is
//! [`poll`] (epoll without a runtime), [`http`] (as much of HTTP/1.1 as they speak) and [`arguments`].

mod announce;
mod arguments;
mod backend;
mod floor;
mod http;
mod load;
mod poll;

use std::process::ExitCode;

const USAGE: &str = "\
bench-peer backend IP:PORT...                 answers on each of them
bench-peer floor --listen A --backends A,B,C  forwards, and does nothing else
bench-peer announce --cluster NAME --gossip PORT,PORT,PORT --backends A,B,C
bench-peer load closed|rate|handshakes|idle|hold --target A [--connections N] [--seconds S | --requests N]
                [--rate R] [--body 128|16384] [--certificate FILE]";

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let outcome = match words.as_slice() {
        ["backend", rest @ ..] if !rest.is_empty() => backend::run(rest),
        ["floor", rest @ ..] => floor::run(rest),
        ["announce", rest @ ..] => announce::run(rest),
        ["load", kind, rest @ ..] => load::run(kind, rest),
        _ => {
            eprintln!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench-peer: {error:#}");
            ExitCode::FAILURE
        }
    }
}
