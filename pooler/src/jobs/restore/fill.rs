//! Restoring a backup into a private copy.

use std::path::Path;
use std::time::Duration;

use cellar_model::{BackupLabel, Code, Progress, Refusal};
use cellar_pgbackrest::{Invocation, RestoreOptions, Running};

use crate::config_files::write_bootstrap;
use crate::instance::restore_target::{Origin, prepare};
use crate::jobs::context::JobContext;
use crate::jobs::failure::JobFailure;
use crate::jobs::restore::private_instance::PrivateInstance;
use crate::jobs::restore::throttle::Throttle;
use crate::repository::tool_failure::{Disks, restore_failure};

/// How often the rate of a restore is checked.
const THROTTLE_INTERVAL: Duration = Duration::from_millis(50);

/// Bytes at the end of the log that are searched for the last restored file.
const LOG_TAIL_BYTES: u64 = 4096;

impl PrivateInstance<'_> {
    /// Restores a backup of `size_bytes` into the copy.
    ///
    /// `max_bytes_per_second` bounds what is written; 0 is no bound. pgBackRest has no such limit of its own, so its
    /// processes are stopped for as long as they are ahead of the rate.
    pub(crate) async fn restore(
        &self,
        context: &mut JobContext<'_>,
        set: &BackupLabel,
        size_bytes: u64,
        origin: Origin,
        max_bytes_per_second: u64,
    ) -> Result<(), JobFailure> {
        let config = write_bootstrap(self.agent, self.database, self.card)
            .map_err(|error| Refusal::new(Code::Internal, format!("no config for the restore: {error}")))?;
        let delta = prepare(&self.data, origin).map_err(|error| self.failed("restoring", &error))?;
        let text = |path: &Path| path.display().to_string();
        let options = RestoreOptions {
            set: Some(set.clone()),
            delta,
            standby: true,
            data_directory: Some(text(&self.data)),
            tablespaces: self.tablespaces.as_deref().map(text),
            wal_directory: self.wal_directory.as_deref().map(text),
            lock_directory: Some(text(&self.lock_directory())),
            process_max: (self.nice > 0).then_some(1),
            ..RestoreOptions::default()
        };
        // Whether a backup with page errors may be restored was decided when it was chosen, and is told there.
        let version = self.agent.pgbackrest.version().await?;
        let invocation = Invocation::restore(&config, &self.database.stanza, &options)
            .allow_page_errors(version)
            .option("log-level-console", "detail")
            // More retries than one do not help with a damaged file, and the database may be fenced meanwhile.
            .option("job-retry", "1")
            .option("job-retry-interval", "1");
        let mut throttle = Throttle::new(max_bytes_per_second);
        let watch = async |context: &mut JobContext<'_>, running: &Running| {
            // It also stands while its progress is written, which takes seconds when etcd is slow.
            let stop = throttle.stop_if_ahead(running);
            let bytes_done = restored_percentage(&self.log).map_or(0, |percent| part(size_bytes, percent));
            let progress = Progress {
                phase: "restoring".to_owned(),
                bytes_done,
                bytes_total: size_bytes,
                ..Progress::default()
            };
            context.copying_progress(progress, running, &self.data).await;
            if let Some(stop) = stop {
                stop.rest(|| context.check_interrupted().is_err()).await;
            }
        };
        let ended =
            context.run_pgbackrest_watched_every(THROTTLE_INTERVAL, &invocation, self.nice, watch).await?;
        let Some(failed) = ended else { return Ok(()) };
        let doing = format!("restoring backup {set}");
        let (repository, data_directory) = (&self.database.repository, &text(&self.data));
        let disks = Disks { repository, cell: &self.agent.cell, data_directory };
        Err(restore_failure(&doing, &failed.failure, &failed.log, disks).into())
    }
}

/// `percent` of `total`.
fn part(total: u64, percent: f64) -> u64 {
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a progress bar needs no exact bytes"
    )]
    {
        (total as f64 * percent.clamp(0.0, 100.0) / 100.0) as u64
    }
}

/// How far a restore is, from the last file that the end of its log names.
fn restored_percentage(log: &Path) -> Option<f64> {
    use std::io::{Read, Seek, SeekFrom};
    let mut file = std::fs::File::open(log).ok()?;
    let length = file.metadata().ok()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(LOG_TAIL_BYTES))).ok()?;
    let mut bytes = Vec::new();
    file.take(LOG_TAIL_BYTES).read_to_end(&mut bytes).ok()?;
    last_percentage(&String::from_utf8_lossy(&bytes))
}

/// Reads the last line of the form `restore file /x (8KB, 42.50%) checksum …`.
fn last_percentage(text: &str) -> Option<f64> {
    let line = text.lines().rev().find(|line| line.contains(": restore file ") && line.contains("%)"))?;
    let (before, _) = line.rsplit_once("%)")?;
    before.rsplit([' ', '(']).next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn progress_is_the_percentage_of_the_last_restored_file() {
        let log = "P01 DETAIL: restore file /d/base/1 (8KB, 12.50%) checksum 1\nP01 DETAIL: restore file /d/odd (x, 9%) y (1GB, 42.07%) checksum 2\nother";
        assert_eq!(last_percentage(log), Some(42.07));
        assert_eq!(last_percentage("nothing (1%)"), None);
        assert_eq!(part(200, 50.0), 100);
    }

    proptest! {
        #[test]
        fn any_log_can_be_read(text in "(?s).{0,200}") {
            let _ = last_percentage(&text);
        }
    }
}
