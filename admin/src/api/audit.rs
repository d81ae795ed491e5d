//! Listing what etcd has of the audit trail.

use std::ops::Bound;

use cellar_api::{to_message, v1};
use cellar_model::{AuditId, AuditOutcome, AuditRecord, JobId, Refusal};
use jiff::Timestamp;

use crate::admin::Admin;
use crate::api::request;
use crate::deadline::Deadline;
use crate::page;
use crate::refusal::{internal, invalid};

/// Longest part of an identity that is looked for; identities are shorter.
const LONGEST_IDENTITY: usize = 500;

/// Which records are wanted.
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
        if message.identity.len() > LONGEST_IDENTITY {
            return Err(invalid("identity", "no identity is so long"));
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
        let job = (!message.job.is_empty()).then(|| request::job_id(&message.job)).transpose();
        Ok(Self {
            identity: message.identity.clone(),
            rpc: message.rpc.clone(),
            outcome,
            since: since.map_err(|error| invalid("since", format!("not a time: {error}")))?,
            job: job.map_err(|refusal| refusal.about("field", "job"))?,
        })
    }

    fn wants(&self, record: &AuditRecord) -> bool {
        record.identity.contains(&self.identity)
            && (self.rpc.is_empty() || record.rpc.eq_ignore_ascii_case(&self.rpc))
            && self.outcome.is_none_or(|outcome| record.outcome == outcome)
            && self.since.is_none_or(|since| record.time >= since)
            && self.job.is_none_or(|job| record.is_about(&job))
    }
}

impl Admin {
    /// The wanted records, newest first.
    pub(crate) async fn list_audit(
        &self,
        message: &v1::ListAuditRequest,
        deadline: Deadline,
    ) -> Result<v1::ListAuditResponse, Refusal> {
        let filter = Filter::parse(message)?;
        let before: Option<AuditId> = page::position(&message.page_token)?
            .map(|text| text.parse().map_err(|_| page::bad_token()))
            .transpose()?;
        let size = page::size(message.page_size);
        self.fresh(deadline).await?;
        let view = self.view();
        let end = before.map_or(Bound::Unbounded, Bound::Excluded);
        let mut wanted = view
            .audit
            .range((Bound::Unbounded, end))
            .rev()
            .map(|(_, record)| record)
            .filter(|record| filter.wants(record));
        let page: Vec<&AuditRecord> = wanted.by_ref().take(size).collect();
        let more = wanted.next().is_some();
        let last = page.last().filter(|_| more);
        let next_page_token = last.map(|record| page::token(&record.id.to_string())).unwrap_or_default();
        let records: Result<_, _> = page.into_iter().map(to_message).collect();
        Ok(v1::ListAuditResponse { records: records.map_err(|error| internal(&error))?, next_page_token })
    }
}
