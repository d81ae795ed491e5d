//! `cellar restart`.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use cellar_api::v1::{
    DatabaseSettings, DatabaseView, Durability, GetDatabaseRequest, JobKind, LeadershipPhase, MemberSettings,
    RunJobRequest, SettingState,
};
use cellar_model::{
    CellName, Code, Refusal, RestartMember, RestartScene, RestartStep, WaitReason, next_restart,
};
use clap::Args;

use crate::client::follow::follow;
use crate::client::run_job::require_success;
use crate::client::submit;
use crate::client::target::Target;
use crate::commands::settings::list;
use crate::commands::switchover::move_primary;
use crate::failure::{Failure, Outcome};
use crate::global::Global;
use crate::output;
use crate::render::settings::has_other_version;
use crate::render::table::Table;
use crate::render::units;

/// How long one member may take: a checkpoint of much memory, and the way back to its primary.
const MEMBER_TIMEOUT: Duration = Duration::from_secs(1800);

/// How long is waited for a member that is not well, or that has not seen what the others have.
const PATIENCE: Duration = Duration::from_secs(60);

/// How often to look.
const INTERVAL: Duration = Duration::from_millis(500);

/// Restart PostgreSQL: one member, or all that need it one after the other
///
/// A member needs it for settings that are taken at a start only (`cellar settings list` shows them), and after a package with
/// a newer minor version of PostgreSQL was installed. With --rolling the standbys come first, and each must stream again before
/// the next one. With quorum commit the primary is then moved to a standby, and restarts while it becomes one; else it is
/// restarted where it is, and writes fail meanwhile. It stops at the first member that is not well. A second run goes on.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  cellar restart zone2
  cellar restart --rolling
  cellar restart --rolling --all")]
pub(crate) struct Restart {
    /// The cell whose PostgreSQL is restarted
    #[arg(value_name = "CELL", required_unless_present = "rolling", conflicts_with = "rolling")]
    cell: Option<CellName>,
    /// One member after the other, all that need it
    #[arg(long)]
    rolling: bool,
    /// Also the members that do not need it
    #[arg(long, requires = "rolling")]
    all: bool,
    /// Restart CELL also when it is the primary: writes fail meanwhile
    #[arg(long, conflicts_with = "rolling")]
    allow_primary: bool,
}

/// What was done to the members of a database.
struct Run<'a> {
    global: &'a Global,
    target: &'a Target,
    all: bool,
    restarted: BTreeMap<CellName, u32>,
}

fn refused(code: Code, message: String, hint: &str) -> Failure {
    Failure::Rpc(Box::new(cellar_api::status_of(&Refusal::new(code, message).hint(hint))))
}

fn primary_of(view: &DatabaseView) -> Outcome<CellName> {
    let cell = view.leader.as_ref().map(|leader| leader.cell.clone()).unwrap_or_default();
    cell.parse().map_err(|_| {
        refused(
            Code::NoPrimary,
            "no primary is recorded".to_owned(),
            "`cellar status` shows what its cells are doing",
        )
    })
}

/// Whether the primary can be moved.
fn has_quorum(view: &DatabaseView) -> bool {
    let is_wanted =
        view.database.as_ref().is_some_and(|database| database.durability() == Durability::Quorum);
    let leadership = view.leader.as_ref().and_then(|leader| leader.leadership.as_ref());
    is_wanted && leadership.is_some_and(|it| !it.ended && it.phase() == LeadershipPhase::Steady)
}

/// What decides of a member, as it answered.
fn member(answer: &MemberSettings, primary: &CellName) -> Outcome<RestartMember> {
    let cell: CellName =
        answer.cell.parse().map_err(|error| Failure::Bug(format!("cell {:?}: {error}", answer.cell)))?;
    let unwell = if !answer.silent.is_empty() {
        answer.silent.lines().next().map(str::to_owned)
    } else if cell != *primary && answer.streams_from.as_deref() != Some(primary.as_str()) {
        Some(format!("it does not stream from the primary in {primary}"))
    } else {
        None
    };
    let is = |state| answer.settings.iter().any(|setting| setting.state() == state);
    Ok(RestartMember {
        unwell,
        needs_restart: is(SettingState::RestartNeeded) || has_other_version(answer),
        lowers: answer.settings.iter().any(|setting| setting.lowers),
        waits: is(SettingState::Waits),
        cell,
    })
}

impl Run<'_> {
    async fn database(&self) -> Outcome<DatabaseView> {
        let request = GetDatabaseRequest { name: self.global.database() };
        self.target.call(request, async |mut client, request| client.get_database(request).await).await
    }

    async fn restart(&mut self, cell: &CellName) -> Outcome {
        let begun = Instant::now();
        let request = RunJobRequest {
            database: self.global.database(),
            cell: cell.to_string(),
            kind: JobKind::Restart.into(),
            queue: true,
            timeout: Some(submit::request_duration(MEMBER_TIMEOUT)),
            request_id: submit::request_id(None),
        };
        let job =
            self.target.call(request, async |mut client, request| client.run_job(request).await).await?;
        require_success(follow(self.target, &job.id, false, |_| Ok(())).await?)?;
        *self.restarted.entry(cell.clone()).or_default() += 1;
        output::note(&format!("{cell} is restarted; that took {}", units::duration(begun.elapsed())));
        Ok(())
    }

    /// Waits until no job holds the database's lock: a backup that goes on would end with the primary. One that begins in the
    /// moment after is not waited for.
    async fn wait_for_lock(&self) -> Outcome {
        let begun = Instant::now();
        let mut said = None;
        loop {
            let Some(holder) = self.database().await?.lock.and_then(|lock| lock.holder) else {
                return Ok(());
            };
            if begun.elapsed() >= MEMBER_TIMEOUT {
                return Err(refused(
                    Code::Busy,
                    format!(
                        "the rolling restart stops: job {holder} has held the database's lock for {}",
                        units::duration(begun.elapsed())
                    ),
                    &format!(
                        "wait for it (`cellar jobs watch {holder}`) or cancel it (`cellar jobs cancel {holder}`), and run this again: it goes on"
                    ),
                ));
            }
            if said.as_ref() != Some(&holder) {
                output::note(&format!("waits for job {holder}, which needs the primary"));
                said = Some(holder);
            }
            tokio::time::sleep(INTERVAL).await;
        }
    }

    async fn scene(&self) -> Outcome<(RestartScene, DatabaseSettings)> {
        let view = self.database().await?;
        let primary = primary_of(&view)?;
        let listed = list(self.global, self.target).await?;
        let members =
            listed.members.iter().map(|answer| member(answer, &primary)).collect::<Result<_, _>>()?;
        let scene = RestartScene {
            members,
            has_quorum: has_quorum(&view),
            primary,
            restarted: self.restarted.clone(),
            all: self.all,
        };
        Ok((scene, listed))
    }

    /// Restarts one after the other. Answers with what there is in the end.
    async fn roll(&mut self) -> Outcome<DatabaseSettings> {
        let mut waiting: Option<Instant> = None;
        let mut said = String::new();
        loop {
            let (scene, listed) = self.scene().await?;
            match next_restart(&scene) {
                RestartStep::Done => return Ok(listed),
                RestartStep::Wait(why) => {
                    let text = why.to_string();
                    if waiting.get_or_insert_with(Instant::now).elapsed() >= PATIENCE {
                        return Err(self.stopped(&why));
                    }
                    if said != text && waiting.is_some_and(|since| since.elapsed() >= INTERVAL * 4) {
                        output::note(&format!("waits: {text}"));
                        said = text;
                    }
                    tokio::time::sleep(INTERVAL).await;
                    continue;
                }
                RestartStep::Restart(cell) => {
                    let what = if cell == scene.primary {
                        "the primary, so writes fail meanwhile"
                    } else {
                        "a standby"
                    };
                    output::note(&format!("{cell} is restarted: {what}"));
                    self.restart(&cell).await?;
                }
                RestartStep::Move(cell) => {
                    self.wait_for_lock().await?;
                    output::note(&format!(
                        "{cell} is the primary, which is moved to a standby and restarts as one"
                    ));
                    let view = move_primary(self.global, self.target, None, PATIENCE).await?;
                    *self.restarted.entry(cell).or_default() += 1;
                    output::note(&format!("the primary is in {} now", primary_of(&view)?));
                }
            }
            waiting = None;
        }
    }

    fn stopped(&self, why: &WaitReason) -> Failure {
        let code = match why {
            WaitReason::Unwell(..) => Code::CellDown,
            WaitReason::StillNeeds(_) | WaitReason::Waits(_) => Code::DeadlineExceeded,
        };
        let done: Vec<String> = self.restarted.keys().map(ToString::to_string).collect();
        let done =
            if done.is_empty() { "nobody was".to_owned() } else { format!("restarted: {}", done.join(", ")) };
        let hint = format!(
            "{done}. `cellar settings list` and `cellar status` show how the members are; run it again when they are well, and it goes on"
        );
        refused(code, format!("the rolling restart stops: {why}"), &hint)
    }
}

fn render(run: &Run<'_>, before: &DatabaseSettings, after: &DatabaseSettings) -> String {
    let mut table = Table::new(&["CELL", "ROLE", "RESTARTED", "POSTGRESQL"]);
    for member in &after.members {
        let old = before.members.iter().find(|old| old.cell == member.cell);
        let old = old
            .map(|old| old.running_version.as_str())
            .filter(|old| !old.is_empty() && *old != member.running_version);
        let version = match old {
            Some(old) => format!("{old}, now {}", member.running_version),
            None => member.running_version.clone(),
        };
        let times = run
            .restarted
            .iter()
            .find(|(cell, _)| cell.as_str() == member.cell)
            .map_or(0, |(_, times)| *times);
        let restarted = match times {
            0 => "no",
            1 => "yes",
            _ => "twice",
        };
        table.row([
            member.cell.clone(),
            crate::render::words::role_word(member.role()).to_owned(),
            restarted.to_owned(),
            version,
        ]);
    }
    table.render()
}

impl Restart {
    pub(crate) async fn run(self, global: &Global) -> Outcome {
        let target = Target::of(global).await?;
        let mut run = Run { global, target: &target, all: self.all, restarted: BTreeMap::new() };
        let before = list(global, &target).await?;
        let after = match &self.cell {
            None => run.roll().await?,
            Some(cell) => {
                let primary = primary_of(&run.database().await?)?;
                if *cell == primary && !self.allow_primary {
                    return Err(refused(
                        Code::IsPrimary,
                        format!("{cell} is the primary, and writes fail while it restarts"),
                        "`cellar switchover` moves it first where there is quorum commit; --allow-primary restarts it where it is",
                    ));
                }
                run.restart(cell).await?;
                list(global, &target).await?
            }
        };
        global.output.print(&after, |after| render(&run, &before, after))
    }
}
