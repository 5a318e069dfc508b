//! YAML text → a tree in which every key and value knows its line and column.
//!
//! Only the plain part of YAML is taken: mappings, sequences, scalars. Anchors, aliases, tags, merge keys and
//! further documents are refused: they make a value come from somewhere else than where it stands, and a file of
//! ten lines expand to gigabytes. The tree keeps scalars as text; what `8080` or `yes` means is decided by the
//! setting that reads it.

use std::collections::BTreeMap;

use saphyr_parser::{Event, Parser, ScalarStyle, ScanError, Span, Tag};

use crate::problem::{Mark, Problem, Report, echo};

/// Largest configuration file, in bytes.
pub const FILE_BYTES_MAX: usize = 1 << 20;
/// Deepest nesting of mappings and sequences; the deepest setting there is stands at 5.
pub const DEPTH_MAX: usize = 16;
/// Most keys and values in one file.
pub const NODES_MAX: usize = 65_536;

/// A value and where it stands.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) at: Mark,
    pub(crate) kind: Kind,
}

/// What a value is.
#[derive(Debug)]
pub(crate) enum Kind {
    /// Nothing, `~` or `null`.
    Null,
    /// Any other scalar, as text.
    Text(String),
    /// `[a, b]` or lines with `-`.
    Sequence(Vec<Node>),
    /// `{a: b}` or lines with `:`, in the file's order; no key stands twice.
    Mapping(Vec<Entry>),
}

/// A key with its value.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) key: String,
    pub(crate) key_at: Mark,
    pub(crate) value: Node,
}

impl Node {
    /// What the value is, for messages.
    pub(crate) fn kind_name(&self) -> &'static str {
        match self.kind {
            Kind::Null => "nothing",
            Kind::Text(_) => "a single value",
            Kind::Sequence(_) => "a list",
            Kind::Mapping(_) => "a mapping",
        }
    }
}

/// Builds the tree. Problems go to `report`; `None` when the text is no tree at all.
///
/// *Cost*: linear in the text, bounded by [`FILE_BYTES_MAX`], [`NODES_MAX`] and [`DEPTH_MAX`].
pub(crate) fn parse(text: &str, report: &Report) -> Option<Node> {
    let mut builder = Builder {
        report,
        open: Vec::new(),
        root: None,
        nodes: 0,
        documents: 0,
        indirections: BTreeMap::new(),
    };
    let mut parser = Parser::new_from_str(text);
    let mut stopped = false;
    while let (false, Some(event)) = (stopped, parser.next_event()) {
        let taken = event.map_err(Stop::Syntax).and_then(|(event, span)| builder.take(event, span));
        if let Err(stop) = taken {
            report.add(stop.problem());
            stopped = true;
        }
    }
    builder.refuse_indirections();
    if stopped {
        return None;
    }
    let empty = Node { at: Mark::START, kind: Kind::Null };
    Some(builder.root.unwrap_or(empty))
}

/// Why building ends before the text does.
enum Stop {
    Syntax(ScanError),
    TooDeep(Mark),
    TooMany(Mark),
}

impl Stop {
    fn problem(&self) -> Problem {
        match self {
            Self::Syntax(error) => {
                let at = mark(*error.marker());
                Problem::error(at, "", format!("this is not YAML: {}", error.info()))
                    .accepted("YAML 1.2")
                    .consequence("nothing after this place was read; there may be more problems")
                    .remedy("mind the indentation (spaces, no tabs) and put text with `:`, `#`, `{` or `*` in quotes")
            }
            Self::TooDeep(at) => Problem::error(*at, "", "this is nested too deeply")
                .accepted(format!("at most {DEPTH_MAX} levels"))
                .consequence("nothing after this place was read")
                .remedy("no setting is that deep: take out the brackets or the indentation"),
            Self::TooMany(at) => Problem::error(*at, "", "the file holds too many keys and values")
                .accepted(format!("at most {NODES_MAX}"))
                .consequence("nothing after this place was read")
                .remedy("split the cluster, or tell us what needs so many"),
        }
    }
}

struct Builder<'r> {
    report: &'r Report,
    /// The mappings and sequences around the current place, outermost first.
    open: Vec<Open>,
    root: Option<Node>,
    nodes: usize,
    documents: usize,
    /// What makes a value come from somewhere else, with its first place and how often it was seen.
    indirections: BTreeMap<&'static str, (Mark, usize)>,
}

/// A mapping or sequence whose end has not come yet.
enum Open {
    Sequence { at: Mark, items: Vec<Node> },
    Mapping { at: Mark, entries: Vec<Entry>, seen: BTreeMap<String, Mark>, key: Option<(String, Mark)> },
}

impl Builder<'_> {
    fn take(&mut self, event: Event<'_>, span: Span) -> Result<(), Stop> {
        let at = mark(span.start);
        match event {
            Event::DocumentStart(_) => self.start_document(at),
            Event::Alias(_) => {
                self.note_indirection(at, "an alias");
                self.place(Node { at, kind: Kind::Null })?;
            }
            Event::Scalar(text, style, anchor, tag) => {
                self.note_properties(at, anchor, tag.as_deref());
                self.place(Node { at, kind: scalar(&text, style) })?;
            }
            Event::SequenceStart(anchor, tag) => {
                self.note_properties(at, anchor, tag.as_deref());
                self.open(at, Open::Sequence { at, items: Vec::new() })?;
            }
            Event::MappingStart(anchor, tag) => {
                self.note_properties(at, anchor, tag.as_deref());
                self.open(at, Open::Mapping { at, entries: Vec::new(), seen: BTreeMap::new(), key: None })?;
            }
            Event::SequenceEnd | Event::MappingEnd => match self.open.pop() {
                Some(Open::Sequence { at, items }) => self.place(Node { at, kind: Kind::Sequence(items) })?,
                Some(Open::Mapping { at, entries, .. }) => {
                    self.place(Node { at, kind: Kind::Mapping(entries) })?;
                }
                None => debug_assert!(false, "the parser closes only what it opened"),
            },
            Event::Nothing | Event::StreamStart | Event::StreamEnd | Event::DocumentEnd => {}
        }
        Ok(())
    }

    fn start_document(&mut self, at: Mark) {
        self.documents += 1;
        if self.documents == 2 {
            self.report.add(
                Problem::error(at, "", "a second YAML document starts here")
                    .accepted("one document per file")
                    .consequence("it would be silently ignored")
                    .remedy("take out the `---` line, or make it a file of its own"),
            );
        }
    }

    fn open(&mut self, at: Mark, open: Open) -> Result<(), Stop> {
        if self.open.len() == DEPTH_MAX {
            return Err(Stop::TooDeep(at));
        }
        self.open.push(open);
        Ok(())
    }

    /// Puts a finished value where the next one belongs.
    fn place(&mut self, node: Node) -> Result<(), Stop> {
        self.nodes += 1;
        if self.nodes > NODES_MAX {
            return Err(Stop::TooMany(node.at));
        }
        match self.open.last_mut() {
            None if self.root.is_none() => self.root = Some(node),
            // A further document, refused when it started.
            None => {}
            Some(Open::Sequence { items, .. }) => items.push(node),
            Some(Open::Mapping { entries, seen, key, .. }) => match key.take() {
                None => *key = Some((key_text(&node, self.report), node.at)),
                Some((text, key_at)) => match seen.get(&text) {
                    Some(first) => self.report.add(set_twice(&text, key_at, *first)),
                    None => {
                        seen.insert(text.clone(), key_at);
                        entries.push(Entry { key: text, key_at, value: node });
                    }
                },
            },
        }
        Ok(())
    }

    fn note_properties(&mut self, at: Mark, anchor: usize, tag: Option<&Tag>) {
        if anchor != 0 {
            self.note_indirection(at, "an anchor");
        }
        if tag.is_some() {
            self.note_indirection(at, "a tag");
        }
    }

    fn note_indirection(&mut self, at: Mark, what: &'static str) {
        self.indirections.entry(what).or_insert((at, 0)).1 += 1;
    }

    /// One problem for each kind: a file that has one anchor may have thousands.
    fn refuse_indirections(&self) {
        for (what, (at, count)) in &self.indirections {
            let more = if *count > 1 { format!(" (the first of {count})") } else { String::new() };
            self.report.add(
                Problem::error(*at, "", format!("{what} stands here{more}"))
                    .accepted("plain YAML: no `&anchor`, `*alias`, `!tag` or `<<`")
                    .consequence("a value would come from another place than where it is read")
                    .remedy("write the value out; text that starts with `&`, `*` or `!` goes in quotes"),
            );
        }
    }
}

fn set_twice(key: &str, at: Mark, first: Mark) -> Problem {
    Problem::error(at, "", format!("`{}` is set twice", echo(key)))
        .accepted("each key once")
        .consequence(format!("the value on line {} or this one would be silently ignored", first.line))
        .remedy("take one of them out")
}

fn key_text(node: &Node, report: &Report) -> String {
    if let Kind::Text(text) = &node.kind {
        return text.clone();
    }
    report.add(
        Problem::error(node.at, "", format!("{} is used as a key", node.kind_name()))
            .accepted("a name")
            .consequence("no setting can be meant")
            .remedy("a placeholder like `{key}` inside braces or brackets goes in quotes"),
    );
    String::new()
}

fn scalar(text: &str, style: ScalarStyle) -> Kind {
    match text {
        "" | "~" | "null" if style == ScalarStyle::Plain => Kind::Null,
        _ => Kind::Text(text.to_owned()),
    }
}

fn mark(marker: saphyr_parser::Marker) -> Mark {
    Mark { line: marker.line().max(1), column: marker.col() + 1 }
}
