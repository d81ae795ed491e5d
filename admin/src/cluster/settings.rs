//! PostgreSQL's settings of a database: what it was given, how far its members are, and changes of it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use cellar_api::v1;
use cellar_model::{Code, Database, DatabaseName, Key, Pooler, Refusal, check_settings_protocol};
use cellar_topology::{StoreError, TxnOutcome};
use futures_util::future::join_all;
use tokio::time::Instant;
use tonic::Status;

use crate::admin::Admin;
use crate::deadline::Deadline;
use crate::refusal::{self, Setback};

/// How long a member may take to answer.
const MEMBER_TIMEOUT: Duration = Duration::from_secs(8);

/// How long members may take to see a change and to have PostgreSQL read it. It is in force soon afterwards in any case.
const FOLLOW_TIMEOUT: Duration = Duration::from_secs(6);

/// How often they are asked.
const FOLLOW_INTERVAL: Duration = Duration::from_millis(250);

/// Conflicts before the caller is asked to come back.
const MAX_ATTEMPTS: u32 = 20;

/// All settings of a database together, in bytes.
const MAX_SETTINGS: usize = 64 << 10;

/// A change, with names in lower case.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct SettingsChange {
    /// Values by names.
    pub(crate) set: BTreeMap<String, String>,
    /// Names that lose their value.
    pub(crate) unset: BTreeSet<String>,
}

impl SettingsChange {
    /// The settings after it.
    fn applied_to(&self, present: &BTreeMap<String, String>) -> BTreeMap<String, String> {
        let mut settings = present.clone();
        settings.retain(|name, _| !self.unset.contains(name));
        settings.extend(self.set.clone());
        settings
    }
}

/// Whether a member has the settings and PostgreSQL has read them.
fn has_followed(answer: &v1::ReadSettingsResponse, wanted: &BTreeMap<String, String>) -> bool {
    let knows = answer.known == *wanted;
    let states = answer.member.iter().flat_map(|member| &member.settings);
    knows && states.into_iter().all(|setting| setting.state() != v1::SettingState::NotYet)
}

fn listed(database: &Database, members: Vec<v1::MemberSettings>) -> v1::DatabaseSettings {
    v1::DatabaseSettings { database: database.name.to_string(), settings: database.settings.clone(), members }
}

impl Admin {
    /// What a database was given, and how far its members are.
    pub(crate) async fn list_settings(
        &self,
        database: Option<&DatabaseName>,
        deadline: Deadline,
    ) -> Result<v1::DatabaseSettings, Refusal> {
        self.fresh(deadline).await?;
        let present = self.view().snapshot().database(database)?.clone();
        let (members, _) = self.ask_members(&present).await;
        Ok(listed(&present, members))
    }

    /// Gives a database settings, and takes others away. What is taken away needs no PostgreSQL, so that a value with which none
    /// starts can be taken back.
    pub(crate) async fn change_settings(
        &self,
        database: Option<&DatabaseName>,
        change: &SettingsChange,
        deadline: Deadline,
    ) -> Result<v1::DatabaseSettings, Refusal> {
        let mut last = Setback::Overtaken;
        // After a try whose answer was lost: what is not there any more may have been taken away by it.
        let mut is_repeated = false;
        for attempt in 0..MAX_ATTEMPTS {
            self.fresh(deadline).await?;
            let (present, key, revision) = {
                let view = self.view();
                let present = view.snapshot().database(database)?.clone();
                let key = Key::Database(present.name.clone());
                let revision = view.revision(&key);
                (present, key, revision)
            };
            let settings = check(&present, change, is_repeated)?;
            if !change.set.is_empty() {
                // All of them: one may be wrong beside another one only.
                self.propose(&present.name, &settings).await?;
            }
            let record = Database { settings, ..present.clone() };
            if record == present {
                return self.list_settings(Some(&present.name), deadline).await;
            }
            let transaction = self.store.transaction().expect(&key, revision).put(&key, &record);
            match deadline.call(transaction.commit()).await {
                Ok(TxnOutcome::Committed(_)) => {
                    let names: Vec<&String> = change.set.keys().chain(&change.unset).collect();
                    tracing::info!(database = %record.name, ?names, "other settings");
                    self.wait_until_seen(deadline, |view| view.revision(&key) != revision).await;
                    return Ok(self.followed(&record, deadline).await);
                }
                Ok(TxnOutcome::Conflict) => {
                    deadline.pause_after_conflict(attempt + 5).await;
                    last = Setback::of_conflict(self.view().revision(&key) != revision);
                }
                Err(StoreError::Retryable(why)) if !deadline.has_passed() => {
                    deadline.pause(attempt).await;
                    is_repeated = true;
                    last = Setback::Unanswered(why);
                }
                Err(error) => return Err(refusal::of_store(error)),
            }
            if deadline.has_passed() {
                break;
            }
        }
        Err(refusal::given_up("the database's record", &last))
    }

    /// Asks the recorded primary whether it takes these settings.
    async fn propose(
        &self,
        database: &DatabaseName,
        settings: &BTreeMap<String, String>,
    ) -> Result<(), Refusal> {
        let card = {
            let view = self.view();
            let Some(leader) = view.leaders.get(database) else {
                let message = format!(
                    "no primary of database {database} is recorded, and only a primary can say whether it takes a setting"
                );
                return Err(Refusal::new(Code::NoPrimary, message)
                    .hint("`cellar status` shows what its cells are doing; `cellar settings unset` needs no primary")
                    .about("database", database));
            };
            view.snapshot().pooler(database, &leader.cell)?.clone()
        };
        self.ask_member(&card, settings).await.map(drop)
    }

    async fn ask_member(
        &self,
        card: &Pooler,
        proposed: &BTreeMap<String, String>,
    ) -> Result<v1::ReadSettingsResponse, Refusal> {
        let mut client = self.pooler_client(card)?;
        let request = v1::ReadSettingsRequest { proposed: proposed.clone() };
        let answer = tokio::time::timeout(MEMBER_TIMEOUT, client.read_settings(request)).await;
        let answer = answer.unwrap_or_else(|_| Err(Status::deadline_exceeded("no answer in time")));
        answer.map(tonic::Response::into_inner).map_err(|status| {
            if cellar_api::reason_of(&status).is_none() {
                self.poolers.forget(card);
            }
            refusal::of_pooler(&card.cell, &status)
        })
    }

    /// Every member in the order of the cells, and whether all that answer have what the record says.
    async fn ask_members(&self, database: &Database) -> (Vec<v1::MemberSettings>, bool) {
        let cards: Vec<Pooler> = {
            let view = self.view();
            view.poolers.values().filter(|card| card.database == database.name).cloned().collect()
        };
        let nothing = BTreeMap::new();
        let asked =
            cards.iter().map(async |card| (card.cell.to_string(), self.ask_member(card, &nothing).await));
        let mut all_follow = true;
        let members = join_all(asked).await.into_iter().map(|(cell, answer)| match answer {
            Ok(answer) => {
                all_follow &= has_followed(&answer, &database.settings);
                answer.member.unwrap_or_default()
            }
            Err(refusal) => {
                v1::MemberSettings { cell, silent: refusal.message, ..v1::MemberSettings::default() }
            }
        });
        (members.collect(), all_follow)
    }

    /// Waits for a while until the members follow a change.
    async fn followed(&self, record: &Database, deadline: Deadline) -> v1::DatabaseSettings {
        let end = Instant::now() + FOLLOW_TIMEOUT.min(deadline.remaining());
        loop {
            let (members, all_follow) = self.ask_members(record).await;
            if all_follow || Instant::now() + FOLLOW_INTERVAL >= end {
                return listed(record, members);
            }
            tokio::time::sleep(FOLLOW_INTERVAL).await;
        }
    }
}

/// The settings after a change of what a database has, or why it cannot be made.
fn check(
    present: &Database,
    change: &SettingsChange,
    is_repeated: bool,
) -> Result<BTreeMap<String, String>, Refusal> {
    check_settings_protocol(present)?;
    let mut absent = change.unset.iter().filter(|name| !present.settings.contains_key(*name));
    if let Some(name) = absent.next().filter(|_| !is_repeated) {
        let message = format!("database {} was not given {name}", present.name);
        return Err(refusal::invalid("unset", message).hint("`cellar settings list` shows what it was given"));
    }
    let settings = change.applied_to(&present.settings);
    if settings.iter().map(|(name, value)| name.len() + value.len()).sum::<usize>() > MAX_SETTINGS {
        let message = format!("all settings of a database together have {MAX_SETTINGS} bytes at most");
        return Err(refusal::invalid("set", message));
    }
    Ok(settings)
}
