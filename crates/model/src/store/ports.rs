//! The ports of a cluster.

use crate::store::layout_error::LayoutError;

/// The ports of one cluster, all moved by its offset.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ports {
    offset: u16,
}

/// Cells a cluster may have; also the distance between the port ranges of two databases.
pub const PORT_SPAN: u16 = 256;

impl Ports {
    /// pgBackRest TLS server of the cell with index 0.
    pub const PGBACKREST: u16 = 8432;
    /// PostgreSQL of the cell with index 0.
    pub const POSTGRES: u16 = 25432;
    /// etcd for clients.
    pub const ETCD_CLIENT: u16 = 12379;
    /// etcd for its peers.
    pub const ETCD_PEER: u16 = 12380;
    /// multiadmin gRPC.
    pub const ADMIN_GRPC: u16 = 15070;
    /// multipooler gRPC of the cell with index 0.
    pub const POOLER_GRPC: u16 = 15270;
    /// Health endpoints of the multipooler of the cell with index 0.
    pub const POOLER_HEALTH: u16 = 20000;
    /// PgBouncer of the cell with index 0.
    pub const POOL: u16 = 6432;
    /// HAProxy, to the primary.
    pub const ROUTE_WRITES: u16 = 5000;
    /// HAProxy, to the standbys.
    pub const ROUTE_READS: u16 = 5001;
    /// HAProxy's statistics.
    pub const ROUTE_STATISTICS: u16 = 8404;

    /// The ports of a cluster whose `--port-offset` is `offset`.
    #[must_use]
    pub fn new(offset: u16) -> Self {
        Self { offset }
    }

    /// The port of something there is one of.
    ///
    /// # Errors
    /// When it is above 65535.
    pub fn single(self, base: u16) -> Result<u16, LayoutError> {
        self.of_cell(base, 0)
    }

    /// The port of something that every cell has.
    ///
    /// # Errors
    /// When it is above 65535.
    pub fn of_cell(self, base: u16, index: u32) -> Result<u16, LayoutError> {
        let offset = u32::from(self.offset);
        u16::try_from(u32::from(base) + index + offset).map_err(|_| LayoutError::PortTooHigh {
            base,
            index,
            offset,
        })
    }
}
