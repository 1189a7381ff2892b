//! The one encoding of fields from which a version is made: the same for equal fields, different for different ones.

use zeroize::Zeroizing;

use crate::secret::{Field, Fields};

/// A tag byte a value, a length before everything that has one: no two values share an encoding.
pub(super) fn encode(fields: &Fields) -> Zeroizing<Vec<u8>> {
    // Sized first, so that growing leaves no copies behind.
    let mut out =
        Zeroizing::new(Vec::with_capacity(9 + fields.iter().map(|(k, v)| 8 + k.len() + size(v)).sum::<usize>()));
    map(&mut out, fields);
    out
}

fn size(field: &Field) -> usize {
    9 + match field {
        Field::Null | Field::Bool(_) => 0,
        Field::Number(bytes) | Field::Text(bytes) | Field::Bytes(bytes) => bytes.len(),
        Field::List(list) => list.iter().map(size).sum(),
        Field::Map(fields) => fields.iter().map(|(key, value)| 8 + key.len() + size(value)).sum(),
    }
}

fn put(out: &mut Vec<u8>, field: &Field) {
    match field {
        Field::Null => out.push(b'0'),
        Field::Bool(false) => out.push(b'f'),
        Field::Bool(true) => out.push(b't'),
        Field::Number(bytes) => framed(out, b'n', bytes.expose()),
        Field::Text(bytes) => framed(out, b's', bytes.expose()),
        Field::Bytes(bytes) => framed(out, b'b', bytes.expose()),
        Field::List(list) => {
            out.push(b'l');
            length(out, list.len());
            for field in list {
                put(out, field);
            }
        }
        Field::Map(fields) => map(out, fields),
    }
}

fn map(out: &mut Vec<u8>, fields: &Fields) {
    out.push(b'm');
    length(out, fields.len());
    for (key, field) in fields {
        length(out, key.len());
        out.extend_from_slice(key.as_bytes());
        put(out, field);
    }
}

fn framed(out: &mut Vec<u8>, tag: u8, bytes: &[u8]) {
    out.push(tag);
    length(out, bytes.len());
    out.extend_from_slice(bytes);
}

fn length(out: &mut Vec<u8>, length: usize) {
    out.extend_from_slice(&(length as u64).to_le_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn different_fields_have_different_encodings_and_the_size_is_exact_enough() {
        let one = |field: Field| Fields::from([("k".to_owned(), field)]);
        let all = [
            Fields::new(),
            one(Field::Null),
            one(Field::Bool(false)),
            one(Field::Bool(true)),
            one(Field::Number("1".into())),
            one(Field::text("1")),
            one(Field::Bytes("1".into())),
            one(Field::List(vec![])),
            one(Field::List(vec![Field::text("1")])),
            one(Field::Map(Fields::new())),
            one(Field::Map(one(Field::text("1")))),
            Fields::from([("k".to_owned(), Field::text("")), ("l".to_owned(), Field::text(""))]),
        ];
        for (i, a) in all.iter().enumerate() {
            let encoded = encode(a);
            assert!(encoded.capacity() < 200, "grew past what was reserved");
            for (j, b) in all.iter().enumerate() {
                assert_eq!(i == j, *encoded == *encode(b), "{i} {j}");
            }
        }
    }
}
