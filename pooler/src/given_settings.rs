//! The settings that the database was given, as this member gives them to PostgreSQL.
//!
//! Replay compares some numbers: a standby stops replaying when its primary was started with more than it has. So the primary
//! is not started with more than its standbys run with, whoever starts it and why; when they have more, its file follows. The
//! other way round, a standby is not started with less than the WAL asks for: see `cellar_postgres::start`.

use std::collections::BTreeMap;

use cellar_model::{Database, InstanceState, Leader, Role};
use cellar_postgres::Settings;

use crate::agent::Agent;

/// The number that a primary is to have in place of the wanted one; none when it may have that. `standbys` is the least that
/// one of them runs with. It is not made smaller than what it runs with, unless that is wanted.
fn held_back(wanted: u32, running: Option<u32>, standbys: Option<u32>) -> Option<u32> {
    let least = standbys.filter(|least| *least < wanted)?;
    Some(running.map_or(least, |running| least.max(running.min(wanted)))).filter(|number| *number < wanted)
}

/// Puts what the database was given into the settings of its instance here.
pub(crate) fn give(agent: &Agent, database: &Database, leader: Option<&Leader>, to: Settings) -> Settings {
    let given = Settings { given: database.settings.clone(), held_back: BTreeMap::new(), ..to };
    if leader.is_none_or(|leader| leader.cell != agent.cell) {
        return given;
    }
    let view = agent.mirror.view();
    let standbys = view.status.iter().filter(|((of, cell), status)| {
        *of == agent.database
            && *cell != agent.cell
            && status.state == InstanceState::Running
            && status.role == Role::Standby
    });
    let standbys: Vec<&BTreeMap<String, u32>> = standbys.map(|(_, status)| &status.replays).collect();
    let running = agent.facts.borrow().as_ref().map(|facts| facts.replays.numbers());
    let compared = cellar_postgres::RequiredSettings::default().numbers();
    let held_back = compared.into_iter().enumerate().filter_map(|(at, (name, _))| {
        let wanted = match given.given.get(name) {
            Some(text) => text.parse().ok()?,
            None => given.unless_given(name),
        };
        let running = running.map(|numbers| numbers[at].1);
        let least = standbys.iter().filter_map(|replays| replays.get(name)).min().copied();
        Some((name, held_back(wanted, running, least)?))
    });
    Settings { held_back: held_back.collect(), ..given }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn primary_gets_more_only_when_its_standbys_have_it() {
        // Raised from 100 to 200: it keeps what it has, also when it is started again.
        assert_eq!(held_back(200, Some(100), Some(100)), Some(100));
        assert_eq!(held_back(200, None, Some(100)), Some(100));
        assert_eq!(held_back(200, Some(100), Some(200)), None, "they have it");
        assert_eq!(held_back(200, Some(100), None), None, "there is no standby");
        // One that was promoted with more, while another standby has less: that one is started again, not this one.
        assert_eq!(held_back(200, Some(200), Some(100)), None);
        assert_eq!(held_back(300, Some(200), Some(100)), Some(200));
        // Lowered: the primary goes first.
        assert_eq!(held_back(50, Some(100), Some(100)), None);
    }
}
