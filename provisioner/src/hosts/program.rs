//! The programs that a host may have.

use cellar_model::DatabaseName;

use crate::cluster::database::Member;
use crate::cluster::local_cluster::Cluster;

/// A program of a host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HostProgram {
    /// The etcd member.
    Etcd,
    /// multiadmin.
    Multiadmin,
    /// The multipooler of a database.
    Multipooler(DatabaseName),
}

impl HostProgram {
    /// The program's name.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Etcd => "etcd",
            Self::Multiadmin => "multiadmin",
            Self::Multipooler(_) => "multipooler",
        }
    }
}

impl Cluster {
    /// The programs that this host has, in the order in which they are started.
    pub(super) fn programs_here(&self) -> Vec<HostProgram> {
        let shared = [(HostProgram::Etcd, self.has_etcd()), (HostProgram::Multiadmin, self.has_multiadmin())];
        let shared = shared.into_iter().filter(|(_, is_here)| *is_here).map(|(program, _)| program);
        let poolers = self.members_here().into_iter().map(|member| HostProgram::Multipooler(member.database));
        shared.chain(poolers).collect()
    }

    /// The member of a database that this host has.
    pub(super) fn member_here(&self, database: &DatabaseName) -> Option<Member> {
        self.members_here().into_iter().find(|member| member.database == *database)
    }

    /// What a program of this host is, for messages.
    pub(super) fn what_of(&self, program: &HostProgram) -> String {
        match program {
            HostProgram::Etcd | HostProgram::Multiadmin => program.name().to_owned(),
            HostProgram::Multipooler(database) => match self.member_here(database) {
                Some(member) => format!("multipooler of cell {}", self.state.shown(&member)),
                None => format!("multipooler of database {database}"),
            },
        }
    }
}
