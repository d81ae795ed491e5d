//! What no file is rendered of.

use super::*;

fn refusal(change: impl FnOnce(&mut Database, &mut Vec<Pooler>)) -> ConfigError {
    let (mut db, mut all) = (database(), vec![pooler(0), pooler(1)]);
    change(&mut db, &mut all);
    let others: Vec<&Pooler> = all[1..].iter().collect();
    render_full(&ConfigInput {
        database: &db,
        local: &all[0],
        others: &others,
        tls_server_auth: "*",
        passphrase: None,
    })
    .unwrap_err()
}

#[test]
fn refusals_name_the_field() {
    let field = |change: fn(&mut Database, &mut Vec<Pooler>)| match refusal(change) {
        ConfigError::Value { field, .. } => field,
        other => panic!("{other}"),
    };
    assert_eq!(field(|_, p| p[0].data_directory = "data".into()), "pooler zone1: data_directory");
    assert_eq!(field(|_, p| p[1].socket_directory = "/a\nb".into()), "pooler zone2: socket_directory");
    assert_eq!(field(|_, p| p[1].config_path = "/a#b".into()), "pooler zone2: config_path");
    assert_eq!(field(|_, p| p[0].log_directory = "/a/".into()), "pooler zone1: log_directory");
    assert_eq!(field(|_, p| p[0].lock_directory = "/a//b".into()), "pooler zone1: lock_directory");
    assert_eq!(field(|_, p| p[0].spool_directory = " /a".into()), "pooler zone1: spool_directory");
    assert_eq!(field(|_, p| p[0].tls_directory = String::new()), "pooler zone1: tls_directory");
    assert_eq!(field(|_, p| p[0].listen = "0.0.0.0 # all".into()), "pooler zone1: listen");
    assert_eq!(field(|_, p| p[0].postgres_port = 0), "pooler zone1: postgres_port");
}

#[test]
fn members_that_do_not_fit_together() {
    assert!(matches!(refusal(|_, p| p[1].pgbackrest_port = 5432), ConfigError::SamePort { port: 5432, .. }));
    assert!(matches!(
        refusal(|_, p| p[1].cell = "zone1".parse().unwrap()),
        ConfigError::SameMember { what: "cell name", .. }
    ));
    assert!(matches!(refusal(|_, p| p[1].index = 0), ConfigError::SameMember { what: "index", .. }));
    assert!(matches!(
        refusal(|_, p| p[1].database = "other".parse().unwrap()),
        ConfigError::OtherDatabase { .. }
    ));
    assert!(matches!(refusal(|_, p| *p = (0..257).map(pooler).collect()), ConfigError::TooManyMembers(257)));
    // The same port on another host is another port.
    let mut far = pooler(1);
    (far.host, far.postgres_port) = ("far.example".parse().unwrap(), 5432);
    let input = ConfigInput {
        database: &database(),
        local: &pooler(0),
        others: &[&far],
        tls_server_auth: "multigres",
        passphrase: None,
    };
    assert!(render_full(&input).unwrap().contains("tls-server-auth=pgbackrest=multigres\n"));
    assert!(render_full(&ConfigInput { tls_server_auth: "*\nx=y", ..input }).is_err());
}
