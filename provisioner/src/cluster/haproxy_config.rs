//! The config of an HAProxy that sends clients to the primary and to the standbys: pure text.
//!
//! TLS to PostgreSQL passes through: HAProxy sees neither passwords nor data, and clients verify PostgreSQL's certificate
//! themselves. Where they are sent follows from the health endpoints, whose certificates HAProxy verifies.

use std::fmt::Write as _;

use cellar_model::{CellName, HostName, path_fault};

use crate::error::provision_error::{ProvisionError, Result};

/// A standby that lags more than this is not read from.
pub const DEFAULT_ROUTE_LAG: &str = "16MB";

/// A cell as HAProxy reaches it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RoutedCell {
    /// Its name.
    pub name: CellName,
    /// Its host.
    pub host: HostName,
    /// PostgreSQL's port.
    pub postgres_port: u16,
    /// The port of its health endpoints.
    pub health_port: u16,
}

/// What a config is made from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HaproxyConfig {
    /// The cells, in the order in which they appear.
    pub cells: Vec<RoutedCell>,
    /// The cluster's authorities, a file on HAProxy's host; absolute.
    pub authorities: String,
    /// Where clients connect: `*`, or addresses as `bind` takes them.
    pub listen: Vec<String>,
    /// The port for writes, which leads to the primary.
    pub writes: u16,
    /// The port for reads, which leads to standbys, and to the primary while there is none.
    pub reads: u16,
    /// The port of the statistics, on loopback.
    pub statistics: u16,
    /// The most that a standby may lag, as `/replica?lag=` takes it.
    pub max_lag: String,
}

impl HaproxyConfig {
    /// The text. HAProxy 2.6 and later read it.
    ///
    /// # Errors
    /// When there is no cell to route to, or the path of the authorities would be misread.
    pub fn render(&self) -> Result<String> {
        if self.cells.is_empty() {
            return Err(ProvisionError::NoHealthPorts);
        }
        // What that refuses has a meaning in HAProxy's double quotes, too.
        if let Some(reason) = path_fault(&self.authorities) {
            let (argument, value) = ("the path of the authorities", self.authorities.clone());
            return Err(ProvisionError::Argument { argument, value, reason: reason.to_owned() });
        }
        let bind = |port: u16| {
            self.listen.iter().fold(String::new(), |mut text, address| {
                let _ = writeln!(text, "    bind {address}:{port}");
                text
            })
        };
        let backend = |name: &str, settings: &str, path: &str| {
            let mut text = format!(
                "backend {name}\n{settings}    option httpchk\n    http-check send meth GET uri {path}\n    http-check expect status 200\n"
            );
            for cell in &self.cells {
                let RoutedCell { name, host, postgres_port, health_port } = cell;
                let _ = writeln!(
                    text,
                    "    server {name} {host}:{postgres_port} check port {health_port} verifyhost {host}"
                );
            }
            text
        };
        Ok(format!(
            "# Made by Cellar: `cellar config haproxy` prints it again.\n\
             global\n    # After a reload, sessions that began before it may go on for so long.\n    hard-stop-after 10m\n\n\
             defaults\n    mode tcp\n    timeout connect 3s\n    timeout check 2s\n\
             \x20   # Pooled connections may be idle for long; keepalives find peers that are gone.\n\
             \x20   timeout client 24h\n    timeout server 24h\n    option clitcpka\n    option srvtcpka\n\
             \x20   retries 2\n    option redispatch\n\
             \x20   default-server check-ssl verify required ca-file \"{authorities}\" inter 1s fastinter 500ms fall 2 rise 1 \
             on-marked-down shutdown-sessions init-addr last,libc,none\n\n\
             frontend writes\n{writes}    default_backend primary\n\n\
             frontend reads\n{reads}    use_backend replicas if {{ nbsrv(replicas) gt 0 }}\n    default_backend primary\n\n\
             {primary}\n{replicas}\n\
             listen statistics\n    bind 127.0.0.1:{statistics}\n    mode http\n    timeout client 10s\n    timeout server 10s\n\
             \x20   timeout http-request 5s\n    stats enable\n    stats uri /\n    stats refresh 5s\n",
            authorities = self.authorities,
            writes = bind(self.writes),
            reads = bind(self.reads),
            primary = backend(
                "primary",
                "    # Writes wait for the next primary to be seen: those that are down, to this backend, are looked at more often.\n    default-server downinter 300ms\n",
                "/primary"
            ),
            replicas =
                backend("replicas", "    balance leastconn\n", &format!("/replica?lag={}", self.max_lag)),
            statistics = self.statistics,
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> HaproxyConfig {
        let cell = |n: u16| RoutedCell {
            name: format!("zone{n}").parse().unwrap(),
            host: format!("db{n}.example.org").parse().unwrap(),
            postgres_port: 25431 + n,
            health_port: 19999 + n,
        };
        HaproxyConfig {
            cells: vec![cell(1), cell(2), cell(3)],
            authorities: "/etc/cellar/my ca.crt".into(),
            listen: vec!["127.0.0.1".into(), "[::1]".into()],
            writes: 5000,
            reads: 5001,
            statistics: 8404,
            max_lag: DEFAULT_ROUTE_LAG.into(),
        }
    }

    #[test]
    fn golden_config() {
        insta::assert_snapshot!(config().render().unwrap());
    }

    #[test]
    fn nothing_is_made_that_haproxy_would_misread() {
        for path in ["ca.crt", "/a\nb", "/a\"b", "/a$b", "/a\\b"] {
            let config = HaproxyConfig { authorities: path.into(), ..config() };
            assert!(config.render().is_err(), "{path:?}");
        }
        assert!(HaproxyConfig { cells: Vec::new(), ..config() }.render().is_err());
    }
}
