//! initdb, and telling directories apart.

use super::*;

#[tokio::test]
async fn initdb_killed_midway_leaves_nothing_in_place_and_can_be_repeated() {
    let cell = Cell::new();
    for millis in [0, 50, 150] {
        let outcome = initdb(&cell.tools, &cell.data(), &cell.config, Duration::from_millis(millis)).await;
        match outcome {
            Err(PostgresError::CommandTimeout { .. }) => assert!(!cell.data().exists()),
            other => panic!("{millis} ms were enough? {other:?}"),
        }
        // Its caller is gone, too: the future is dropped in the middle.
        let data = cell.data();
        let work = initdb(&cell.tools, &data, &cell.config, TEST_TIMEOUT);
        assert!(tokio::time::timeout(Duration::from_millis(millis), work).await.is_err() && !data.exists());
    }
    cell.initdb().await;
    assert!(entries(cell.root.path()).iter().all(|name| !name.contains("initdb")));
    cell.start().await;
}

#[tokio::test]
async fn initdb_is_refused_where_there_are_files() {
    let cell = Cell::new();
    fs::create_dir(cell.data()).unwrap();
    fs::write(cell.data().join("precious"), "").unwrap();
    let refused = initdb(&cell.tools, &cell.data(), &cell.config, TEST_TIMEOUT).await;
    assert!(matches!(refused, Err(PostgresError::DataDirectory { .. })), "{refused:?}");
    assert_eq!(entries(&cell.data()), ["precious"]);
    fs::remove_file(cell.data().join("precious")).unwrap();
    // An empty directory is taken over.
    cell.initdb().await;
    let again = initdb(&cell.tools, &cell.data(), &cell.config, TEST_TIMEOUT).await;
    assert!(matches!(again, Err(PostgresError::DataDirectory { .. })), "{again:?}");
}

#[tokio::test]
async fn directories_are_told_apart() {
    let cell = Cell::new();
    let data = cell.data();
    let look = async || inspect(&cell.tools, &data).await.unwrap();
    fs::write(&data, "").unwrap();
    assert!(matches!(look().await, DataDirectory::Foreign { .. }));
    fs::remove_file(&data).unwrap();
    std::os::unix::fs::symlink("/nowhere/at/all", &data).unwrap();
    assert!(matches!(look().await, DataDirectory::Foreign { .. }));
    fs::remove_file(&data).unwrap();
    fs::create_dir(&data).unwrap();
    assert_eq!(look().await, DataDirectory::Empty);
    fs::write(data.join("letter.txt"), "").unwrap();
    assert!(matches!(look().await, DataDirectory::Foreign { .. }));
    fs::create_dir(data.join("base")).unwrap();
    assert!(matches!(look().await, DataDirectory::Partial { .. }));
    fs::remove_dir_all(&data).unwrap();

    cell.initdb().await;
    let control = data.join("global/pg_control");
    let whole = fs::read(&control).unwrap();
    // The file stays its owner's, so only its content is changed.
    for (change, content) in [
        ("emptied", Vec::new()),
        ("cut", whole[..100].to_vec()),
        ("scrambled", {
            let mut content = whole.clone();
            content[20] ^= 0xFF;
            content
        }),
    ] {
        fs::write(&control, content).unwrap();
        let found = look().await;
        assert!(matches!(found, DataDirectory::Partial { .. }), "{change}: {found:?}");
    }
    fs::write(&control, &whole).unwrap();
    assert!(matches!(look().await, DataDirectory::Valid { .. }));
    let version = fs::read_to_string(data.join("PG_VERSION")).unwrap();
    fs::write(data.join("PG_VERSION"), "9\n").unwrap();
    let DataDirectory::OtherVersion { reason } = look().await else { panic!("{:?}", look().await) };
    assert!(reason.contains("postgresql-9"), "{reason}");
    fs::write(data.join("PG_VERSION"), "what\n").unwrap();
    assert!(matches!(look().await, DataDirectory::Partial { .. }));
    fs::remove_file(control).unwrap();
    fs::write(data.join("PG_VERSION"), version).unwrap();
    assert!(matches!(look().await, DataDirectory::Partial { .. }));

    let uid = user().map_or_else(|| nix::unistd::geteuid().as_raw(), |(uid, _)| uid);
    check_permissions(&data, uid).unwrap();
    assert!(check_permissions(&data, uid + 1).is_err());
    fs::set_permissions(&data, fs::Permissions::from_mode(0o755)).unwrap();
    assert!(check_permissions(&data, uid).unwrap_err().to_string().contains("0755"));
}

/// The file of a socket stays after a crash, and the number in it may be another server's since.
#[tokio::test]
async fn server_that_has_the_number_of_a_vanished_one_is_left_alone() {
    let (gone, other) = (Cell::new(), Cell::new());
    other.initdb().await;
    let postmaster = other.start().await;
    let Endpoint { socket_directory, port } = gone.endpoint();
    let lock = socket_directory.join(format!(".s.PGSQL.{port}.lock"));
    let text = format!("{}\n{}\n1700000000\n{port}\n", postmaster.pid, gone.data().display());
    fs::write(lock, text).unwrap();
    assert!(!stop_vanished(&socket_directory, port, &gone.data()).await.unwrap());
    assert!(other.pids().contains(&postmaster.pid));

    // Its own is ended, once its directory is gone.
    let Endpoint { socket_directory, port } = other.endpoint();
    fs::remove_dir_all(other.data()).unwrap();
    assert!(stop_vanished(&socket_directory, port, &other.data()).await.unwrap());
    assert_eq!(cellar_system::Process::find(postmaster.pid), None);
}
