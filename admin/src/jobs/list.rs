//! Finding and listing jobs.

use cellar_model::{DatabaseName, DatabaseScope, Job, JobId, Refusal, parse_timestamp};
use jiff::Timestamp;

use crate::admin::Admin;
use crate::deadline::Deadline;
use crate::{page, refusal};

/// One page of jobs and where the next begins.
pub(crate) struct JobPage {
    pub(crate) jobs: Vec<Job>,
    pub(crate) next: String,
}

/// A job's position in the order of the listing.
type Position = (Timestamp, JobId);

impl Admin {
    /// A job as it is now.
    pub(crate) async fn job(&self, id: JobId, deadline: Deadline) -> Result<Job, Refusal> {
        self.fresh(deadline).await?;
        if let Some(job) = self.known_job(id, deadline).await? {
            return Ok(job);
        }
        let stored = self.look_up(id, deadline).await?.ok_or_else(|| refusal::unknown_job(id))?;
        Ok(stored.joined())
    }

    /// Jobs of these databases, newest first.
    pub(crate) async fn list_jobs(
        &self,
        scope: &DatabaseScope,
        database: Option<&DatabaseName>,
        size: usize,
        token: &str,
        deadline: Deadline,
    ) -> Result<JobPage, Refusal> {
        let after = page::position(token)?.map(|text| parse_position(&text)).transpose()?;
        self.fresh(deadline).await?;
        let mut positions = self.positions(scope, database, after)?;
        // Only the page is sorted: with a full history there are many more jobs than fit one.
        let more = positions.len() > size;
        if more {
            positions.select_nth_unstable_by(size, |a, b| b.cmp(a));
            positions.truncate(size);
        }
        positions.sort_unstable_by(|a, b| b.cmp(a));
        let next = positions.last().filter(|_| more).map(position_text).unwrap_or_default();
        let jobs = self.known_jobs(positions.into_iter().map(|(_, id)| id).collect(), deadline).await?;
        Ok(JobPage { jobs, next })
    }

    /// The positions of all jobs that come after one.
    fn positions(
        &self,
        scope: &DatabaseScope,
        database: Option<&DatabaseName>,
        after: Option<Position>,
    ) -> Result<Vec<Position>, Refusal> {
        let view = self.view();
        if let Some(name) = database {
            view.snapshot().database(Some(name))?;
        }
        let whole = view.jobs.values().map(|record| (&record.database, (record.create_time, record.id)));
        let ended = view.ended.iter().map(|(id, ended)| (&ended.database, (ended.create_time, *id)));
        Ok(whole
            .chain(ended)
            .filter(|(of, _)| scope.contains(of) && database.is_none_or(|name| *of == name))
            .map(|(_, position)| position)
            .filter(|position| after.is_none_or(|after| *position < after))
            .collect())
    }
}

fn position_text((time, id): &Position) -> String {
    page::token(&format!("{time} {id}"))
}

fn parse_position(text: &str) -> Result<Position, Refusal> {
    let parsed =
        text.split_once(' ').and_then(|(time, id)| Some((parse_timestamp(time).ok()?, id.parse().ok()?)));
    parsed.ok_or_else(page::bad_token)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_is_parsed_from_its_token() {
        let position = (Timestamp::new(7, 120_000_000).unwrap(), JobId::new(uuid::Uuid::from_u128(9)));
        let text = page::position(&position_text(&position)).unwrap().unwrap();
        assert_eq!(parse_position(&text).unwrap(), position);
        assert!(parse_position("x").is_err());
    }
}
