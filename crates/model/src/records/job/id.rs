//! What identifies a job, and what identifies a client's request for one.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::types::name::DatabaseName;

/// Identifies a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct JobId(Uuid);

/// The text is not a job id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a job id: job ids are UUIDs, as `cellar jobs list` prints them")]
pub struct JobIdError(String);

impl JobId {
    /// From a UUID; a version 7 one sorts by time.
    #[must_use]
    pub fn new(uuid: Uuid) -> Self {
        Self(uuid)
    }

    /// The id of the one job that a client's `request_id` stands for.
    ///
    /// It is derived (UUID version 5), not looked up, so two multiadmins that
    /// get the same request at once try to create the same key and one
    /// transaction wins.
    #[must_use]
    pub fn for_request(database: &DatabaseName, request_id: &RequestId) -> Self {
        // Our own namespace for derived ids: version 5 of "cellar/job" in the URL namespace.
        let namespace = Uuid::new_v5(&Uuid::NAMESPACE_URL, b"cellar/job");
        Self(Uuid::new_v5(&namespace, format!("{database}/{request_id}").as_bytes()))
    }
}

impl FromStr for JobId {
    type Err = JobIdError;
    fn from_str(text: &str) -> Result<Self, JobIdError> {
        // Only the hyphenated form: an id is a key in etcd and must have one spelling.
        let bad = || JobIdError(text.chars().take(60).collect());
        let uuid = Uuid::try_parse(text).map_err(|_| bad())?;
        if uuid.to_string() == text { Ok(Self(uuid)) } else { Err(bad()) }
    }
}

impl TryFrom<String> for JobId {
    type Error = JobIdError;
    fn try_from(text: String) -> Result<Self, JobIdError> {
        text.parse()
    }
}

impl From<JobId> for String {
    fn from(id: JobId) -> String {
        id.to_string()
    }
}

impl fmt::Display for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.hyphenated().fmt(f)
    }
}

/// A client's own name for a mutating request, so that it may be repeated safely.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct RequestId(String);

impl FromStr for RequestId {
    type Err = &'static str;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.is_empty() || text.len() > 128 || !text.bytes().all(|b| b.is_ascii_graphic()) {
            return Err("a request id is 1 to 128 printable ASCII characters without spaces");
        }
        Ok(Self(text.to_owned()))
    }
}

impl TryFrom<String> for RequestId {
    type Error = &'static str;
    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<RequestId> for String {
    fn from(id: RequestId) -> String {
        id.0
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn request_id_gives_one_job_id() {
        let db: DatabaseName = "app".parse().unwrap();
        let other: DatabaseName = "web".parse().unwrap();
        let request: RequestId = "nightly-1".parse().unwrap();
        assert_eq!(JobId::for_request(&db, &request), JobId::for_request(&db, &request));
        assert_ne!(JobId::for_request(&db, &request), JobId::for_request(&other, &request));
    }

    #[test]
    fn id_has_one_spelling() {
        let id = JobId::new(Uuid::from_u128(0xdead_beef));
        let text = id.to_string();
        assert_eq!(text.parse::<JobId>().unwrap(), id);
        assert!(text.to_uppercase().parse::<JobId>().is_err());
        assert!(text.replace('-', "").parse::<JobId>().is_err());
        assert!("".parse::<JobId>().is_err());
    }
}
