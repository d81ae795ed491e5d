//! Every rule of a specification, and what is made of one that holds.

use super::*;
use proptest::prelude::*;

/// The reference page's three cells, in another order.
const REFERENCE: &str = include_str!("../../../tests/reference.toml");

#[test]
fn indexes_are_alphabetical_whatever_the_order_in_the_file() {
    let spec = ClusterSpec::parse(REFERENCE).unwrap();
    let cells: Vec<_> =
        spec.poolers.iter().map(|p| (p.cell.as_str(), p.index, p.pgbackrest_port, p.postgres_port)).collect();
    assert_eq!(cells, [("zone1", 0, 8432, 5432), ("zone2", 1, 8433, 5433), ("zone3", 2, 8434, 5434)]);
    assert_eq!(spec.database.stanza.as_str(), "multigres");
    assert_eq!(spec.poolers[0].log_directory, "/zone1/log");
}

#[test]
fn repository_of_one_host_is_named_by_its_cell_or_its_host() {
    let spec = |host: &str| {
        let text = REFERENCE.replacen(
            "name = \"zone3\"\nhost = \"localhost\"",
            "name = \"zone3\"\nhost = \"db3\"",
            1,
        );
        let repo = format!("path = \"/backup/repo\"\nhost = \"{host}\"");
        ClusterSpec::parse(&text.replacen("path = \"/backup/repo\"", &repo, 1))
    };
    for host in ["zone3", "db3"] {
        assert_eq!(spec(host).unwrap().database.repository.to_string(), "zone3:/backup/repo");
    }
    assert_eq!(spec("zone1").unwrap().database.repository.to_string(), "zone1:/backup/repo");
    for (host, reason) in
        [("localhost", "several cells"), ("db9", "neither a cell nor"), ("", "neither a cell nor")]
    {
        let error = spec(host).unwrap_err().to_string();
        assert!(error.contains("repo.host") && error.contains(reason), "{error}");
    }
}

#[test]
fn error_names_the_field_that_breaks_a_rule() {
    for (from, to, expected) in [
        ("name = \"zone2\"", "name = \"zone1\"", "cells[0].name and cells[1].name are both zone1"),
        ("postgres_port = 5433", "postgres_port = 5432", "cells.zone2.postgres_port"),
        ("postgres_port = 5433", "postgres_port = 8432", "cells.zone2.postgres_port"),
        ("postgres_port = 5433", "postgres_port = 0", "cells.zone2.postgres_port"),
        ("postgres_port = 5433", "postgres_port = 70000", "70000"),
        ("postgres_port = 5433", "", "postgres_port"),
        (
            "\"/zone2/pg_data\"",
            "\"zone2/pg_data\"",
            "cells.zone2.pg_data \"zone2/pg_data\" is refused: it is not an absolute path",
        ),
        ("\"/zone2/pg_data\"", "\"/zone1/pg_data\"", "cells.zone2.pg_data are both /zone1/pg_data"),
        ("\"/zone2/pg_data\"", "\"/zone2/pg_sockets\"", "cells.zone2.pg_data and"),
        ("\"/zone2/pg_data\"", "\"/zone2/../etc\"", "cells.zone2.pg_data"),
        ("\"/zone2/pg_data\"", "\"/zone2/pg_data/\"", "cells.zone2.pg_data"),
        ("\"/zone2/pg_data\"", "\"/zone2\\npg1-port=1\"", "a line break"),
        ("\"/zone2/pg_sockets\"", "\"/a,b/s\"", "comma"),
        ("\"/zone2/pg_data\"", "\"/zone2;x\"", "would misread"),
        ("\"/zone2/pg_data\"", "\"/zone2#x\"", "would misread"),
        ("\"/zone2/pg_data\"", "\"/[zone2]\"", "would misread"),
        (
            "\"/zone2/pg_sockets\"",
            "\"/aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\"",
            "cells.zone2.pg_sockets: the unix socket path",
        ),
        ("\"/zone2/pgbackrest.conf\"", "\"pgbackrest.conf\"", "cells.zone2.config"),
        ("\"/backup/repo\"", "\"backup\"", "repo.path"),
        ("\"/backup/repo/tls\"", "\"tls\"", "tls.dir"),
        ("dir = \"/backup/repo/tls\"", "listen = \"localhost\"", "tls.listen"),
        ("dir = \"/backup/repo/tls\"", "server_auth = \"a;b\"", "tls.server_auth"),
        ("retention_full = 7", "retention_full = 0", "repo.retention_full"),
        ("retention_full = 7", "retention = 7", "unknown field `retention`"),
        ("cluster = \"demo\"", "cluster = \"De mo\"", "cluster \"De mo\" is refused"),
        ("name = \"multigres\"", "name = \"../x\"", "database.name"),
        ("name = \"zone3\"", "name = \"repo\"", "cells.name \"repo\" is refused"),
        ("cluster = \"demo\"", "", "missing field `cluster`"),
        ("cluster = \"demo\"", "cluster = ", "not readable"),
    ] {
        let text = REFERENCE.replacen(from, to, 1);
        assert_ne!(text, REFERENCE, "{from}");
        let error = ClusterSpec::parse(&text).unwrap_err().to_string();
        assert!(error.contains(expected), "{from} -> {to}\n  gave: {error}\n  expected: {expected}");
    }
    let hosts = REFERENCE.replacen("\"localhost\"", "\"127.0.0.1\"", 1);
    assert!(ClusterSpec::parse(&hosts).unwrap_err().to_string().contains("IP address"));
}

#[test]
fn repository_may_be_in_a_store_and_no_refusal_repeats_its_url() {
    let path = "path = \"/backup/repo\"";
    let with = |repo: &str| ClusterSpec::parse(&REFERENCE.replacen(path, repo, 1));
    let spec = with("url = \"s3://backups/demo?region=eu-west-1\"").unwrap();
    assert_eq!(spec.database.repository.to_string(), "s3://backups/demo?region=eu-west-1");
    for (repo, why) in [
        ("url = \"s3://backups/demo?zone=hunter2\"", "repo.url: "),
        ("url = \"s3://AKIA:hunter2@backups/demo?region=r\"", "looks like a secret"),
        ("url = \"s3://backups/hunter2?region=r\"\npath = \"/a\"", "give either"),
        ("url = \"s3://backups/hunter2?region=r\"\nhost = \"zone1\"", "repo.host"),
        ("path = \"s3://backups/hunter2?region=r\"", "give it as `repo.url`"),
        ("", "repo.path"),
    ] {
        let error = with(repo).unwrap_err().to_string();
        assert!(error.contains(why) && !error.contains("hunter2"), "{repo}: {error}");
    }
}

#[test]
fn host_that_ends_with_a_number_is_refused() {
    for host in ["1234", "127.1", "db.1", "0x7f000001", "db.0x1F", "0X"] {
        let text = REFERENCE.replacen("\"localhost\"", &format!("{host:?}"), 1);
        let error = ClusterSpec::parse(&text).unwrap_err().to_string();
        assert!(error.contains("ends with a number"), "{host}: {error}");
    }
    for host in ["db1", "1db", "1.db", "db-1", "0xdb.x"] {
        ClusterSpec::parse(&REFERENCE.replacen("\"localhost\"", &format!("{host:?}"), 1)).unwrap();
    }
}

#[test]
fn hosts_that_differ_in_case_are_one() {
    let spec = REFERENCE.replacen("\"localhost\"", "\"LocalHost\"", 1).replace("5433", "5432");
    let error = ClusterSpec::parse(&spec).unwrap_err().to_string();
    assert!(error.contains("port 5432"), "{error}");
}

#[test]
fn number_of_cells_is_limited() {
    let cell = |n: usize| {
        format!(
            "[[cells]]\nname = \"z{n}\"\nhost = \"h{n}\"\npg_data = \"/z{n}/d\"\npg_sockets = \"/z{n}/s\"\npostgres_port = 5432\nconfig = \"/z{n}/c\"\n"
        )
    };
    let head = "cluster = \"demo\"\n[database]\nname = \"app\"\n[repo]\npath = \"/repo\"\n";
    let with = |count: usize| format!("{head}{}", (0..count).map(cell).collect::<String>());
    assert_eq!(ClusterSpec::parse(&with(256)).unwrap().poolers.len(), 256);
    assert!(matches!(ClusterSpec::parse(&with(257)), Err(SpecError::CellCount(257))));
    let none = format!("cells = []\n{head}");
    assert!(matches!(ClusterSpec::parse(&none), Err(SpecError::CellCount(0))));
}

proptest! {
    /// Whatever stands in a field, either it is refused or it comes through as one plain value.
    #[test]
    fn hostile_value_never_becomes_another_line(text in "\\PC{0,40}|[;#\\[\\]=\\n\\r\\t /a]{0,20}", field in 0usize..5) {
        let fields = ["\"/zone2/pg_data\"", "\"/backup/repo\"", "\"localhost\"", "\"zone2\"", "\"/zone2/pgbackrest.conf\""];
        let quoted = toml::Value::String(text.clone()).to_string();
        let spec = REFERENCE.replacen(fields[field], &quoted, 1);
        if let Ok(spec) = ClusterSpec::parse(&spec) {
            for (_, config) in crate::spec::generate::render_configs(&spec).unwrap() {
                for line in config.lines() {
                    let plain = line.is_empty() || line.starts_with(['#', '[']) || line.contains('=');
                    prop_assert!(plain, "{line:?}");
                    let mentions = !text.trim().is_empty() && line.contains(&text) && text.len() > 3;
                    prop_assert!(!mentions || !text.contains(['\n', ';', '[']), "{line:?}");
                }
            }
        }
    }

    #[test]
    fn arbitrary_text_never_panics(text in "\\PC{0,200}") {
        let _ = ClusterSpec::parse(&text);
    }
}
