//! The registry of secret values in use, and the mask: `***` where one of them stands in a text.
//!
//! What is masked: every text, number and byte value of [`MIN_LEN`] bytes or more in each registered reading, the forms
//! of it that [`super::encodings`] lists, its lines and its secret parts. Values shorter than [`WHOLE_WORD`] are masked
//! only where no letter or digit touches them, so that a port or `user` does not blind the logs. Null, true and false, and
//! values of three bytes and less, are not masked; neither is a PART of a value (the first half of a key, say).
//!
//! The registry keeps no plaintext: of each form its length and two keyed 64-bit hashes (of the last bytes, and of the
//! whole). Masking a text costs one or two hash look-ups a byte, however many values are registered.

use std::borrow::Cow;
use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, TryLockError};
use std::time::{Duration, Instant};

use super::encodings;
use crate::secret::{Field, Reading};

/// Shorter values are not masked.
pub const MIN_LEN: usize = 4;
/// Shorter values are masked as whole words only.
pub const WHOLE_WORD: usize = 8;
/// How long a value is still masked after its last use ended: late errors and logs may yet name it.
pub const RETIRED_FOR: Duration = Duration::from_secs(3600);
/// What stands for a value.
pub const MASK: &str = "***";

/// A set of values to mask. Cheap to clone; all clones are one. Most code uses the process's own: [`registry`].
#[derive(Clone, Default)]
pub struct Registry(Arc<Mutex<Table>>);

/// Keeps the values of one reading masked; dropping it retires them ([`RETIRED_FOR`] later they are forgotten, unless
/// another use holds them too).
#[must_use = "dropping this retires the values"]
pub struct Masked {
    registry: Registry,
    forms: Box<[Key]>,
}

#[derive(Default)]
struct Table {
    hasher: RandomState,
    /// By hash of the last [`WHOLE_WORD`] bytes (or [`MIN_LEN`], for the short ones).
    forms: HashMap<u64, Vec<Form>>,
    /// When to forget what nobody holds, oldest first.
    retired: VecDeque<(Instant, Key)>,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    tail: u64,
    len: u32,
    hash: u64,
}

struct Form {
    len: u32,
    hash: u64,
    uses: u32,
    /// While nobody uses it: when to forget it.
    forget_at: Option<Instant>,
}

/// The process's registry: what logs, errors, audit and status are masked with.
pub fn registry() -> &'static Registry {
    static REGISTRY: OnceLock<Registry> = OnceLock::new();
    REGISTRY.get_or_init(Registry::default)
}

/// Masks a text with the process's registry.
pub fn mask(text: &str) -> Cow<'_, str> {
    registry().mask(text)
}

/// An error (or anything else) as text, masked: how every error is shown.
pub fn display(error: &dyn std::fmt::Display) -> String {
    let text = error.to_string();
    match mask(&text) {
        Cow::Borrowed(_) => text,
        Cow::Owned(masked) => masked,
    }
}

impl Registry {
    /// Masks every value of a reading from now until the guard is dropped, and a while longer.
    pub fn reading(&self, reading: &Reading) -> Masked {
        let mut values = Vec::new();
        reading.fields.values().for_each(|field| collect(field, &mut values));
        self.hold(&values)
    }

    /// The same for one value that belongs to no reading, such as a store's token.
    pub fn value(&self, value: &[u8]) -> Masked {
        self.hold(&[value])
    }

    fn hold(&self, values: &[&[u8]]) -> Masked {
        let hasher = self.lock().hasher.clone();
        let mut keys = Vec::new();
        for value in values.iter().filter(|v| v.len() >= MIN_LEN) {
            encodings::forms(value, |form| keys.extend(key(&hasher, form)));
        }
        keys.sort_unstable();
        keys.dedup();
        let mut table = self.lock();
        table.forget(Instant::now());
        keys.iter().for_each(|key| table.add(*key));
        Masked { registry: self.clone(), forms: keys.into_boxed_slice() }
    }

    /// The text with `***` for every registered value in it; borrowed where there is none.
    pub fn mask<'a>(&self, text: &'a str) -> Cow<'a, str> {
        let spans = self.lock().spans(text.as_bytes());
        replace(text, spans)
    }

    /// How many forms are registered, the retired ones included: for tests and for a look at memory.
    pub fn len(&self) -> usize {
        self.lock().forms.values().map(Vec::len).sum()
    }

    /// Whether nothing is registered.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Forgets what was retired more than [`RETIRED_FOR`] before `now`. Registering does this too.
    pub fn forget(&self, now: Instant) {
        self.lock().forget(now);
    }

    /// The mask for a panic hook: None where the registry stays locked, since the panicking thread may be the one that
    /// holds it. The caller owes to show nothing then.
    pub fn try_mask<'a>(&self, text: &'a str) -> Option<Cow<'a, str>> {
        for _ in 0..1000 {
            match self.0.try_lock() {
                Ok(table) => return Some(replace(text, table.spans(text.as_bytes()))),
                Err(TryLockError::Poisoned(table)) => {
                    return Some(replace(text, table.into_inner().spans(text.as_bytes())));
                }
                Err(TryLockError::WouldBlock) => std::thread::yield_now(),
            }
        }
        None
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        // A panic elsewhere leaves the table whole: each change is one step. Masking must go on.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Masked {
    fn drop(&mut self) {
        let forget_at = Instant::now() + RETIRED_FOR;
        let mut table = self.registry.lock();
        for key in &self.forms {
            if let Some(form) = table.form(*key) {
                form.uses = form.uses.saturating_sub(1);
                if form.uses == 0 {
                    form.forget_at = Some(forget_at);
                    table.retired.push_back((forget_at, *key));
                }
            }
        }
    }
}

impl Table {
    fn form(&mut self, key: Key) -> Option<&mut Form> {
        self.forms.get_mut(&key.tail)?.iter_mut().find(|f| f.len == key.len && f.hash == key.hash)
    }

    fn add(&mut self, key: Key) {
        match self.form(key) {
            Some(form) => {
                form.uses = form.uses.saturating_add(1);
                form.forget_at = None;
            }
            None => {
                let form = Form { len: key.len, hash: key.hash, uses: 1, forget_at: None };
                // Nearly every list has one form: room for four would be most of the registry's memory.
                self.forms.entry(key.tail).or_insert_with(|| Vec::with_capacity(1)).push(form);
            }
        }
    }

    fn forget(&mut self, now: Instant) {
        while self.retired.front().is_some_and(|(at, _)| *at <= now) {
            let Some((_, key)) = self.retired.pop_front() else { return };
            if let Some(forms) = self.forms.get_mut(&key.tail) {
                // One held again since has no time, one retired again later has a later time: both stay.
                forms.retain(|f| f.forget_at.is_none_or(|at| at > now));
                if forms.is_empty() {
                    self.forms.remove(&key.tail);
                }
            }
        }
    }

    /// Where registered values stand: in order, apart.
    fn spans(&self, text: &[u8]) -> Vec<(usize, usize)> {
        let mut spans: Vec<(usize, usize)> = Vec::new();
        if self.forms.is_empty() {
            return spans;
        }
        for end in MIN_LEN..=text.len() {
            let mut longest = 0;
            for window in [WHOLE_WORD, MIN_LEN] {
                let Some(start) = end.checked_sub(window) else { continue };
                let Some(forms) = self.forms.get(&self.hasher.hash_one(&text[start..end])) else { continue };
                for form in forms {
                    let len = form.len as usize;
                    if len > longest && len <= end && self.is_there(form, text, end) {
                        longest = len;
                    }
                }
            }
            if longest > 0 {
                push(&mut spans, end - longest, end);
            }
        }
        spans
    }

    fn is_there(&self, form: &Form, text: &[u8], end: usize) -> bool {
        let start = end - form.len as usize;
        let touches = |at: Option<usize>| at.and_then(|i| text.get(i)).is_some_and(u8::is_ascii_alphanumeric);
        if (form.len as usize) < WHOLE_WORD && (touches(start.checked_sub(1)) || touches(Some(end))) {
            return false;
        }
        self.hasher.hash_one(&text[start..end]) == form.hash
    }
}

fn replace(text: &str, spans: Vec<(usize, usize)>) -> Cow<'_, str> {
    if spans.is_empty() {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len());
    let mut at = 0;
    for (start, end) in spans {
        // A value's bytes may cut a character of the text in two only where the value is no text: take it whole.
        let (start, end) = (floor(text, start), ceil(text, end));
        if let Some(before) = text.get(at..start) {
            out.push_str(before);
            out.push_str(MASK);
        }
        at = at.max(end);
    }
    out.push_str(text.get(at..).unwrap_or_default());
    Cow::Owned(out)
}

/// Adds a span that ends last, swallowing those that it overlaps or touches.
fn push(spans: &mut Vec<(usize, usize)>, mut start: usize, end: usize) {
    while let Some((s, e)) = spans.last()
        && *e >= start
    {
        start = start.min(*s);
        spans.pop();
    }
    spans.push((start, end));
}

fn key(hasher: &RandomState, form: &[u8]) -> Option<Key> {
    let window = if form.len() >= WHOLE_WORD { WHOLE_WORD } else { MIN_LEN };
    let tail = form.get(form.len().checked_sub(window)?..)?;
    let len = u32::try_from(form.len()).ok()?;
    Some(Key { tail: hasher.hash_one(tail), len, hash: hasher.hash_one(form) })
}

fn collect<'a>(field: &'a Field, values: &mut Vec<&'a [u8]>) {
    match field {
        Field::Null | Field::Bool(_) => {}
        Field::Number(value) | Field::Text(value) | Field::Bytes(value) => values.push(value.expose()),
        Field::List(list) => list.iter().for_each(|f| collect(f, values)),
        Field::Map(map) => map.values().for_each(|f| collect(f, values)),
    }
}

fn floor(text: &str, mut at: usize) -> usize {
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    at
}

fn ceil(text: &str, mut at: usize) -> usize {
    while !text.is_char_boundary(at) {
        at += 1;
    }
    at
}

#[cfg(test)]
#[path = "mask_tests.rs"]
mod tests;
