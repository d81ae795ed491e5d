//! What is checked before anything is started or written: ports, disks, permissions, programs. It only looks.

pub(crate) mod access;
pub(crate) mod checks;
pub(crate) mod disk;
pub(crate) mod port;
