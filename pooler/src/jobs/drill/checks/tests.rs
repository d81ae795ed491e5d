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
