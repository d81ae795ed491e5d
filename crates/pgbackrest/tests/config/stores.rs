//! Files of repositories in stores.

use cellar_model::Store;
use cellar_pgbackrest::{Credentials, Version, needed_version};

use super::*;

/// A URL of each kind with names of credentials for it, and the name of its golden text.
const STORES: [(&str, &str, &[&str]); 5] = [
    (
        "store_s3",
        "s3://backups/cellar/demo?ca-file=/etc/cellar/s3.crt&endpoint=localhost&port=1&region=us-east-1&uri-style=path",
        &["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"],
    ),
    ("store_s3_amazon", "s3://backups/demo?key-type=auto&kms-key-id=alias/cellar&region=eu-west-1", &[]),
    (
        "store_azure",
        "azure://account/container/demo?endpoint=localhost&key-type=sas&port=1&uri-style=path",
        &["AZURE_STORAGE_SAS_TOKEN"],
    ),
    (
        "store_gcs",
        "gcs://bucket/demo?endpoint=localhost&key-type=token&port=1&verify-tls=n",
        &["GOOGLE_OAUTH_ACCESS_TOKEN"],
    ),
    (
        "store_sftp",
        "sftp://backup@localhost:1/srv/repo?host-key-check-type=strict&host-key-hash-type=sha256&private-key-file=/etc/cellar/id",
        &[],
    ),
];

fn in_store(url: &str) -> Database {
    Database { repository: url.parse().unwrap(), ..database() }
}

/// The file of zone1 in a database of three cells, with credentials.
fn full(url: &str, names: &[&str]) -> String {
    let (database, local) = (in_store(url), pooler(0));
    let others = [pooler(1), pooler(2)];
    let others: Vec<&Pooler> = others.iter().collect();
    let input = ConfigInput {
        database: &database,
        local: &local,
        others: &others,
        tls_server_auth: "*",
        passphrase: None,
    };
    added(url, names, &render_full(&input).unwrap())
}

fn added(url: &str, names: &[&str], text: &str) -> String {
    let store: Store = url.parse().unwrap();
    let given = names.iter().map(|name| ((*name).to_owned(), format!("value of {name}")));
    let credentials = Credentials::of_names(&store, given, true).unwrap();
    credentials.check(&store).unwrap();
    credentials.added_to(text)
}

#[test]
fn golden_files_of_stores() {
    for (name, url, names) in STORES {
        insta::assert_snapshot!(name, full(url, names));
    }
    let (name, url, names) = STORES[0];
    let job = render_job(&in_store(url), &pooler(1), Some(&pooler(0)), None).unwrap();
    insta::assert_snapshot!(format!("{name}_job_zone2_from_zone1"), added(url, names, &job));
}

#[test]
fn every_cell_reaches_a_store_by_itself() {
    for (_, url, names) in STORES {
        let found = keys(&full(url, names));
        assert!(!found.contains_key("global/repo1-host"), "{url}");
        assert!(
            found.contains_key("multigres/pg2-host") && found.contains_key("multigres/pg3-host"),
            "{url}"
        );
    }
}

#[test]
fn the_real_pgbackrest_reads_the_file_of_each_store() {
    let version = run(pgbackrest().arg("version"));
    let version: Version = version.trim().trim_start_matches("pgBackRest ").parse().unwrap();
    for (name, url, names) in STORES {
        if needed_version(&in_store(url).repository).is_some_and(|(needed, _)| version < needed) {
            let said = what_pgbackrest_says(&full(url, names));
            assert!(said.iter().any(|line| line.contains("[032]")), "{name}: {said:?}");
            continue;
        }
        // Amazon is not asked.
        let url = url.replace("key-type=auto&", "endpoint=localhost&key-type=auto&");
        for line in what_pgbackrest_says(&full(&url, names)) {
            let complaint = line.contains("configuration file contains")
                || ["[029]", "[031]", "[032]", "[037]"].iter().any(|code| line.contains(code));
            assert!(!complaint, "{name}: {line}");
        }
    }
}
