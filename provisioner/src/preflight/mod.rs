//! What is looked at before anything is started or written: ports, disks, paths, programs.

pub(crate) mod checks;
pub(crate) mod disk;
pub(crate) mod port_holder;
pub(crate) mod reach;
