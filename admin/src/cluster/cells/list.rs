//! Listing cells.

use cellar_api::v1;
use cellar_model::Refusal;

use crate::admin::Admin;
use crate::deadline::Deadline;
use crate::message::message;

impl Admin {
    pub(crate) async fn list_cells(&self, deadline: Deadline) -> Result<v1::ListCellsResponse, Refusal> {
        self.fresh(deadline).await?;
        let view = self.view();
        // By index, the order in which everything numbered appears.
        let mut cells: Vec<_> = view.cells.values().collect();
        cells.sort_by_key(|cell| cell.index);
        let cells: Result<_, _> = cells.into_iter().map(message).collect();
        Ok(v1::ListCellsResponse { cells: cells? })
    }
}
