//! Records to write.

use cellar_model::{
    Cell, CellName, Database, JobId, JobRecord, JobSpec, JobState, Pooler, Progress, Protocol, RebuildParams,
    Retention, Run,
};
use jiff::Timestamp;

pub(crate) fn job_id(n: u128) -> JobId {
    JobId::new(uuid::Uuid::from_u128(n))
}

pub(crate) fn cell(name: &str, index: u32) -> Cell {
    Cell {
        name: name.parse().unwrap(),
        index,
        host: "localhost".parse().unwrap(),
        directory: format!("/c/{name}"),
    }
}

pub(crate) fn database(name: &str) -> Database {
    Database {
        name: name.parse().unwrap(),
        stanza: name.parse().unwrap(),
        repository: "/repo".parse().unwrap(),
        retention: Retention { full: 2 },
        bootstrap_cell: "zone1".parse().unwrap(),
        port_offset: 0,
        repo_cipher: None,
        pgbackrest_names: Vec::new(),
        minimum_protocol: Protocol::default(),
        cluster_id: None,
        cells: Vec::new(),
        is_qualified: false,
        durability: cellar_model::Durability::default(),
        settings: std::collections::BTreeMap::new(),
        pause: None,
    }
}

pub(crate) fn pooler(database: &str, cell: &str) -> Pooler {
    let directory = format!("/var/lib/cellar/demo/{cell}");
    Pooler {
        database: database.parse().unwrap(),
        cell: cell.parse().unwrap(),
        index: 1,
        host: format!("{cell}.example.net").parse().unwrap(),
        postgres_port: 25433,
        pgbackrest_port: 8433,
        grpc_port: 15271,
        health_port: 20001,
        listen: "0.0.0.0".into(),
        data_directory: format!("{directory}/pg_data"),
        socket_directory: format!("{directory}/pg_sockets"),
        config_path: format!("{directory}/pgbackrest.conf"),
        tls_directory: format!("{directory}/tls"),
        log_directory: format!("{directory}/log"),
        lock_directory: format!("{directory}/lock"),
        spool_directory: format!("{directory}/spool"),
        pool_port: 0,
        revocations: 0,
    }
}

pub(crate) fn job(n: u128, database: &str, cell: &str) -> JobRecord {
    JobRecord::new(
        job_id(n),
        JobSpec::Rebuild(RebuildParams::default()),
        database.parse().unwrap(),
        cell.parse().unwrap(),
        "test",
        Timestamp::UNIX_EPOCH,
        Timestamp::UNIX_EPOCH,
    )
}

pub(crate) fn run(job: &JobRecord, cell: &CellName, state: JobState) -> Run {
    Run {
        id: job.id,
        database: job.database.clone(),
        cell: cell.clone(),
        state,
        epoch: "1".into(),
        start_time: Timestamp::UNIX_EPOCH,
        end_time: None,
        progress: Progress::default(),
        result: None,
        error: None,
        history: vec![],
        protocol: Protocol::OURS,
    }
}
