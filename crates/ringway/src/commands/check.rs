//! `ringway check`: every problem of every file, with its place.

use std::process::ExitCode;

use ringway_config::{Config, Problem};
use serde::Serialize;

use crate::cli::CheckArgs;
use crate::commands::{print, print_json};
use crate::exit::{self, Failure};

/// What is printed with `--json`: one object a file.
#[derive(Debug, Serialize)]
struct Checked {
    file: String,
    ok: bool,
    /// `proxy` or `kv`; none when the file cannot be used.
    #[serde(skip_serializing_if = "Option::is_none")]
    kind: Option<&'static str>,
    problems: Vec<ProblemView>,
    /// Problems that were found and are not listed.
    omitted: usize,
}

#[derive(Debug, Serialize)]
struct ProblemView {
    severity: &'static str,
    path: String,
    line: usize,
    column: usize,
    message: String,
    accepted: Option<String>,
    consequence: Option<String>,
    remedy: Option<String>,
}

/// Exit code 0 when every file can be used (warnings are printed all the same), 2 otherwise.
///
/// # Errors
/// Standard output cannot be written.
pub(crate) fn run(args: &CheckArgs) -> Result<ExitCode, Failure> {
    let mut usable = true;
    for file in &args.files {
        let loaded = ringway_config::load(file);
        usable &= loaded.is_ok();
        let (kind, problems, omitted) = match loaded {
            Ok(loaded) => (Some(kind(&loaded.config)), loaded.warnings, 0),
            Err(problems) => (None, problems.list, problems.dropped),
        };
        if args.json {
            let problems = problems.iter().map(ProblemView::from).collect();
            print_json(&Checked {
                file: file.display().to_string(),
                ok: kind.is_some(),
                kind,
                problems,
                omitted,
            })?;
        } else {
            let mut out: String = problems.iter().map(|problem| format!("{problem}\n")).collect();
            if omitted > 0 {
                out.push_str(&format!("{}: and {omitted} more problems\n", file.display()));
            }
            if let Some(kind) = kind {
                out.push_str(&format!("{}: ok, for `ringway {kind}`\n", file.display()));
            }
            print(&out)?;
        }
    }
    Ok(if usable { ExitCode::SUCCESS } else { ExitCode::from(exit::BAD_INPUT) })
}

fn kind(config: &Config) -> &'static str {
    match config {
        Config::Proxy(_) => "proxy",
        Config::Kv(_) => "kv",
    }
}

impl From<&Problem> for ProblemView {
    fn from(problem: &Problem) -> Self {
        Self {
            severity: problem.severity.as_str(),
            path: problem.path.clone(),
            line: problem.at.line,
            column: problem.at.column,
            message: problem.message.clone(),
            accepted: problem.accepted.clone(),
            consequence: problem.consequence.clone(),
            remedy: problem.remedy.clone(),
        }
    }
}
