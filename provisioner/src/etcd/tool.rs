//! etcd's own tool for snapshots: `etcdutl` where there is one (from etcd 3.5 on), else `etcdctl`.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use serde::Deserialize;
use tokio::process::Command;

use crate::binaries;
use crate::error::provision_error::{ProvisionError, Result};
use crate::processes::etcd_arguments::{EtcdPeer, initial_cluster};

/// What the tool says of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SnapshotContent {
    /// etcd's revision when it was taken.
    pub revision: i64,
    /// How many keys it has, with old revisions of them.
    pub total_key: u64,
}

/// The tool, if one is installed.
fn find() -> Result<PathBuf> {
    ["etcdutl", "etcdctl"].iter().find_map(|program| binaries::find(program)).ok_or_else(|| {
        ProvisionError::Program {
            program: "etcdctl".to_owned(),
            status: "it is not installed".to_owned(),
            output: "install the Debian package: apt-get install etcd-client".to_owned(),
        }
    })
}

/// Runs it with `snapshot` and these arguments, as another user if one is given.
async fn run(arguments: &[String], user: Option<(u32, u32)>, timeout: Duration) -> Result<Vec<u8>> {
    let program = find()?;
    let mut command = Command::new(&program);
    command
        .arg("snapshot")
        .args(arguments)
        // Both programs read flags from variables.
        .env_clear()
        .envs(std::env::var_os("PATH").map(|path| ("PATH", path)))
        .env("ETCDCTL_API", "3")
        .current_dir("/")
        .stdin(Stdio::null())
        .kill_on_drop(true);
    if let Some((uid, gid)) = user {
        command.uid(uid).gid(gid);
    }
    let program = program.display().to_string();
    let failed = |status: String, output: String| ProvisionError::Program {
        program: format!("{program} snapshot {}", arguments.first().map_or("", String::as_str)),
        status,
        output,
    };
    let output = match tokio::time::timeout(timeout, command.output()).await {
        Ok(Ok(output)) => output,
        Ok(Err(source)) => return Err(ProvisionError::Start { what: program, source }),
        Err(_) => {
            return Err(failed(format!("it did not end within {} s", timeout.as_secs()), String::new()));
        }
    };
    if !output.status.success() {
        let text = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        return Err(failed(output.status.to_string(), text));
    }
    Ok(output.stdout)
}

/// What a snapshot holds. The whole file is read.
pub(crate) async fn content(
    file: &Path,
    user: Option<(u32, u32)>,
    timeout: Duration,
) -> Result<SnapshotContent> {
    let arguments = ["status", &file.display().to_string(), "--write-out=json"].map(str::to_owned);
    let answer = run(&arguments, user, timeout).await?;
    serde_json::from_slice(&answer).map_err(|error| ProvisionError::Program {
        program: "etcd's tool for snapshots".to_owned(),
        status: "its answer cannot be read".to_owned(),
        output: error.to_string(),
    })
}

/// The member that a data directory is made for from a snapshot.
#[derive(Debug)]
pub(crate) struct NewMember<'a> {
    pub(crate) name: &'a str,
    pub(crate) peer_url: &'a str,
    /// All members that begin with the same snapshot, itself among them.
    pub(crate) members: &'a [EtcdPeer],
    pub(crate) token: &'a str,
    /// Must not exist.
    pub(crate) data: &'a Path,
}

/// Makes a member's data directory from a snapshot, which must be whole.
pub(crate) async fn restore(
    file: &Path,
    member: &NewMember<'_>,
    user: Option<(u32, u32)>,
    timeout: Duration,
) -> Result<()> {
    let arguments = [
        "restore".to_owned(),
        file.display().to_string(),
        format!("--name={}", member.name),
        format!("--initial-cluster={}", initial_cluster(member.members)),
        format!("--initial-advertise-peer-urls={}", member.peer_url),
        format!("--initial-cluster-token={}", member.token),
        format!("--data-dir={}", member.data.display()),
    ];
    run(&arguments, user, timeout).await.map(drop)
}
