//! Tablespaces that members of one host would share.
//!
//! A tablespace has the same place in every member. On one host that is the same directory: the restored or replayed
//! files of one member would overwrite the live files of another.

use std::path::{Path, PathBuf};

use cellar_model::{Code, Refusal};
use cellar_system::is_same_place;

use crate::agent::Agent;
use crate::data_layout::tablespaces;

/// Refuses to make this member's data while another member's data directory is on this host, and has a tablespace.
///
/// The topology's host names do not tell whether two cells share a host, so the directories are looked for.
pub(crate) fn check_no_shared_tablespaces(agent: &Agent) -> Result<(), Refusal> {
    let own = agent.layout.data();
    let others: Vec<(String, PathBuf)> = {
        let view = agent.mirror.view();
        let others =
            view.poolers.values().filter(|card| card.cell != agent.cell || card.database != agent.database);
        others.map(|card| (card.cell.to_string(), PathBuf::from(&card.data_directory))).collect()
    };
    match others.iter().find_map(|(cell, data)| Some((cell, shared(&own, data)?))) {
        None => Ok(()),
        Some((cell, place)) => Err(Refusal::new(
            Code::Unsupported,
            format!(
                "cell {cell} is on this host and has a tablespace in {}: the files of {} would overwrite its files",
                place.display(),
                agent.cell
            ),
        )
        .hint("drop the tablespace, or put the cells on hosts of their own")
        .about("cell", &agent.cell)),
    }
}

/// The place of a tablespace of the data directory `other`, when that is on this host and not `own`.
fn shared(own: &Path, other: &Path) -> Option<PathBuf> {
    if is_same_place(own, other) {
        return None;
    }
    tablespaces(other).into_iter().next().map(|(_, place)| place)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn tablespace_of_another_data_directory_on_the_host_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let (own, other) = (dir.path().join("own"), dir.path().join("other"));
        for data in [&own, &other] {
            std::fs::create_dir_all(data.join("pg_tblspc")).unwrap();
        }
        symlink("/srv/ts", own.join("pg_tblspc/1")).unwrap();
        assert_eq!(shared(&own, &other), None);
        assert_eq!(shared(&own, &own.join(".")), None);
        symlink("/srv/ts", other.join("pg_tblspc/1")).unwrap();
        assert_eq!(shared(&own, &other), Some("/srv/ts".into()));
        assert_eq!(shared(&own, &dir.path().join("missing")), None);
    }
}
