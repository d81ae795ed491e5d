//! Who is the primary and who streams, as PostgreSQL itself says on each host.

use std::fmt::Write;
use std::time::{Duration, Instant};

use crate::hosts::cluster::{HostsCluster, cell_of};
use crate::machine::wait::wait_until;

/// What a standby's receiver does, and the primary's senders do, one line each.
const CONNECTIONS: &str = "SELECT concat_ws(' ', 'receiver', status, sender_host, latest_end_lsn, now() - last_msg_receipt_time, conninfo) \
     FROM pg_stat_wal_receiver UNION ALL \
     SELECT concat_ws(' ', 'sender', application_name, state, sync_state, replay_lsn, now() - reply_time) FROM pg_stat_replication \
     UNION ALL SELECT concat_ws(' ', 'slot', slot_name, active, active_pid, restart_lsn) FROM pg_replication_slots";

/// What an instance is: a standby's is what its receiver says; a primary's has the names of all that stream from it, which
/// are those of their cells, with the number of the copy behind a colon under quorum commit.
const ROLE: &str = "SELECT CASE WHEN pg_is_in_recovery() \
     THEN coalesce((SELECT status FROM pg_stat_wal_receiver), 'does not stream') \
     ELSE concat_ws(' ', 'primary of', (SELECT string_agg(split_part(application_name, ':', 1), ' ') FROM pg_stat_replication WHERE state = 'streaming')) \
     END";

/// The only primary of these hosts, if all others stream from it.
fn primary_of(seen: &[(String, String)]) -> Option<String> {
    let mut primaries = seen.iter().filter_map(|(host, is)| Some((host, is.strip_prefix("primary of")?)));
    let (primary, standbys) = primaries.next()?;
    let standbys: Vec<&str> = standbys.split_whitespace().collect();
    let streams =
        |(host, is): &(String, String)| is == "streaming" && standbys.contains(&cell_of(host).as_str());
    let is_whole = primaries.next().is_none() && seen.iter().all(|one| one.0 == *primary || streams(one));
    is_whole.then(|| primary.clone())
}

/// More than one look takes.
const LAST_LOOK: Duration = Duration::from_secs(60);

impl HostsCluster {
    /// The one host whose PostgreSQL takes writes, when each of the others has a standby that streams: its receiver says so,
    /// and so does the primary. A receiver alone says it too before the primary has let it in.
    ///
    /// # Errors
    /// When that is not so: with what each says.
    pub fn streaming(&self) -> Result<String, String> {
        let look = |host: &String| {
            let answer = self.sql(host, ROLE);
            if answer.code == 0 { answer.stdout.trim().to_owned() } else { answer.stderr.trim().to_owned() }
        };
        let seen: Vec<(String, String)> =
            self.database_hosts().into_iter().map(|host| (host.clone(), look(&host))).collect();
        primary_of(&seen).ok_or_else(|| {
            seen.iter().map(|(host, is)| format!("{host}: {is}")).collect::<Vec<_>>().join("; ")
        })
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

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(one: &str, two: &str, three: &str) -> Option<String> {
        let said = [("db1", one), ("db2", two), ("db3", three)];
        primary_of(&said.map(|(host, is)| (host.to_owned(), is.to_owned())))
    }

    #[test]
    fn a_standby_streams_when_its_primary_says_so_too() {
        assert_eq!(
            seen("streaming", "primary of zone3 zone1 pg_basebackup", "streaming").as_deref(),
            Some("db2")
        );
        for wrong in [
            ["streaming", "primary of zone3", "streaming"],
            ["waiting", "primary of zone1 zone3", "streaming"],
            ["primary of zone3", "primary of zone1 zone3", "streaming"],
            ["streaming", "streaming", "streaming"],
        ] {
            assert_eq!(seen(wrong[0], wrong[1], wrong[2]), None, "{wrong:?}");
        }
    }
}
