//! What the cells of a database are to HAProxy and to libpq.

use std::collections::BTreeSet;
use std::path::Path;

use cellar_api::v1::{ListPoolersResponse, Pooler};
use cellar_provisioner::RoutedCell;

/// The databases that these cells are of. An application connects to one.
pub(crate) fn databases(answer: &ListPoolersResponse) -> BTreeSet<&str> {
    answer.poolers.iter().filter_map(|view| Some(view.pooler.as_ref()?.database.as_str())).collect()
}

/// The cells of one database with an address to connect to, in the order of their indexes.
fn cards(answer: &ListPoolersResponse) -> Vec<&Pooler> {
    let mut cards: Vec<&Pooler> = answer.poolers.iter().filter_map(|view| view.pooler.as_ref()).collect();
    cards.sort_by_key(|card| card.index);
    cards
}

/// The cells that HAProxy can ask, and the names of those that it cannot.
pub(crate) fn routed_cells(answer: &ListPoolersResponse) -> (Vec<RoutedCell>, Vec<String>) {
    let (mut cells, mut without) = (Vec::new(), Vec::new());
    for card in cards(answer) {
        let port = |port: u32| u16::try_from(port).ok().filter(|port| *port != 0);
        let parsed = card.cell.parse().ok().zip(card.host.parse().ok());
        match (parsed, port(card.postgres_port), port(card.health_port)) {
            (Some((name, host)), Some(postgres_port), Some(health_port)) => {
                cells.push(RoutedCell { name, host, postgres_port, health_port });
            }
            _ => without.push(card.cell.clone()),
        }
    }
    (cells, without)
}

/// A part of a URI, with everything escaped that has a meaning there.
fn escaped(text: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._~/".contains(&b);
    text.bytes().fold(String::new(), |mut uri, byte| {
        match plain(byte) {
            true => uri.push(char::from(byte)),
            false => uri.push_str(&format!("%{byte:02X}")),
        }
        uri
    })
}

/// A URI of libpq. `access` is `read-write`, `any` or `prefer-standby`; role, database and password are the
/// application's to add.
pub(crate) fn uri(servers: &[(String, u32)], access: &str, authorities: &Path) -> String {
    let servers: Vec<String> = servers.iter().map(|(host, port)| format!("{host}:{port}")).collect();
    format!(
        "postgresql://{}/?target_session_attrs={access}&sslmode=verify-full&sslrootcert={}",
        servers.join(","),
        escaped(&authorities.display().to_string())
    )
}

/// The URI that names every cell: libpq itself finds the primary.
pub(crate) fn direct_uri(answer: &ListPoolersResponse, authorities: &Path) -> String {
    let servers: Vec<(String, u32)> =
        cards(answer).into_iter().map(|card| (card.host.clone(), card.postgres_port)).collect();
    uri(&servers, "read-write", authorities)
}

/// The URI that names every cell's PgBouncer, each of which leads to the primary; none where no cell has one. libpq takes the
/// first that answers.
pub(crate) fn pooled_uri(answer: &ListPoolersResponse, authorities: &Path) -> Option<String> {
    let servers: Vec<(String, u32)> = cards(answer)
        .into_iter()
        .filter(|card| card.pool_port != 0)
        .map(|card| (card.host.clone(), card.pool_port))
        .collect();
    // Asking for the primary would cost each connection a question.
    (!servers.is_empty()).then(|| uri(&servers, "any", authorities))
}

#[cfg(test)]
mod tests {
    use super::*;
    use cellar_api::v1::PoolerView;

    fn answer() -> ListPoolersResponse {
        let card = |name: &str, index: u32, health_port: u32| PoolerView {
            pooler: Some(Pooler {
                cell: name.into(),
                host: format!("{name}.example.org"),
                index,
                postgres_port: 25432 + index,
                health_port,
                ..Pooler::default()
            }),
            ..PoolerView::default()
        };
        ListPoolersResponse {
            poolers: vec![card("zone2", 1, 0), card("zone1", 0, 20000)],
            ..ListPoolersResponse::default()
        }
    }

    #[test]
    fn uri_names_every_cell_and_leaves_nothing_unverified() {
        assert_eq!(
            direct_uri(&answer(), Path::new("/var/lib/my cellar/ca.crt")),
            "postgresql://zone1.example.org:25432,zone2.example.org:25433/?target_session_attrs=read-write\
             &sslmode=verify-full&sslrootcert=/var/lib/my%20cellar/ca.crt"
        );
    }

    #[test]
    fn uri_through_pgbouncer_names_the_cells_that_have_one() {
        let mut answer = answer();
        assert_eq!(pooled_uri(&answer, Path::new("/ca.crt")), None);
        answer.poolers[0].pooler.as_mut().unwrap().pool_port = 6433;
        assert_eq!(
            pooled_uri(&answer, Path::new("/ca.crt")).unwrap(),
            "postgresql://zone2.example.org:6433/?target_session_attrs=any&sslmode=verify-full&sslrootcert=/ca.crt"
        );
    }

    #[test]
    fn cell_without_health_endpoints_is_not_routed_to() {
        let (cells, without) = routed_cells(&answer());
        assert_eq!(cells.iter().map(|cell| cell.name.as_str()).collect::<Vec<_>>(), ["zone1"]);
        assert_eq!(without, ["zone2"]);
    }
}
