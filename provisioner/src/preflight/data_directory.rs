//! Whether a cell's data can be made where it is to be.

use std::path::Path;

use cellar_system::is_mount_point;

use crate::error::finding::Finding;

/// What is wrong with a data directory that is still to be made: the new one is made beside it and renamed, which
/// replaces neither a mount point nor a symbolic link. One that has files may be either.
pub(crate) fn check(data: &Path) -> Option<Finding> {
    let is_vacant = std::fs::read_dir(data).is_ok_and(|mut entries| entries.next().is_none());
    let what = match (data.is_symlink(), is_mount_point(data)) {
        (true, _) => "a symbolic link",
        (false, true) => "a mount point",
        (false, false) => return None,
    };
    is_vacant.then(|| Finding {
        message: format!("{} is {what}, and a new data directory cannot take its place", data.display()),
        hint: data
            .parent()
            .map(|cell| format!("remove it, and mount or link the disk at {} instead", cell.display())),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn link_to_an_empty_directory_cannot_become_a_data_directory() {
        let dir = tempfile::tempdir().unwrap();
        let (disk, data) = (dir.path().join("disk"), dir.path().join("pg_data"));
        std::fs::create_dir(&disk).unwrap();
        assert_eq!(check(&data), None);
        assert_eq!(check(&disk), None);
        std::os::unix::fs::symlink(&disk, &data).unwrap();
        assert!(check(&data).unwrap().message.contains("a symbolic link"));
        std::fs::write(disk.join("PG_VERSION"), "15").unwrap();
        assert_eq!(check(&data), None, "it has its data");
    }
}
