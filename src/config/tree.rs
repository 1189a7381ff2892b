//! YAML text -> a small tree that knows where each key and value stands. Values are expanded here, keys are not.
//!
//! The parser is serde-saphyr's own (YAML 1.2); duplicate keys, tags, a second document and aliases that grow without
//! bound are refused. Merge keys (`<<`) are understood.

use std::collections::HashMap;
use std::rc::Rc;

use serde_yaml::granit_parser::{Event, Marker, Parser, ScalarStyle, ScanError, Span};

use super::expand;
use super::fault::{Place, shown_key};

/// One value. No `Debug`: it may hold what `${VAR}` stood for.
pub struct Node {
    /// Where it begins.
    pub place: Place,
    /// What it is.
    pub content: Content,
}

/// What a node is.
pub enum Content {
    /// Text, number, truth value or nothing.
    Scalar(Scalar),
    /// A sequence.
    List(Vec<Rc<Node>>),
    /// A mapping, in order.
    Map(Vec<Entry>),
    /// Something whose fault was told already.
    Broken,
}

/// A scalar.
pub struct Scalar {
    /// After expansion.
    pub text: String,
    /// The text before expansion, where it differs: all that a message may show.
    pub written: Option<String>,
    /// Whether it stands without quotes, so that it may be a number, a truth value or nothing.
    pub plain: bool,
    /// A variable that brought template syntax in.
    pub template_syntax: Option<String>,
    /// The variables that were put in.
    pub variables: Vec<expand::Variable>,
    /// For a literal block (`|`): where the first line of its text begins.
    pub block: Option<Place>,
}

/// A key with its value.
#[derive(Clone)]
pub struct Entry {
    /// The key.
    pub key: String,
    /// Where the key stands.
    pub place: Place,
    /// The value.
    pub node: Rc<Node>,
}

/// A problem of the text: where, what, and what to do.
pub type Trouble = (Place, String, Option<String>);

/// How many nodes aliases may stand for, all together.
const ALIAS_NODES: u64 = 50_000;

enum Frame {
    List { place: Place, anchor: usize, size: u64, items: Vec<Rc<Node>> },
    Map { place: Place, anchor: usize, size: u64, entries: Vec<Entry>, seen: HashMap<String, Place>, key: Option<Key> },
}

struct Key {
    text: String,
    place: Place,
}

struct Reader<'a> {
    source: &'a str,
    env: &'a dyn Fn(&str) -> Option<String>,
    stack: Vec<Frame>,
    anchors: HashMap<usize, (Rc<Node>, u64)>,
    aliased: u64,
    documents: usize,
    root: Option<Rc<Node>>,
    troubles: Vec<Trouble>,
}

/// Reads a text. A tree comes with the troubles that did not hinder reading on; none where the text is no YAML.
pub fn read(source: &str, env: &dyn Fn(&str) -> Option<String>) -> (Option<Rc<Node>>, Vec<Trouble>) {
    let mut reader = Reader {
        source,
        env,
        stack: Vec::new(),
        anchors: HashMap::new(),
        aliased: 0,
        documents: 0,
        root: None,
        troubles: Vec::new(),
    };
    for event in Parser::new_from_str(source) {
        let done = match event {
            Ok((event, span)) => reader.event(event, span),
            Err(error) => Err(syntax(&error)),
        };
        if let Err(trouble) = done {
            return (None, vec![trouble]);
        }
    }
    if reader.root.is_none() && reader.troubles.is_empty() {
        return (None, vec![(Place::default(), "the file is empty".to_owned(), None)]);
    }
    (reader.root, reader.troubles)
}

fn syntax(error: &ScanError) -> Trouble {
    let info = error.info();
    let hint = info.contains("tab").then(|| "indent with spaces".to_owned());
    (place(*error.marker()), format!("not YAML: {info}"), hint)
}

fn place(marker: Marker) -> Place {
    let small = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    Place { line: small(marker.line()), column: small(marker.col()).saturating_add(1) }
}

impl Reader<'_> {
    fn event(&mut self, event: Event<'_>, span: Span) -> Result<(), Trouble> {
        let at = place(span.start);
        if event.tag().is_some() {
            let hint = Some("remove it; quotes make a value text".to_owned());
            self.troubles.push((at, "tags such as !!str are not understood".to_owned(), hint));
        }
        match event {
            Event::DocumentStart(..) => {
                self.documents += 1;
                if self.documents > 1 {
                    return Err((at, "a second YAML document begins here; a config is one document".to_owned(), None));
                }
            }
            Event::Scalar(text, style, anchor, _) => {
                if self.awaits_key() {
                    self.key(text.into_owned(), at);
                } else {
                    let node = Rc::new(self.scalar(&text, style, span, at));
                    self.done(node, 1, anchor)?;
                }
            }
            Event::SequenceStart(_, anchor, _) => {
                self.stack.push(Frame::List { place: at, anchor, size: 1, items: Vec::new() });
            }
            Event::MappingStart(_, anchor, _) => {
                let (entries, seen) = (Vec::new(), HashMap::new());
                self.stack.push(Frame::Map { place: at, anchor, size: 1, entries, seen, key: None });
            }
            Event::SequenceEnd | Event::MappingEnd => self.close()?,
            Event::Alias(id) => self.alias(id, at)?,
            _ => {}
        }
        Ok(())
    }

    fn awaits_key(&self) -> bool {
        matches!(self.stack.last(), Some(Frame::Map { key: None, .. }))
    }

    fn key(&mut self, text: String, at: Place) {
        if let Some(Frame::Map { key, .. }) = self.stack.last_mut() {
            *key = Some(Key { text, place: at });
        }
    }

    fn alias(&mut self, id: usize, at: Place) -> Result<(), Trouble> {
        let Some((node, size)) = self.anchors.get(&id).map(|(node, size)| (node.clone(), *size)) else {
            return Err((at, "an alias inside its own anchor never ends".to_owned(), None));
        };
        self.aliased = self.aliased.saturating_add(size);
        if self.aliased > ALIAS_NODES {
            return Err((at, format!("aliases stand for more than {ALIAS_NODES} values"), None));
        }
        match &node.content {
            Content::Scalar(scalar) if self.awaits_key() => {
                let text = scalar.written.as_ref().unwrap_or(&scalar.text).clone();
                self.key(text, at);
                Ok(())
            }
            _ => self.done(node, size, 0),
        }
    }

    /// Closes the list or mapping on top.
    fn close(&mut self) -> Result<(), Trouble> {
        match self.stack.pop() {
            Some(Frame::List { place, anchor, size, items }) => {
                self.done(Rc::new(Node { place, content: Content::List(items) }), size, anchor)
            }
            Some(Frame::Map { place, anchor, size, mut entries, .. }) => {
                self.merge(&mut entries);
                self.done(Rc::new(Node { place, content: Content::Map(entries) }), size, anchor)
            }
            None => Ok(()),
        }
    }

    /// Hands a finished node to what it is in.
    fn done(&mut self, node: Rc<Node>, node_size: u64, node_anchor: usize) -> Result<(), Trouble> {
        if node_anchor != 0 {
            self.anchors.insert(node_anchor, (node.clone(), node_size));
        }
        match self.stack.last_mut() {
            None => self.root = Some(node),
            Some(Frame::List { items, size, .. }) => {
                items.push(node);
                *size = size.saturating_add(node_size);
            }
            Some(Frame::Map { entries, seen, key, size, .. }) => {
                *size = size.saturating_add(node_size);
                match key.take() {
                    None => return Err((node.place, "a key must be text".to_owned(), None)),
                    Some(Key { text, place }) => match seen.get(&text) {
                        Some(first) => {
                            let message = format!("duplicate key '{}'", shown_key(&text));
                            self.troubles.push((
                                place,
                                message,
                                Some(format!("it stands in line {} already", first.line)),
                            ));
                        }
                        None => {
                            seen.insert(text.clone(), place);
                            entries.push(Entry { key: text, place, node });
                        }
                    },
                }
            }
        }
        Ok(())
    }

    /// Resolves `<<`: what it names is added where the mapping does not have the key itself.
    fn merge(&mut self, entries: &mut Vec<Entry>) {
        let Some(at) = entries.iter().position(|entry| entry.key == "<<") else { return };
        let merge = entries.remove(at);
        let parts: Vec<Rc<Node>> = match &merge.node.content {
            Content::List(items) => items.clone(),
            _ => vec![merge.node.clone()],
        };
        for part in parts {
            match &part.content {
                Content::Map(more) => {
                    for entry in more {
                        if !entries.iter().any(|own| own.key == entry.key) {
                            entries.push(entry.clone());
                        }
                    }
                }
                _ => self.troubles.push((merge.place, "'<<' takes a mapping, or a list of mappings".to_owned(), None)),
            }
        }
    }

    fn scalar(&mut self, text: &str, style: ScalarStyle, span: Span, at: Place) -> Node {
        let plain = style == ScalarStyle::Plain;
        // The parser's place is that of the first line with text in it.
        let blank = u32::try_from(text.chars().take_while(|c| *c == '\n').count()).unwrap_or(0);
        let block = Place { line: at.line.saturating_sub(blank), column: at.column };
        let block = (style == ScalarStyle::Literal).then_some(block);
        let content = match expand::expand(text, self.env) {
            Ok(None) => Content::Scalar(Scalar {
                text: text.to_owned(),
                written: None,
                plain,
                template_syntax: None,
                variables: Vec::new(),
                block,
            }),
            Ok(Some(out)) => Content::Scalar(Scalar {
                text: out.text,
                written: Some(text.to_owned()),
                plain,
                template_syntax: out.template_syntax,
                variables: out.variables,
                block,
            }),
            Err(problems) => {
                for problem in problems {
                    let place = self.nth_dollar(span, text, problem.nth).unwrap_or(at);
                    self.troubles.push((place, problem.message, Some(problem.hint)));
                }
                Content::Broken
            }
        };
        Node { place: at, content }
    }

    /// Where the nth `${` of a scalar stands in the file. None where quoting hides it.
    fn nth_dollar(&self, span: Span, text: &str, nth: usize) -> Option<Place> {
        let range = span.byte_range()?;
        let raw = self.source.get(range.clone())?;
        if raw.matches("${").count() != text.matches("${").count() {
            return None;
        }
        let (at, _) = raw.match_indices("${").nth(nth)?;
        let before = self.source.get(..range.start + at)?;
        let line = before.matches('\n').count() + 1;
        let column = before.rsplit('\n').next()?.chars().count() + 1;
        Some(Place { line: u32::try_from(line).ok()?, column: u32::try_from(column).ok()? })
    }
}
