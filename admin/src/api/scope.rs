//! Callers whose certificates are for some databases only: what names another one is refused, and lists are of theirs.

use cellar_model::{AuditRecord, Code, DatabaseName, DatabaseScope, JobId, JobSpec, Key, Refusal};
use tonic::Request;

use crate::admin::Admin;
use crate::api::request::field;
use crate::caller::Caller;
use crate::deadline::Deadline;
use crate::jobs::submission::Submission;

impl Caller {
    /// Refuses a caller who is not for this database.
    pub(crate) fn check_database(&self, database: &DatabaseName) -> Result<(), Refusal> {
        if self.databases.contains(database) {
            return Ok(());
        }
        let message = format!("{} may not see or work with the database {database}", self.identity);
        Err(Refusal::new(Code::PermissionDenied, message)
            .hint("use a certificate that is for it, or ask an administrator for one (`cellar certs issue`)")
            .about("database", database))
    }

    /// The database that a request is about which names it or not. None leaves the choice to the method, which takes the
    /// only one that there is; a caller who is limited to one means that.
    pub(super) fn database(&self, named: Option<DatabaseName>) -> Result<Option<DatabaseName>, Refusal> {
        let DatabaseScope::Only(own) = &self.databases else { return Ok(named) };
        let mut names = own.iter();
        match (named, names.next(), names.next()) {
            (Some(named), ..) => self.check_database(&named).map(|()| Some(named)),
            (None, Some(only), None) => Ok(Some(only.clone())),
            (None, ..) => {
                let own: Vec<&str> = own.iter().map(DatabaseName::as_str).collect();
                let message =
                    format!("the request names none of the databases of its caller ({})", own.join(", "));
                Err(Refusal::new(Code::InvalidArgument, message)
                    .hint("name one with --database")
                    .about("field", "database"))
            }
        }
    }
}

/// The path in etcd of a record that is told with what is the matter with it.
pub(super) fn path_of(told: &str) -> &str {
    told.split_once(": ").map_or(told, |(path, _)| path)
}

impl Admin {
    /// The database that a method is about which takes one; none for the only one that there is.
    pub(super) fn chosen<M>(
        request: &Request<M>,
        field: &'static str,
        text: &str,
    ) -> Result<Option<DatabaseName>, Refusal> {
        Caller::of(request).database(field::database(field, text)?)
    }

    /// The caller of a list and the database that it is to be of; none for all of the caller's.
    pub(super) fn named<M>(
        request: &Request<M>,
        field: &'static str,
        text: &str,
    ) -> Result<(Caller, Option<DatabaseName>), Refusal> {
        let (caller, named) = (Caller::of(request), field::database(field, text)?);
        named.as_ref().map_or(Ok(()), |named| caller.check_database(named))?;
        Ok((caller, named))
    }

    /// Refuses a caller who is not for the database of a job.
    pub(super) async fn check_job(
        &self,
        caller: &Caller,
        id: JobId,
        deadline: Deadline,
    ) -> Result<(), Refusal> {
        match caller.databases {
            DatabaseScope::All => Ok(()),
            DatabaseScope::Only(_) => caller.check_database(&self.job(id, deadline).await?.record.database),
        }
    }

    /// Refuses a job in a database that its caller is not for; one that names no database is of the caller's only one.
    pub(super) async fn check_submission(
        &self,
        caller: &Caller,
        submission: &mut Submission,
        deadline: Deadline,
    ) -> Result<(), Refusal> {
        if caller.databases == DatabaseScope::All {
            return Ok(());
        }
        // The restore that these name decides the database.
        if !matches!(submission.spec, JobSpec::Confirm(_) | JobSpec::Rollback(_)) {
            submission.request.database = caller.database(submission.request.database.take())?;
        }
        self.fresh(deadline).await?;
        caller.check_database(&submission.database(&self.view())?)
    }

    /// Whether a caller may know of the record at a path in etcd.
    pub(super) fn may_see(&self, caller: &Caller, path: &str) -> bool {
        let database = match self.store.keys().parse(path) {
            Some(
                Key::Database(database)
                | Key::Leader(database)
                | Key::Lock(database)
                | Key::Incarnation(database)
                | Key::Pooler(database, _)
                | Key::Status(database, _)
                | Key::CellClaim(database, _)
                | Key::Job(database, _)
                | Key::Run(database, ..)
                | Key::Claim(database, ..)
                | Key::Schedule(database, _),
            ) => database,
            _ => return caller.databases == DatabaseScope::All,
        };
        caller.databases.contains(&database)
    }

    /// Whether a call was about a database of this caller: it named that, or a job of it.
    pub(super) fn may_see_call(&self, caller: &Caller, record: &AuditRecord) -> bool {
        if caller.databases == DatabaseScope::All {
            return true;
        }
        let text = |name: &str| record.arguments.get(name).and_then(|value| value.as_str());
        let named = text("database").and_then(|name| name.parse().ok());
        let job = record.job.or_else(|| text("id")?.parse().ok());
        let of_job = job.and_then(|job| self.view().place_of(&job).map(|(database, _)| database.clone()));
        // Both, where it has both: a job of another database may be named beside one of the caller's.
        let known: Vec<DatabaseName> = named.into_iter().chain(of_job).collect();
        !known.is_empty() && known.iter().all(|database| caller.databases.contains(database))
    }
}
