use super::*;
use proptest::prelude::*;

/// A value in single quotes as libpq reads it; `None` when it does not end where the text ends.
fn unquoted(text: &str) -> Option<String> {
    let mut chars = text.strip_prefix('\'')?.chars();
    let mut value = String::new();
    loop {
        match chars.next()? {
            '\\' => value.push(chars.next()?),
            '\'' => return chars.as_str().is_empty().then_some(value),
            c => value.push(c),
        }
    }
}

#[test]
fn what_is_in_the_way_of_a_check_is_not_damage() {
    let failed = |status: &str, output: &str| PostgresError::CommandFailed {
        program: AMCHECK.into(),
        status: status.into(),
        output: output.into(),
        stdout: String::new(),
    };
    let amcheck = |status, output| {
        let found = |status: &str, output: &str| status.ends_with(": 2") && !is_only_in_the_way(output);
        let check = program_check(AMCHECK, Err(failed(status, output)), found);
        assert!(!check.passed);
        check.could_not_run
    };
    assert!(!amcheck("exit status: 2", "heap table \"a\", block 1: xmin is in the future"));
    assert!(amcheck("exit status: 1", "pg_amcheck: error: query failed: ERROR:  no DDL today"));
    let library = "btree index \"a.b\":\n    ERROR:  could not access file \"x\": No such file";
    assert!(amcheck("exit status: 2", library));
    let both = format!("{library}\n    ERROR:  item order invariant violated");
    assert!(!amcheck("exit status: 2", &both));
    let slow = PostgresError::CommandTimeout {
        program: AMCHECK.into(),
        after: CHECK_TIMEOUT,
        output: String::new(),
    };
    assert!(program_check(AMCHECK, Err(slow), |_, _| true).could_not_run);
}

#[test]
fn what_a_check_selects_is_not_kept() {
    assert_eq!(judge_rows(""), (true, "no rows".to_owned()));
    assert_eq!(judge_rows("t|hunter2\0"), (true, "1 row, all true".to_owned()));
    assert_eq!(judge_rows("t|two\nlines\0"), (true, "1 row, all true".to_owned()));
    assert_eq!(judge_rows("t\0hunter2|t\0"), (false, "row 2 of 2 does not begin with true".to_owned()));
    let failed = |output: &str| {
        let error = PostgresError::CommandFailed {
            program: "psql".into(),
            status: "exit status: 1".into(),
            output: output.into(),
            stdout: "t|hunter2".into(),
        };
        sql_failed("check", error)
    };
    let cast = failed(
        "NOTICE:  00000: hunter2\nERROR:  22P02: invalid input syntax for type integer: \"hunter2\"\nLOCATION:  x",
    );
    assert_eq!(cast.detail, "the SQL failed with SQLSTATE 22P02; the message may hold data and is not kept");
    assert!(!cast.passed && !cast.could_not_run);
    let name =
        failed("ERROR:  42P01: relation \"nonsense\" does not exist\nLINE 2: select 'hunter2' from nonsense");
    assert_eq!(name.detail, "ERROR: relation \"nonsense\" does not exist (SQLSTATE 42P01)");
    let memory = failed("ERROR:  53200: out of memory\nDETAIL:  hunter2");
    assert!(memory.could_not_run && !memory.detail.contains("hunter2"), "{memory:?}");
    let login = failed("psql: error: connection to server failed: FATAL:  database \"x\" does not exist");
    assert!(login.could_not_run && login.detail.contains("does not exist"), "{login:?}");
}

/// What `sum`, `max` and every comparison with them give for a table that was lost or is empty.
#[test]
fn a_check_that_returns_null_does_not_pass() {
    for rows in ["\0", "t\0\0", "\0t\0", "|t\0"] {
        assert!(!judge_rows(rows).0, "{rows:?}");
    }
}

proptest! {
    #[test]
    fn a_check_is_one_argument_of_sql_and_its_database_one_name(
        database in prop_oneof!["[-a-z '\"\\\\=;$()/.]{1,40}", Just("host=/tmp port=1".to_owned()), ".{1,40}"],
        sql in prop_oneof!["[-\\\\!;'\"$` a-z]{1,40}", Just("\\! touch /tmp/x".to_owned()), "(?s).{1,40}"],
    ) {
        let arguments = psql_arguments(&database, &sql);
        prop_assert_eq!(arguments.len(), 16);
        prop_assert_eq!(&arguments[10..13], ["-U", MONITOR_ROLE, "-d"]);
        prop_assert_eq!(&arguments[15], &format!("\n{sql}"));
        prop_assert_eq!(unquoted(arguments[13].strip_prefix("dbname=").unwrap()), Some(database));
    }
}

#[test]
fn databases_that_were_not_prepared_are_named() {
    assert_eq!(bytes_of_hex("636166e9"), b"caf\xe9");
    assert_eq!(bytes_of_hex(""), b"");
    let check =
        || DrillCheck { name: AMCHECK.into(), passed: true, could_not_run: false, detail: "fine".into() };
    assert_eq!(with_skipped(check(), &[]), check());
    let told = with_skipped(check(), &["caf\u{fffd}".to_owned()]);
    assert!(
        told.passed && told.detail.starts_with("fine; ") && told.detail.ends_with(": caf\u{fffd}"),
        "{told:?}"
    );
}
