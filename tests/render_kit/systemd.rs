//! systemd's reader of environment files, a second time: independent of the one under test.

/// systemd's own reader, state for state and byte for byte: parse_env_file_internal of src/basic/env-file.c, then the
/// rule of load_environment that a name must be one.
pub fn parse_env_file(contents: &[u8]) -> Vec<(String, String)> {
    #[derive(PartialEq)]
    enum S {
        PreKey,
        Key,
        PreValue,
        Value,
        ValueEscape,
        SingleQuote,
        DoubleQuote,
        DoubleQuoteEscape,
        Comment,
        CommentEscape,
    }
    let newline = |c: u8| b"\n\r".contains(&c);
    let whitespace = |c: u8| b" \t\n\r".contains(&c);
    let (mut state, mut key, mut value, mut out) = (S::PreKey, Vec::new(), Vec::new(), Vec::new());
    let (mut last_key, mut last_value) = (usize::MAX, usize::MAX);
    let mut push = |key: &mut Vec<u8>, value: &mut Vec<u8>, last_key: usize, last_value: usize| {
        key.truncate(last_key);
        value.truncate(last_value);
        let name = String::from_utf8(std::mem::take(key)).unwrap();
        let value = String::from_utf8(std::mem::take(value)).unwrap();
        if !name.is_empty()
            && !name.starts_with(|c: char| c.is_ascii_digit())
            && name.bytes().all(|b| b == b'_' || b.is_ascii_alphanumeric())
        {
            out.push((name, value));
        }
    };
    for &c in contents {
        match state {
            S::PreKey => {
                if b"#;".contains(&c) {
                    state = S::Comment;
                } else if !whitespace(c) {
                    (state, last_key) = (S::Key, usize::MAX);
                    key.push(c);
                }
            }
            S::Key => {
                if newline(c) {
                    state = S::PreKey;
                    key.clear();
                } else if c == b'=' {
                    (state, last_value) = (S::PreValue, usize::MAX);
                } else {
                    if !whitespace(c) {
                        last_key = usize::MAX;
                    } else if last_key == usize::MAX {
                        last_key = key.len();
                    }
                    key.push(c);
                }
            }
            S::PreValue if newline(c) => {
                state = S::PreKey;
                push(&mut key, &mut value, last_key, usize::MAX);
            }
            S::PreValue => match c {
                b'\'' => state = S::SingleQuote,
                b'"' => state = S::DoubleQuote,
                b'\\' => state = S::ValueEscape,
                c if !whitespace(c) => {
                    state = S::Value;
                    value.push(c);
                }
                _ => {}
            },
            S::Value => {
                if newline(c) {
                    state = S::PreKey;
                    push(&mut key, &mut value, last_key, last_value);
                } else if c == b'\\' {
                    (state, last_value) = (S::ValueEscape, usize::MAX);
                } else {
                    if !whitespace(c) {
                        last_value = usize::MAX;
                    } else if last_value == usize::MAX {
                        last_value = value.len();
                    }
                    value.push(c);
                }
            }
            S::ValueEscape => {
                state = S::Value;
                if !newline(c) {
                    value.push(c);
                }
            }
            S::SingleQuote if c == b'\'' => state = S::PreValue,
            S::DoubleQuote if c == b'"' => state = S::PreValue,
            S::DoubleQuote if c == b'\\' => state = S::DoubleQuoteEscape,
            S::SingleQuote | S::DoubleQuote => value.push(c),
            S::DoubleQuoteEscape => {
                state = S::DoubleQuote;
                if b"\"\\`$".contains(&c) {
                    value.push(c);
                } else if c != b'\n' {
                    value.extend([b'\\', c]);
                }
            }
            S::Comment if c == b'\\' => state = S::CommentEscape,
            S::Comment | S::CommentEscape => state = if newline(c) { S::PreKey } else { S::Comment },
        }
    }
    if !matches!(state, S::PreKey | S::Key | S::Comment | S::CommentEscape) {
        let last_value = if state == S::Value { last_value } else { usize::MAX };
        push(&mut key, &mut value, last_key, last_value);
    }
    out
}
