//! The rule that no two things on one host have the same port or directory.

use std::collections::{BTreeMap, BTreeSet};

use cellar_model::{HostName, Pooler};

use crate::error::spec_error::SpecError;

/// Refuses two things on one host that have the same port or the same directory.
pub(super) fn check_collisions(poolers: &[Pooler]) -> Result<(), SpecError> {
    let mut ports: BTreeMap<(HostName, u16), String> = BTreeMap::new();
    let mut paths: BTreeMap<(HostName, String), String> = BTreeMap::new();
    for pooler in poolers {
        let host = pooler.host.clone();
        let field = |what: &str| format!("cells.{}.{what}", pooler.cell);
        let listeners = [
            ("postgres_port", pooler.postgres_port),
            ("pgBackRest TLS port", pooler.pgbackrest_port),
            ("multipooler port", pooler.grpc_port),
            ("health port", pooler.health_port),
        ];
        for (what, port) in listeners {
            if let Some(first) = ports.insert((host.clone(), port), field(what)) {
                let value = format!("port {port} on host {}", pooler.host);
                return Err(SpecError::Collision { first, second: field(what), value });
            }
        }
        let places = [
            ("pg_data", &pooler.data_directory),
            ("pg_sockets", &pooler.socket_directory),
            ("config", &pooler.config_path),
        ];
        let own: BTreeSet<&String> = places.iter().map(|(_, place)| *place).collect();
        if own.len() < places.len() {
            return Err(SpecError::Collision {
                first: field("pg_data"),
                second: field("pg_sockets or config"),
                value: pooler.data_directory.clone(),
            });
        }
        for (what, place) in places {
            if let Some(first) = paths.insert((host.clone(), place.clone()), field(what)) {
                let value = format!("{place} on host {}", pooler.host);
                return Err(SpecError::Collision { first, second: field(what), value });
            }
        }
    }
    Ok(())
}
