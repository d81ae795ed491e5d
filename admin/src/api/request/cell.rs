//! Cells to add.

use cellar_api::v1;
use cellar_model::Refusal;

use crate::api::request::field;
use crate::cluster::cells::addition::NewCell;

pub(crate) fn new_cell(message: &v1::AddCellRequest) -> Result<NewCell, Refusal> {
    let name = field::cell("name", &message.name)?;
    NewCell::parse(name, &message.host, &message.directory, &message.listen)
}
