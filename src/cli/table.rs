//! Aligned columns without borders.

/// The colour of a cell (ECMA-48, SGR).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Paint {
    /// As the terminal has it.
    None,
    /// All is well.
    Green,
    /// Worth a look.
    Yellow,
    /// Wrong.
    Red,
    /// Beside the point.
    Dim,
}

impl Paint {
    fn code(self) -> Option<&'static str> {
        match self {
            Self::None => None,
            Self::Green => Some("32"),
            Self::Yellow => Some("33"),
            Self::Red => Some("31"),
            Self::Dim => Some("2"),
        }
    }

    /// The text in this colour.
    pub fn on(self, text: &str, colour: bool) -> String {
        match self.code().filter(|_| colour) {
            Some(code) => format!("\x1b[{code}m{text}\x1b[0m"),
            None => text.to_owned(),
        }
    }
}

/// One cell: printed on one line, whatever is in it.
#[derive(Debug, Clone)]
pub(super) struct Cell {
    text: String,
    paint: Paint,
}

/// A cell as the terminal has it.
pub(super) fn cell(text: impl AsRef<str>) -> Cell {
    painted(text, Paint::None)
}

/// A cell in a colour.
pub(super) fn painted(text: impl AsRef<str>, paint: Paint) -> Cell {
    Cell { text: one_line(text.as_ref()), paint }
}

/// What may be said below a row: a cell a line.
pub(super) fn remarks(text: Option<&str>, paint: Paint) -> Vec<Cell> {
    text.into_iter().flat_map(str::lines).map(|line| painted(line, paint)).collect()
}

/// Control characters escaped, line by line: for texts that may have several.
pub(super) fn lines(text: &str) -> String {
    text.lines().map(|line| one_line(line) + "\n").collect()
}

/// Control characters escaped: no name can steer the terminal.
fn one_line(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() { out.extend(c.escape_debug()) } else { out.push(c) }
    }
    out
}

/// Rows under headings; a row may have remarks on lines of their own.
pub(super) struct Table {
    headings: &'static [&'static str],
    rows: Vec<(Vec<Cell>, Vec<Cell>)>,
}

impl Table {
    pub fn new(headings: &'static [&'static str]) -> Self {
        Self { headings, rows: Vec::new() }
    }

    /// Adds a row with its remarks.
    pub fn row(&mut self, cells: Vec<Cell>, remarks: Vec<Cell>) {
        self.rows.push((cells, remarks));
    }

    /// The whole table as text; without rows, nothing.
    pub fn text(&self, colour: bool) -> String {
        if self.rows.is_empty() {
            return String::new();
        }
        let widths: Vec<usize> = (0..self.headings.len())
            .map(|column| {
                let cells = self.rows.iter().filter_map(|(cells, _)| cells.get(column));
                let widest = cells.map(|cell| cell.text.chars().count()).max().unwrap_or(0);
                widest.max(self.headings.get(column).map_or(0, |heading| heading.len()))
            })
            .collect();
        let headings: Vec<Cell> = self.headings.iter().map(|heading| painted(heading, Paint::Dim)).collect();
        let mut out = line(&headings, &widths, colour);
        for (cells, remarks) in &self.rows {
            out += &line(cells, &widths, colour);
            for remark in remarks {
                out += &format!("  {}\n", remark.paint.on(&remark.text, colour));
            }
        }
        out
    }
}

/// No blanks at the end.
fn line(cells: &[Cell], widths: &[usize], colour: bool) -> String {
    let last = cells.iter().rposition(|cell| !cell.text.is_empty()).unwrap_or(0);
    let mut out = String::new();
    for (at, (cell, width)) in cells.iter().zip(widths).enumerate().take(last + 1) {
        out += &cell.paint.on(&cell.text, colour);
        if at < last {
            let blanks = width.saturating_sub(cell.text.chars().count()) + 2;
            out.extend(std::iter::repeat_n(' ', blanks));
        }
    }
    out.push('\n');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_and_nothing_trails() {
        let mut table = Table::new(&["NAME", "STATE", "REASON"]);
        table.row(vec![cell("a"), painted("healthy", Paint::Green), cell("")], vec![]);
        table.row(vec![cell("longer"), cell("x"), cell("y")], vec![cell("why\nnot\u{1b}[31m")]);
        assert_eq!(
            table.text(false),
            "NAME    STATE    REASON\na       healthy\nlonger  x        y\n  why\\nnot\\u{1b}[31m\n"
        );
        assert!(table.text(true).contains("\x1b[32mhealthy\x1b[0m\n"), "a colour does not count as width");
        assert_eq!(Table::new(&["NAME"]).text(true), "");
    }
}
