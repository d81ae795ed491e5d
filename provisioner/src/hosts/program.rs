//! The programs that a host may have.

use cellar_model::CellName;

/// A program of a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HostProgram {
    /// The etcd member.
    Etcd,
    /// multiadmin.
    Multiadmin,
    /// The cell's multipooler.
    Multipooler,
}

impl HostProgram {
    /// All of them, in the order in which they are started.
    pub(crate) const ALL: [Self; 3] = [Self::Etcd, Self::Multiadmin, Self::Multipooler];

    /// The program's name.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Etcd => "etcd",
            Self::Multiadmin => "multiadmin",
            Self::Multipooler => "multipooler",
        }
    }

    /// What it is on the host of a cell, for messages.
    pub(crate) fn what(self, cell: &CellName) -> String {
        match self {
            Self::Etcd | Self::Multiadmin => self.name().to_owned(),
            Self::Multipooler => format!("multipooler of cell {cell}"),
        }
    }
}
