//! Values that would be something else in the file.

use proptest::prelude::*;

use super::*;

fn hostile() -> impl Strategy<Value = String> {
    prop_oneof![
        "/[a-z/ .=:;#\\[\\]\\\\\"'$%-]{0,20}",
        "/[a-z]{1,8}( [a-z=:]{1,4}){0,2}",
        "[a-z0-9.:-]{0,20}",
        any::<String>(),
        any::<String>().prop_map(|text| format!("/{text}")),
        "/[a-z]{0,3}(\n|\r|\u{85}|\u{2028}|\t)\\[global\\]",
    ]
}

const FIELDS: [(&str, usize); 14] = [
    ("repo1-path=", 0),
    ("pg1-path=", 1),
    ("pg1-socket-path=", 2),
    ("log-path=", 3),
    ("lock-path=", 4),
    ("spool-path=", 5),
    ("tls-server-address=", 6),
    ("tls-server-auth=pgbackrest=", 7),
    ("pg2-path=", 8),
    ("pg2-socket-path=", 9),
    ("pg2-host=", 10),
    ("pg2-host-config=", 11),
    ("tls-server-cert-file=", 12),
    ("", 13),
];

proptest! {
    #[test]
    fn a_hostile_value_is_refused_or_stands_alone_on_its_line(
        (prefix, which) in prop::sample::select(FIELDS.to_vec()),
        value in hostile(),
    ) {
        let (mut db, mut local, mut other) = (database(), pooler(0), pooler(1));
        let mut auth = "*".to_owned();
        let plain = full_of(0, 2);
        match which {
            0 => match value.parse() {
                Ok(repository) => db.repository = repository,
                Err(_) => return Ok(()),
            },
            1 => local.data_directory.clone_from(&value),
            2 => local.socket_directory.clone_from(&value),
            3 => local.log_directory.clone_from(&value),
            4 => local.lock_directory.clone_from(&value),
            5 => local.spool_directory.clone_from(&value),
            6 => local.listen.clone_from(&value),
            7 => auth.clone_from(&value),
            8 => other.data_directory.clone_from(&value),
            9 => other.socket_directory.clone_from(&value),
            10 => match value.parse() {
                Ok(host) => other.host = host,
                Err(_) => return Ok(()),
            },
            11 => other.config_path.clone_from(&value),
            12 => local.tls_directory.clone_from(&value),
            // The other's own directories are not this file's business.
            _ => other.tls_directory.clone_from(&value),
        }
        let input = ConfigInput { database: &db, local: &local, others: &[&other], tls_server_auth: &auth, passphrase: None };
        let Ok(text) = render_full(&input) else { return Ok(()) };
        prop_assert_eq!(text.split('\n').count(), plain.split('\n').count());
        let line = match which {
            10 => format!("{prefix}{}", value.to_ascii_lowercase()),
            12 => format!("{prefix}{value}/server.crt"),
            _ => format!("{prefix}{value}"),
        };
        if which == 13 {
            prop_assert_eq!(&text, &plain);
        } else {
            prop_assert_eq!(text.split('\n').filter(|found| *found == line).count(), 1);
        }
        let sections = text.lines().filter(|line| line.starts_with('[')).count();
        prop_assert_eq!(sections, 2);
        prop_assert_eq!(render_full(&input).unwrap(), text);
    }

    #[test]
    fn the_order_of_the_records_does_not_matter(cells in 1u16..20, local in 0u16..20, seed in any::<u64>()) {
        let local = local % cells;
        let all: Vec<Pooler> = (0..cells).map(pooler).collect();
        let mut others: Vec<&Pooler> = all.iter().filter(|p| p.index != u32::from(local)).collect();
        let mut state = seed;
        for at in (1..others.len()).rev() {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            others.swap(at, usize::try_from(state >> 33).unwrap() % (at + 1));
        }
        let (db, me) = (database(), pooler(local));
        let input = ConfigInput { database: &db, local: &me, others: &others, tls_server_auth: "*", passphrase: None };
        prop_assert_eq!(render_full(&input).unwrap(), full_of(local, cells));
    }
}
