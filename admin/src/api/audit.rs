//! Listing the audit records that etcd has.

use std::ops::Bound;

use cellar_api::v1;
use cellar_model::{AuditId, AuditOutcome, AuditRecord, JobId, Key, Refusal};
use futures_util::{StreamExt, TryStreamExt, stream};
use jiff::Timestamp;

use crate::admin::Admin;
use crate::api::request::field;
use crate::caller::Caller;
use crate::deadline::Deadline;
use crate::message::message;
use crate::page;
use crate::refusal::invalid;

/// Longest text to look for in identities, which are shorter.
const MAX_IDENTITY_BYTES: usize = 500;

/// Records that one request reads from etcd at once.
const MAX_CONCURRENT_READS: usize = 16;

/// Which records are listed.
#[derive(Debug, Default)]
struct Filter {
    identity: String,
    rpc: String,
    outcome: Option<AuditOutcome>,
    since: Option<Timestamp>,
    job: Option<JobId>,
}

impl Filter {
    fn parse(message: &v1::ListAuditRequest) -> Result<Self, Refusal> {
        if message.identity.len() > MAX_IDENTITY_BYTES {
            return Err(invalid("identity", format!("an identity has at most {MAX_IDENTITY_BYTES} bytes")));
        }
        let outcome = match v1::AuditOutcome::try_from(message.outcome) {
            Ok(v1::AuditOutcome::Unspecified) => None,
            Ok(v1::AuditOutcome::Begun) => Some(AuditOutcome::Begun),
            Ok(v1::AuditOutcome::Allowed) => Some(AuditOutcome::Allowed),
            Ok(v1::AuditOutcome::Refused) => Some(AuditOutcome::Refused),
            Ok(v1::AuditOutcome::Failed) => Some(AuditOutcome::Failed),
            Err(_) => return Err(invalid("outcome", format!("{} is not an outcome", message.outcome))),
        };
        let since = message.since.map(Timestamp::try_from).transpose();
        Ok(Self {
            identity: message.identity.clone(),
            rpc: message.rpc.clone(),
            outcome,
            since: since.map_err(|error| invalid("since", format!("not a time: {error}")))?,
            job: field::optional("job", &message.job)?,
        })
    }

    fn matches(&self, record: &AuditRecord) -> bool {
        record.identity.contains(&self.identity)
            && (self.rpc.is_empty() || record.rpc.eq_ignore_ascii_case(&self.rpc))
            && self.outcome.is_none_or(|outcome| record.outcome == outcome)
            && self.since.is_none_or(|since| record.time >= since)
            && self.job.is_none_or(|job| record.is_about(&job))
    }
}

impl Admin {
    /// The records that match and that the caller may see, newest first.
    pub(crate) async fn list_audit(
        &self,
        request: &v1::ListAuditRequest,
        caller: &Caller,
        deadline: Deadline,
    ) -> Result<v1::ListAuditResponse, Refusal> {
        let filter = Filter::parse(request)?;
        let before: Option<AuditId> = page::position(&request.page_token)?
            .map(|text| text.parse().map_err(|_| page::bad_token()))
            .transpose()?;
        let size = page::size(request.page_size);
        self.fresh(deadline).await?;
        let end = before.map_or(Bound::Unbounded, Bound::Excluded);
        let wanted = |(_, outcome): &(&AuditId, &AuditOutcome)| {
            filter.outcome.is_none_or(|wanted| wanted == **outcome)
        };
        let candidates: Vec<AuditId> = {
            let view = self.view();
            view.audit.range((Bound::Unbounded, end)).rev().filter(wanted).map(|(id, _)| *id).collect()
        };
        // The view has their ids only. One more than a page shows whether there are more.
        let mut page: Vec<AuditRecord> = stream::iter(candidates)
            .map(|id| async move {
                let key = Key::Audit(id);
                deadline.retry(|| self.store.get::<AuditRecord>(&key)).await
            })
            .buffered(MAX_CONCURRENT_READS)
            .try_filter_map(|found| {
                let is_wanted =
                    |record: &AuditRecord| filter.matches(record) && self.may_see_call(caller, record);
                let found = found.map(|found| found.record).filter(is_wanted);
                async move { Ok(found) }
            })
            .take(size + 1)
            .try_collect()
            .await?;
        let more = page.len() > size;
        page.truncate(size);
        let last = page.last().filter(|_| more);
        let next_page_token = last.map(|record| page::token(&record.id.to_string())).unwrap_or_default();
        let records: Result<_, _> = page.iter().map(message).collect();
        Ok(v1::ListAuditResponse { records: records?, next_page_token })
    }
}
