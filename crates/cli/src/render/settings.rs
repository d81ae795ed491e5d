//! Settings of a database and its members, for people.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use cellar_api::v1::{DatabaseSettings, MemberSetting, MemberSettings, SettingState};

use crate::render::facts::NOTHING;
use crate::render::table::Table;

/// Whether a restart of a member puts another version of PostgreSQL in force.
pub(crate) fn has_other_version(member: &MemberSettings) -> bool {
    member.silent.is_empty()
        && !member.installed_version.is_empty()
        && !member.running_version.is_empty()
        && member.installed_version != member.running_version
}

/// Whether something waits for a restart of a member.
pub(crate) fn is_restart_needed(answer: &DatabaseSettings) -> bool {
    let settings = answer.members.iter().flat_map(|member| &member.settings);
    settings
        .into_iter()
        .any(|setting| matches!(setting.state(), SettingState::RestartNeeded | SettingState::Waits))
}

fn note(setting: &MemberSetting) -> String {
    let what = match setting.state() {
        SettingState::InForce => return String::new(),
        SettingState::NotYet => "not read yet",
        SettingState::RestartNeeded => "restart needed",
        SettingState::Waits => "waits for a restart of other members",
        SettingState::Overridden => "overridden",
        SettingState::Faulty => "PostgreSQL does not take it",
        SettingState::Unspecified => "unknown",
    };
    if setting.detail.is_empty() { what.to_owned() } else { format!("{what}: {}", setting.detail) }
}

/// A table with a line for all members that are alike, and what else is to be known below it.
pub(crate) fn render(answer: &DatabaseSettings) -> String {
    let mut table = Table::new(&["SETTING", "GIVEN", "IN FORCE", "CELLS", "NOTE"]);
    let of_members = answer.members.iter().flat_map(|member| &member.settings);
    let names: BTreeSet<&String> =
        answer.settings.keys().chain(of_members.map(|setting| &setting.name)).collect();
    for name in names {
        let given = answer.settings.get(name).cloned();
        let given = given.map_or_else(
            || NOTHING.to_owned(),
            |value| if value.is_empty() { "''".to_owned() } else { value },
        );
        let mut alike: Vec<(String, String, Vec<&str>)> = Vec::new();
        for member in answer.members.iter().filter(|member| member.silent.is_empty()) {
            let Some(setting) = member.settings.iter().find(|setting| setting.name == *name) else {
                continue;
            };
            let (value, note) = (setting.value.clone().unwrap_or_default(), note(setting));
            match alike.iter_mut().find(|(other, about, _)| (&value, &note) == (other, about)) {
                Some((.., cells)) => cells.push(&member.cell),
                None => alike.push((value, note, vec![&member.cell])),
            }
        }
        if alike.is_empty() {
            table.row([name.clone(), given.clone(), String::new(), String::new(), String::new()]);
        }
        for (value, note, cells) in alike {
            table.row([name.clone(), given.clone(), value, cells.join(", "), note]);
        }
    }
    let mut text = table.render();
    for member in &answer.members {
        let MemberSettings { cell, silent, running_version, installed_version, .. } = member;
        if !silent.is_empty() {
            // PostgreSQL's log may be behind the first line.
            let _ = writeln!(text, "{cell}: {}", silent.lines().next().unwrap_or_default());
        }
        if has_other_version(member) {
            let _ = writeln!(
                text,
                "{cell}: PostgreSQL {running_version} runs, and {installed_version} is installed: restart needed"
            );
        }
        for fault in &member.faults {
            let _ = writeln!(text, "{cell}: PostgreSQL does not take its configuration: {fault}");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn setting(name: &str, value: &str, state: SettingState) -> MemberSetting {
        let value = Some(value.to_owned());
        MemberSetting { name: name.into(), value, state: state.into(), ..MemberSetting::default() }
    }

    fn member(cell: &str, connections: MemberSetting) -> MemberSettings {
        MemberSettings {
            cell: cell.into(),
            settings: vec![connections, setting("work_mem", "32MB", SettingState::InForce)],
            running_version: "15.17".into(),
            installed_version: "15.17".into(),
            ..MemberSettings::default()
        }
    }

    #[test]
    fn members_that_are_alike_share_a_line() {
        let waits = || setting("max_connections", "100", SettingState::RestartNeeded);
        let mut newer = member("zone3", waits());
        newer.installed_version = "15.18".into();
        newer.faults.push("what: syntax error (/d/postgresql.conf:7)".into());
        let silent = MemberSettings {
            cell: "zone4".into(),
            silent: "the multipooler of cell zone4 does not answer\nLOG: more".into(),
            ..MemberSettings::default()
        };
        let answer = DatabaseSettings {
            database: "app".into(),
            settings: [("work_mem", "32MB"), ("max_connections", "200")]
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .into(),
            members: vec![
                member("zone1", setting("max_connections", "100", SettingState::Waits)),
                member("zone2", waits()),
                newer,
                silent,
            ],
        };
        assert!(is_restart_needed(&answer));
        insta::assert_snapshot!(render(&answer), @r"
        SETTING          GIVEN  IN FORCE  CELLS                NOTE
        max_connections  200    100       zone1                waits for a restart of other members
        max_connections  200    100       zone2, zone3         restart needed
        work_mem         32MB   32MB      zone1, zone2, zone3  -
        zone3: PostgreSQL 15.17 runs, and 15.18 is installed: restart needed
        zone3: PostgreSQL does not take its configuration: what: syntax error (/d/postgresql.conf:7)
        zone4: the multipooler of cell zone4 does not answer
        ");
    }
}
