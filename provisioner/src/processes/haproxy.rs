//! The HAProxy of a local cluster, which routes clients to the primary and to the standbys.

use std::net::Ipv4Addr;
use std::path::Path;
use std::time::{Duration, Instant};

use cellar_model::Ports;
use cellar_system::{Process, is_same_place, recorded_pid};
use sha2::{Digest, Sha256};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::binaries;
use crate::cluster::haproxy_config::{DEFAULT_ROUTE_LAG, HaproxyConfig, RoutedCell};
use crate::cluster::local_cluster::Cluster;
use crate::cluster::loopback::{HOST, loopback};
use crate::cluster::steps::Steps;
use crate::error::provision_error::{ProvisionError, Result};
use crate::file::{log_tail, replace};
use crate::processes::process::{Launch, Started, end};

/// What it is called where processes are listed.
pub(crate) const HAPROXY: &str = "HAProxy";

/// How long it may take to end: it has no state, and sessions end with it.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);

/// How often to ask whether it reaches the primary.
const PROBE_INTERVAL: Duration = Duration::from_millis(200);

/// How long one such question may take.
const PROBE_TIMEOUT: Duration = Duration::from_secs(3);

/// Most bytes of HAProxy's statistics that are read; a cell has two lines of some hundred.
const MAX_STATISTICS: u64 = 1 << 20;

impl Cluster {
    /// The process id of this cluster's HAProxy, if it runs.
    pub(crate) fn haproxy_pid(&self) -> Option<u32> {
        self.haproxy_process().map(|process| process.pid.cast_unsigned())
    }

    /// The one that takes connections. A command that was killed between starting it and writing the file left it without
    /// one: then the next that needs it starts another, which takes its place.
    fn haproxy_process(&self) -> Option<Process> {
        let recorded = recorded_pid(&self.haproxy_pid_file()).and_then(|pid| i32::try_from(pid).ok());
        recorded.and_then(Process::find).filter(|process| is_of(process, &self.layout.haproxy_config()))
    }

    /// All of this cluster, also those that only wait for the end of their sessions.
    fn haproxy_processes(&self) -> Vec<Process> {
        let config = self.layout.haproxy_config();
        Process::all().into_iter().filter(|process| is_of(process, &config)).collect()
    }

    /// The ports of the cluster's HAProxy: for writes, for reads, and of its statistics.
    ///
    /// # Errors
    /// When one is above 65535.
    pub fn route_ports(&self) -> Result<(u16, u16, u16)> {
        let writes = self.port(Ports::ROUTE_WRITES)?;
        Ok((writes, self.port(Ports::ROUTE_READS)?, self.port(Ports::ROUTE_STATISTICS)?))
    }

    /// The config of the cluster's HAProxy.
    fn haproxy_config(&self) -> Result<String> {
        let (writes, reads, statistics) = self.route_ports()?;
        let mut cells = Vec::new();
        // A cluster on one machine has one database.
        let database = &self.state.first_database;
        for cell in self.state.cells.iter().filter(|cell| database.is_wanted_in(&cell.name)) {
            let card = self.pooler(database, cell)?;
            cells.push(RoutedCell {
                name: card.cell,
                host: card.host,
                postgres_port: card.postgres_port,
                health_port: card.health_port,
            });
        }
        let authorities = self.layout.multiadmin().join(cellar_tls::CA_CERTIFICATE);
        let trusted =
            std::fs::read_to_string(&authorities).map_err(ProvisionError::io("read", &authorities))?;
        let config = HaproxyConfig {
            cells,
            authorities: authorities.display().to_string(),
            listen: loopback()
                .iter()
                .map(|address| if address.is_ipv6() { format!("[{address}]") } else { address.to_string() })
                .collect(),
            writes,
            reads,
            statistics,
            max_lag: DEFAULT_ROUTE_LAG.to_owned(),
        };
        // HAProxy reads the authorities at its start: others make another config, for which it is started again.
        let digest = Sha256::digest(trusted.as_bytes());
        let digest = digest.iter().fold(String::new(), |text, byte| format!("{text}{byte:02x}"));
        Ok(format!("{}# The file of authorities has the SHA-256 {digest}.\n", config.render()?))
    }

    /// Ends HAProxy; tells whether it ran.
    pub(crate) async fn stop_haproxy(&self) -> Result<bool> {
        let mut ran = false;
        for process in self.haproxy_processes() {
            ran |= end(HAPROXY, Some(process), STOP_TIMEOUT).await?;
        }
        Ok(ran)
    }

    /// Starts another one, which takes the connections from now on. Sessions on the ones before may go on for a while.
    fn start_haproxy(&self) -> Result<Started> {
        let program = binaries::find_haproxy().ok_or_else(|| ProvisionError::Start {
            what: HAPROXY.to_owned(),
            source: std::io::ErrorKind::NotFound.into(),
        })?;
        let config = self.layout.haproxy_config().display().to_string();
        // In the foreground: its pid is the one that was started.
        let mut arguments = vec!["-db".to_owned(), "-f".to_owned(), config];
        let before: Vec<String> =
            self.haproxy_processes().iter().map(|process| process.pid.to_string()).collect();
        if !before.is_empty() {
            arguments.push("-sf".to_owned());
            arguments.extend(before);
        }
        let started = Launch {
            what: HAPROXY.to_owned(),
            program,
            arguments,
            environment: None,
            directory: self.layout.root(),
            log: self.haproxy_log(),
            log_owner: self.owner(),
            run_as: self.user.switch(),
        }
        .start()?;
        replace(&self.haproxy_pid_file(), &format!("{}\n", started.pid()), 0o644, None)?;
        Ok(started)
    }

    /// Runs HAProxy with the config of now if the cluster is to have one, and waits until it reaches the primary; ends it
    /// if not.
    pub(crate) async fn ensure_route(&self, steps: &Steps, deadline: Instant) -> Result<()> {
        if !self.state.route {
            if self.stop_haproxy().await? {
                steps.step("HAProxy has ended");
            }
            return Ok(());
        }
        let (path, config) = (self.layout.haproxy_config(), self.haproxy_config()?);
        let is_same = std::fs::read_to_string(&path).is_ok_and(|present| present == config);
        let mut started = None;
        if !is_same || self.haproxy_process().is_none() {
            replace(&path, &config, 0o644, None)?;
            started = Some(self.start_haproxy()?);
        }
        let (writes, reads, statistics) = self.route_ports()?;
        let begun = Instant::now();
        while let Err(why) = routes_writes(statistics).await {
            if let Some(started) = &mut started {
                started.check()?;
            }
            if Instant::now() >= deadline {
                return Err(ProvisionError::NoAnswer {
                    what: "the primary through HAProxy".to_owned(),
                    after: begun.elapsed(),
                    reason: why,
                    log: self.haproxy_log(),
                    tail: log_tail(&self.haproxy_log()),
                });
            }
            tokio::time::sleep(PROBE_INTERVAL).await;
        }
        steps.step(&format!("HAProxy routes writes at {HOST}:{writes} and reads at {HOST}:{reads}"));
        Ok(())
    }
}

/// Whether HAProxy has looked at every cell and sends writes to exactly one, or why not. It takes each for good until it has
/// looked: before that a write may be sent to a standby.
async fn routes_writes(statistics: u16) -> std::result::Result<(), String> {
    let ask = async {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, statistics)).await?;
        stream.write_all(b"GET /;csv HTTP/1.0\r\n\r\n").await?;
        let mut answer = String::new();
        stream.take(MAX_STATISTICS).read_to_string(&mut answer).await?;
        Ok::<_, std::io::Error>(answer)
    };
    match timeout(PROBE_TIMEOUT, ask).await {
        Ok(Ok(answer)) => check_statistics(&answer),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(format!("nothing within {} s", PROBE_TIMEOUT.as_secs())),
    }
}

/// The same, from HAProxy's statistics in CSV. The first line names the columns.
fn check_statistics(text: &str) -> std::result::Result<(), String> {
    let header = text.lines().find_map(|line| line.strip_prefix("# "));
    let names: Vec<&str> = header.ok_or("HAProxy shows no statistics")?.split(',').collect();
    let column = |name: &str| names.iter().position(|found| *found == name);
    let (Some(server), Some(status), Some(check)) =
        (column("svname"), column("status"), column("check_status"))
    else {
        return Err("HAProxy's statistics have other columns than expected".to_owned());
    };
    let mut up = Vec::new();
    for line in text.lines().filter(|line| line.starts_with("primary,")) {
        let values: Vec<&str> = line.split(',').collect();
        let value = |at: usize| values.get(at).copied().unwrap_or_default();
        if value(server) == "BACKEND" {
            continue;
        }
        if matches!(value(check), "" | "INI") {
            return Err(format!("HAProxy has not looked at {} yet", value(server)));
        }
        if value(status).starts_with("UP") {
            up.push(value(server));
        }
    }
    match up.as_slice() {
        [_] => Ok(()),
        [] => Err("no cell says that it is the primary".to_owned()),
        several => Err(format!("several cells were the primary a moment ago: {}", several.join(", "))),
    }
}

/// Whether the process is the HAProxy with that config.
fn is_of(process: &Process, config: &Path) -> bool {
    let arguments = process.arguments();
    arguments.first().is_some_and(|program| program.ends_with("haproxy"))
        && arguments.iter().any(|argument| is_same_place(Path::new(argument), config))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_are_routed_once_every_cell_was_looked_at_and_one_is_the_primary() {
        let said = |rows: &[(&str, &str, &str)]| {
            let rows =
                rows.iter().map(|(server, status, check)| format!("primary,{server},0,{status},{check}\n"));
            let answer =
                "HTTP/1.0 200 OK\r\n\r\n# pxname,svname,x,status,check_status\nwrites,FRONTEND,0,OPEN,\n";
            check_statistics(&(answer.to_owned() + &rows.collect::<String>() + "primary,BACKEND,0,UP,\n"))
        };
        assert_eq!(said(&[("zone1", "UP", "L7OK"), ("zone2", "DOWN", "L7STS")]), Ok(()));
        for (rows, why) in [
            ([("zone1", "UP", "L7OK"), ("zone2", "UP", "INI")], "not looked at zone2"),
            ([("zone1", "UP", "L7OK"), ("zone2", "UP 1/2", "L7STS")], "zone1, zone2"),
            ([("zone1", "DOWN", "L7STS"), ("zone2", "DOWN", "L4CON")], "no cell"),
        ] {
            assert!(said(&rows).unwrap_err().contains(why), "{rows:?}");
        }
        assert!(check_statistics("HTTP/1.0 503 x\r\n").is_err() && check_statistics("# a,b\n").is_err());
    }
}
