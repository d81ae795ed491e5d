//! How fast the configs of a large database are rendered.

use std::hint::black_box;
use std::time::Instant;

use cellar_model::{Cell, CellLayout, Database, Pooler, Protocol, Retention};
use cellar_pgbackrest::{ConfigInput, render_full};

use crate::figure::{Limit, Report, median};

/// The most cells that a database may have.
const CELLS: u32 = 256;
const ROUNDS: usize = 9;

fn name<T: std::str::FromStr<Err: std::fmt::Debug>>(text: &str) -> T {
    match text.parse() {
        Ok(name) => name,
        Err(error) => panic!("{text}: {error:?}"),
    }
}

fn poolers(database: &Database) -> Vec<Pooler> {
    let pooler = |index| {
        let cell = Cell {
            name: name(&format!("zone{index:03}")),
            index,
            host: name(&format!("zone{index:03}.example.org")),
            directory: format!("/var/lib/cellar/zone{index:03}"),
        };
        match CellLayout::new(&cell.directory).pooler(database, &cell, "0.0.0.0") {
            Ok(pooler) => pooler,
            Err(error) => panic!("{error}"),
        }
    };
    (0..CELLS).map(pooler).collect()
}

/// All files of a 256-cell database.
pub(crate) fn render(report: &mut Report) {
    let database = Database {
        name: name("app"),
        stanza: name("app"),
        repository: name("/backup/repo"),
        retention: Retention { full: 2 },
        bootstrap_cell: name("zone000"),
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
    };
    let poolers = poolers(&database);
    let render_all = || {
        for local in &poolers {
            let others: Vec<&Pooler> = poolers.iter().filter(|other| other.cell != local.cell).collect();
            let input = ConfigInput {
                database: &database,
                local,
                others: &others,
                tls_server_auth: "app",
                passphrase: None,
            };
            match render_full(&input) {
                Ok(text) => drop(black_box(text)),
                Err(error) => panic!("{error}"),
            }
        }
    };
    let samples: Vec<_> = (0..ROUNDS)
        .map(|_| {
            let begun = Instant::now();
            render_all();
            begun.elapsed()
        })
        .collect();
    report.figure("config_256", median(&samples).as_secs_f64() * 1000.0, "ms", Limit::AtMost(200.0));
}
