//! The report: one HTML page with everything in it, for light and dark.
//!
//! The markup is well-formed XML, too. The only script shows the values under the pointer; without it nothing is missing,
//! as the same numbers stand in a table.

mod plot;

use std::collections::BTreeMap;
use std::fmt::Write;

use crate::audit::AuditReport;
use crate::follow::Event;
use crate::histogram::Percentiles;
use crate::summary::{Part, SecondOf, Summary};
use plot::{Axis, Curve, Mark, Plot, clock};

/// Points of a curve; in longer runs some seconds share one.
const POINTS_MAX: usize = 1_200;
/// Moments marked in the plots; all events are in the list.
const MARKS_MAX: usize = 60;
/// Moments marked that are about partitions; when there are more, none is, as the plots of moves show them better.
const PARTITION_MARKS_MAX: usize = 8;
/// Events listed.
const EVENTS_LISTED: usize = 500;
/// Violations told in full.
const VIOLATIONS_TOLD: usize = 20;

/// The page.
#[must_use]
pub fn html(summary: &Summary) -> String {
    let mut out = String::with_capacity(64 << 10);
    let verdict = if summary.passed { ("good", "passed") } else { ("bad", "failed") };
    let _ = writeln!(
        out,
        "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"/>\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"/>\
         <title>ringway load: {}</title><style>{}</style></head><body><main>",
        verdict.1,
        include_str!("style.css"),
    );
    let _ = writeln!(
        out,
        "<header><h1>ringway load <span class=\"verdict {}\">{}</span></h1><p class=\"asked\">{}</p></header>",
        verdict.0,
        verdict.1,
        escape(&asked_for(summary))
    );
    list(&mut out, "bad", &summary.failures);
    tiles(&mut out, summary);
    plots(&mut out, summary);
    parts(&mut out, summary);
    errors(&mut out, summary);
    if let Some(audit) = &summary.audit {
        verdict_of(&mut out, audit);
    }
    events(&mut out, &summary.events);
    list(&mut out, "note", &summary.notes);
    seconds(&mut out, &summary.series);
    let _ = writeln!(
        out,
        "</main><div id=\"tip\"></div><script>/*<![CDATA[*/const seconds={};{}/*]]>*/</script></body></html>",
        script_data(&folded(&summary.series)),
        include_str!("hover.js"),
    );
    out
}

/// Text as HTML and XML have it.
fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c if c.is_control() && c != '\n' => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}

fn asked_for(summary: &Summary) -> String {
    let options = &summary.options;
    let shares: Vec<String> = options
        .shares
        .iter()
        .filter(|(_, share)| **share > 0.0)
        .map(|(name, share)| format!("{:.0} % {}", share * 100.0, name.replace('_', "-")))
        .collect();
    format!(
        "{} at {}/s for {} ({} warm-up), {} keys ({}), values of {} bytes, {}; seed {}",
        options.targets.join(", "),
        options.rate,
        clock(options.duration_seconds),
        clock(options.warmup_seconds),
        options.keys,
        options.distribution,
        options.value_bytes,
        if shares.is_empty() { "only writes".to_owned() } else { shares.join(", ") },
        options.seed,
    )
}

fn list(out: &mut String, class: &str, lines: &[String]) {
    if !lines.is_empty() {
        let items: String = lines.iter().map(|line| format!("<li>{}</li>", escape(line))).collect();
        let _ = writeln!(out, "<ul class=\"{class}\">{items}</ul>");
    }
}

/// The numbers that matter, large.
fn tiles(out: &mut String, summary: &Summary) {
    out.push_str("<section class=\"tiles\">");
    let mut tile = |name: &str, value: String, bad: bool| {
        let class = if bad { " bad" } else { "" };
        let _ = write!(
            out,
            "<div class=\"tile{class}\"><b>{}</b><span>{}</span></div>",
            escape(&value),
            escape(name)
        );
    };
    let ms = &summary.latency_ms;
    tile("requests", summary.requests.to_string(), false);
    tile("errors", summary.errors.to_string(), summary.errors > 0);
    tile("p50", format!("{} ms", ms.p50), false);
    tile("p99", format!("{} ms", ms.p99), false);
    tile("slowest", format!("{} ms", ms.max), false);
    tile("unknown outcomes", summary.unknown.to_string(), false);
    let audited = [
        ("lost", summary.lost),
        ("stale", summary.stale),
        ("phantom", summary.phantom),
        ("against a condition", summary.condition),
    ];
    for (name, count) in audited {
        if let Some(count) = count {
            tile(name, count.to_string(), count > 0);
        }
    }
    if let Some(moved) = summary.partitions_moved {
        tile("partitions moved", moved.to_string(), false);
    }
    out.push_str("</section>\n");
}

fn plots(out: &mut String, summary: &Summary) {
    let series = folded(&summary.series);
    let last = summary.series.last().map_or(0, |second| second.second);
    let axis = Axis { end: last as f64 + 1.0, warmup: summary.options.warmup_seconds };
    let curve = |name, class, value: &dyn Fn(&SecondOf) -> Option<f64>| Curve {
        name,
        class,
        points: series.iter().map(|second| (second.second as f64, value(second))).collect(),
    };
    let answered = |second: &SecondOf, value: f64| (second.requests > second.errors).then_some(value);
    let mut plots = vec![
        Plot {
            title: "Latency of good answers, from their scheduled time",
            unit: "milliseconds, logarithmic",
            logarithmic: true,
            curves: vec![
                curve("slowest", "c3", &|second| answered(second, second.max)),
                curve("p99", "c2", &|second| answered(second, second.p99)),
                curve("p50", "c1", &|second| answered(second, second.p50)),
            ],
        },
        Plot {
            title: "Throughput",
            unit: "good answers per second",
            logarithmic: false,
            curves: vec![curve("good answers", "c1", &|second| {
                Some((second.requests - second.errors) as f64)
            })],
        },
        Plot {
            title: "Errors",
            unit: "per second",
            logarithmic: false,
            curves: vec![curve("errors", "c4", &|second| Some(second.errors as f64))],
        },
    ];
    if series.iter().any(|second| second.held.is_some()) {
        let curves = vec![curve("held requests", "c1", &|second| second.held)];
        plots.push(Plot {
            title: "Requests held",
            unit: "at the end of each second",
            logarithmic: false,
            curves,
        });
    }
    if series.iter().any(|second| second.moved.is_some()) {
        let curves = vec![curve("moved", "c1", &|second| second.moved)];
        plots.push(Plot { title: "Partitions moved", unit: "since the start", logarithmic: false, curves });
    }
    if series.iter().any(|second| second.handoffs.is_some()) {
        let curves = vec![curve("handoffs", "c2", &|second| second.handoffs)];
        plots.push(Plot { title: "Handoffs under way", unit: "partitions", logarithmic: false, curves });
    }
    let marks = marks(&summary.events, axis.end);
    for (index, plot) in plots.iter().enumerate() {
        let _ = writeln!(
            out,
            "<figure><figcaption><b>{}</b> <span>{}</span>{}</figcaption>{}</figure>",
            escape(plot.title),
            escape(plot.unit),
            if plot.curves.len() > 1 { plot.legend() } else { String::new() },
            plot.svg(&axis, &marks, index == 0)
        );
    }
    if summary.series.iter().all(|second| second.moved.is_none()) {
        out.push_str(
            "<p class=\"note\">No admin listener was asked (--admin), or none told: holds, moves and events are not shown.</p>\n",
        );
    }
}

/// The moments to mark: events of one kind in one second together.
fn marks(events: &[Event], end: f64) -> Vec<Mark> {
    let mut groups: BTreeMap<(bool, i64, &str), Vec<&Event>> = BTreeMap::new();
    for event in events.iter().filter(|event| (0.0..=end).contains(&event.at_seconds)) {
        let of_partition = event.subject.starts_with("partition");
        groups.entry((of_partition, event.at_seconds.floor() as i64, &event.kind)).or_default().push(event);
    }
    let mark = |((_, _, kind), events): ((bool, i64, &str), Vec<&Event>)| {
        let kind = kind.replace('_', " ");
        let label = match events.as_slice() {
            [event] => format!("{kind} {}", event.subject),
            [first, ..] if events.iter().all(|event| event.subject == first.subject) => {
                format!("{kind} {} ×{}", first.subject, events.len())
            }
            _ => format!("{kind} ×{}", events.len()),
        };
        Mark { at: events[0].at_seconds, label }
    };
    let of_partitions = groups.keys().filter(|(of_partition, _, _)| *of_partition).count();
    let drawn = groups.into_iter().filter(|(key, _)| !key.0 || of_partitions <= PARTITION_MARKS_MAX);
    let mut marks: Vec<Mark> = drawn.take(MARKS_MAX).map(mark).collect();
    marks.sort_by(|a, b| a.at.total_cmp(&b.at));
    marks
}

/// The seconds, several in one where there are more than [`POINTS_MAX`]: the worst of latencies and gauges, the sums of counts
/// brought back to one second.
fn folded(series: &[SecondOf]) -> Vec<SecondOf> {
    let each = series.len().div_ceil(POINTS_MAX).max(1);
    let worst = |a: Option<f64>, b: Option<f64>| a.into_iter().chain(b).reduce(f64::max);
    let fold = |seconds: &[SecondOf]| {
        let mut whole = seconds[0].clone();
        for second in &seconds[1..] {
            whole.requests += second.requests;
            whole.errors += second.errors;
            whole.p50 = whole.p50.max(second.p50);
            whole.p99 = whole.p99.max(second.p99);
            whole.max = whole.max.max(second.max);
            whole.held = worst(whole.held, second.held);
            whole.handoffs = worst(whole.handoffs, second.handoffs);
            whole.moved = worst(whole.moved, second.moved);
        }
        let count = seconds.len() as u64;
        whole.requests /= count;
        // A single error stays visible.
        whole.errors = whole.errors.div_ceil(count).min(whole.requests);
        whole
    };
    series.chunks(each).map(fold).collect()
}

fn parts(out: &mut String, summary: &Summary) {
    out.push_str(
        "<h2>Latency by part</h2><table><thead><tr><th>part</th><th>requests</th><th>errors</th><th>p50 ms</th><th>p90</th>\
         <th>p99</th><th>p99.9</th><th>max</th></tr></thead><tbody>",
    );
    for (name, part) in summary.parts() {
        let Part { requests, errors, latency_ms } = part;
        let Percentiles { p50, p90, p99, p999, max, .. } = latency_ms;
        let _ = write!(
            out,
            "<tr><th>{}</th><td>{requests}</td><td>{errors}</td><td>{p50}</td><td>{p90}</td><td>{p99}</td><td>{p999}</td><td>{max}</td></tr>",
            escape(&name.replace('_', " "))
        );
    }
    out.push_str("</tbody></table>\n");
}

fn errors(out: &mut String, summary: &Summary) {
    if summary.errors_by_kind.is_empty() {
        return;
    }
    out.push_str("<h2>Errors by kind</h2><table><tbody>");
    for (kind, count) in &summary.errors_by_kind {
        let _ = write!(out, "<tr><th>{}</th><td>{count}</td></tr>", escape(kind));
    }
    out.push_str("</tbody></table>\n");
}

fn verdict_of(out: &mut String, audit: &AuditReport) {
    let verdict = match (audit.violated(), audit.passed()) {
        (0, true) => {
            "Every key's history is linearizable, and every acknowledged write was there at the end."
        }
        (0, false) => "No violation was found, but not everything could be checked.",
        _ => "The service broke its promise.",
    };
    let _ = writeln!(
        out,
        "<h2>Audit</h2><p>{verdict} {} operations in {} windows checked; {} windows undecided, {} keys unreadable at the end, \
         {} operations unchecked.</p>",
        audit.operations, audit.windows, audit.undecided, audit.unread, audit.unchecked
    );
    for violation in audit.violations.iter().take(VIOLATIONS_TOLD) {
        let history: String = violation
            .history
            .iter()
            .map(|line| {
                let class =
                    if violation.text.starts_with(line.as_str()) { " class=\"offender\"" } else { "" };
                format!("<li{class}>{}</li>", escape(line))
            })
            .collect();
        let _ = writeln!(
            out,
            "<details open=\"open\"><summary><b>{}</b> {} at {:.3} s of the run's clock: {}</summary><ol>{history}</ol></details>",
            escape(violation.kind),
            escape(&violation.key),
            violation.at_seconds,
            escape(&violation.text)
        );
    }
}

fn events(out: &mut String, events: &[Event]) {
    if events.is_empty() {
        return;
    }
    out.push_str("<h2>Events</h2><table><tbody>");
    for event in events.iter().take(EVENTS_LISTED) {
        let _ = write!(
            out,
            "<tr><td>{:.1} s</td><th>{}</th><td class=\"text\">{}</td></tr>",
            event.at_seconds,
            escape(&event.kind.replace('_', " ")),
            escape(if event.text.is_empty() { &event.subject } else { &event.text })
        );
    }
    out.push_str("</tbody></table>\n");
    if events.len() > EVENTS_LISTED {
        let _ = writeln!(
            out,
            "<p class=\"note\">{} more are in the JSON file.</p>",
            events.len() - EVENTS_LISTED
        );
    }
}

/// The plots' numbers, for those who cannot see them or want to copy them.
fn seconds(out: &mut String, series: &[SecondOf]) {
    out.push_str(
        "<details><summary>All numbers of the plots</summary><table><thead><tr><th>second</th><th>requests</th><th>errors</th>\
         <th>p50 ms</th><th>p99</th><th>max</th><th>held</th><th>handoffs</th><th>moved</th></tr></thead><tbody>",
    );
    let or_dash = |value: Option<f64>| value.map_or("–".to_owned(), |value| value.to_string());
    for second in folded(series) {
        let SecondOf { second, requests, errors, p50, p99, max, held, handoffs, moved } = second;
        let [held, handoffs, moved] = [held, handoffs, moved].map(or_dash);
        let _ = write!(
            out,
            "<tr><td>{second}</td><td>{requests}</td><td>{errors}</td><td>{p50}</td><td>{p99}</td><td>{max}</td><td>{held}</td><td>{handoffs}</td><td>{moved}</td></tr>",
        );
    }
    out.push_str("</tbody></table></details>\n");
}

/// Numbers only, so nothing in it can end the script early.
fn script_data(series: &[SecondOf]) -> String {
    serde_json::to_string(series).unwrap_or_else(|_| "[]".to_owned())
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
