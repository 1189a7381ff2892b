//! `${NAME}` and `${NAME:-default}` in the config's string values.
//!
//! `$${` stands for a literal `${`; any other `$` stands for itself. `:-` takes its default where NAME is unset or
//! empty, as in a POSIX shell. What was put in is not expanded again. Names are `[A-Za-z_][A-Za-z0-9_]*`.

use crate::secret::SecretBytes;

/// A variable that was put in.
pub struct Variable {
    /// Its name.
    pub name: String,
    /// Its value.
    pub value: SecretBytes,
    /// Whether it is scheme, host or port of what becomes a URL (user and password are not).
    pub in_authority: bool,
}

/// A value after expansion.
pub struct Expanded {
    /// The whole text.
    pub text: String,
    /// The first variable whose value holds template syntax (`{{`, `{%` or `{#`), if any.
    pub template_syntax: Option<String>,
    /// What was put in, in order; a default is the config's own.
    pub variables: Vec<Variable>,
}

/// What is wrong with one `${…}`.
#[derive(Debug, PartialEq, Eq)]
pub struct Problem {
    /// Which `${` of the text, from 0.
    pub nth: usize,
    /// What is wrong. Names the variable, never a value.
    pub message: String,
    /// What to do.
    pub hint: String,
}

const ESCAPE: &str = "write $${ for a literal ${";

/// Expands a text. None where there is nothing to expand.
pub fn expand(text: &str, env: &dyn Fn(&str) -> Option<String>) -> Result<Option<Expanded>, Vec<Problem>> {
    if !text.contains("${") {
        return Ok(None);
    }
    let mut out = Expanded { text: String::with_capacity(text.len()), template_syntax: None, variables: Vec::new() };
    let mut problems = Vec::new();
    let mut rest = text;
    let mut nth = 0;
    while let Some(at) = rest.find('$') {
        out.text.push_str(&rest[..at]);
        rest = &rest[at..];
        if let Some(after) = rest.strip_prefix("$${") {
            out.text.push_str("${");
            rest = after;
            nth += 1;
        } else if let Some(after) = rest.strip_prefix("${") {
            rest = match one(after, env, &mut out) {
                Ok(after) => after,
                Err((message, hint)) => {
                    problems.push(Problem { nth, message, hint });
                    after
                }
            };
            nth += 1;
        } else {
            out.text.push('$');
            rest = &rest[1..];
        }
    }
    out.text.push_str(rest);
    if problems.is_empty() { Ok(Some(out)) } else { Err(problems) }
}

/// Expands what follows one `${`; answers what follows its `}`.
fn one<'a>(
    after: &'a str,
    env: &dyn Fn(&str) -> Option<String>,
    out: &mut Expanded,
) -> Result<&'a str, (String, String)> {
    let Some(end) = after.find('}') else {
        return Err(("'${' is never closed".to_owned(), ESCAPE.to_owned()));
    };
    let inside = &after[..end];
    let (name, default) = match inside.split_once(":-") {
        Some((name, default)) => (name, Some(default)),
        None => (inside, None),
    };
    if !is_name(name) {
        return Err((
            "'${…}' does not hold a variable's name".to_owned(),
            format!("{ESCAPE}, as a shell script may need"),
        ));
    }
    match (env(name), default) {
        (Some(value), None) => put(value, name, &after[end + 1..], out),
        (Some(value), Some(_)) if !value.is_empty() => put(value, name, &after[end + 1..], out),
        (_, Some(default)) => out.text.push_str(default),
        (None, None) => {
            let hint = format!("set it, give a default as in ${{{name}:-…}}, or {ESCAPE}");
            return Err((format!("the environment variable {name} is not set"), hint));
        }
    }
    Ok(&after[end + 1..])
}

fn put(value: String, name: &str, rest: &str, out: &mut Expanded) {
    if ["{{", "{%", "{#"].iter().any(|mark| value.contains(mark)) {
        out.template_syntax.get_or_insert_with(|| name.to_owned());
    }
    let in_authority = in_authority(&out.text, &value, rest);
    out.text.push_str(&value);
    out.variables.push(Variable { name: name.to_owned(), value: SecretBytes::from(value), in_authority });
}

/// Whether a value between `before` and `rest` ends before the path of a URL, and no `@` makes it user or password.
fn in_authority(before: &str, value: &str, rest: &str) -> bool {
    let authority = |text: &str| match text.split_once("://") {
        Some((_, after)) => !after.contains(['/', '?', '#']),
        None => true,
    };
    let until = rest.split(['/', '?', '#']).next().unwrap_or_default();
    authority(before) && !value.contains(['@', '?', '#']) && !until.contains('@')
}

/// Whether a text is a portable variable name (POSIX.1-2017, 3.235).
pub fn is_name(text: &str) -> bool {
    let mut bytes = text.bytes();
    bytes.next().is_some_and(|b| b.is_ascii_alphabetic() || b == b'_')
        && bytes.all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env(name: &str) -> Option<String> {
        match name {
            "A" => Some("alpha".to_owned()),
            "EMPTY" => Some(String::new()),
            "TERA" => Some("{{ x }}".to_owned()),
            "DOLLAR" => Some("${A}".to_owned()),
            _ => None,
        }
    }

    fn text(input: &str) -> String {
        expand(input, &env).unwrap().map_or_else(|| input.to_owned(), |e| e.text)
    }

    #[test]
    fn names_defaults_and_escapes() {
        assert_eq!(text("x${A}y${A}"), "xalphayalpha");
        assert_eq!(text("${NO:-d e:-f}"), "d e:-f");
        assert_eq!(text("${EMPTY}|${EMPTY:-d}|${NO:-}"), "|d|");
        assert_eq!(text("$${A} $A $$ $"), "${A} $A $$ $");
        assert_eq!(text("$$${A}"), "$${A}");
        assert_eq!(text("${DOLLAR}"), "${A}", "what was put in is not expanded again");
        assert_eq!(text("grüße ${A}"), "grüße alpha");
    }

    #[test]
    fn every_problem_is_told_with_its_place() {
        let problems = expand("$${ok} ${NO} ${A} ${1x} ${A%%.*} ${open", &env).err().unwrap();
        assert_eq!(problems.iter().map(|p| p.nth).collect::<Vec<_>>(), [1, 3, 4, 5]);
        assert!(problems[0].message.contains("NO is not set"));
    }

    #[test]
    fn a_value_with_template_syntax_is_marked() {
        assert_eq!(expand("${A}${TERA}", &env).unwrap().unwrap().template_syntax.as_deref(), Some("TERA"));
        assert_eq!(expand("{{ x }}${A}", &env).unwrap().unwrap().template_syntax, None);
    }
}
