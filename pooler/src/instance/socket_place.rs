//! Where the socket of an instance that runs is: it tells a member from a job's private instance.

use std::path::Path;

use cellar_postgres::Postmaster;
use cellar_system::{is_inside, is_same_place};

/// Whether a postmaster of the data directory is a job's private instance: its socket is in a private directory of a
/// job, also when that is gone. A socket that is in any other place is an operator's doing, and the instance a member.
pub(crate) fn is_private(postmaster: &Postmaster, temporary: &Path) -> bool {
    postmaster.socket_directory.as_ref().is_some_and(|directory| is_inside(directory, temporary))
}

/// What to say of an instance whose first socket is not where the multipooler looks for it.
pub(crate) fn socket_elsewhere(postmaster: &Postmaster, member: &Path) -> Option<String> {
    let found = postmaster.socket_directory.as_ref().filter(|found| !is_same_place(found, member))?;
    Some(format!(
        "PostgreSQL was started with its socket in {}, not in {}: remove unix_socket_directories from where you have set it and restart PostgreSQL",
        found.display(),
        member.display()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use cellar_postgres::PostmasterState;

    #[test]
    fn only_an_instance_with_its_socket_in_a_jobs_directory_is_private() {
        let cell = tempfile::tempdir().unwrap();
        let (temporary, member) = (cell.path().join("tmp"), cell.path().join("pg_sockets"));
        let of = |directory: Option<&Path>| Postmaster {
            pid: 1,
            port: Some(1),
            socket_directory: directory.map(Path::to_owned),
            state: PostmasterState::Ready,
        };
        let scratch = temporary.join("abc123");
        for exists in [false, true] {
            if exists {
                std::fs::create_dir_all(&scratch).unwrap();
                std::fs::create_dir_all(&member).unwrap();
            }
            assert!(is_private(&of(Some(&scratch)), &temporary), "{exists}");
            assert!(is_private(&of(Some(&temporary.join("gone"))), &temporary), "{exists}");
            for other in [None, Some(member.as_path()), Some(Path::new("/var/run/postgresql"))] {
                assert!(!is_private(&of(other), &temporary), "{other:?}");
            }
        }
        assert_eq!(socket_elsewhere(&of(None), &member), None);
        assert_eq!(socket_elsewhere(&of(Some(&member)), &member), None);
        let told = socket_elsewhere(&of(Some(Path::new("/var/run/postgresql"))), &member).unwrap();
        assert!(told.contains("/var/run/postgresql") && told.contains("unix_socket_directories"), "{told}");
    }
}
