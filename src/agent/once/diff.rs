//! Which lines differ, and how that is told without telling what stood in the old ones.

use std::ops::Range;

/// Larger changes are told as one: the table of the comparison grows with their product.
const TABLE: usize = 1_000_000;
/// Lines shown of one file.
const SHOWN: usize = 60;

/// Where two texts differ, by line.
struct Hunk {
    old: Range<usize>,
    new: Range<usize>,
}

/// What changes from `old` to `new`. New lines are taken from `marked`, the same text with marks for values, and go
/// through `shown`; where its lines are not the same in number, none is shown.
pub(super) fn lines(old: &str, new: &str, marked: Option<&str>, shown: impl Fn(&str) -> String) -> Vec<String> {
    let (old, new): (Vec<&str>, Vec<&str>) = (old.lines().collect(), new.lines().collect());
    let marked: Option<Vec<&str>> = marked.map(|text| text.lines().collect()).filter(|m: &Vec<_>| m.len() == new.len());
    let mut out = Vec::new();
    for hunk in hunks(&old, &new) {
        out.push(format!("@@ line {} @@", hunk.new.start + 1));
        if !hunk.old.is_empty() {
            out.push(format!("- {} (not shown)", count(hunk.old.len())));
        }
        match &marked {
            Some(marked) => out.extend(hunk.new.clone().map(|at| format!("+ {}", shown(marked[at])))),
            None if hunk.new.is_empty() => {}
            None => out.push(format!("+ {} (not shown: a value decides how many there are)", count(hunk.new.len()))),
        }
    }
    if out.is_empty() {
        out.push("only line ends differ".to_owned());
    }
    if out.len() > SHOWN {
        let more = out.len() - SHOWN;
        out.truncate(SHOWN);
        out.push(format!("… {} more", count(more)));
    }
    out
}

fn count(lines: usize) -> String {
    format!("{lines} line{}", if lines == 1 { "" } else { "s" })
}

fn hunks(old: &[&str], new: &[&str]) -> Vec<Hunk> {
    let start = old.iter().zip(new).take_while(|(a, b)| a == b).count();
    let end = old[start..].iter().rev().zip(new[start..].iter().rev()).take_while(|(a, b)| a == b).count();
    let (a, b) = (&old[start..old.len() - end], &new[start..new.len() - end]);
    if a.is_empty() && b.is_empty() {
        return Vec::new();
    }
    let whole = || vec![Hunk { old: start..start + a.len(), new: start..start + b.len() }];
    if a.is_empty() || b.is_empty() || a.len().saturating_mul(b.len()) > TABLE {
        return whole();
    }
    let same = common(a, b);
    let mut hunks = Vec::new();
    let (mut i, mut j) = (0, 0);
    for (x, y) in same.into_iter().chain([(a.len(), b.len())]) {
        if i < x || j < y {
            hunks.push(Hunk { old: start + i..start + x, new: start + j..start + y });
        }
        (i, j) = (x + 1, y + 1);
    }
    hunks
}

/// The longest common subsequence: pairs of places.
fn common(a: &[&str], b: &[&str]) -> Vec<(usize, usize)> {
    let width = b.len() + 1;
    let mut lengths = vec![0u32; (a.len() + 1) * width];
    for i in (0..a.len()).rev() {
        for j in (0..b.len()).rev() {
            lengths[i * width + j] = if a[i] == b[j] {
                lengths[(i + 1) * width + j + 1] + 1
            } else {
                lengths[(i + 1) * width + j].max(lengths[i * width + j + 1])
            };
        }
    }
    let (mut i, mut j) = (0, 0);
    let mut pairs = Vec::new();
    while i < a.len() && j < b.len() {
        if a[i] == b[j] {
            pairs.push((i, j));
            (i, j) = (i + 1, j + 1);
        } else if lengths[(i + 1) * width + j] >= lengths[i * width + j + 1] {
            i += 1;
        } else {
            j += 1;
        }
    }
    pairs
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(old: &str, new: &str) -> Vec<String> {
        lines(old, new, Some(new), str::to_owned)
    }

    #[test]
    fn only_new_lines_are_shown_and_old_ones_counted() {
        assert_eq!(told("a\nold\nc\n", "a\nnew\nc\n"), ["@@ line 2 @@", "- 1 line (not shown)", "+ new"]);
        assert_eq!(told("", "a\nb\n"), ["@@ line 1 @@", "+ a", "+ b"]);
        assert_eq!(told("a\nb\nc\n", "a\nc\n"), ["@@ line 2 @@", "- 1 line (not shown)"]);
        assert_eq!(
            told("1\n2\n3\n4\n5\n", "1\nx\n3\n4\ny\nz\n"),
            ["@@ line 2 @@", "- 1 line (not shown)", "+ x", "@@ line 5 @@", "- 1 line (not shown)", "+ y", "+ z"]
        );
        assert_eq!(told("a", "a\n"), ["only line ends differ"]);
    }

    #[test]
    fn where_marks_change_the_number_of_lines_none_is_shown() {
        let told = lines("", "a\nb\n", Some("a\n"), str::to_owned);
        assert_eq!(told, ["@@ line 1 @@", "+ 2 lines (not shown: a value decides how many there are)"]);
    }
}
