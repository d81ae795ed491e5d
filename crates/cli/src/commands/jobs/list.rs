//! `cellar jobs list`.

use cellar_api::v1::{ListJobsRequest, ListJobsResponse};

use crate::client::target::Target;
use crate::failure::Outcome;
use crate::global::Global;
use crate::render::job_list::list;

/// The smallest page when steps are left out: most jobs of a page may be steps.
const MIN_PAGE_SIZE: u32 = 100;

/// Lists the newest jobs. Steps are left out here and not by multiadmin, so it may take several pages to get `limit`
/// jobs.
pub(super) async fn run(global: &Global, limit: u32, steps: bool) -> Outcome {
    let target = Target::of(global).await?;
    let wanted = usize::try_from(limit).unwrap_or(usize::MAX);
    let mut answer = ListJobsResponse::default();
    loop {
        let request = ListJobsRequest {
            database: global.database(),
            page_size: if steps { limit } else { limit.max(MIN_PAGE_SIZE) },
            page_token: answer.next_page_token.clone(),
        };
        let page = target.call(request, async |mut client, request| client.list_jobs(request).await).await?;
        answer.next_page_token = page.next_page_token;
        answer.jobs.extend(page.jobs.into_iter().filter(|job| steps || job.parent.is_none()));
        if steps || answer.jobs.len() >= wanted || answer.next_page_token.is_empty() {
            break;
        }
    }
    if answer.jobs.len() > wanted {
        // The token is that of the page's end, which is behind the end of this list.
        answer.jobs.truncate(wanted);
        answer.next_page_token.clear();
    }
    global.output.print(&answer, |answer| list(answer, steps))
}
