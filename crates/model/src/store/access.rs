//! Who may call what.
//!
//! A certificate of the cluster's authority proves a name; what the name may do stands in one table here. A method
//! that is not in it is refused. The same table says which methods change anything.

use std::fmt;

use crate::records::job::spec::JobKind;
use crate::types::name::{CellName, ClusterName, DatabaseName};
use crate::types::role::{DatabaseScope, OperatorRole};

/// What follows a role that is limited to databases, whose names follow then: a release that does not know that refuses it.
const LIMITED: &str = "-of";

/// Who somebody is, from the URI in a certificate: `spiffe://<cluster>/<role>/<name>`, and of a person or program that is
/// limited to databases `spiffe://<cluster>/<role>-of/<database>.<database>/<name>`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Principal {
    /// A person or program, with the databases that it may work with.
    Operator(OperatorRole, DatabaseScope),
    /// The pooler of a database in a cell.
    Pooler(DatabaseName, CellName),
    /// A multiadmin.
    Multiadmin,
    /// Something else of the cluster's own: etcd, a standby's replication. It calls nothing.
    Other,
}

impl Principal {
    /// Reads a URI; none for one of another cluster, or of no known form.
    #[must_use]
    pub fn parse(uri: &str, cluster: &ClusterName) -> Option<Self> {
        let rest = uri.strip_prefix("spiffe://")?.strip_prefix(cluster.as_str())?.strip_prefix('/')?;
        let (role, name) = rest.split_once('/')?;
        if name.is_empty() {
            return None;
        }
        match role {
            "multiadmin" => Some(Self::Multiadmin),
            "pooler" => {
                let (database, cell) = name.split_once('/')?;
                Some(Self::Pooler(database.parse().ok()?, cell.parse().ok()?))
            }
            "etcd" | "replication" => Some(Self::Other),
            role => match role.strip_suffix(LIMITED) {
                None => role.parse().ok().map(|role| Self::Operator(role, DatabaseScope::All)),
                Some(role) => {
                    let (databases, name) = name.split_once('/')?;
                    let names = databases.split('.').map(str::parse).collect::<Result<_, _>>().ok()?;
                    let scope = DatabaseScope::Only(names);
                    (!name.is_empty()).then_some(Self::Operator(role.parse().ok()?, scope))
                }
            },
        }
    }

    /// The URI of a person or program.
    #[must_use]
    pub fn operator_uri(
        cluster: &ClusterName,
        role: OperatorRole,
        databases: &DatabaseScope,
        name: &str,
    ) -> String {
        match databases {
            DatabaseScope::All => format!("spiffe://{cluster}/{role}/{name}"),
            DatabaseScope::Only(names) => {
                let names: Vec<&str> = names.iter().map(DatabaseName::as_str).collect();
                format!("spiffe://{cluster}/{role}{LIMITED}/{}/{name}", names.join("."))
            }
        }
    }
}

/// What a method needs of its caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Needs {
    /// An operator of this role or a higher one.
    Role(OperatorRole),
    /// An operator of this role or a higher one who is not limited to some databases: it changes all.
    RoleForAll(OperatorRole),
    /// A multiadmin.
    Multiadmin,
    /// A multiadmin, or a pooler of the cluster.
    Peer,
    /// Anybody with a certificate that says who they are.
    Anybody,
}

impl fmt::Display for Needs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Role(role) => write!(f, "the role {role}"),
            Self::RoleForAll(role) => write!(f, "the role {role} for all databases"),
            Self::Multiadmin => f.write_str("a multiadmin's certificate"),
            Self::Peer => f.write_str("a multiadmin's or a pooler's certificate"),
            Self::Anybody => f.write_str("a certificate of this cluster"),
        }
    }
}

const VIEWER: Needs = Needs::Role(OperatorRole::Viewer);
const OPERATOR: Needs = Needs::Role(OperatorRole::Operator);
const ADMIN: Needs = Needs::Role(OperatorRole::Admin);
const ADMIN_OF_ALL: Needs = Needs::RoleForAll(OperatorRole::Admin);

/// What the method that requests jobs of a kind needs.
const fn job(kind: JobKind) -> Needs {
    Needs::Role(kind.role())
}

/// Whether a method changes anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// It only answers.
    Reads,
    /// It records or changes something, if only the record of a job: every call leaves an audit record.
    Mutates,
}
use Effect::{Mutates, Reads};

/// Every method of every service of ours, what it needs, and what it does. `cellar-api` tests that none is missing.
pub const METHODS: &[(&str, Needs, Effect)] = &[
    ("/cellar.v1.MultiAdmin/Backup", job(JobKind::Backup), Mutates),
    ("/cellar.v1.MultiAdmin/RebuildStandby", job(JobKind::Rebuild), Mutates),
    ("/cellar.v1.MultiAdmin/RestoreDatabase", job(JobKind::Restore), Mutates),
    ("/cellar.v1.MultiAdmin/PlanRestore", job(JobKind::Plan), Mutates),
    ("/cellar.v1.MultiAdmin/ConfirmRestore", job(JobKind::Confirm), Mutates),
    ("/cellar.v1.MultiAdmin/RollbackRestore", job(JobKind::Rollback), Mutates),
    ("/cellar.v1.MultiAdmin/DrillRestore", job(JobKind::Drill), Mutates),
    ("/cellar.v1.MultiAdmin/VerifyBackups", job(JobKind::Verify), Mutates),
    // Of a dry run; without it a job needs more: see `JobSpec::role`.
    ("/cellar.v1.MultiAdmin/ExpireBackups", OPERATOR, Mutates),
    ("/cellar.v1.MultiAdmin/CheckArchive", job(JobKind::Check), Mutates),
    // Of a job that needs more, its own role: see `JobSpec::role`.
    ("/cellar.v1.MultiAdmin/RunJob", OPERATOR, Mutates),
    ("/cellar.v1.MultiAdmin/GetJob", VIEWER, Reads),
    ("/cellar.v1.MultiAdmin/ListJobs", VIEWER, Reads),
    ("/cellar.v1.MultiAdmin/WatchJob", VIEWER, Reads),
    // Of a job that needs more, its own role: see `JobKind::role`.
    ("/cellar.v1.MultiAdmin/CancelJob", OPERATOR, Mutates),
    ("/cellar.v1.MultiAdmin/TailJobLog", VIEWER, Reads),
    ("/cellar.v1.MultiAdmin/ListBackups", VIEWER, Reads),
    ("/cellar.v1.MultiAdmin/GetBackup", VIEWER, Reads),
    ("/cellar.v1.MultiAdmin/ListCells", VIEWER, Reads),
    ("/cellar.v1.MultiAdmin/AddCell", ADMIN_OF_ALL, Mutates),
    ("/cellar.v1.MultiAdmin/RemoveCell", ADMIN_OF_ALL, Mutates),
    ("/cellar.v1.MultiAdmin/ListDatabases", VIEWER, Reads),
    ("/cellar.v1.MultiAdmin/GetDatabase", VIEWER, Reads),
    ("/cellar.v1.MultiAdmin/ListPoolers", VIEWER, Reads),
    ("/cellar.v1.MultiAdmin/GetPooler", VIEWER, Reads),
    ("/cellar.v1.MultiAdmin/GetFailoverOutlook", VIEWER, Reads),
    ("/cellar.v1.MultiAdmin/SetDurability", ADMIN, Mutates),
    ("/cellar.v1.MultiAdmin/SwitchPrimary", ADMIN, Mutates),
    ("/cellar.v1.MultiAdmin/ListSettings", VIEWER, Reads),
    ("/cellar.v1.MultiAdmin/ChangeSettings", ADMIN, Mutates),
    ("/cellar.v1.MultiAdmin/ListFailovers", VIEWER, Reads),
    ("/cellar.v1.MultiAdmin/GetFailoverPlan", VIEWER, Reads),
    ("/cellar.v1.MultiAdmin/FailOver", ADMIN, Mutates),
    ("/cellar.v1.MultiAdmin/PauseDatabase", ADMIN, Mutates),
    ("/cellar.v1.MultiAdmin/ResumeDatabase", ADMIN, Mutates),
    ("/cellar.v1.MultiAdmin/ListSchedules", VIEWER, Reads),
    // Of a job that needs more, its own role: see `JobKind::role`.
    ("/cellar.v1.MultiAdmin/PutSchedule", OPERATOR, Mutates),
    ("/cellar.v1.MultiAdmin/DeleteSchedule", OPERATOR, Mutates),
    ("/cellar.v1.MultiAdmin/ListAudit", VIEWER, Reads),
    ("/cellar.v1.MultiAdmin/ListRoles", VIEWER, Reads),
    // Whoever has a role may read and write data.
    ("/cellar.v1.MultiAdmin/CreateRole", ADMIN, Mutates),
    ("/cellar.v1.MultiAdmin/SetRolePassword", ADMIN, Mutates),
    ("/cellar.v1.MultiAdmin/DropRole", ADMIN, Mutates),
    ("/cellar.v1.MultiPooler/GetLiveStatus", Needs::Peer, Reads),
    ("/cellar.v1.MultiPooler/GetMemberFacts", Needs::Peer, Reads),
    // The leader of a planned move only: the method checks that.
    ("/cellar.v1.MultiPooler/HoldClients", Needs::Peer, Mutates),
    ("/cellar.v1.MultiPooler/ReadBackups", Needs::Multiadmin, Reads),
    ("/cellar.v1.MultiPooler/ReadJobLog", Needs::Multiadmin, Reads),
    ("/cellar.v1.MultiPooler/ReadSettings", Needs::Multiadmin, Reads),
    // The caller's own job only: the method checks that.
    ("/cellar.v1.MultiPooler/RunBackup", Needs::Peer, Mutates),
    ("/cellar.v1.MultiPooler/GetSigningRequest", Needs::Multiadmin, Reads),
    ("/cellar.v1.MultiPooler/InstallCertificates", Needs::Multiadmin, Mutates),
    ("/cellar.v1.MultiPooler/ListRoles", Needs::Multiadmin, Reads),
    ("/cellar.v1.MultiPooler/CreateRole", Needs::Multiadmin, Mutates),
    ("/cellar.v1.MultiPooler/SetRolePassword", Needs::Multiadmin, Mutates),
    ("/cellar.v1.MultiPooler/DropRole", Needs::Multiadmin, Mutates),
];

/// Services that are not ours: they say that somebody lives, and what the methods are called.
const COMMON: [&str; 3] = [
    "/grpc.health.v1.Health/",
    "/grpc.reflection.v1.ServerReflection/",
    "/grpc.reflection.v1alpha.ServerReflection/",
];

/// What a method needs, by its path in HTTP/2. None for one that is refused to everybody.
#[must_use]
pub fn needs(path: &str) -> Option<Needs> {
    if COMMON.iter().any(|service| path.starts_with(service)) {
        return Some(Needs::Anybody);
    }
    METHODS.iter().find(|(method, ..)| *method == path).map(|(_, needs, _)| *needs)
}

/// Whether a method changes anything, by its path in HTTP/2. One that is not in the table does nothing at all.
#[must_use]
pub fn mutates(path: &str) -> bool {
    METHODS.iter().any(|(method, _, effect)| *method == path && *effect == Effect::Mutates)
}

/// Whether somebody may.
#[must_use]
pub fn allows(principal: &Principal, needs: Needs) -> bool {
    match (needs, principal) {
        (Needs::Anybody, _) | (Needs::Multiadmin | Needs::Peer, Principal::Multiadmin) => true,
        (Needs::Peer, Principal::Pooler(..)) => true,
        (Needs::Role(role), Principal::Operator(has, _)) => *has >= role,
        (Needs::RoleForAll(role), Principal::Operator(has, DatabaseScope::All)) => *has >= role,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use proptest::prelude::*;

    fn cluster() -> ClusterName {
        "demo".parse().unwrap()
    }

    #[test]
    fn only_uris_of_this_cluster_are_identities() {
        let parse = |uri: &str| Principal::parse(uri, &cluster());
        let viewer = |scope: DatabaseScope| Some(Principal::Operator(OperatorRole::Viewer, scope));
        assert_eq!(parse("spiffe://demo/viewer/ci"), viewer(DatabaseScope::All));
        let only =
            |names: &[&str]| DatabaseScope::Only(names.iter().map(|name| name.parse().unwrap()).collect());
        for (scope, uri) in [
            (only(&["app"]), "spiffe://demo/viewer-of/app/ci"),
            (only(&["app", "web-2"]), "spiffe://demo/viewer-of/app.web-2/ci"),
            (DatabaseScope::All, "spiffe://demo/viewer/ci"),
        ] {
            let made = Principal::operator_uri(&cluster(), OperatorRole::Viewer, &scope, "ci");
            assert_eq!((made.as_str(), parse(uri)), (uri, viewer(scope)));
        }
        assert_eq!(parse("spiffe://demo/multiadmin/localhost"), Some(Principal::Multiadmin));
        let pooler = Principal::Pooler("app".parse().unwrap(), "zone1".parse().unwrap());
        assert_eq!(parse("spiffe://demo/pooler/app/zone1"), Some(pooler));
        assert_eq!(parse("spiffe://demo/replication/zone1"), Some(Principal::Other));
        for bad in [
            "",
            "spiffe://other/admin/x",
            "spiffe://demo2/admin/x",
            "spiffe://demo/admin/",
            "spiffe://demo/admin",
            "spiffe://demo/root/x",
            "spiffe://demo/pooler/app",
            "spiffe://demo/viewer-of/app",
            "spiffe://demo/viewer-of/app/",
            "spiffe://demo/viewer-of//ci",
            "spiffe://demo/viewer-of/app./ci",
            "spiffe://demo/viewer-of/App/ci",
            "spiffe://demo/root-of/app/ci",
            "spiffe://demo/multiadmin-of/app/ci",
            "https://demo/admin/x",
        ] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn each_role_may_do_what_the_lower_ones_may() {
        for (method, needs, _) in METHODS {
            let may = |role| allows(&Principal::Operator(role, DatabaseScope::All), *needs);
            assert!(!may(OperatorRole::Viewer) || may(OperatorRole::Operator), "{method}");
            assert!(!may(OperatorRole::Operator) || may(OperatorRole::Admin), "{method}");
            let own = matches!(needs, Needs::Multiadmin | Needs::Peer);
            assert_eq!(allows(&Principal::Multiadmin, *needs), own, "{method}");
            assert!(!allows(&Principal::Other, *needs), "{method}");
            let limited = Principal::Operator(OperatorRole::Admin, DatabaseScope::Only(BTreeSet::new()));
            let of_all = method.ends_with("Cell") && *needs == ADMIN_OF_ALL;
            assert_eq!(allows(&limited, *needs), !own && !of_all, "{method}");
        }
    }

    #[test]
    fn method_that_is_not_in_the_table_is_refused() {
        for path in ["/cellar.v1.MultiAdmin/DropEverything", "", "/", "/cellar.v1.MultiAdmin/Backup/x"] {
            assert_eq!(needs(path), None, "{path}");
        }
        assert_eq!(needs("/grpc.health.v1.Health/Check"), Some(Needs::Anybody));
    }

    /// What only answers is called so, and is what a viewer or a peer may call.
    #[test]
    fn methods_that_mutate_are_named_so_and_need_more_than_viewer() {
        for (path, needs, effect) in METHODS {
            let name = path.rsplit('/').next().unwrap();
            let reads = ["Get", "List", "Watch", "Tail", "Read"].iter().any(|verb| name.starts_with(verb));
            assert_eq!(reads, *effect == Effect::Reads, "{path}");
            assert_eq!(mutates(path), !reads, "{path}");
            if let Needs::Role(role) = needs {
                assert_eq!(reads, *role == OperatorRole::Viewer, "{path}");
            }
        }
        assert!(!mutates("/cellar.v1.MultiAdmin/DropEverything"));
    }

    proptest! {
        #[test]
        fn any_uri_is_parsed_without_a_panic(uri in ".{0,80}") {
            let _ = Principal::parse(&uri, &cluster());
            let _ = Principal::parse(&format!("spiffe://demo/{uri}"), &cluster());
        }
    }
}
