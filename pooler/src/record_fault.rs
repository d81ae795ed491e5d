//! What to do about a record in etcd that cannot be read, where the multipooler does nothing without it.

use cellar_model::{Key, Keyspace};
use cellar_topology::{StoreError, View};

/// Where the commands are.
const COMMANDS: &str = "docs/troubleshooting.md (a record in etcd cannot be read) has the commands";

/// What leaves the state in which the record at `path` cannot be read.
fn remedy(keys: &Keyspace, path: &str) -> String {
    let what = match keys.parse(path) {
        Some(Key::Status(..)) => "delete it: a multipooler that lives writes it again".to_owned(),
        Some(Key::CellClaim(_, cell)) => format!(
            "if this machine is to run cell {cell}, see that no other machine's multipooler runs for it, and delete the record: this one writes it again"
        ),
        _ => "a newer release wrote it, or somebody by hand: run the newer release, or correct the record; `etcdctl get --rev` shows what it was before"
            .to_owned(),
    };
    format!("{what}. {COMMANDS}")
}

/// An error of the store, with what leaves it if it is a record that cannot be read. Everything else passes by itself.
pub(crate) fn with_remedy(keys: &Keyspace, error: &StoreError) -> String {
    match error {
        StoreError::Corrupt { key, .. } => format!("{error}: {}", remedy(keys, key)),
        _ => error.to_string(),
    }
}

/// Of these records the first that is there and cannot be read, with what leaves that.
pub(crate) fn unreadable(view: &View, keys: &Keyspace, needed: &[Key]) -> Option<String> {
    needed.iter().find_map(|key| {
        let path = keys.path(key);
        let reason = view.unreadable.get(&path)?;
        let error = StoreError::Corrupt { key: path, reason: reason.clone() };
        Some(with_remedy(keys, &error))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn record_that_cannot_be_read_is_told_with_what_leaves_it() {
        let keys = Keyspace::new(&"demo".parse().unwrap());
        let (db, cell) = ("app".parse().unwrap(), "zone1".parse().unwrap());
        let told = |key: &Key| {
            let error = StoreError::Corrupt { key: keys.path(key), reason: "no JSON".to_owned() };
            with_remedy(&keys, &error)
        };
        let status = Key::Status(db, cell);
        assert!(told(&status).contains("delete it: a multipooler that lives"), "{}", told(&status));
        let Key::Status(db, cell) = status.clone() else { unreachable!() };
        let claim = told(&Key::CellClaim(db.clone(), cell));
        assert!(claim.contains("claims/app/zone1/") && claim.contains("delete the record"), "{claim}");
        let database = Key::Database(db);
        assert!(told(&database).contains("correct the record"), "{}", told(&database));
        let gone = StoreError::Retryable("gone".to_owned());
        assert_eq!(with_remedy(&keys, &gone), gone.to_string());

        let mut view = View::default();
        let needed = [status.clone(), database.clone()];
        assert_eq!(unreadable(&view, &keys, &needed), None);
        view.unreadable.insert(keys.path(&Key::Leader("app".parse().unwrap())), "x".to_owned());
        assert_eq!(unreadable(&view, &keys, &needed), None, "another one");
        view.unreadable.insert(keys.path(&database), "no JSON".to_owned());
        assert_eq!(unreadable(&view, &keys, &needed), Some(told(&database)));
    }
}
