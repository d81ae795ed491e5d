//! Aligned columns without borders: read by people, and split by awk where a column has no spaces.

use comfy_table::{ContentArrangement, Table as ComfyTable, presets};

use crate::render::facts::NOTHING;

/// A table. Its width is that of its content, not of the terminal: a line of output stays one line in a pipe.
pub(crate) struct Table(ComfyTable);

impl Table {
    pub(crate) fn new(headings: &[&str]) -> Self {
        let mut table = ComfyTable::new();
        table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
        table.set_header(headings);
        table.column_iter_mut().for_each(|column| {
            column.set_padding((0, 2));
        });
        Self(table)
    }

    /// Adds a row, which has as many cells as there are headings.
    pub(crate) fn row<const N: usize>(&mut self, cells: [String; N]) {
        self.0.add_row(cells.map(|cell| clean(&cell)));
    }

    /// The text: two spaces between columns, none at the ends of lines.
    pub(crate) fn render(&self) -> String {
        self.0.trim_fmt() + "\n"
    }
}

/// The text of a cell: `-` for nothing, so that columns stay countable, and no control characters, which would move
/// the cursor or break the line.
fn clean(cell: &str) -> String {
    let cell = if cell.is_empty() { NOTHING } else { cell };
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

    #[test]
    fn a_table_without_rows_is_its_headings() {
        assert_eq!(Table::new(&["CELL", "ROLE"]).render(), "CELL  ROLE\n");
    }

    #[test]
    fn a_long_cell_is_not_wrapped() {
        let long = "x".repeat(500);
        let mut table = Table::new(&["DETAIL"]);
        table.row([long.clone()]);
        assert_eq!(table.render(), format!("DETAIL\n{long}\n"));
    }
}
