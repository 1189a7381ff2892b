//! The forms in which a secret value may turn up in a text: as it is, escaped, encoded, line by line, or as a part that is
//! a secret of its own (a password in a URL, a text in a JSON document).

use base64::Engine;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use zeroize::Zeroizing;

use super::mask::MIN_LEN;

/// Shortest line of a multi-line value, and shortest part of a structured one, that is masked by itself.
pub const MIN_PART: usize = 8;
/// Lines and parts of one value that are masked by themselves; the value as a whole always is.
const MAX_PARTS: usize = 4096;

/// Calls `found` with every form of `value`. Forms may repeat. Nothing is kept; intermediate texts are zeroized.
pub fn forms(value: &[u8], mut found: impl FnMut(&[u8])) {
    whole(value, &mut found);
    let Ok(text) = std::str::from_utf8(value) else { return };
    let trimmed = text.trim();
    if trimmed.len() != text.len() {
        whole(trimmed.as_bytes(), &mut found);
    }
    if trimmed.contains('\n') {
        for line in trimmed.lines().map(str::trim).filter(|line| secret_line(line)).take(MAX_PARTS) {
            found(line.as_bytes());
            escaped(line, &mut found);
        }
    }
    if let Some(password) = password_of_url(trimmed) {
        whole(password.as_bytes(), &mut found);
    }
    if trimmed.starts_with(['{', '[']) {
        let mut left = MAX_PARTS;
        json_texts(trimmed, &mut left, &mut found);
    }
}

fn whole(value: &[u8], found: &mut impl FnMut(&[u8])) {
    if value.len() < MIN_LEN {
        return;
    }
    found(value);
    if let Ok(text) = std::str::from_utf8(value) {
        escaped(text, found);
    }
    percent_encoded(value, found);
    if value.len() < MIN_PART {
        return; // an encoded form of so few bytes is found in texts that have nothing to do with it
    }
    base64(value, found);
    let lower: Zeroizing<String> = Zeroizing::new(value.iter().map(|b| format!("{b:02x}")).collect());
    found(lower.as_bytes());
    found(Zeroizing::new(lower.to_ascii_uppercase()).as_bytes());
}

/// Lines of a PEM frame are no secret, and would blind every message about certificates.
fn secret_line(line: &str) -> bool {
    line.len() >= MIN_PART && !line.starts_with("-----")
}

/// The escapes of JSON, of Rust's `{:?}` and of every format that is rendered, where they differ from the text.
fn escaped(text: &str, found: &mut impl FnMut(&[u8])) {
    if text.bytes().all(|b| (b' '..0x7f).contains(&b) && !matches!(b, b'"' | b'\\' | b'\'' | b'$' | b'`')) {
        return;
    }
    if let Ok(json) = serde_json::to_string(text).map(Zeroizing::new) {
        found(inside_quotes(&json));
    }
    found(inside_quotes(&Zeroizing::new(format!("{text:?}"))));
    // A Rust escape inside a JSON text, and the reverse: a Debug-printed value in a JSON log line.
    if let Ok(json) = serde_json::to_string(&format!("{text:?}")).map(Zeroizing::new) {
        found(json.as_bytes().get(3..json.len().saturating_sub(3)).unwrap_or_default());
    }
    // YAML's single quotes.
    if text.contains('\'') {
        found(Zeroizing::new(text.replace('\'', "''")).as_bytes());
    }
    for written in crate::render::written(text) {
        if *written != *text {
            found(written.as_bytes());
        }
    }
}

fn inside_quotes(text: &str) -> &[u8] {
    text.as_bytes().get(1..text.len().saturating_sub(1)).unwrap_or_default()
}

/// RFC 3986 with upper- and lower-case digits, and HTML forms' `+`; once with `/` left alone, as paths do.
fn percent_encoded(value: &[u8], found: &mut impl FnMut(&[u8])) {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_' | b'~');
    if value.iter().all(|b| plain(*b)) {
        return;
    }
    let encode = |keep: &dyn Fn(u8) -> bool, upper: bool| {
        let mut out = Zeroizing::new(String::with_capacity(value.len() * 3));
        for b in value {
            match b {
                b if plain(*b) || keep(*b) => out.push(char::from(*b)),
                b if upper => out.push_str(&format!("%{b:02X}")),
                b => out.push_str(&format!("%{b:02x}")),
            }
        }
        out
    };
    for keep in [&(|_| false) as &dyn Fn(u8) -> bool, &|b| b == b'/', &|b| b"!$&'()*+,;=:@".contains(&b)] {
        found(encode(keep, true).as_bytes());
        found(encode(keep, false).as_bytes());
    }
    if value.contains(&b' ') {
        found(Zeroizing::new(encode(&|_| false, true).replace("%20", "+")).as_bytes());
    }
}

/// Base64 in both alphabets, at each of the three alignments that a value can have inside a longer encoded text (as in
/// `Authorization: Basic`): the characters that do not depend on its neighbours.
fn base64(value: &[u8], found: &mut impl FnMut(&[u8])) {
    for before in 0..3usize {
        let mut padded = Zeroizing::new(vec![0; before]);
        padded.extend_from_slice(value);
        // Characters of which some bits belong to the bytes before or after.
        let head = (before * 8).div_ceil(6);
        let tail = padded.len() * 8 / 6;
        let standard = Zeroizing::new(STANDARD_NO_PAD.encode(&*padded));
        let url_safe = Zeroizing::new(URL_SAFE_NO_PAD.encode(&*padded));
        found(standard.as_bytes().get(head..tail).unwrap_or_default());
        if *standard != *url_safe {
            found(url_safe.as_bytes().get(head..tail).unwrap_or_default());
        }
    }
}

/// `password` of `scheme://user:password@host…`.
fn password_of_url(text: &str) -> Option<&str> {
    let (_, rest) = text.split_once("://")?;
    let authority = rest.split(['/', '?', '#']).next()?;
    let (user, _) = authority.rsplit_once('@')?;
    user.split_once(':').map(|(_, password)| password).filter(|p| p.len() >= MIN_LEN)
}

/// The texts in a JSON document that is one value of a secret.
fn json_texts(text: &str, left: &mut usize, found: &mut impl FnMut(&[u8])) {
    fn walk(value: &serde_json::Value, left: &mut usize, found: &mut impl FnMut(&[u8])) {
        match value {
            serde_json::Value::String(text) if text.len() >= MIN_PART && *left > 0 => {
                *left -= 1;
                whole(text.as_bytes(), found);
            }
            serde_json::Value::Array(list) => list.iter().for_each(|v| walk(v, left, found)),
            serde_json::Value::Object(map) => map.values().for_each(|v| walk(v, left, found)),
            _ => {}
        }
    }
    if let Ok(value) = serde_json::from_str(text) {
        walk(&value, left, found);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(value: &str) -> Vec<String> {
        let mut out = Vec::new();
        forms(value.as_bytes(), |form| out.push(String::from_utf8_lossy(form).into_owned()));
        out
    }

    #[test]
    fn base64_is_found_at_every_alignment() {
        let forms = all("sk-ant-canary-value");
        for before in ["", "u", "us", "user:", "longer user:"] {
            let encoded = STANDARD_NO_PAD.encode(format!("{before}sk-ant-canary-value and more"));
            assert!(forms.iter().any(|f| f.len() >= 20 && encoded.contains(f.as_str())), "after {before:?}");
        }
    }

    #[test]
    fn escapes_and_encodings_of_awkward_values_are_there() {
        let forms = all("a\"b\\c'd\ne /é+");
        for expected in [
            "a\"b\\c'd\ne /é+",
            r#"a\"b\\c'd\ne /é+"#,
            "a%22b%5Cc%27d%0Ae%20%2F%C3%A9%2B",
            "a%22b%5cc%27d%0ae%20%2f%c3%a9%2b",
            "a%22b%5Cc%27d%0Ae+%2F%C3%A9%2B",
        ] {
            assert!(forms.iter().any(|f| f == expected), "{expected}");
        }
    }

    #[test]
    fn parts_that_are_secrets_of_their_own_are_there_and_pem_frames_are_not() {
        assert!(all("postgresql://app:hunter22@db:5432/x").contains(&"hunter22".to_owned()));
        assert!(all(r#"{"type":"service","key":"canary-12345"}"#).contains(&"canary-12345".to_owned()));
        let pem = all("-----BEGIN PRIVATE KEY-----\nMIIEcanaryline\n-----END PRIVATE KEY-----\n");
        assert!(pem.contains(&"MIIEcanaryline".to_owned()));
        assert!(!pem.contains(&"-----BEGIN PRIVATE KEY-----".to_owned()));
    }

    #[test]
    fn a_short_value_has_few_forms_and_a_tiny_one_none() {
        assert_eq!(all("abcd"), ["abcd"]);
        assert!(all("abc").is_empty());
    }
}
