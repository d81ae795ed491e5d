//! Files of a repository that only the host of zone3 has.

use super::*;

/// pgBackRest ends `archive-get` and others with 27 when a file has both: instances and repositories of other hosts.
#[test]
fn no_file_has_remote_instances_and_a_remote_repository() {
    for (name, text) in goldens_at_zone3() {
        let found = keys(&text);
        let has = |kind: &str| found.keys().any(|key| key.contains(kind) && key.ends_with("-host"));
        assert!(!has("/repo1") || !has("/pg"), "{name}: {text}");
        assert_eq!(found["global/repo1-path"], "/backup/repo", "{name}");
    }
    let away = keys(&at_zone3_of(0, render_full));
    assert_eq!(away["global/repo1-host-port"], "8434");
    assert_eq!(away["global/repo1-host-config"], "/zone3/pgbackrest.conf");
    assert!(!away.contains_key("multigres/pg2-path"));
    let home = keys(&at_zone3_of(2, render_full));
    assert!(home.contains_key("multigres/pg3-host") && !home.contains_key("global/repo1-host"));
}

#[test]
fn job_for_another_cell_names_that_cell_first() {
    let job = keys(&at_zone3_job_for(1, Some(0)));
    assert_eq!(
        (job["multigres/pg1-host-port"].as_str(), job["multigres/pg2-host-port"].as_str()),
        ("8433", "8432")
    );
    assert_eq!(job["global/backup-standby"], "y");
    // The primary's own host has the repository: it is no remote instance there.
    let job = keys(&at_zone3_job_for(1, Some(2)));
    assert_eq!(
        (job["multigres/pg1-path"].as_str(), job["multigres/pg2-path"].as_str()),
        ("/zone2/pg_data", "/zone3/pg_data")
    );
    assert!(!job.contains_key("multigres/pg2-host"));
    let alone = keys(&at_zone3_job_for(0, None));
    assert!(alone.keys().all(|key| !key.contains("pg2-") && !key.contains("backup-standby")));
    let (one, two) = (pooler(0), pooler(1));
    for refused in
        [render_job(&at_zone3(), &one, Some(&two), None), render_job_for(&at_zone3(), &one, &two, None, None)]
    {
        assert_eq!(refused, Err(ConfigError::RepositoryElsewhere("zone3".to_owned())));
    }
    let input = ConfigInput {
        database: &at_zone3(),
        local: &one,
        others: &[&two],
        tls_server_auth: "*",
        passphrase: None,
    };
    assert_eq!(render_full(&input), Err(ConfigError::NoRepositoryHost("zone3".to_owned())));
}
