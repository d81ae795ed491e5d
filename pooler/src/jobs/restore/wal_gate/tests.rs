use super::*;

const MADE: &str = "rmgr: Tablespace  len (rec/tot):     43/    43, tx:        725, lsn: 0/05255E78, prev 0/05255DC8, desc: CREATE 16389 \"/srv/a b\"";

#[test]
fn created_tablespace_is_refused_by_its_place_unless_it_is_inside() {
    assert_eq!(created(MADE), Some(("0/05255E78", "\"/srv/a b\"")));
    assert_eq!(created(&MADE.replace("/srv/a b", "")), None);
    assert_eq!(created(&MADE.replace("CREATE", "DROP")), None);
    let error = refusal(&format!("first record is after 0/5000000\n{MADE}\n")).unwrap();
    assert_eq!(error.code, Code::Unsupported);
    assert!(error.message.contains("/srv/a b") && error.message.contains("0/05255E78"), "{error:?}");
    assert!(refusal("first record is after 0/5000000\n").is_none());
}

/// A gate in front of an archive that is a directory, with a `pg_waldump` that prints what the segment holds.
struct Scene {
    place: tempfile::TempDir,
    tools: Tools,
}

impl Scene {
    fn new() -> Self {
        use std::os::unix::fs::PermissionsExt;
        let place = tempfile::tempdir().unwrap();
        for name in ["archive", "bin", "gate", "data/pg_wal"] {
            std::fs::create_dir_all(place.path().join(name)).unwrap();
        }
        // The last two arguments are the first and the last segment; both are in the directory of `--path`.
        let waldump = "#!/bin/sh\nfor a; do case $a in --path=*) d=${a#--path=} ;; esac; done\n\
            for a; do case $a in --*) ;; *) cat \"$d/$a\" ;; esac; done\n\
            for a; do case $a in --*) ;; *) [ -n \"$first\" ] || first=$a ;; esac; done\n\
            if [ -z \"$(head -c 8192 \"$d/$first\" | tr -d '\\0')\" ]; then\n\
            echo 'error: WAL segment size must be a power of two between 1 MB and 1 GB, but the WAL file header specifies 0 bytes' >&2; exit 1; fi\n\
            case $(tr -d '\\0' <\"$d/$a\") in '') echo 'error in WAL record' >&2; exit 1 ;; *TORN*) echo 'error in WAL record' >&2; exit 1 ;; *BROKEN*) exit 1 ;; esac\n";
        for name in ["initdb", "pg_ctl", "postgres", "pg_controldata", "pg_waldump", "sleep"] {
            let path = place.path().join("bin").join(name);
            std::fs::write(&path, if name == "sleep" { "#!/bin/sh\n" } else { waldump }).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        }
        let tools = Tools::find(Some(&place.path().join("bin"))).unwrap();
        Self { place, tools }
    }

    fn archive(&self, name: &str, content: impl AsRef<[u8]>) {
        std::fs::write(self.place.path().join("archive").join(name), content).unwrap();
    }

    async fn close(&self) -> String {
        let archive = self.place.path().join("archive").display().to_string();
        self.close_over(&format!("cp {}/\"$name\" \"$target\" 2>/dev/null", shell_quoted(&archive))).await
    }

    async fn close_over(&self, fetch: &str) -> String {
        let data = self.place.path().join("data");
        let gate = WalGate {
            tools: self.tools.clone(),
            data: &data,
            directory: self.place.path().join("gate"),
            redo: Lsn::new(0x300_0028),
            size: SegmentSize::default(),
        };
        gate.close(fetch).await.unwrap()
    }

    /// Runs the `restore_command` as PostgreSQL does. The exit code, and whether there is a file then.
    fn fetch(&self, restore_command: &str, name: &str) -> (i32, bool) {
        let data = self.place.path().join("data");
        let target = data.join("pg_wal/RECOVERYXLOG");
        let _ = std::fs::remove_file(&target);
        let command = restore_command.replace("%f", name).replace("%p", "pg_wal/RECOVERYXLOG");
        let mut shell = std::process::Command::new("sh");
        let path = std::env::var("PATH").unwrap();
        shell.env("PATH", format!("{}:{path}", self.place.path().join("bin").display()));
        let status = shell.arg("-c").arg(command).current_dir(&data).status().unwrap();
        let is_there = target.exists();
        if is_there && status.success() {
            std::fs::rename(&target, data.join("pg_wal").join(name)).unwrap();
        }
        (status.code().unwrap(), is_there)
    }
}

#[tokio::test]
async fn segment_that_makes_a_tablespace_is_not_handed_over() {
    let scene = Scene::new();
    scene.archive("000000010000000000000003", "nothing");
    scene.archive("000000020000000000000004", "TORN");
    scene.archive("000000020000000000000005", MADE);
    scene.archive("000000020000000000000006", "BROKEN");
    scene.archive("00000002.history", MADE);
    let command = scene.close().await;
    assert_eq!(scene.fetch(&command, "00000002.history"), (0, true));
    assert_eq!(scene.fetch(&command, "000000010000000000000003"), (0, true));
    assert_eq!(scene.fetch(&command, "000000020000000000000004"), (0, true), "where the WAL ends");
    let directory = scene.place.path().join("gate");
    assert!(why_refused(&directory).is_none());
    let (code, _) = scene.fetch(&command, "000000020000000000000009");
    assert!((1..=125).contains(&code), "it is not there: {code}");
    assert_eq!(scene.fetch(&command, "000000020000000000000005"), (126, false));
    assert_eq!(why_refused(&directory).unwrap().code, Code::Unsupported);
    assert_eq!(scene.fetch(&command, "000000020000000000000006"), (126, false), "it cannot be searched");
    assert_eq!(why_refused(&directory).unwrap().code, Code::PostgresFailed);
}

/// To PostgreSQL any failure up to 125 means that there is no such file, and it would take another timeline's.
#[tokio::test]
async fn failure_of_the_archive_is_not_taken_for_its_word_that_there_is_no_such_file() {
    let scene = Scene::new();
    scene.archive("000000010000000000000003", "nothing");
    let (archive, failed) = (scene.place.path().join("archive"), scene.place.path().join("failed"));
    let fails_until = |times: u32| {
        format!(
            "{{ if [ $(cat {failed} 2>/dev/null | wc -l) -lt {times} ]; then echo >>{failed}; (exit 101); else cp {archive}/\"$name\" \"$target\" 2>/dev/null; fi; }}",
            failed = shell_quoted(&failed.display().to_string()),
            archive = shell_quoted(&archive.display().to_string()),
        )
    };
    let directory = scene.place.path().join("gate");
    let command = scene.close_over(&fails_until(3)).await;
    assert_eq!(scene.fetch(&command, "000000010000000000000003"), (0, true), "at the fourth attempt");
    assert_eq!(scene.fetch(&command, "000000010000000000000004"), (1, false), "it is not there");
    assert!(why_refused(&directory).is_none());
    let command = scene.close_over(&fails_until(1000)).await;
    assert_eq!(scene.fetch(&command, "000000010000000000000004"), (126, false));
    let error = why_refused(&directory).unwrap();
    assert_eq!(error.code, Code::PgbackrestFailed);
    assert!(error.message.contains("000000010000000000000004, exit code 101"), "{error:?}");
}

#[tokio::test]
async fn wal_that_is_there_already_is_searched_behind_a_gap_too() {
    let scene = Scene::new();
    let wal = scene.place.path().join("data/pg_wal");
    // Before replay begins, and of a number that a newer timeline has, too.
    std::fs::write(wal.join("000000010000000000000002"), MADE).unwrap();
    std::fs::write(wal.join("000000010000000000000003"), MADE).unwrap();
    std::fs::write(wal.join("000000020000000000000003"), "TORN").unwrap();
    std::fs::write(wal.join("000000020000000000000005"), "nothing").unwrap();
    let _ = scene.close().await;
    for name in ["000000020000000000000006", "000000020000000000000009"] {
        std::fs::write(wal.join(name), MADE).unwrap();
        let data = scene.place.path().join("data");
        let gate = WalGate {
            tools: scene.tools.clone(),
            data: &data,
            directory: scene.place.path().join("gate"),
            redo: Lsn::new(0x300_0028),
            size: SegmentSize::default(),
        };
        assert_eq!(gate.close("false").await.unwrap_err().code, Code::Unsupported, "{name}");
        std::fs::remove_file(wal.join(name)).unwrap();
    }
}

/// A WAL receiver, and a primary with `wal_init_zero`, make a segment of zeros before they write into it.
#[tokio::test]
async fn segment_that_was_made_in_advance_is_the_end_of_the_wal() {
    let blank = vec![0; 16 << 20];
    let scene = Scene::new();
    let wal = scene.place.path().join("data/pg_wal");
    std::fs::write(wal.join("000000010000000000000003"), "nothing").unwrap();
    std::fs::write(wal.join("000000010000000000000004"), &blank).unwrap();
    std::fs::write(wal.join("000000010000000000000006"), &blank).unwrap();
    scene.archive("000000010000000000000004", &blank);
    scene.archive("000000010000000000000007", &blank);
    scene.archive("000000010000000000000008", [&[0; 8191][..], b"BROKEN"].concat());
    let command = scene.close().await;
    assert_eq!(scene.fetch(&command, "000000010000000000000004"), (0, true), "after a whole one");
    assert_eq!(scene.fetch(&command, "000000010000000000000007"), (0, true), "after another of zeros");
    assert!(why_refused(&scene.place.path().join("gate")).is_none());
    assert_eq!(scene.fetch(&command, "000000010000000000000008"), (126, false), "damaged, not blank");
}
