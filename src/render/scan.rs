//! What a template refers to, and the same template made strict.
//!
//! Tera lets an undefined value pass silently through `~`, `str`, `==` or an argument. So every variable chain that is
//! not asked about (`is defined`, `| default`, `?.`) is handed through a filter that refuses an undefined value and
//! knows which chain it was: `{{ secrets.a.b | upper }}` is compiled as `{{ (secrets?.a?.b | __need(n=0)) | upper }}`.
//! Columns of errors are mapped back to the text as it was written.

use std::ops::Range;

use super::lex::{Kind, Token, lex};

/// The filter that refuses an undefined value.
pub(super) const NEED: &str = "__need";

/// The names that the context defines; a template may not assign to them.
pub(super) const ROOTS: [&str; 5] = ["secrets", "previous", "meta", "snapshot", "env"];

/// A chain of names such as `secrets.database.password`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Chain {
    /// Static names from the root on, up to the first subscript that is an expression.
    pub path: Vec<String>,
    /// Whether a subscript that is an expression follows.
    pub dynamic: bool,
    /// Whether the template asks whether it is there.
    pub guarded: bool,
    /// Byte offset.
    pub at: usize,
}

/// A name in a template, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Named {
    pub name: String,
    pub at: Range<usize>,
}

/// What a template refers to. Offsets are bytes of its text.
#[derive(Debug, Clone, Default)]
pub(super) struct Scan {
    pub chains: Vec<Chain>,
    pub includes: Vec<Named>,
    pub filters: Vec<Named>,
    pub tests: Vec<Named>,
    pub functions: Vec<Named>,
    /// Names that the template assigns, loops over or takes as a component's argument.
    pub assigned: Vec<Named>,
    /// Whether it defines or calls components.
    pub components: bool,
    /// String literals.
    pub literals: Vec<String>,
    /// Insertions that make it strict: offset, bytes replaced, text (`{n}` stands for the chain's number).
    edits: Vec<(usize, usize, Edit)>,
}

#[derive(Debug, Clone)]
enum Edit {
    Text(&'static str),
    Need(usize),
}

/// A rewritten template and the way back to its offsets.
#[derive(Debug, Clone, Default)]
pub(super) struct Rewritten {
    pub text: String,
    /// (offset in the new text, new length, old length), in order.
    steps: Vec<(usize, usize, usize)>,
}

impl Rewritten {
    /// The offset in the text as written, for one in the new text.
    pub fn original(&self, offset: usize) -> usize {
        let mut shift: isize = 0;
        for (at, new, old) in &self.steps {
            if *at + *new <= offset {
                shift += *old as isize - *new as isize;
            } else if *at <= offset {
                return (*at as isize + shift) as usize;
            } else {
                break;
            }
        }
        (offset as isize + shift).max(0) as usize
    }

    fn apply(text: &str, mut edits: Vec<(usize, usize, String)>) -> Self {
        edits.sort_by_key(|e| e.0);
        let mut out = Self { text: String::with_capacity(text.len() + edits.len() * 16), steps: Vec::new() };
        let mut pos = 0;
        for (at, replaced, new) in edits {
            out.text.push_str(&text[pos..at]);
            out.steps.push((out.text.len(), new.len(), replaced));
            out.text.push_str(&new);
            pos = at + replaced;
        }
        out.text.push_str(&text[pos..]);
        out
    }
}

impl Scan {
    /// Scans a template; None where it is no Tera.
    pub fn new(text: &str) -> Option<Self> {
        let tokens = lex(text)?;
        let mut scan = Self::default();
        let mut start = 0;
        for (end, token) in tokens.iter().enumerate() {
            if token.kind == Kind::Close {
                let tag = tokens[start].kind == Kind::Open(true);
                scan.group(tag, &tokens[start + 1..end]);
                start = end + 1;
            }
        }
        Some(scan)
    }

    /// The text with the names of included templates replaced, and (`strict`) every unguarded chain made to be there;
    /// chain `i` is number `first + i`.
    pub fn rewrite(&self, text: &str, names: &[String], strict: bool, first: usize) -> Rewritten {
        let mut edits: Vec<(usize, usize, String)> = Vec::new();
        for (include, name) in self.includes.iter().zip(names) {
            let quoted = format!("\"{}\"", name.replace('\\', "\\\\").replace('"', "\\\""));
            edits.push((include.at.start, include.at.len(), quoted));
        }
        if strict {
            for (at, replaced, edit) in &self.edits {
                let text = match edit {
                    Edit::Text(text) => (*text).to_string(),
                    Edit::Need(chain) => format!(" | {NEED}(n={}))", first + chain),
                };
                edits.push((*at, *replaced, text));
            }
        }
        Rewritten::apply(text, edits)
    }

    fn group(&mut self, tag: bool, tokens: &[Token<'_>]) {
        for token in tokens {
            if let Kind::Str(text) = &token.kind {
                self.literals.push(text.clone());
            }
        }
        if !tag {
            return self.expression(tokens, false);
        }
        let Some(first) = tokens.first() else { return };
        match &first.kind {
            Kind::Ident("include" | "extends") => {
                if let Some(Token { kind: Kind::Str(name), at }) = tokens.get(1) {
                    self.includes.push(Named { name: name.clone(), at: at.clone() });
                }
            }
            Kind::Ident("set" | "set_global") => {
                self.assign(tokens.get(1));
                let from = if is_punct(tokens.get(2), "=") { 3 } else { 2 };
                self.expression(tokens.get(from..).unwrap_or_default(), false);
            }
            Kind::Ident("for") => {
                let end = tokens.iter().position(|t| t.kind == Kind::Ident("in")).unwrap_or(tokens.len());
                tokens[1..end].iter().for_each(|t| self.assign(Some(t)));
                self.expression(tokens.get(end + 1..).unwrap_or_default(), false);
            }
            Kind::Ident("if" | "elif") => self.expression(&tokens[1..], true),
            Kind::Ident("filter") => {
                self.name_filter(tokens.get(1));
                self.expression(tokens.get(2..).unwrap_or_default(), false);
            }
            Kind::Ident("component") => {
                self.components = true;
                tokens[1..].iter().for_each(|t| self.assign(Some(t)));
            }
            Kind::Punct("<") => {
                self.component_call(tokens, 0);
            }
            _ => {}
        }
    }

    fn assign(&mut self, token: Option<&Token<'_>>) {
        if let Some(Token { kind: Kind::Ident(name), at }) = token {
            self.assigned.push(Named { name: (*name).to_string(), at: at.clone() });
        }
    }

    fn name_filter(&mut self, token: Option<&Token<'_>>) {
        if let Some(Token { kind: Kind::Ident(name), at }) = token {
            self.filters.push(Named { name: (*name).to_string(), at: at.clone() });
        }
    }

    /// Walks the tokens of an expression (or of several, as in an argument list).
    fn expression(&mut self, tokens: &[Token<'_>], condition: bool) {
        let mut i = 0;
        while i < tokens.len() {
            let operand = i == 0 || starts_operand(&tokens[i - 1].kind);
            i = match &tokens[i].kind {
                Kind::Punct("<") if operand => self.component_call(tokens, i),
                Kind::Punct("|") => {
                    self.name_filter(tokens.get(i + 1));
                    i + 2
                }
                Kind::Ident("is") => self.test(tokens, i),
                Kind::Ident("for") => {
                    let end =
                        tokens[i..].iter().position(|t| t.kind == Kind::Ident("in")).map_or(tokens.len(), |n| i + n);
                    tokens[i + 1..end].iter().for_each(|t| self.assign(Some(t)));
                    end + 1
                }
                Kind::Ident(name) if is_keyword(name) => i + 1,
                Kind::Ident(name) if is_punct(tokens.get(i + 1), "(") => {
                    self.functions.push(Named { name: (*name).to_string(), at: tokens[i].at.clone() });
                    i + 1
                }
                Kind::Ident(_) if is_punct(tokens.get(i + 1), "=") => i + 2,
                Kind::Ident(_) => self.chain(tokens, i, condition),
                _ => i + 1,
            };
        }
    }

    fn test(&mut self, tokens: &[Token<'_>], at: usize) -> usize {
        let negated = usize::from(matches!(tokens.get(at + 1), Some(t) if t.kind == Kind::Ident("not")));
        let name = at + 1 + negated;
        if let Some(Token { kind: Kind::Ident(text), at }) = tokens.get(name) {
            self.tests.push(Named { name: (*text).to_string(), at: at.clone() });
        }
        name + 1
    }

    /// `<Name attribute="text" other={expression} short {...spread} />`, from `<` on; the index after it.
    fn component_call(&mut self, tokens: &[Token<'_>], at: usize) -> usize {
        self.components = true;
        let mut i = at + 2;
        while is_punct(tokens.get(i), ".") {
            i += 2;
        }
        while let Some(token) = tokens.get(i) {
            i = match &token.kind {
                Kind::Ident(_) if is_punct(tokens.get(i + 1), "=") => i + 2,
                Kind::Ident(name) => {
                    self.chains.push(Chain {
                        path: vec![(*name).to_string()],
                        dynamic: false,
                        guarded: true,
                        at: token.at.start,
                    });
                    i + 1
                }
                Kind::Str(_) => i + 1,
                Kind::Punct("{") => {
                    let end = closing(tokens, i);
                    self.expression(&tokens[i + 1..end], false);
                    end + 1
                }
                _ => return i,
            };
        }
        i
    }

    /// A chain from its root on; the index after it.
    fn chain(&mut self, tokens: &[Token<'_>], start: usize, condition: bool) -> usize {
        let Kind::Ident(root) = tokens[start].kind else { return start + 1 };
        let mut chain =
            Chain { path: vec![root.to_string()], dynamic: false, guarded: false, at: tokens[start].at.start };
        let (mut optional, mut links, mut i) = (false, Vec::new(), start + 1);
        while let Some(token) = tokens.get(i) {
            match token.kind {
                Kind::Punct(dot @ ("." | "?.")) => {
                    let Some(Token { kind: Kind::Ident(name), .. }) = tokens.get(i + 1) else { break };
                    optional |= dot == "?.";
                    links.push((token.at.start, dot));
                    push_static(&mut chain, Some(*name));
                    i += 2;
                }
                Kind::Punct(open @ ("[" | "?[")) => {
                    optional |= open == "?[";
                    links.push((token.at.start, open));
                    let end = closing(tokens, i);
                    let inner = tokens.get(i + 1..end).unwrap_or_default();
                    match inner {
                        [Token { kind: Kind::Str(name), .. }] => push_static(&mut chain, Some(name.as_str())),
                        _ => {
                            push_static(&mut chain, None);
                            self.expression(inner, false);
                        }
                    }
                    i = end + 1;
                }
                _ => break,
            }
        }
        chain.guarded = optional || is_guarded(tokens, start, i, condition, root);
        self.edit(&chain, tokens, start, i, &links, optional);
        self.chains.push(chain);
        i
    }

    fn edit(
        &mut self,
        chain: &Chain,
        tokens: &[Token<'_>],
        start: usize,
        end: usize,
        links: &[(usize, &str)],
        optional: bool,
    ) {
        let root = chain.path[0].as_str();
        let ours = ROOTS.contains(&root);
        // `loop.index` is not a chain for Tera, and what the author made optional stays so.
        if root == "loop" || optional {
            return;
        }
        if ours {
            for (at, link) in links {
                if matches!(*link, "." | "[") {
                    self.edits.push((*at, 0, Edit::Text("?")));
                }
            }
        }
        if !chain.guarded {
            let last = tokens[end.min(tokens.len()) - 1].at.end;
            self.edits.push((tokens[start].at.start, 0, Edit::Text("(")));
            self.edits.push((last, 0, Edit::Need(self.chains.len())));
        }
    }
}

fn push_static(chain: &mut Chain, name: Option<&str>) {
    match name {
        Some(name) if !chain.dynamic => chain.path.push(name.to_string()),
        Some(_) => {}
        None => chain.dynamic = true,
    }
}

/// Whether the template itself asks whether the chain is there.
fn is_guarded(tokens: &[Token<'_>], start: usize, end: usize, condition: bool, root: &str) -> bool {
    let ident = |i: usize| match tokens.get(i).map(|t| &t.kind) {
        Some(Kind::Ident(name)) => *name,
        _ => "",
    };
    let asked = |name: &str| matches!(name, "defined" | "undefined");
    if ident(end) == "is" && (asked(ident(end + 1)) || (ident(end + 1) == "not" && asked(ident(end + 2)))) {
        return true;
    }
    if is_punct(tokens.get(end), "|") && ident(end + 1) == "default" {
        return true;
    }
    // A bare condition: an undefined variable is false, as in Tera. A secret that is not there is an error even so.
    if matches!(root, "secrets" | "meta" | "env") {
        return false;
    }
    let before = if start == 0 { "" } else { ident(start - 1) };
    let opens = (start == 0 && condition)
        || matches!(before, "if" | "and" | "or" | "not")
        || (condition && is_punct(tokens.get(start.wrapping_sub(1)), "("));
    let closes = end >= tokens.len()
        || matches!(ident(end), "and" | "or" | "else")
        || is_punct(tokens.get(end), ")")
        || is_punct(tokens.get(end), "]");
    (opens && closes && (condition || matches!(before, "if" | "not"))) || matches!(ident(end), "and" | "or")
}

fn is_punct(token: Option<&Token<'_>>, punct: &str) -> bool {
    matches!(token, Some(t) if t.kind == Kind::Punct(punct))
}

fn is_keyword(name: &str) -> bool {
    matches!(
        name,
        "and"
            | "or"
            | "not"
            | "in"
            | "is"
            | "if"
            | "else"
            | "true"
            | "True"
            | "false"
            | "False"
            | "none"
            | "None"
            | "null"
    )
}

fn starts_operand(before: &Kind<'_>) -> bool {
    match before {
        Kind::Ident(name) => matches!(*name, "and" | "or" | "not" | "in" | "if" | "else"),
        Kind::Punct(punct) => !matches!(*punct, ")" | "]" | "}"),
        _ => false,
    }
}

/// The index of the bracket that closes the one at `open` (or the end).
fn closing(tokens: &[Token<'_>], open: usize) -> usize {
    let mut depth = 0usize;
    for (i, token) in tokens.iter().enumerate().skip(open) {
        match token.kind {
            Kind::Punct("(" | "[" | "{" | "?[") => depth += 1,
            Kind::Punct(")" | "]" | "}") => {
                depth = depth.saturating_sub(1);
                if depth == 0 {
                    return i;
                }
            }
            _ => {}
        }
    }
    tokens.len()
}

#[cfg(test)]
#[path = "scan_tests.rs"]
mod tests;
