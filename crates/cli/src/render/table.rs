//! Aligned columns without borders: read by people, cut by awk.

/// A table; every row has as many cells as there are headings.
#[derive(Debug, Default)]
pub(crate) struct Table {
    rows: Vec<Vec<String>>,
}

/// What stands for nothing, so that columns stay countable.
pub(crate) const NOTHING: &str = "-";

impl Table {
    pub(crate) fn new(headings: &[&str]) -> Self {
        Self { rows: vec![headings.iter().map(|&heading| heading.to_owned()).collect()] }
    }

    pub(crate) fn row<const N: usize>(&mut self, cells: [String; N]) {
        self.rows.push(cells.into_iter().map(clean).collect());
    }

    /// The text, two spaces between columns and none at line ends.
    pub(crate) fn render(&self) -> String {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let width = |at: usize| {
            self.rows.iter().filter_map(|row| row.get(at)).map(|cell| cell.chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..columns).map(width).collect();
        let mut text = String::new();
        for row in &self.rows {
            let mut line = String::new();
            for (cell, width) in row.iter().zip(&widths) {
                line.push_str(&format!("{cell:<width$}  "));
            }
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }
}

/// What others wrote must not move the cursor.
fn clean(cell: String) -> String {
    let cell = if cell.is_empty() { NOTHING.to_owned() } else { cell };
    cell.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned() {
        let mut table = Table::new(&["CELL", "ROLE"]);
        table.row(["a-long-name".into(), String::new()]);
        table.row(["é\x1b[31m".into(), "standby".into()]);
        assert_eq!(table.render(), "CELL         ROLE\na-long-name  -\né [31m       standby\n");
    }
}
