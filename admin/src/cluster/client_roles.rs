//! The roles that applications connect as: listed, made, changed and removed by the pooler of the recorded primary.

use std::time::Duration;

use cellar_api::v1;
use cellar_api::v1::multi_pooler_client::MultiPoolerClient;
use cellar_model::{ClientName, Code, DatabaseName, Pooler, Refusal, ScramVerifier};
use tonic::transport::Channel;
use tonic::{Response, Status};

use crate::admin::Admin;
use crate::deadline::Deadline;
use crate::refusal;

/// How long the pooler may take. A role's database is copied from a template.
const POOLER_TIMEOUT: Duration = Duration::from_secs(50);

/// How a new role proves itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum NewProof {
    /// With the password that this was made from.
    Password(ScramVerifier),
    /// With a certificate.
    Certificate,
}

/// A role to make.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NewRole {
    /// Its name.
    pub(crate) name: ClientName,
    /// How it proves itself.
    pub(crate) proof: NewProof,
    /// A database that it is to own.
    pub(crate) owns: Option<ClientName>,
}

/// Another password for a role.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NewPassword {
    /// Whose.
    pub(crate) name: ClientName,
    /// What was made from it.
    pub(crate) verifier: ScramVerifier,
    /// Whether the sessions that the role has at the primary end.
    pub(crate) ends_sessions: bool,
}

impl Admin {
    pub(crate) async fn list_roles(
        &self,
        database: Option<&DatabaseName>,
        deadline: Deadline,
    ) -> Result<v1::ListRolesResponse, Refusal> {
        let primary = self.recorded_primary(database, deadline).await?;
        let request = v1::ListRolesRequest { database: primary.database.to_string() };
        self.ask_primary(&primary, async |mut client| client.list_roles(request).await).await
    }

    pub(crate) async fn create_role(
        &self,
        database: Option<&DatabaseName>,
        new: &NewRole,
        deadline: Deadline,
    ) -> Result<v1::ClientRole, Refusal> {
        let primary = self.recorded_primary(database, deadline).await?;
        let request = v1::CreateRoleRequest {
            database: primary.database.to_string(),
            name: new.name.to_string(),
            scram_verifier: match &new.proof {
                NewProof::Password(verifier) => verifier.expose().to_owned(),
                NewProof::Certificate => String::new(),
            },
            certificate: new.proof == NewProof::Certificate,
            owns: new.owns.as_ref().map(ToString::to_string).unwrap_or_default(),
        };
        self.ask_primary(&primary, async |mut client| client.create_role(request).await).await
    }

    pub(crate) async fn set_role_password(
        &self,
        database: Option<&DatabaseName>,
        new: &NewPassword,
        deadline: Deadline,
    ) -> Result<v1::ClientRole, Refusal> {
        let primary = self.recorded_primary(database, deadline).await?;
        let request = v1::SetRolePasswordRequest {
            database: primary.database.to_string(),
            name: new.name.to_string(),
            scram_verifier: new.verifier.expose().to_owned(),
            end_sessions: new.ends_sessions,
        };
        self.ask_primary(&primary, async |mut client| client.set_role_password(request).await).await
    }

    pub(crate) async fn drop_role(
        &self,
        database: Option<&DatabaseName>,
        name: &ClientName,
        deadline: Deadline,
    ) -> Result<v1::ClientRole, Refusal> {
        let primary = self.recorded_primary(database, deadline).await?;
        let request = v1::DropRoleRequest { database: primary.database.to_string(), name: name.to_string() };
        self.ask_primary(&primary, async |mut client| client.drop_role(request).await).await
    }

    /// The pooler of the recorded primary of the named database, or of the only one.
    async fn recorded_primary(
        &self,
        database: Option<&DatabaseName>,
        deadline: Deadline,
    ) -> Result<Pooler, Refusal> {
        self.fresh(deadline).await?;
        let view = self.view();
        let snapshot = view.snapshot();
        let name = &snapshot.database(database)?.name;
        let Some(leader) = view.leaders.get(name) else {
            return Err(Refusal::new(Code::NoPrimary, format!("no primary of database {name} is recorded"))
                .hint("`cellar status` shows what its cells are doing")
                .about("database", name));
        };
        snapshot.pooler(name, &leader.cell).cloned()
    }

    async fn ask_primary<T>(
        &self,
        primary: &Pooler,
        ask: impl AsyncFnOnce(MultiPoolerClient<Channel>) -> Result<Response<T>, Status>,
    ) -> Result<T, Refusal> {
        let client = self.pooler_client(primary)?;
        let answer = tokio::time::timeout(POOLER_TIMEOUT, ask(client)).await;
        match answer.unwrap_or_else(|_| Err(Status::deadline_exceeded("no answer in time"))) {
            Ok(answer) => Ok(answer.into_inner()),
            Err(status) => {
                if cellar_api::reason_of(&status).is_none() {
                    self.poolers.forget(primary);
                }
                Err(refusal::of_pooler(&primary.cell, &status))
            }
        }
    }
}
