//! `cellar jobs logs`.

use cellar_api::v1::TailJobLogRequest;
use cellar_model::JobId;

use crate::client::target::Target;
use crate::failure::Outcome;
use crate::global::Global;
use crate::output::{self, Form};

/// Prints what the job's tools wrote, byte for byte; with `follow` until the job has ended.
pub(super) async fn run(global: &Global, id: JobId, follow: bool) -> Outcome {
    let target = Target::of(global).await?;
    let mut client = target.streaming_client()?;
    let request = TailJobLogRequest { id: id.to_string(), follow };
    let failed = |status| target.failure(status);
    let mut chunks = client.tail_job_log(request).await.map_err(failed)?.into_inner();
    while let Some(chunk) = chunks.message().await.map_err(failed)? {
        match global.output {
            Form::Json => output::json_line(&chunk)?,
            Form::Human => output::write(&chunk.data)?,
        }
    }
    Ok(())
}
