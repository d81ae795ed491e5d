//! The roles that applications connect as: only the recorded primary's pooler makes, changes and removes them.

use std::time::Duration;

use cellar_api::v1;
use cellar_model::{ClientName, Code, Refusal, Role, ScramVerifier};
use cellar_postgres::{
    CanarySession, ClientProof, ClientRole, ClientRoleError, Endpoint, create_client_role, drop_client_role,
    list_client_roles, set_client_password,
};

use crate::agent::Agent;

/// How long one statement may take. Making a database copies one of some megabytes, and before PostgreSQL 15 waits for
/// checkpoints.
const STATEMENT_TIMEOUT: Duration = Duration::from_secs(15);

/// What is asked of the primary.
pub(crate) enum Order {
    /// All roles.
    List,
    /// One more.
    Create(v1::CreateRoleRequest),
    /// Another password.
    SetPassword(v1::SetRolePasswordRequest),
    /// One less.
    Drop(v1::DropRoleRequest),
}

/// The instance, if it is the recorded primary.
fn primary(agent: &Agent) -> Result<Endpoint, Refusal> {
    let (card, _) = agent.assignment()?;
    let is_primary = agent.facts.borrow().as_ref().is_some_and(|facts| facts.role == Role::Primary);
    let is_recorded = agent.leader().is_some_and(|leader| leader.cell == agent.cell);
    let is_fenced = agent.mirror.view().incarnation(&agent.database).fence.is_some();
    if is_primary && is_recorded && !is_fenced {
        return Ok(agent.endpoint(&card));
    }
    let why =
        if is_fenced { "is fenced by a restore" } else { "is not the recorded primary, or does not answer" };
    Err(Refusal::new(Code::NotPrimary, format!("the instance of cell {} {why}", agent.cell))
        .hint("try again in a moment; `cellar status` shows the primary")
        .about("cell", &agent.cell))
}

fn invalid(field: &'static str, error: &dyn std::fmt::Display) -> Refusal {
    Refusal::new(Code::InvalidArgument, error.to_string()).about("field", field)
}

fn name(field: &'static str, text: &str) -> Result<ClientName, Refusal> {
    text.parse().map_err(|error| invalid(field, &error))
}

fn refusal(error: &ClientRoleError) -> Refusal {
    let (code, hint) = match error {
        ClientRoleError::Exists(_) => {
            (Code::AlreadyExists, "choose another name; `cellar roles list` shows them")
        }
        ClientRoleError::Unknown(_) => (Code::UnknownRole, "`cellar roles list` shows them"),
        ClientRoleError::DatabaseTaken { .. } => (
            Code::AlreadyExists,
            "name another database, or give it to postgres first: ALTER DATABASE ... OWNER TO postgres",
        ),
        ClientRoleError::ByCertificate(_) => (
            Code::InvalidArgument,
            "renew its certificate with `cellar certs issue --client`, or drop the role and make it again with a password",
        ),
        ClientRoleError::Excess { .. } => (
            Code::InvalidArgument,
            "take that from it (ALTER ROLE ... NOSUPERUSER), or change its password in psql as postgres: \\password ROLE",
        ),
        ClientRoleError::InUse { .. } => (
            Code::InUse,
            "give what it owns to another role (REASSIGN OWNED BY ..., in each database) or drop it (DROP OWNED BY ..., DROP DATABASE ...), then drop the role again",
        ),
        ClientRoleError::Postgres(_) => {
            (Code::PostgresFailed, "PostgreSQL's log in the primary's cell may say more")
        }
    };
    Refusal::new(code, error.to_string()).hint(hint)
}

fn message(role: ClientRole) -> v1::ClientRole {
    let ClientRole { name, owns, certificate, excess } = role;
    v1::ClientRole { name, owns, certificate, excess }
}

/// Statements of ours wait for no standby. With quorum commit what is said to be done must outlive the primary: a commit after it
/// that has its quorum has it for all before.
async fn until_it_has_its_quorum(agent: &Agent, endpoint: &Endpoint) -> Result<(), Refusal> {
    if agent.governing().is_none() {
        return Ok(());
    }
    let work = async { CanarySession::connect(endpoint).await?.commit().await };
    let refused = |why: String| {
        Refusal::new(
            Code::PostgresFailed,
            format!("it is done on the primary, and on no other member yet: {why}"),
        )
        .hint("`cellar status` shows which standbys do not stream; look at `cellar roles list` when they do")
        .about("cell", &agent.cell)
    };
    match tokio::time::timeout(STATEMENT_TIMEOUT, work).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(refused(error.to_string())),
        Err(_) => Err(refused("its commit waits for a standby".to_owned())),
    }
}

/// Does it, and answers with the roles that it is about.
pub(crate) async fn obey(agent: &Agent, order: Order) -> Result<Vec<v1::ClientRole>, Refusal> {
    let endpoint = primary(agent)?;
    match order {
        Order::List => {
            let roles = list_client_roles(&endpoint, STATEMENT_TIMEOUT).await;
            let roles = roles.map_err(|error| refusal(&error.into()))?;
            Ok(roles.into_iter().map(message).collect())
        }
        Order::Create(asked) => {
            let role = name("name", &asked.name)?;
            let owns = match asked.owns.as_str() {
                "" => None,
                text => Some(name("owns", text)?),
            };
            let proof = match (asked.scram_verifier.as_str(), asked.certificate) {
                ("", true) => ClientProof::Certificate,
                (text, false) if !text.is_empty() => {
                    let verifier: ScramVerifier =
                        text.parse().map_err(|error| invalid("scram_verifier", &error))?;
                    ClientProof::Password(verifier)
                }
                _ => return Err(invalid("scram_verifier", &"either a verifier or a certificate is needed")),
            };
            let made = create_client_role(&endpoint, &role, &proof, owns.as_ref(), STATEMENT_TIMEOUT).await;
            made.map_err(|error| refusal(&error))?;
            until_it_has_its_quorum(agent, &endpoint).await?;
            tracing::info!(role = role.as_str(), "made a role for clients");
            let owns = owns.iter().map(ToString::to_string).collect();
            let certificate = proof == ClientProof::Certificate;
            Ok(vec![v1::ClientRole { name: role.to_string(), owns, certificate, excess: Vec::new() }])
        }
        Order::SetPassword(asked) => {
            let role = name("name", &asked.name)?;
            let verifier: ScramVerifier =
                asked.scram_verifier.parse().map_err(|error| invalid("scram_verifier", &error))?;
            let ends = asked.end_sessions;
            let changed = set_client_password(&endpoint, &role, &verifier, ends, STATEMENT_TIMEOUT).await;
            let changed = changed.map_err(|error| refusal(&error))?;
            until_it_has_its_quorum(agent, &endpoint).await?;
            tracing::info!(role = role.as_str(), "a role of clients has another password");
            Ok(vec![message(changed)])
        }
        Order::Drop(asked) => {
            let role = name("name", &asked.name)?;
            let dropped = drop_client_role(&endpoint, &role, STATEMENT_TIMEOUT).await;
            let dropped = dropped.map_err(|error| refusal(&error))?;
            until_it_has_its_quorum(agent, &endpoint).await?;
            tracing::info!(role = role.as_str(), "removed a role of clients");
            Ok(vec![message(dropped)])
        }
    }
}
