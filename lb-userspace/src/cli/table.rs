//! Tables for people: aligned columns, numbers to the right, colour where it means something.

/// How a column is aligned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Align {
    /// Words.
    Left,
    /// Numbers.
    Right,
}

/// What a cell means.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Tone {
    /// Nothing in particular.
    #[default]
    Plain,
    /// As it should be.
    Good,
    /// Somebody's decision, or waiting.
    Warn,
    /// Broken.
    Bad,
}

/// One cell.
#[derive(Clone, Debug, Default)]
pub(crate) struct Cell {
    text: String,
    tone: Tone,
}

impl Cell {
    /// With a meaning.
    pub(crate) fn toned(text: &(impl ToString + ?Sized), tone: Tone) -> Self {
        Self {
            text: printable(&text.to_string()),
            tone,
        }
    }

    /// Outside a table.
    pub(crate) fn render(&self, colour: bool) -> String {
        paint(&self.text, self.tone, colour)
    }
}

impl<T: ToString> From<T> for Cell {
    fn from(text: T) -> Self {
        Self::toned(&text, Tone::Plain)
    }
}

/// A table.
pub(crate) struct Table {
    columns: Vec<(&'static str, Align)>,
    rows: Vec<Vec<Cell>>,
}

impl Table {
    /// With these headings.
    pub(crate) fn new(columns: &[(&'static str, Align)]) -> Self {
        Self {
            columns: columns.to_vec(),
            rows: Vec::new(),
        }
    }

    /// Adds a row, one cell a column.
    pub(crate) fn row(&mut self, cells: Vec<Cell>) {
        debug_assert_eq!(cells.len(), self.columns.len());
        self.rows.push(cells);
    }

    /// The table, lines ended; columns that are empty in every row are left out.
    pub(crate) fn render(&self, indent: usize, colour: bool) -> String {
        let used: Vec<usize> = (0..self.columns.len())
            .filter(|at| {
                self.rows.is_empty() || self.rows.iter().any(|row| !row[*at].text.is_empty())
            })
            .collect();
        let width = |at: usize| {
            self.rows
                .iter()
                .map(|row| row[at].text.chars().count())
                .chain([self.columns[at].0.len()])
                .max()
                .unwrap_or(0)
        };
        let widths: Vec<usize> = used.iter().map(|at| width(*at)).collect();
        let mut out = String::new();
        let mut put = |cells: Vec<(&str, Tone)>| {
            let mut line = " ".repeat(indent);
            for ((at, width), (text, tone)) in used.iter().zip(&widths).zip(cells) {
                if *at != used[0] {
                    line.push_str("  ");
                }
                let gap = " ".repeat(width - text.chars().count());
                let text = paint(text, tone, colour);
                match self.columns[*at].1 {
                    Align::Left => line.extend([text, gap]),
                    Align::Right => line.extend([gap, text]),
                }
            }
            out.push_str(line.trim_end());
            out.push('\n');
        };
        put(used
            .iter()
            .map(|at| (self.columns[*at].0, Tone::Plain))
            .collect());
        for row in &self.rows {
            put(used
                .iter()
                .map(|at| (row[*at].text.as_str(), row[*at].tone))
                .collect());
        }
        out
    }
}

/// Names come from configuration and maps: nothing in them may steer a terminal.
fn printable(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { '\u{fffd}' } else { c })
        .collect()
}

fn paint(text: &str, tone: Tone, colour: bool) -> String {
    let code = match tone {
        _ if !colour || text.is_empty() => return text.to_owned(),
        Tone::Plain => return text.to_owned(),
        Tone::Good => 32,
        Tone::Warn => 33,
        Tone::Bad => 31,
    };
    format!("\u{1b}[{code}m{text}\u{1b}[0m")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example() -> Table {
        let mut table = Table::new(&[
            ("NAME", Align::Left),
            ("EMPTY", Align::Left),
            ("COUNT", Align::Right),
        ]);
        table.row(vec!["a".into(), "".into(), 5.into()]);
        table.row(vec![
            Cell::toned("longer", Tone::Bad),
            "".into(),
            1_000_000.into(),
        ]);
        table
    }

    #[test]
    fn columns_are_aligned_and_empty_ones_left_out() {
        assert_eq!(
            example().render(2, false),
            "  NAME      COUNT\n  a             5\n  longer  1000000\n"
        );
    }

    #[test]
    fn colour_does_not_shift_columns() {
        let painted = example().render(0, true);
        assert!(painted.contains("\u{1b}[31mlonger\u{1b}[0m  1000000"));
    }

    #[test]
    fn a_name_cannot_steer_the_terminal() {
        let mut table = Table::new(&[("NAME", Align::Left)]);
        table.row(vec!["a\u{1b}[2Jb\n".into()]);
        assert!(!table.render(0, false).contains('\u{1b}'));
    }
}
