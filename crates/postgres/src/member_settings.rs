//! What a member has of the settings that its database was given.

use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::error::PostgresError;
use crate::plain_settings::DEFAULTS;
use crate::required_settings::RequiredSettings;
use crate::session::{Endpoint, query};
use crate::settings::Settings;

/// The file that Cellar writes.
const OWN_FILE: &str = "cellar.conf";

/// How far a member is with a setting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SettingState {
    /// PostgreSQL goes by it; sessions that were there before may go by the one before.
    InForce,
    /// It is not in the configuration, or PostgreSQL has not read that yet.
    NotYet,
    /// A restart puts it in force.
    RestartNeeded {
        /// Whether replay compares it and the restart makes it smaller. Only the start of a primary makes it so for the others.
        lowers: bool,
    },
    /// Replay compares it, so other members have to go first.
    Waits,
    /// Another file of this member has another value, which counts more.
    Overridden(String),
    /// PostgreSQL does not take it, for this reason.
    Faulty(String),
}

/// One setting of a member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemberSetting {
    /// Its name in lower case.
    pub name: String,
    /// The value in force, as `SHOW` has it; none for a name that PostgreSQL does not know yet.
    pub value: Option<String>,
    /// How far it is.
    pub state: SettingState,
}

/// What a member has.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct MemberSettings {
    /// What the database was given, and whatever else waits for a restart, by name.
    pub settings: Vec<MemberSetting>,
    /// What PostgreSQL does not take of this member's configuration.
    pub faults: Vec<String>,
}

/// What PostgreSQL and its files say of one setting.
#[derive(Debug, Clone, Default)]
struct Shown {
    name: String,
    value: Option<String>,
    pending_restart: bool,
    /// The number, for one that replay compares.
    running: Option<u32>,
    /// The line that counts: its value, its file, and why it cannot be taken.
    line: Option<(String, String)>,
    error: Option<String>,
    /// Whether [`OWN_FILE`] has a line for it, which need not be the one that counts.
    is_written: bool,
}

/// What a setting that replay compares will be.
#[derive(Debug, Clone, Copy)]
struct Replayed {
    /// After the next start.
    next: u32,
    /// After all that is to come.
    wanted: u32,
}

/// A text in the quotes of SQL.
pub(crate) fn text(value: &str) -> String {
    format!("'{}'", value.replace('\'', "''"))
}

/// PostgreSQL goes on calling a setting pending whose line was removed before a restart put it in force.
const NOTHING_PENDS: &str = "f.name IS NULL AND coalesce(s.setting, '') = coalesce(s.boot_val, '')";

/// What differs in this session from the server is read off the files: sessions of ours have settings of their own.
fn shown_query(names: &[&str]) -> String {
    let names: Vec<String> = names.iter().map(|name| text(name)).collect();
    format!(
        "WITH a AS MATERIALIZED (SELECT lower(name) AS name, setting, sourcefile, error, seqno \
         FROM pg_file_settings WHERE name IS NOT NULL), \
         f AS MATERIALIZED (SELECT DISTINCT ON (name) * FROM a ORDER BY name, seqno DESC), \
         n AS (SELECT unnest(ARRAY[{}]::text[]) AS name UNION SELECT lower(name) FROM pg_settings WHERE pending_restart) \
         SELECT n.name, CASE WHEN s.source = 'client' THEN coalesce(f.setting, s.boot_val) ELSE current_setting(n.name, true) END, \
         (coalesce(s.pending_restart, false) AND NOT ({NOTHING_PENDS}))::text, s.setting, s.boot_val, f.setting, f.sourcefile, f.error, \
         EXISTS (SELECT FROM a WHERE a.name = n.name AND a.sourcefile LIKE '%/{OWN_FILE}')::text \
         FROM n LEFT JOIN pg_settings s ON lower(s.name) = n.name LEFT JOIN f ON f.name = n.name ORDER BY n.name",
        names.join(", ")
    )
}

const FAULTS_QUERY: &str = "\
SELECT coalesce(f.name || ': ', '') || f.error || ' (' || f.sourcefile || ':' || f.sourceline || ')', lower(f.name)
  FROM pg_file_settings f LEFT JOIN pg_settings s ON lower(s.name) = lower(f.name)
 WHERE f.error IS NOT NULL AND NOT coalesce(s.pending_restart, false) ORDER BY f.seqno";

fn state_of(
    shown: &Shown,
    given: Option<&String>,
    replayed: Option<Replayed>,
    is_loaded: bool,
) -> SettingState {
    if let (Some(running), Some(Replayed { next, wanted })) = (shown.running, replayed) {
        return match () {
            () if next != running => SettingState::RestartNeeded { lowers: next < running },
            () if wanted != running => SettingState::Waits,
            () => SettingState::InForce,
        };
    }
    if let (Some(given), line) = (given, &shown.line) {
        match line {
            _ if !shown.is_written => return SettingState::NotYet,
            Some((value, file)) if Path::new(file).file_name().is_none_or(|name| name != OWN_FILE) => {
                return SettingState::Overridden(format!("{file} has {value}"));
            }
            Some((value, _)) if value == given => {}
            _ => return SettingState::NotYet,
        }
    }
    if shown.pending_restart {
        return SettingState::RestartNeeded { lowers: false };
    }
    match &shown.error {
        Some(error) => SettingState::Faulty(error.clone()),
        None if is_loaded => SettingState::InForce,
        None => SettingState::NotYet,
    }
}

/// What a setting that replay compares will be in this member: by its files, by what was given, and, in a standby, by what the
/// WAL `demanded` of it. None where that is no plain number.
fn replayed(name: &str, file: u32, settings: &Settings, demanded: &RequiredSettings) -> Option<Replayed> {
    let demanded = demanded.numbers().into_iter().find(|(known, _)| *known == name)?.1;
    let wanted = match settings.given.get(name) {
        Some(given) => given.parse().ok()?,
        None if settings.held_back.contains_key(name) => settings.unless_given(name),
        None => file,
    };
    Some(Replayed { next: file.max(demanded), wanted })
}

impl Settings {
    /// A number that replay compares, as it is in a member where the database was given none.
    #[must_use]
    pub fn unless_given(&self, name: &str) -> u32 {
        match name {
            "max_connections" => self.max_connections,
            "max_wal_senders" => crate::settings::MAX_WAL_SENDERS,
            _ => DEFAULTS.into_iter().find(|(known, _)| *known == name).map_or(0, |(_, value)| value),
        }
    }
}

/// When a file was written, in milliseconds since 1970; 0 when that cannot be read.
fn written(file: &Path) -> u128 {
    let modified = std::fs::metadata(file).and_then(|found| found.modified()).unwrap_or(UNIX_EPOCH);
    modified.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_millis()
}

/// What a member has of `settings`, which are those that it is to have. `demanded` is what the WAL asks of a standby; none of a
/// primary.
///
/// # Errors
/// When PostgreSQL does not answer in `timeout`.
pub async fn member_settings(
    endpoint: &Endpoint,
    data_directory: &Path,
    settings: &Settings,
    demanded: Option<&RequiredSettings>,
    timeout: Duration,
) -> Result<MemberSettings, PostgresError> {
    let compared = DEFAULTS.map(|(name, _)| name);
    let given = settings.given.keys().map(String::as_str).filter(|name| !compared.contains(name));
    let names: Vec<&str> = given.chain(compared).collect();
    let loaded = "SELECT (extract(epoch FROM pg_conf_load_time()) * 1000)::bigint::text";
    let [shown, faults, loaded] = [shown_query(&names), FAULTS_QUERY.to_owned(), loaded.to_owned()]
        .map(async |sql| query(endpoint, &sql, timeout).await);
    let (shown, faults, loaded) = tokio::try_join!(shown, faults, loaded)?;
    let loaded: u128 = loaded.into_iter().flatten().flatten().find_map(|text| text.parse().ok()).unwrap_or(0);
    let is_loaded = loaded >= written(&data_directory.join(OWN_FILE));
    let demanded = demanded.copied().unwrap_or_default();
    let mut member = MemberSettings::default();
    for row in shown {
        let mut values = row.into_iter();
        let mut next = || values.next().flatten();
        let Some(name) = next() else { continue };
        let (value, pending, setting, default) = (next(), next(), next(), next());
        let is_compared = compared.contains(&name.as_str());
        let shown = Shown {
            name,
            value,
            pending_restart: pending.as_deref() == Some("true"),
            running: setting.filter(|_| is_compared).and_then(|text| text.parse().ok()),
            line: next().zip(next()),
            error: next(),
            is_written: next().as_deref() == Some("true"),
        };
        let given = settings.given.get(&shown.name);
        let file = shown.line.as_ref().map_or(default.as_ref(), |(value, _)| Some(value));
        let file = file.and_then(|text| text.parse().ok());
        let replayed = file.and_then(|file| replayed(&shown.name, file, settings, &demanded));
        let state = state_of(&shown, given, replayed, is_loaded);
        // What nobody gave and that is as it should be is no news.
        if given.is_some() || !matches!(state, SettingState::InForce | SettingState::NotYet) {
            member.settings.push(MemberSetting { name: shown.name, value: shown.value, state });
        }
    }
    for row in faults {
        let mut values = row.into_iter();
        let (fault, name) = (values.next().flatten(), values.next().flatten());
        // A start raises them, so PostgreSQL does not take what the file has.
        if !name.is_some_and(|name| compared.contains(&name.as_str())) {
            member.faults.extend(fault);
        }
    }
    Ok(member)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(line: Option<(&str, &str)>, pending_restart: bool, error: Option<&str>) -> Shown {
        Shown {
            name: "work_mem".into(),
            line: line.map(|(value, file)| (value.to_owned(), file.to_owned())),
            pending_restart,
            error: error.map(str::to_owned),
            is_written: true,
            ..Shown::default()
        }
    }

    #[test]
    fn how_far_a_member_is_with_a_setting() {
        let given = "4MB".to_owned();
        let of = |shown: &Shown, is_loaded| state_of(shown, Some(&given), None, is_loaded);
        let ours = Some(("4MB", "/d/cellar.conf"));
        assert_eq!(of(&shown(ours, false, None), true), SettingState::InForce);
        assert_eq!(of(&shown(ours, false, None), false), SettingState::NotYet);
        assert_eq!(of(&shown(None, false, None), true), SettingState::NotYet);
        assert_eq!(of(&shown(Some(("1MB", "/d/cellar.conf")), false, None), true), SettingState::NotYet);
        let waits = SettingState::RestartNeeded { lowers: false };
        assert_eq!(of(&shown(ours, true, Some("setting could not be applied")), true), waits);
        assert!(
            matches!(of(&shown(ours, false, Some("bad")), true), SettingState::Faulty(why) if why == "bad")
        );
        let auto = Some(("1MB", "/d/postgresql.auto.conf"));
        assert!(
            matches!(of(&shown(auto, false, None), true), SettingState::Overridden(why) if why.contains("has 1MB"))
        );
        // A moment before the own file has it, another one's line counts.
        let before = Shown { is_written: false, ..shown(Some(("1GB", "/d/postgresql.conf")), false, None) };
        assert_eq!(of(&before, true), SettingState::NotYet);
    }

    #[test]
    fn what_replay_compares_waits_for_others_or_for_a_restart() {
        let of = |running, next, wanted| {
            let shown = Shown { running: Some(running), ..shown(None, false, None) };
            state_of(&shown, None, Some(Replayed { next, wanted }), true)
        };
        assert_eq!(of(100, 100, 100), SettingState::InForce);
        assert_eq!(of(100, 200, 200), SettingState::RestartNeeded { lowers: false }, "a standby, raised");
        assert_eq!(of(100, 100, 200), SettingState::Waits, "the primary, until its standbys have it");
        assert_eq!(of(200, 100, 100), SettingState::RestartNeeded { lowers: true }, "the primary, lowered");
        assert_eq!(of(200, 200, 100), SettingState::Waits, "a standby, until the primary has it");
    }
}
