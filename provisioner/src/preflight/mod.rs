//! What is checked before anything is started or written: the name of the host, ports, disks, permissions, programs, data directories. It only looks.

pub(crate) mod access;
pub(crate) mod checks;
pub(crate) mod data_directory;
pub(crate) mod disk;
pub(crate) mod host_name;
pub(crate) mod port;
pub(crate) mod store;
