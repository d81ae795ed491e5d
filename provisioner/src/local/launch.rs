//! Starting the processes of a local cluster, each with its certificates and directories before it.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use cellar_model::Ports;
use cellar_system::running_pid;
use cellar_tls::{Ca, LEAF_LIFETIME};
use tokio::task::JoinSet;

use crate::binaries;
use crate::cluster::blocking::blocking;
use crate::cluster::database::Member;
use crate::cluster::local_cluster::Cluster;
use crate::cluster::state::LocalCell;
use crate::error::provision_error::{ProvisionError, Result};
use crate::file::make_directory;
use crate::processes::process::{Launch, Started};

/// What was started just now; what ran already is not in it.
#[derive(Debug, Default)]
pub(crate) struct Launched {
    pub(crate) etcd: Option<Started>,
    pub(crate) admin: Option<Started>,
    pub(crate) poolers: BTreeMap<Member, Started>,
}

/// One thing that is started beside the others.
type Work = Box<dyn FnOnce(&Cluster, &Ca) -> Result<Part> + Send>;

enum Part {
    Etcd(Option<Started>),
    Admin(Option<Started>),
    Pooler(Member, Option<Started>),
}

/// The path of one of our daemons.
pub(crate) fn daemon(program: &'static str) -> Result<PathBuf> {
    binaries::find_daemon(program).ok_or_else(|| ProvisionError::Start {
        what: program.to_owned(),
        source: std::io::ErrorKind::NotFound.into(),
    })
}

/// Names the variable of which the daemons take `--cluster-id`.
const CLUSTER_ID_VARIABLE: &str = "CELLAR_CLUSTER_ID";

impl Cluster {
    /// Makes the directories that do not belong to one cell.
    pub(crate) fn make_shared_directories(&self) -> Result<()> {
        self.make_own_directories()?;
        match self.state.repo.local_directory() {
            Some(directory) => make_directory(directory, 0o750, self.owner()),
            None => Ok(()),
        }
    }

    /// The same without the repository.
    pub(crate) fn make_own_directories(&self) -> Result<()> {
        let owner = self.owner();
        // Only a cluster of root's has files of another user, who must pass.
        make_directory(self.layout.root(), if owner.is_some() { 0o755 } else { 0o700 }, None)?;
        make_directory(&self.layout.etcd(), 0o700, owner)?;
        make_directory(&self.etcd_data(), 0o700, owner)?;
        make_directory(&self.layout.multiadmin(), 0o700, owner)?;
        make_directory(&self.layout.pid(), 0o755, owner)?;
        make_directory(&self.layout.log(), 0o750, owner)
    }

    pub(crate) fn make_member_directories(&self, member: &Member) -> Result<()> {
        let (layout, owner) = (self.layout_of(member), self.owner());
        make_directory(layout.root(), 0o750, owner)?;
        // Every user who may pass this directory can connect to PostgreSQL's socket.
        make_directory(&layout.sockets(), 0o700, owner)?;
        for directory in [layout.log(), layout.pid(), layout.lock(), layout.spool(), layout.jobs()] {
            make_directory(&directory, 0o750, owner)?;
        }
        Ok(())
    }

    /// Starts multiadmin unless it runs.
    pub(crate) fn start_admin(&self) -> Result<Option<Started>> {
        if running_pid(&self.admin_pid_file()).is_some() {
            return Ok(None);
        }
        let arguments = self.admin_arguments()?;
        self.start_daemon("multiadmin", "multiadmin".to_owned(), arguments, self.admin_log()).map(Some)
    }

    /// multiadmin's command line.
    pub(crate) fn admin_arguments(&self) -> Result<Vec<String>> {
        let mut arguments = vec![
            "--cluster".to_owned(),
            self.state.cluster.to_string(),
            "--etcd".to_owned(),
            self.etcd_urls()?.join(","),
            "--tls-dir".to_owned(),
            self.layout.multiadmin().display().to_string(),
            "--pid-file".to_owned(),
            self.admin_pid_file().display().to_string(),
            "--audit-log".to_owned(),
            self.audit_log().display().to_string(),
        ];
        for address in self.listen_at(self.port(Ports::ADMIN_GRPC)?) {
            arguments.extend(["--listen".to_owned(), address.to_string()]);
        }
        if self.state.renews {
            let lifetime = self.state.cert_lifetime().unwrap_or(LEAF_LIFETIME).as_secs().to_string();
            for (flag, value) in [
                ("--signing-dir", self.signing().display().to_string()),
                ("--cert-lifetime", lifetime),
                ("--etcd-tls-dir", self.etcd_tls().display().to_string()),
            ] {
                arguments.extend([flag.to_owned(), value]);
            }
        }
        self.push_os_user(&mut arguments);
        Ok(arguments)
    }

    /// Starts a member's multipooler unless it runs.
    pub(crate) fn start_pooler(&self, member: &Member) -> Result<Option<Started>> {
        if running_pid(&self.pooler_pid_file(member)).is_some() {
            return Ok(None);
        }
        let arguments = self.pooler_arguments(member)?;
        let what = format!("multipooler of cell {}", self.state.shown(member));
        self.start_daemon("multipooler", what, arguments, self.pooler_log(member)).map(Some)
    }

    /// The command line of a member's multipooler.
    pub(crate) fn pooler_arguments(&self, member: &Member) -> Result<Vec<String>> {
        let mut arguments = vec![
            "--cluster".to_owned(),
            self.state.cluster.to_string(),
            "--database".to_owned(),
            member.database.to_string(),
            "--cell".to_owned(),
            member.cell.to_string(),
            "--directory".to_owned(),
            self.layout_of(member).root().display().to_string(),
            "--pid-file".to_owned(),
            self.pooler_pid_file(member).display().to_string(),
        ];
        for url in self.etcd_urls()? {
            arguments.extend(["--etcd".to_owned(), url]);
        }
        // On one machine the provisioner writes them there itself.
        if !self.is_local() && self.has_etcd() {
            arguments.extend(["--etcd-tls-dir".to_owned(), self.etcd_tls().display().to_string()]);
        }
        self.push_os_user(&mut arguments);
        Ok(arguments)
    }

    /// What the daemons are told by a variable instead of an argument: those of an older release do not know the argument, and
    /// would not start.
    pub(crate) fn daemon_environment(&self) -> Option<(&'static str, String)> {
        Some((CLUSTER_ID_VARIABLE, self.state.id?.to_string()))
    }

    fn push_os_user(&self, arguments: &mut Vec<String>) {
        if let Some(user) = self.os_user_flag() {
            arguments.extend(["--os-user".to_owned(), user.to_owned()]);
        }
    }

    /// Daemons change their user themselves: their program may lie where that user cannot read it.
    fn start_daemon(
        &self,
        program: &'static str,
        what: String,
        arguments: Vec<String>,
        log: PathBuf,
    ) -> Result<Started> {
        Launch {
            what,
            program: daemon(program)?,
            arguments,
            environment: self.daemon_environment(),
            directory: self.layout.root(),
            log,
            log_owner: self.owner(),
            run_as: None,
        }
        .start()
    }

    /// Certificates, directories and the pooler of one member.
    fn bring_up_member(&self, ca: &Ca, member: &Member) -> Result<Option<Started>> {
        self.make_member_directories(member)?;
        self.issue_member(ca, member)?;
        self.install_secrets(member)?;
        self.start_pooler(member)
    }

    /// Starts whatever of the shared parts and these cells does not run. Everything at once: poolers
    /// and multiadmin wait for etcd by themselves.
    pub(crate) async fn launch(&self, cells: &[LocalCell], shared: bool) -> Result<Launched> {
        let this = self.clone();
        let ca = blocking(move || {
            this.make_shared_directories()?;
            this.authority()
        })
        .await?;
        let ca = Arc::new(ca);
        let mut tasks = JoinSet::new();
        let mut begin = |work: Work| {
            let (this, ca) = (self.clone(), ca.clone());
            tasks.spawn_blocking(move || work(&this, &ca));
        };
        if shared {
            begin(Box::new(|this, ca| {
                this.issue_etcd(ca)?;
                this.start_etcd().map(Part::Etcd)
            }));
            begin(Box::new(|this, ca| {
                this.issue_multiadmin(ca)?;
                this.issue_delegate(ca)?;
                this.issue_client(ca)?;
                this.start_admin().map(Part::Admin)
            }));
        }
        for member in cells.iter().flat_map(|cell| self.state.members_in(&cell.name)) {
            begin(Box::new(move |this, ca| {
                this.bring_up_member(ca, &member).map(|pooler| Part::Pooler(member, pooler))
            }));
        }
        let mut launched = Launched::default();
        let mut failure = None;
        while let Some(part) = tasks.join_next().await {
            let failed = |error| ProvisionError::Start { what: "the cluster".to_owned(), source: error };
            match part.map_err(std::io::Error::from).map_err(failed).and_then(|part| part) {
                Ok(Part::Etcd(process)) => launched.etcd = process,
                Ok(Part::Admin(process)) => launched.admin = process,
                Ok(Part::Pooler(member, Some(pooler))) => {
                    launched.poolers.insert(member, pooler);
                }
                Ok(Part::Pooler(_, None)) => {}
                // The others go on to a state that the next run finds in order.
                Err(error) => failure = failure.or(Some(error)),
            }
        }
        failure.map_or(Ok(launched), Err)
    }
}

impl Launched {
    /// An error when something that was started has ended.
    pub(crate) fn check(&mut self) -> Result<()> {
        let poolers = self.poolers.values_mut();
        self.etcd.iter_mut().chain(&mut self.admin).chain(poolers).try_for_each(Started::check)
    }
}
