//! Pausing a database: nothing is done by itself while a person works on it.

use cellar_api::v1;
use cellar_model::{Code, Database, DatabaseName, Key, Pause, Refusal};
use cellar_system::clock;
use jiff::Timestamp;

use crate::admin::Admin;
use crate::deadline::Deadline;
use crate::tries::Tries;

/// The most characters of a reason: it stands in a line of `cellar status`.
const MAX_REASON: usize = 200;

fn check_reason(reason: &str) -> Result<(), Refusal> {
    if reason.chars().count() > MAX_REASON || reason.chars().any(char::is_control) {
        let message = format!("reason must be one line of at most {MAX_REASON} characters");
        return Err(Refusal::new(Code::InvalidArgument, message));
    }
    Ok(())
}

impl Admin {
    /// Pauses a database for `by`, or ends its pause. One that is paused keeps who paused it first.
    pub(crate) async fn set_pause(
        &self,
        database: Option<&DatabaseName>,
        wanted: Option<(&str, &str)>,
        deadline: Deadline,
    ) -> Result<v1::DatabaseView, Refusal> {
        if let Some((_, reason)) = wanted {
            check_reason(reason)?;
        }
        let mut tries = Tries::of("the database's record", deadline);
        loop {
            let _ = tries.begin()?;
            self.fresh(deadline).await?;
            let (present, key, revision) = {
                let view = self.view();
                let present = view.snapshot().database(database)?.clone();
                let key = Key::Database(present.name.clone());
                let revision = view.revision(&key);
                (present, key, revision)
            };
            let name = present.name.clone();
            if present.pause.is_some() == wanted.is_some() {
                return self.database(Some(&name), deadline).await;
            }
            let pause = wanted.map(|(by, reason)| Pause {
                // For people.
                since: Timestamp::from_second(clock::now().as_second()).unwrap_or_default(),
                by: by.to_owned(),
                reason: reason.to_owned(),
            });
            let is_paused = pause.is_some();
            let transaction =
                self.store.transaction().expect(&key, revision).put(&key, &Database { pause, ..present });
            if self.commit(&mut tries, transaction, Some((&key, revision))).await? {
                tracing::warn!(database = %name, is_paused, "pause");
                return self.database(Some(&name), deadline).await;
            }
        }
    }
}
