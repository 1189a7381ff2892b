//! Tera texts, compiled once; each rendered over a context of its own, with faults that hold no value.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use tera::{Context, ErrorKind, ReportError, Tera};

use super::error::{RenderError, RenderErrorKind as Kind, did_you_mean, line_col};
use super::filters::{self, FILTERS, FUNCTIONS, Fault, Slot, TESTS};
use super::scan::{Chain, Named, ROOTS, Rewritten, Scan};
use super::sources::{Sources, join};
use super::value::holds_bytes;

/// A compiled text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct TextId(usize);

/// A chain and where it stands.
#[derive(Debug, Clone)]
pub(super) struct ChainAt {
    pub chain: Chain,
    pub file: Arc<str>,
    pub at: (usize, usize),
}

/// A text as Tera has it, and as it was written.
struct Piece {
    label: Arc<str>,
    source: String,
    rewritten: Rewritten,
    /// Numbers of its chains.
    chains: std::ops::Range<usize>,
    /// Names of the pieces that it includes or extends.
    includes: Vec<String>,
    components: bool,
}

struct Text {
    tera: usize,
    name: String,
    /// Every piece that it is made of, itself first.
    pieces: Vec<String>,
}

/// All texts of a target.
pub(super) struct Engine {
    teras: Vec<Tera>,
    texts: Vec<Text>,
    pieces: BTreeMap<String, Piece>,
    chains: Vec<ChainAt>,
    literals: BTreeSet<String>,
    slot: Slot,
}

/// Why a text could not be rendered.
pub(super) enum Stop {
    /// A chain is undefined; the caller knows what the snapshot has.
    Missing(usize),
    /// Anything else.
    Error(RenderError),
}

impl Engine {
    /// Every chain that rendering a text may reach, with its number.
    pub fn chains(&self, text: TextId) -> impl Iterator<Item = &ChainAt> {
        let pieces = self.texts.get(text.0).map(|t| t.pieces.as_slice()).unwrap_or_default();
        pieces.iter().filter_map(|name| self.pieces.get(name)).flat_map(|piece| &self.chains[piece.chains.clone()])
    }

    /// A chain by its number.
    pub fn chain(&self, number: usize) -> Option<&ChainAt> {
        self.chains.get(number)
    }

    /// Where a text stands.
    pub fn label(&self, text: TextId) -> Arc<str> {
        let piece = self.texts.get(text.0).and_then(|t| self.pieces.get(&t.name));
        piece.map_or_else(|| Arc::from("template"), |piece| Arc::clone(&piece.label))
    }

    /// Every text as written, with its name: for a digest.
    pub fn sources(&self) -> impl Iterator<Item = (&str, &str)> {
        self.pieces.iter().map(|(name, piece)| (name.as_str(), piece.source.as_str()))
    }

    /// Renders one text. NUL is refused; bytes that are not text are still in their disguise.
    pub fn render(&self, text: TextId, context: &Context) -> Result<String, Stop> {
        let Some(entry) = self.texts.get(text.0) else {
            return Err(self.stop(text, Kind::Syntax, "not compiled"));
        };
        self.slot.take();
        let out = self.teras[entry.tera].render(&entry.name, context).map_err(|error| self.fault(text, &error))?;
        if out.contains('\0') {
            return Err(self.stop(text, Kind::Nul, "a value holds a NUL character, which no text can carry"));
        }
        Ok(out)
    }

    fn stop(&self, text: TextId, kind: Kind, message: &str) -> Stop {
        Stop::Error(RenderError::whole(kind, &self.label(text), message))
    }

    fn fault(&self, text: TextId, error: &tera::Error) -> Stop {
        let (file, at) = match error.kind() {
            ErrorKind::RenderingError(report) => self.place(report),
            _ => (self.label(text), (0, 0)),
        };
        let (kind, message) = match (self.slot.take(), error.kind()) {
            (Some(Fault::Missing(chain)), _) => return Stop::Missing(chain),
            (Some(Fault::Refused(why)), _) => (Kind::Filter, why.to_string()),
            (Some(Fault::Thrown(message)), _) if self.literals.contains(&message) => (Kind::Thrown, message),
            (Some(Fault::Thrown(_)), _) => {
                (Kind::Thrown, "the template called `throw` (its message is no literal and is not shown)".to_string())
            }
            (None, ErrorKind::RenderingError(report)) => runtime_message(report.message()),
            (None, _) => (Kind::Filter, "the template cannot be rendered (recursion too deep?)".to_string()),
        };
        Stop::Error(RenderError::new(kind, &file, at, message))
    }

    fn place(&self, report: &ReportError) -> (Arc<str>, (usize, usize)) {
        match self.pieces.get(report.filename()) {
            Some(piece) => {
                let offset = piece.rewritten.original(report.span().range.start);
                (Arc::clone(&piece.label), line_col(&piece.source, offset))
            }
            None => (Arc::from(report.filename()), (report.span().start_line, report.span().start_col + 1)),
        }
    }
}

/// Tera's own messages name types and names of the template, except where they quote an operand: those are withheld.
fn runtime_message(message: &str) -> (Kind, String) {
    let quoted = message.split('`').nth(1).unwrap_or_default();
    if message.starts_with("Field `") || message.starts_with("Variable `") {
        return (Kind::MissingField, format!("`{quoted}` is not defined"));
    }
    let undefined = [
        "Tried to render a variable that is undefined",
        "Cannot index into an undefined value",
        "Index expression is undefined",
    ];
    if undefined.iter().any(|start| message.starts_with(start)) {
        return (Kind::MissingField, "the value is not defined".to_string());
    }
    const SAFE: [&str; 16] = [
        "Cannot compare `",
        "Math operations can only",
        "`+` requires",
        "Cannot divide by 0",
        "Iteration not possible",
        "Key/value iteration",
        "Invalid type for the value",
        "Missing keyword argument",
        "Spread operator requires",
        "Slice ",
        "Slicing ",
        "Array index must",
        "String index must",
        "Map keys must",
        "`in` cannot be used",
        "super()",
    ];
    if SAFE.iter().any(|start| message.starts_with(start)) {
        return (Kind::Filter, lower_first(message.trim_end_matches('.')));
    }
    (Kind::Filter, "a filter or an operator refused its input (no detail is shown: it could quote a value)".to_string())
}

fn lower_first(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map_or_else(String::new, |first| first.to_lowercase().chain(chars).collect())
}

/// Compiles the texts of a target; collects every fault.
pub(super) struct Builder<'a> {
    sources: &'a Sources,
    engine: Engine,
    base: Tera,
    scratch: Tera,
    simple: BTreeSet<String>,
    /// Names of texts looked at, good or bad.
    seen: BTreeSet<String>,
    pub errors: Vec<RenderError>,
}

impl<'a> Builder<'a> {
    pub fn new(sources: &'a Sources) -> Self {
        let slot = Slot::default();
        let base = filters::tera(&slot);
        let engine = Engine {
            teras: vec![base.clone()],
            texts: Vec::new(),
            pieces: BTreeMap::new(),
            chains: Vec::new(),
            literals: BTreeSet::new(),
            slot,
        };
        Self {
            sources,
            engine,
            scratch: base.clone(),
            base,
            simple: BTreeSet::new(),
            seen: BTreeSet::new(),
            errors: Vec::new(),
        }
    }

    /// A text of the config; `label` says where it stands.
    pub fn text(&mut self, label: &str, text: &str) -> TextId {
        let name = format!("\u{1}{}", self.engine.texts.len());
        let sources = self.sources;
        self.piece(&name, label, text, sources.base());
        self.link(name)
    }

    /// A template file.
    pub fn file(&mut self, path: &Path) -> TextId {
        let name = path.display().to_string();
        match self.sources.get(path) {
            Some(text) => self.piece(&name, &name, text, path.parent().unwrap_or(Path::new("/"))),
            None => {
                let message = "the template file cannot be read, or is not there";
                self.errors.push(RenderError::whole(Kind::MissingTemplate, &Arc::from(name.as_str()), message));
            }
        }
        self.link(name)
    }

    /// What texts depend on.
    pub fn needs(&self, texts: &[TextId]) -> super::uses::Needs {
        super::uses::Needs::of(&self.engine, texts)
    }

    /// The compiled texts.
    ///
    /// # Errors
    /// Every fault of every text.
    pub fn finish(mut self) -> (Engine, Vec<RenderError>) {
        let pieces = &self.engine.pieces;
        let simple: Vec<_> =
            self.simple.iter().filter_map(|n| Some((n.as_str(), pieces.get(n)?.rewritten.text.as_str()))).collect();
        if let Err(error) = self.engine.teras[0].add_raw_templates(simple) {
            let fault = self.engine.compile_fault("config", &error);
            self.errors.push(fault);
        }
        (self.engine, self.errors)
    }

    /// Registers a text over the pieces that it reaches.
    fn link(&mut self, name: String) -> TextId {
        let mut pieces = vec![name.clone()];
        let mut next = 0;
        while let Some(piece) = pieces.get(next).and_then(|n| self.engine.pieces.get(n)) {
            for include in &piece.includes {
                if !pieces.contains(include) {
                    pieces.push(include.clone());
                }
            }
            next += 1;
        }
        let known: Vec<_> = pieces.iter().filter_map(|n| self.engine.pieces.get(n)).collect();
        let alone = pieces.len() == 1 && known.first().is_some_and(|piece| !piece.components);
        let mut tera = 0;
        if alone {
            self.simple.insert(name.clone());
        } else if known.len() == pieces.len() {
            let mut own = self.base.clone();
            let all = pieces.iter().filter_map(|n| Some((n, &self.engine.pieces.get(n)?.rewritten.text)));
            if let Err(error) = own.add_raw_templates(all.collect::<Vec<_>>()) {
                let fault = self.engine.compile_fault(&name, &error);
                self.errors.push(fault);
            }
            tera = self.engine.teras.len();
            self.engine.teras.push(own);
        }
        self.engine.texts.push(Text { tera, name, pieces });
        TextId(self.engine.texts.len() - 1)
    }

    /// Scans, checks and rewrites one text and those that it includes.
    fn piece(&mut self, name: &str, label: &str, text: &str, folder: &Path) {
        if !self.seen.insert(name.to_string()) {
            return;
        }
        let label: Arc<str> = Arc::from(label);
        let scanned = Scan::new(text);
        let understood = scanned.is_some();
        let scan = scanned.unwrap_or_default();
        let includes: Vec<String> = scan.includes.iter().map(|i| join(folder, &i.name).display().to_string()).collect();
        let before = self.errors.len();
        self.check(&label, text, &scan);
        let first = self.engine.chains.len();
        let rewritten = self.parse(&label, text, &scan, &includes, first);
        if !understood && rewritten.is_some() && self.errors.len() == before {
            // What it uses is not known: better no render than one that misses a change.
            let message = "the template cannot be read: write its tags more plainly";
            self.errors.push(RenderError::whole(Kind::Syntax, &label, message));
        }
        let located = scan.chains.iter().map(|chain| ChainAt {
            at: line_col(text, chain.at),
            chain: chain.clone(),
            file: Arc::clone(&label),
        });
        self.engine.chains.extend(located);
        self.engine.literals.extend(scan.literals.iter().cloned());
        if let (Some(rewritten), true) = (rewritten, self.errors.len() == before) {
            let chains = first..self.engine.chains.len();
            let (source, components) = (text.to_string(), scan.components);
            let piece =
                Piece { label: Arc::clone(&label), source, rewritten, chains, includes: includes.clone(), components };
            self.engine.pieces.insert(name.to_string(), piece);
        }
        for (include, written) in includes.iter().zip(&scan.includes) {
            self.include(include, &label, line_col(text, written.at.start));
        }
    }

    fn include(&mut self, path: &str, by: &Arc<str>, at: (usize, usize)) {
        let sources = self.sources;
        let file = Path::new(path);
        match sources.get(file) {
            Some(text) => self.piece(path, path, text, file.parent().unwrap_or(Path::new("/"))),
            None => {
                let message = format!("the template {path} cannot be read, or is not there");
                self.errors.push(RenderError::new(Kind::MissingTemplate, by, at, message));
            }
        }
    }

    /// The strict text; the plain one where strictness makes it too complex; None where it is no Tera.
    fn parse(
        &mut self,
        label: &Arc<str>,
        text: &str,
        scan: &Scan,
        includes: &[String],
        first: usize,
    ) -> Option<Rewritten> {
        for strict in [true, false] {
            let rewritten = scan.rewrite(text, includes, strict, first);
            match self.scratch.add_raw_template("scratch", &rewritten.text).map_err(|e| e.kind().clone()) {
                Err(ErrorKind::SyntaxError(report)) if !strict => {
                    let at = line_col(text, rewritten.original(report.span().range.start));
                    let message =
                        lower_first(report.message().lines().next().unwrap_or_default().trim_end_matches('.'));
                    self.errors.push(RenderError::new(Kind::Syntax, label, at, message));
                }
                Err(ErrorKind::SyntaxError(_)) => {}
                _ => return Some(rewritten),
            }
        }
        None
    }

    fn check(&mut self, label: &Arc<str>, text: &str, scan: &Scan) {
        if holds_bytes(text) {
            let message = "the template holds characters of the last private use block (U+10FF00 to U+10FFFF), which stand for bytes";
            self.errors.push(RenderError::whole(Kind::Syntax, label, message));
        }
        let mut faults = Vec::new();
        let mut unknown = |what: &str, names: &[Named], known: &[&str]| {
            for name in names.iter().filter(|n| !known.contains(&n.name.as_str())) {
                let hint = did_you_mean(&name.name, known.iter().copied());
                faults.push((name.at.start, format!("unknown {what} `{}`{hint}", name.name)));
            }
        };
        unknown("filter", &scan.filters, &FILTERS);
        unknown("test", &scan.tests, &TESTS);
        unknown("function", &scan.functions, &FUNCTIONS);
        for name in scan.assigned.iter().filter(|n| ROOTS.contains(&n.name.as_str())) {
            faults.push((name.at.start, format!("`{}` is the agent's and cannot be assigned", name.name)));
        }
        for chain in scan.chains.iter().filter(|c| c.path[0].starts_with("__")) {
            faults.push((chain.at, format!("`{}`: names that begin with `__` are reserved", chain.path[0])));
        }
        faults.sort();
        for (offset, message) in faults {
            self.errors.push(RenderError::new(Kind::Syntax, label, line_col(text, offset), message));
        }
    }
}

impl Engine {
    /// What Tera says of texts that each parse, but not together.
    fn compile_fault(&self, name: &str, error: &tera::Error) -> RenderError {
        let label = |name: &str| self.pieces.get(name).map_or_else(|| Arc::from(name), |p| Arc::clone(&p.label));
        let chain = |names: &[String]| names.iter().map(|n| label(n).to_string()).collect::<Vec<_>>().join(" -> ");
        let (file, at, message) = match error.kind() {
            ErrorKind::CircularInclude { tpl, include_chain } => {
                (label(tpl), (0, 0), format!("the template includes itself: {}", chain(include_chain)))
            }
            ErrorKind::CircularExtend { tpl, inheritance_chain } => {
                (label(tpl), (0, 0), format!("the template extends itself: {}", chain(inheritance_chain)))
            }
            ErrorKind::Msg(message) => {
                let mut lines = message.lines();
                let first = lines.next().unwrap_or_default();
                let at =
                    lines.next().and_then(|line| line.trim_start().strip_prefix("--> ")).and_then(|p| self.reported(p));
                let (file, at) = at.unwrap_or_else(|| (label(name), (0, 0)));
                (file, at, lower_first(first.strip_prefix("error: ").unwrap_or(first)))
            }
            _ => (label(name), (0, 0), "the template cannot be compiled".to_string()),
        };
        RenderError::new(Kind::Syntax, &file, at, message)
    }

    /// `name:line:column` of a report, as it was written.
    fn reported(&self, place: &str) -> Option<(Arc<str>, (usize, usize))> {
        let mut parts = place.rsplitn(3, ':');
        let (column, line) = (parts.next()?.parse::<usize>().ok()?, parts.next()?.parse::<usize>().ok()?);
        let piece = self.pieces.get(parts.next()?)?;
        let text = &piece.rewritten.text;
        let start = text.split_inclusive('\n').take(line.checked_sub(1)?).map(str::len).sum::<usize>();
        let column: usize = text[start..].chars().take(column.saturating_sub(1)).map(char::len_utf8).sum();
        Some((Arc::clone(&piece.label), line_col(&piece.source, piece.rewritten.original(start + column))))
    }
}
