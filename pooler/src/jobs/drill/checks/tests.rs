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

proptest! {
    #[test]
    fn a_check_is_one_argument_of_sql_and_its_database_one_name(
        database in prop_oneof!["[-a-z '\"\\\\=;$()/.]{1,40}", Just("host=/tmp port=1".to_owned()), ".{1,40}"],
        sql in prop_oneof!["[-\\\\!;'\"$` a-z]{1,40}", Just("\\! touch /tmp/x".to_owned()), "(?s).{1,40}"],
    ) {
        let arguments = psql_arguments(&database, &sql);
        prop_assert_eq!(arguments.len(), 13);
        prop_assert_eq!(&arguments[7..10], ["-U", MONITOR_ROLE, "-d"]);
        prop_assert_eq!(&arguments[12], &format!("\n{sql}"));
        prop_assert_eq!(unquoted(arguments[10].strip_prefix("dbname=").unwrap()), Some(database));
    }
}
