//! Cells: listed, added and removed. Changes of the set of cells are put in one order by [`order`].

pub(crate) mod addition;
pub(crate) mod list;
mod order;
pub(crate) mod removal;
