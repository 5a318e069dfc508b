//! `access_log:`: one line per request, and where to.

use std::path::Path;

use ringway_proxy::{AccessLogFormat, AccessLogOptions, AccessLogOutput};

use crate::problem::echo;
use crate::section::{Field, Section};

/// The word for standard output.
const STDOUT: &str = "stdout";
const TO_ACCEPTED: &str = "`stdout`, or the path of a file, with a `/` in it, whose directory is there";
const TO_BECAUSE: &str = "every request that is routed here is written there";

/// What the section says; `None` without one.
pub(super) fn read(root: &Section<'_>) -> Option<AccessLogOptions> {
    let section = root.section("access_log", &["format", "to"])?;
    let because = "whoever reads the lines must know how they look";
    let formats = [("json", AccessLogFormat::Json), ("common", AccessLogFormat::Common)];
    let format = section.choice("format", &formats, because).unwrap_or_default();
    let to = section.required("to", TO_ACCEPTED, TO_BECAUSE).and_then(|field| output(&field))?;
    Some(AccessLogOptions { format, to })
}

/// Standard output or a file. The file itself is made at the start, and what it lacks by then is said there.
fn output(field: &Field<'_>) -> Option<AccessLogOutput> {
    let text = field.text()?;
    if text == STDOUT {
        return Some(AccessLogOutput::Stdout);
    }
    let path = Path::new(text);
    let shown = echo(text);
    let directory = path.parent().unwrap_or(path);
    let (message, remedy) = if !text.contains('/') {
        let message = format!("`{shown}` is neither `{STDOUT}` nor a path with a `/`");
        (message, format!("write `{STDOUT}`, or `./{shown}` for a file in the working directory"))
    } else if path.is_dir() || text.ends_with('/') {
        (format!("`{shown}` is a directory"), "add the name of a file".to_owned())
    } else if !directory.is_dir() {
        let directory = echo(&directory.to_string_lossy());
        (
            format!("the directory `{directory}` of `{shown}` is not there"),
            "make it, let this process write there, and check the working directory, which paths are relative to"
                .to_owned(),
        )
    } else {
        return Some(AccessLogOutput::File(path.to_owned()));
    };
    field.refuse(message).accepted(TO_ACCEPTED).because(TO_BECAUSE).remedy(remedy);
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::Config;

    fn read_from(more: &str) -> Option<AccessLogOptions> {
        let proxy = "cluster: { name: shop, replicas: 1, ownership: derived }\n\
                     gossip: { seeds: ['127.0.0.1:7946'] }\n\
                     routes: [ { match: { path: '/kv/{key}' }, key: { path: key } } ]\n";
        let node = "cluster: { name: shop, replicas: 1, ownership: derived }\n\
                    node: { id: n1, data_dir: ./d, bootstrap: [n1] }\n";
        let of = |text: &str| match crate::load_str("f.yaml", &format!("{text}{more}")).unwrap().config {
            Config::Proxy(config) => config.proxy.routing.access_log,
            Config::Kv(config) => config.routing.access_log,
        };
        assert_eq!(of(proxy), of(node), "either kind of file may have one");
        of(proxy)
    }

    #[test]
    fn there_is_none_unless_a_file_says_where_to() {
        assert_eq!(read_from(""), None);
        assert_eq!(read_from("access_log:\n"), None);
        let to = AccessLogOutput::Stdout;
        let expected = AccessLogOptions { format: AccessLogFormat::Json, to };
        assert_eq!(read_from("access_log: { to: stdout }\n"), Some(expected));
        let to = AccessLogOutput::File("./access.log".into());
        let expected = AccessLogOptions { format: AccessLogFormat::Common, to };
        assert_eq!(read_from("access_log: { format: common, to: ./access.log }\n"), Some(expected));
    }
}
