//! What the health endpoints of a multipooler answer: whether a balancer may send clients to its instance.
//!
//! The paths are those that balancers are configured with for other tools, so that a config can be taken over. An answer
//! is no fence: it says where clients belong, and what keeps a deposed primary from writing is elsewhere.

use std::time::Duration;

use crate::records::instance::{InstanceState, Role};
use crate::records::pooler::Leader;
use crate::types::lsn::Timeline;
use crate::types::name::CellName;

/// How old what is known of the instance may be. It is looked at once a second, and an instance that does not answer
/// such a look within 3 s is not known any more. What is older was not looked at: the multipooler was frozen.
pub const MAX_FACTS_AGE: Duration = Duration::from_secs(5);

/// How long a standby may go without a word from the primary. An idle one speaks at least every 10 s, half of
/// `wal_sender_timeout`.
const MAX_SILENCE: Duration = Duration::from_secs(20);

/// A question that a balancer asks, by its path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HealthQuestion {
    /// `/primary`: may it be written to?
    Primary,
    /// `/replica`: is it a standby that streams, and lags no more than so many bytes?
    Replica(Option<u64>),
    /// `/read-only`: the primary, or such a standby.
    ReadOnly(Option<u64>),
    /// `/health`: does PostgreSQL answer?
    Health,
    /// `/liveness`: does the multipooler answer?
    Liveness,
    /// `/readiness`: is it the primary, or a standby that streams?
    Readiness,
}

/// Why a request is no question.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HealthQuestionError {
    /// There is no such path.
    #[error("no such path: there are /primary, /replica, /read-only, /health, /liveness and /readiness")]
    UnknownPath,
    /// The limit cannot be read.
    #[error("lag must be a number of bytes, or one with B, kB, MB, GB or TB, such as 16MB")]
    BadLag,
}

/// A number of bytes as PostgreSQL's settings write it: `kB` is 1024 bytes, and so on. Without a unit it is bytes.
fn bytes(text: &str) -> Option<u64> {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let shift = match unit {
        "" | "B" => 0,
        "kB" => 10,
        "MB" => 20,
        "GB" => 30,
        "TB" => 40,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(1 << shift)
}

impl HealthQuestion {
    /// Reads the path and the query of a request. Parameters other than `lag` are ignored.
    ///
    /// # Errors
    /// When there is no such path, or the limit is no number of bytes.
    pub fn parse(path: &str, query: Option<&str>) -> Result<Self, HealthQuestionError> {
        let lag = || {
            let given = query.unwrap_or_default().split('&').find_map(|part| part.strip_prefix("lag="));
            given.map(|text| bytes(text).ok_or(HealthQuestionError::BadLag)).transpose()
        };
        match path {
            "/primary" | "/read-write" => Ok(Self::Primary),
            "/replica" => Ok(Self::Replica(lag()?)),
            "/read-only" => Ok(Self::ReadOnly(lag()?)),
            "/health" => Ok(Self::Health),
            "/liveness" => Ok(Self::Liveness),
            "/readiness" => Ok(Self::Readiness),
            _ => Err(HealthQuestionError::UnknownPath),
        }
    }
}

/// What the last look at the instance found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LookedAt {
    /// How long ago that look began, by a monotonic clock.
    pub age: Duration,
    /// Primary or standby.
    pub role: Role,
    /// Its timeline.
    pub timeline: Timeline,
    /// The cell that a standby streams from; none while it streams from none of the database.
    pub streams_from: Option<CellName>,
    /// How long ago the primary last said anything to a standby.
    pub last_message_age: Option<Duration>,
    /// How many bytes a standby's replay is behind what it knows of the primary.
    pub lag_bytes: Option<u64>,
    /// Whether its postmaster was stopped by a signal: sessions go on, and nobody gets a new one.
    pub stopped: bool,
    /// Whether a primary's commits have waited for its standbys for a while: what it shows to readers may be old.
    pub waits_for_quorum: bool,
}

/// How the data relates to the incarnation's record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HealthStanding {
    /// It is of the current incarnation.
    pub current: bool,
    /// A restore has fenced the database.
    pub fenced: bool,
}

/// What a multipooler knows of its instance when it is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HealthScene {
    /// The cell.
    pub cell: CellName,
    /// Where the instance is in its life.
    pub state: InstanceState,
    /// What the last look found; none when the instance did not answer.
    pub looked_at: Option<LookedAt>,
    /// The recorded primary.
    pub leader: Option<Leader>,
    /// How the data relates to the record of the incarnation; none when that cannot be read.
    pub standing: Option<HealthStanding>,
}

/// The instance, if it runs and was just looked at.
fn fresh(scene: &HealthScene) -> Result<&LookedAt, String> {
    if scene.state != InstanceState::Running {
        return Err(format!("the instance is {}", scene.state.as_str()));
    }
    match &scene.looked_at {
        None => Err("the instance does not answer".to_owned()),
        Some(found) if found.age > MAX_FACTS_AGE => {
            Err(format!("the instance was last looked at {} s ago", found.age.as_secs()))
        }
        Some(found) if found.stopped => Err("the postmaster is stopped by a signal".to_owned()),
        Some(found) => Ok(found),
    }
}

fn standing(scene: &HealthScene) -> Result<HealthStanding, String> {
    let standing = scene.standing.ok_or("it is not known whether the data is from before a restore")?;
    if standing.current {
        return Ok(standing);
    }
    Err("the data is from before a restore of the database".to_owned())
}

fn primary(scene: &HealthScene) -> Result<(), String> {
    let found = fresh(scene)?;
    if found.role != Role::Primary {
        return Err("the instance is a standby".to_owned());
    }
    if found.waits_for_quorum {
        return Err("its commits wait for its standbys".to_owned());
    }
    if standing(scene)?.fenced {
        return Err("a restore has fenced the database".to_owned());
    }
    match &scene.leader {
        None => Err("no primary is recorded".to_owned()),
        Some(leader) if leader.cell != scene.cell => Err(format!("{} is the recorded primary", leader.cell)),
        Some(leader) if leader.term != found.timeline => Err(format!(
            "the instance is on timeline {}, and the recorded primary on {}",
            found.timeline, leader.term
        )),
        Some(_) => Ok(()),
    }
}

fn replica(scene: &HealthScene, max_lag: Option<u64>) -> Result<(), String> {
    let found = fresh(scene)?;
    if found.role != Role::Standby {
        return Err("the instance is a primary".to_owned());
    }
    standing(scene)?;
    let leader = scene.leader.as_ref().ok_or("no primary is recorded")?;
    if found.streams_from.as_ref() != Some(&leader.cell) {
        return Err(format!("the instance does not stream from {}, the recorded primary", leader.cell));
    }
    if found.last_message_age.is_none_or(|age| age > MAX_SILENCE) {
        return Err(format!("the primary has said nothing for more than {} s", MAX_SILENCE.as_secs()));
    }
    match (max_lag, found.lag_bytes) {
        (None, _) => Ok(()),
        (Some(limit), Some(lag)) if lag <= limit => Ok(()),
        (Some(limit), Some(lag)) => Err(format!("it lags {lag} bytes, and {limit} are allowed")),
        (Some(_), None) => Err("its lag is not known".to_owned()),
    }
}

/// Answers a question: yes, or why not. The reason holds nothing that must not be seen by anybody.
///
/// # Errors
/// The reason for a no.
pub fn answer_health(question: HealthQuestion, scene: &HealthScene) -> Result<(), String> {
    match question {
        HealthQuestion::Primary => primary(scene),
        HealthQuestion::Replica(limit) => replica(scene, limit),
        HealthQuestion::ReadOnly(limit) => primary(scene).or_else(|not_primary| match &scene.looked_at {
            Some(found) if found.role == Role::Standby => replica(scene, limit),
            _ => Err(not_primary),
        }),
        HealthQuestion::Health => fresh(scene).map(drop),
        HealthQuestion::Liveness => Ok(()),
        HealthQuestion::Readiness => answer_health(HealthQuestion::ReadOnly(None), scene),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scene(role: Role) -> HealthScene {
        let is_standby = role == Role::Standby;
        let (zone1, zone2): (CellName, CellName) = ("zone1".parse().unwrap(), "zone2".parse().unwrap());
        HealthScene {
            cell: if is_standby { zone2 } else { zone1.clone() },
            state: InstanceState::Running,
            looked_at: Some(LookedAt {
                age: Duration::from_millis(900),
                role,
                timeline: Timeline::new(3),
                streams_from: is_standby.then(|| zone1.clone()),
                last_message_age: is_standby.then_some(Duration::from_secs(1)),
                lag_bytes: is_standby.then_some(1000),
                stopped: false,
                waits_for_quorum: false,
            }),
            leader: Some(Leader {
                cell: zone1,
                term: Timeline::new(3),
                system_identifier: None,
                lsn: None,
                leadership: None,
            }),
            standing: Some(HealthStanding { current: true, fenced: false }),
        }
    }

    fn changed(role: Role, change: impl FnOnce(&mut HealthScene)) -> HealthScene {
        let mut scene = scene(role);
        change(&mut scene);
        scene
    }

    fn looked(role: Role, change: impl FnOnce(&mut LookedAt)) -> HealthScene {
        changed(role, |scene| change(scene.looked_at.as_mut().unwrap()))
    }

    #[test]
    fn paths_are_those_that_balancers_are_configured_with() {
        let parse = HealthQuestion::parse;
        assert_eq!(parse("/primary", None), Ok(HealthQuestion::Primary));
        assert_eq!(parse("/read-write", Some("x=1")), Ok(HealthQuestion::Primary));
        assert_eq!(parse("/replica", None), Ok(HealthQuestion::Replica(None)));
        assert_eq!(parse("/replica", Some("lag=16MB")), Ok(HealthQuestion::Replica(Some(16 << 20))));
        assert_eq!(parse("/replica", Some("a=b&lag=10")), Ok(HealthQuestion::Replica(Some(10))));
        assert_eq!(parse("/read-only", Some("lag=1kB")), Ok(HealthQuestion::ReadOnly(Some(1024))));
        for (path, wanted) in [
            ("/health", HealthQuestion::Health),
            ("/liveness", HealthQuestion::Liveness),
            ("/readiness", HealthQuestion::Readiness),
        ] {
            assert_eq!(parse(path, None), Ok(wanted));
        }
        for path in ["", "/", "/primary/", "/config", "/../primary", "primary"] {
            assert_eq!(parse(path, None), Err(HealthQuestionError::UnknownPath), "{path}");
        }
        for lag in ["", "x", "-1", "16mb", "1.5MB", "16 MB", "99999999999TB", "99999999999999999999"] {
            let query = format!("lag={lag}");
            assert_eq!(parse("/replica", Some(&query)), Err(HealthQuestionError::BadLag), "{lag}");
        }
    }

    #[test]
    fn only_the_recorded_primary_that_was_just_looked_at_is_written_to() {
        let role = Role::Primary;
        let ask = |scene: &HealthScene| answer_health(HealthQuestion::Primary, scene);
        assert_eq!(ask(&scene(role)), Ok(()));
        let fenced = HealthStanding { current: true, fenced: true };
        let old = HealthStanding { current: false, fenced: false };
        for (other, why) in [
            (scene(Role::Standby), "is a standby"),
            (changed(role, |scene| scene.state = InstanceState::Down), "is down"),
            (changed(role, |scene| scene.looked_at = None), "does not answer"),
            (looked(role, |found| found.age = Duration::from_secs(60)), "60 s ago"),
            (looked(role, |found| found.stopped = true), "stopped by a signal"),
            (changed(role, |scene| scene.standing = Some(fenced)), "fenced"),
            (changed(role, |scene| scene.standing = Some(old)), "before a restore"),
            (changed(role, |scene| scene.standing = None), "not known"),
            (changed(role, |scene| scene.leader = None), "no primary is recorded"),
            (changed(role, |scene| scene.cell = "zone3".parse().unwrap()), "zone1 is the recorded primary"),
            (looked(role, |found| found.timeline = Timeline::new(2)), "on timeline 2"),
        ] {
            let reason = ask(&other).unwrap_err();
            assert!(reason.contains(why), "{reason}");
            // Nor is it one that reads are sent to.
            let read = answer_health(HealthQuestion::ReadOnly(None), &other);
            assert_eq!(read.is_ok(), other == scene(Role::Standby), "{read:?}");
        }
    }

    #[test]
    fn only_a_standby_that_streams_within_the_lag_is_read_from() {
        let role = Role::Standby;
        let ask = |scene: &HealthScene| answer_health(HealthQuestion::Replica(Some(1000)), scene);
        assert_eq!(ask(&scene(role)), Ok(()));
        let silent = Duration::from_secs(60);
        let old = HealthStanding { current: false, fenced: false };
        for (other, why) in [
            (scene(Role::Primary), "is a primary"),
            (looked(role, |found| found.lag_bytes = Some(1001)), "lags 1001 bytes"),
            (looked(role, |found| found.lag_bytes = None), "not known"),
            (looked(role, |found| found.streams_from = None), "does not stream"),
            (looked(role, |found| found.streams_from = Some("zone3".parse().unwrap())), "does not stream"),
            (looked(role, |found| found.last_message_age = Some(silent)), "said nothing"),
            (looked(role, |found| found.age = silent), "60 s ago"),
            (changed(role, |scene| scene.standing = Some(old)), "before a restore"),
            (changed(role, |scene| scene.leader = None), "no primary is recorded"),
        ] {
            let reason = ask(&other).unwrap_err();
            assert!(reason.contains(why), "{reason}");
        }
        // A restore that has fenced the database does not keep it from being read.
        let fenced = HealthStanding { current: true, fenced: true };
        assert_eq!(ask(&changed(role, |scene| scene.standing = Some(fenced))), Ok(()));
        let far = looked(role, |found| found.lag_bytes = Some(1 << 40));
        assert_eq!(answer_health(HealthQuestion::Replica(None), &far), Ok(()));
        assert_eq!(answer_health(HealthQuestion::Readiness, &far), Ok(()));
    }

    #[test]
    fn what_runs_is_healthy_and_who_answers_lives() {
        let deposed = changed(Role::Primary, |scene| scene.leader = None);
        assert_eq!(answer_health(HealthQuestion::Health, &deposed), Ok(()));
        assert!(answer_health(HealthQuestion::Readiness, &deposed).is_err());
        let down = changed(Role::Primary, |scene| scene.state = InstanceState::Down);
        assert!(answer_health(HealthQuestion::Health, &down).is_err());
        assert_eq!(answer_health(HealthQuestion::Liveness, &down), Ok(()));
        for role in [Role::Primary, Role::Standby] {
            for question in [HealthQuestion::ReadOnly(Some(1000)), HealthQuestion::Readiness] {
                assert_eq!(answer_health(question, &scene(role)), Ok(()));
            }
        }
    }
}
