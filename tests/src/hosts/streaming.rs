//! Who is the primary and who streams, as PostgreSQL itself says on each host.

use std::fmt::Write;
use std::time::{Duration, Instant};

use crate::hosts::cluster::HostsCluster;
use crate::machine::wait::wait_until;

/// What a standby's receiver does, and the primary's senders do, one line each.
const CONNECTIONS: &str = "SELECT concat_ws(' ', 'receiver', status, sender_host, latest_end_lsn, now() - last_msg_receipt_time, conninfo) \
     FROM pg_stat_wal_receiver UNION ALL \
     SELECT concat_ws(' ', 'sender', application_name, state, sync_state, replay_lsn, now() - reply_time) FROM pg_stat_replication \
     UNION ALL SELECT concat_ws(' ', 'slot', slot_name, active, active_pid, restart_lsn) FROM pg_replication_slots";

/// More than one look takes.
const LAST_LOOK: Duration = Duration::from_secs(60);

impl HostsCluster {
    /// The one host whose PostgreSQL takes writes, when each of the others has a standby that streams.
    ///
    /// # Errors
    /// When that is not so: with what each says.
    pub fn streaming(&self) -> Result<String, String> {
        let look = |host: &String| {
            let answer = self.sql(
                host,
                "SELECT CASE WHEN NOT pg_is_in_recovery() THEN 'primary' \
                 ELSE coalesce((SELECT status FROM pg_stat_wal_receiver), 'does not stream') END",
            );
            if answer.code == 0 { answer.stdout.trim().to_owned() } else { answer.stderr.trim().to_owned() }
        };
        let hosts = self.database_hosts();
        let seen: Vec<(&String, String)> = hosts.iter().map(|host| (host, look(host))).collect();
        let of = |what: &str| seen.iter().filter(|(_, is)| is == what).count();
        match seen.iter().find(|(_, is)| is == "primary") {
            Some((host, _)) if of("primary") == 1 && of("streaming") + 1 == hosts.len() => {
                Ok((*host).clone())
            }
            _ => Err(seen.iter().map(|(host, is)| format!("{host}: {is}")).collect::<Vec<_>>().join("; ")),
        }
    }

    /// Waits until there is one primary and every other cell streams; the primary's host.
    ///
    /// # Panics
    /// When it does not become so: with all that PostgreSQL and the kernel know about the connections.
    #[track_caller]
    pub fn wait_streaming(&self, timeout: Duration) -> String {
        let deadline = Instant::now() + timeout;
        wait_until("one primary, from which all others stream", timeout + LAST_LOOK, || {
            let seen = self.streaming();
            assert!(
                seen.is_ok() || Instant::now() < deadline,
                "not within {timeout:?}: one primary, from which all others stream: {seen:?}\n{}",
                self.connections()
            );
            seen
        })
    }

    /// What PostgreSQL and the kernel know about the connections of each host, for a message.
    #[must_use]
    pub fn connections(&self) -> String {
        let mut shown = String::new();
        for host in self.database_hosts() {
            let answer = self.sql(&host, CONNECTIONS);
            let sockets = self.hosts.run(&host, &["ss", "-tnpo"]);
            let _ = writeln!(shown, "--- {host}\n{}{}{}", answer.stdout, answer.stderr, sockets.stdout);
        }
        shown
    }
}
