//! A whole cluster on this machine: started, watched until it is well, changed and taken down.

pub(crate) mod cells;
pub(crate) mod down;
pub(crate) mod first_backup;
pub(crate) mod health;
pub(crate) mod launch;
pub(crate) mod port_offset;
pub(crate) mod records;
pub(crate) mod secrets;
pub(crate) mod up;
pub(crate) mod up_options;
pub(crate) mod watch;
