//! How far this member is with the settings of its database, and whether its PostgreSQL would take others.

use std::path::Path;
use std::time::Duration;

use cellar_api::v1;
use cellar_model::{Code, Refusal, Role};
use cellar_postgres::{
    DataDirectory, MemberSetting, ProposalError, SettingState, check_proposal, inspect, member_settings,
};

use crate::agent::Agent;
use crate::config_files::instance_config;

/// How long a statement may take, and a program of PostgreSQL.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Answers a multiadmin. What is `proposed` is refused unless this is the primary and takes it.
pub(crate) async fn read(
    agent: &Agent,
    asked: &v1::ReadSettingsRequest,
) -> Result<v1::ReadSettingsResponse, Refusal> {
    let (card, database) = agent.assignment()?;
    let data = Path::new(&card.data_directory);
    let known = database.settings.clone();
    let installed = agent.tools.for_data(data).version().await.unwrap_or_default();
    let mut member = v1::MemberSettings {
        cell: agent.cell.to_string(),
        installed_version: installed,
        ..v1::MemberSettings::default()
    };
    let looked = agent.facts.borrow().as_ref().map(|facts| {
        let streams_from = facts.streaming_from().and_then(|(host, port)| agent.cell_at(host, *port));
        (facts.role, streams_from, facts.server_version.clone())
    });
    let Some((role, streams_from, version)) = looked else {
        if !asked.proposed.is_empty() {
            return Err(not_the_primary(agent));
        }
        let message = agent.report.borrow().message.clone();
        let why = if message.is_empty() { "it does not run or does not answer" } else { &message };
        member.silent = format!("its PostgreSQL: {why}");
        return Ok(v1::ReadSettingsResponse { known, member: Some(member) });
    };
    member.running_version = version;
    member.streams_from = streams_from.map(|cell| cell.to_string());
    member.set_role(match role {
        Role::Primary => v1::Role::Primary,
        Role::Standby => v1::Role::Standby,
        Role::Unknown => v1::Role::Unknown,
    });
    let endpoint = agent.endpoint(&card);
    if !asked.proposed.is_empty() {
        let leads = agent.leader().is_some_and(|leader| leader.cell == agent.cell);
        if role != Role::Primary || !leads {
            return Err(not_the_primary(agent));
        }
        let checked = check_proposal(&agent.tools, data, &endpoint, &asked.proposed, TIMEOUT).await;
        checked.map_err(|error| refused(agent, error))?;
    }
    let failed = |error: String| Refusal::new(Code::PostgresFailed, error).about("cell", &agent.cell);
    let config = instance_config(agent, &database, &card, agent.leader().as_ref())
        .map_err(|error| failed(error.to_string()))?;
    let demanded = match inspect(&agent.tools, data).await {
        Ok(DataDirectory::Valid { control, .. }) if role == Role::Standby => Some(control.required),
        _ => None,
    };
    let shown = member_settings(&endpoint, data, &config.settings, demanded.as_ref(), TIMEOUT)
        .await
        .map_err(|error| failed(error.to_string()))?;
    member.settings = shown.settings.into_iter().map(message).collect();
    member.faults = shown.faults;
    Ok(v1::ReadSettingsResponse { known, member: Some(member) })
}

fn not_the_primary(agent: &Agent) -> Refusal {
    let message = format!("the instance of cell {} does not answer as the recorded primary", agent.cell);
    Refusal::new(Code::NotPrimary, message)
        .hint("nothing was changed. Only a primary can say whether it takes a setting: look at `cellar status` and ask again; `cellar settings unset` needs none")
        .about("cell", &agent.cell)
}

fn refused(agent: &Agent, error: ProposalError) -> Refusal {
    match error {
        ProposalError::Problem(problem) => {
            Refusal::new(Code::InvalidArgument, problem.message).hint(problem.hint).about("field", "set")
        }
        ProposalError::Postgres(error) => {
            let message = format!("the primary in {} did not say whether it takes this: {error}", agent.cell);
            Refusal::new(Code::PostgresFailed, message)
                .hint("nothing was changed; look at `cellar status`, and ask again")
                .about("cell", &agent.cell)
        }
    }
}

fn message(setting: MemberSetting) -> v1::MemberSetting {
    let (state, detail) = match &setting.state {
        SettingState::InForce => (v1::SettingState::InForce, String::new()),
        SettingState::NotYet => (v1::SettingState::NotYet, String::new()),
        SettingState::RestartNeeded { .. } => (v1::SettingState::RestartNeeded, String::new()),
        SettingState::Waits => (v1::SettingState::Waits, String::new()),
        SettingState::Overridden(by) => (v1::SettingState::Overridden, by.clone()),
        SettingState::Faulty(why) => (v1::SettingState::Faulty, why.clone()),
    };
    v1::MemberSetting {
        name: setting.name,
        value: setting.value,
        state: state.into(),
        detail,
        lowers: setting.state == SettingState::RestartNeeded { lowers: true },
    }
}
