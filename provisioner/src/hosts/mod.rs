//! A cluster whose cells have hosts of their own. On the operator's machine: what is specified, issued and bundled
//! (`init`, `bundle`), how a running cluster differs from a specification (`differences`) and becomes so (`apply`), which of it hosts use (`in_use`) and which ends soon (`due`), how it is revoked (`revoke`), cells that come and go (`cells`), databases that come (`databases`) and
//! etcd's members with them (`etcd`), a snapshot of etcd put back (`etcd_restore`), whether all servers answer (`servers`),
//! and the wait until it is well (`wait`). On each host: `install`, `run` and `upgrade`, its primaries moved away before it stops (`hand_over`), whether etcd's data there is what
//! the bundle says (`etcd_data`) and whether etcd knows its member (`begun`), what the units of systemd are told (`drop_ins`) and asked (`units`), what a host sees of the
//! others (`neighbours`), and which is upgraded now (`turn`). What is started and watched is the same as in a local cluster.

pub(crate) mod apply;
pub(crate) mod begun;
pub(crate) mod bundle;
pub(crate) mod cells;
pub(crate) mod databases;
pub(crate) mod differences;
pub(crate) mod drop_ins;
pub(crate) mod due;
pub(crate) mod etcd;
pub(crate) mod etcd_data;
pub(crate) mod etcd_restore;
pub(crate) mod hand_over;
pub(crate) mod host;
pub(crate) mod in_use;
pub(crate) mod init;
pub(crate) mod install;
pub(crate) mod made_by;
pub(crate) mod neighbours;
pub(crate) mod program;
pub(crate) mod programs;
pub(crate) mod revoke;
pub(crate) mod run;
pub(crate) mod servers;
pub(crate) mod turn;
pub(crate) mod units;
pub(crate) mod upgrade;
pub(crate) mod wait;
