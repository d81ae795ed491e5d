//! `cellar roles`.

use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use cellar_api::v1::{
    ClientRole, CreateRoleRequest, DropRoleRequest, ListRolesRequest, ListRolesResponse,
    SetRolePasswordRequest,
};
use cellar_model::{ClientName, Secret};
use cellar_provisioner::scram_verifier;
use clap::Subcommand;

use crate::client::target::{Client, Target};
use crate::failure::{Failure, Outcome};
use crate::global::Global;
use crate::output;
use crate::render::facts::NOTHING;
use crate::render::table::Table;

/// Bytes of a password file that are read: more than any password has.
const MAX_FILE_BYTES: u64 = 4096;

/// The roles that applications connect as: list, create, password, drop
///
/// They are members of the group cellar_client, or of cellar_certificate_client: the only roles that PostgreSQL lets in
/// over TCP, with TLS, and to every database but postgres and the templates.
#[derive(Debug, Subcommand)]
pub(crate) enum Roles {
    /// List the roles that may connect over TCP
    #[command(after_help = "Example:
  cellar roles list")]
    List,
    /// Create a role that may connect over TCP
    ///
    /// The password does not leave this machine: only what PostgreSQL keeps of it is sent (SCRAM-SHA-256), and that is
    /// neither recorded nor logged. A role with a certificate gets it with `cellar certs issue --client NAME`.
    #[command(after_help = "Examples:
  (umask 077; openssl rand -base64 24 > app.pass) && cellar roles create app --password-file app.pass --owns app
  cellar roles create reports --certificate")]
    Create {
        /// Its name
        #[arg(value_name = "NAME")]
        name: ClientName,
        /// The file with its password (mode 0600, at least 8 bytes), or - for standard input
        #[arg(
            long,
            value_name = "FILE",
            required_unless_present = "certificate",
            conflicts_with = "certificate"
        )]
        password_file: Option<PathBuf>,
        /// It proves itself with a certificate of the cluster's authority
        #[arg(long)]
        certificate: bool,
        /// A database within PostgreSQL that it is to own: made if it is not there, taken over if postgres owns it
        #[arg(long, value_name = "DATABASE")]
        owns: Option<ClientName>,
    },
    /// Give a role another password
    ///
    /// The old one lets nobody in any more; sessions that are open go on, unless --end-sessions is given. As with create, the
    /// password does not leave this machine. PgBouncers take the new one within some seconds.
    #[command(after_help = "Example:
  (umask 077; openssl rand -base64 24 > app.pass) && cellar roles password app --password-file app.pass")]
    Password {
        /// Its name
        #[arg(value_name = "NAME")]
        name: ClientName,
        /// The file with its new password (mode 0600, at least 8 bytes), or - for standard input
        #[arg(long, value_name = "FILE")]
        password_file: PathBuf,
        /// End its sessions at the primary, for when the old password is in wrong hands
        #[arg(long)]
        end_sessions: bool,
    },
    /// Drop a role and end its sessions at the primary. Refused while it owns anything
    #[command(after_help = "Example:
  cellar roles drop app")]
    Drop {
        /// Its name
        #[arg(value_name = "NAME")]
        name: ClientName,
    },
}

pub(crate) fn render_list(answer: &ListRolesResponse) -> String {
    let mut table = Table::new(&["ROLE", "PROVES ITSELF BY", "OWNS", "NOTE"]);
    for role in &answer.roles {
        let or_nothing = |text: String| if text.is_empty() { NOTHING.to_owned() } else { text };
        let proof = if role.certificate { "certificate" } else { "password" };
        let excess = match role.excess.as_slice() {
            [] => String::new(),
            words => format!("has {}: no application should", words.join(", ")),
        };
        table.row([
            role.name.clone(),
            proof.to_owned(),
            or_nothing(role.owns.join(", ")),
            or_nothing(excess),
        ]);
    }
    table.render()
}

/// The password in a file that nobody else may read. Messages do not show what it holds.
fn password(file: &Path) -> Outcome<Secret> {
    let refused = |reason: String| {
        let hint = "the file holds nothing but the password, on one line, and has mode 0600";
        Err(Failure::usage(format!("--password-file {}: {reason}", file.display()), hint))
    };
    let mut content = Vec::new();
    let read = if file == Path::new("-") {
        std::io::stdin().take(MAX_FILE_BYTES).read_to_end(&mut content)
    } else {
        let opened = std::fs::File::open(file).and_then(|opened| Ok((opened.metadata()?, opened)));
        match opened {
            Ok((found, _)) if found.is_file() && found.mode() & 0o077 != 0 => {
                return refused(format!("its mode is {:04o}, so others may read it", found.mode() & 0o7777));
            }
            Ok((_, opened)) => opened.take(MAX_FILE_BYTES).read_to_end(&mut content),
            Err(error) => Err(error),
        }
    };
    if let Err(error) = read {
        return refused(error.to_string());
    }
    match std::str::from_utf8(&content).map(Secret::password) {
        Ok(Ok(secret)) => Ok(secret),
        Ok(Err(reason)) => refused(reason.to_string()),
        Err(_) => refused("it is not UTF-8 text".to_owned()),
    }
}

/// What is sent of the password in a file. A bad file is a usage error, before anything is called.
fn verifier(file: &Path) -> Outcome<String> {
    let verifier = scram_verifier(&password(file)?);
    let verifier = verifier.map_err(|error| {
        Failure::usage(format!("the password cannot be used: {error}"), "choose another one")
    })?;
    Ok(verifier.expose().to_owned())
}

impl Roles {
    pub(crate) async fn run(self, global: &Global) -> Outcome {
        match self {
            Self::List => list(global).await,
            Self::Create { name, password_file, certificate, owns } => {
                let verifier = password_file.as_deref().map(verifier).transpose()?.unwrap_or_default();
                let request = CreateRoleRequest {
                    database: global.database(),
                    name: name.to_string(),
                    scram_verifier: verifier,
                    certificate,
                    owns: owns.as_ref().map(ToString::to_string).unwrap_or_default(),
                };
                create(global, request).await
            }
            Self::Password { name, password_file, end_sessions } => {
                let request = SetRolePasswordRequest {
                    database: global.database(),
                    name: name.to_string(),
                    scram_verifier: verifier(&password_file)?,
                    end_sessions,
                };
                // Once more does no harm.
                let set = async |mut client: Client, request| client.set_role_password(request).await;
                let answer = Target::of(global).await?.call(request, set).await?;
                global.output.print(&answer, |role: &ClientRole| {
                    let ended =
                        if end_sessions { ", and its sessions at the primary were ended" } else { "" };
                    format!("role {} has another password{ended}", role.name)
                })
            }
            Self::Drop { name } => {
                let request = DropRoleRequest { database: global.database(), name: name.to_string() };
                let target = Target::of(global).await?;
                let answer = target.client()?.drop_role(request).await;
                let answer = answer.map_err(|status| target.failure(status))?.into_inner();
                global.output.print(&answer, |role: &ClientRole| format!("role {} is dropped", role.name))
            }
        }
    }
}

async fn list(global: &Global) -> Outcome {
    let request = ListRolesRequest { database: global.database() };
    let answer = Target::of(global)
        .await?
        .call(request, async |mut client, request| client.list_roles(request).await)
        .await?;
    global.output.print(&answer, render_list)
}

async fn create(global: &Global, request: CreateRoleRequest) -> Outcome {
    // Not repeated by itself: after an answer that was lost, the role would be there already.
    let target = Target::of(global).await?;
    let answer = target.client()?.create_role(request).await;
    let answer = answer.map_err(|status| target.failure(status))?.into_inner();
    if answer.certificate {
        output::note(&format!(
            "issue its certificate with `cellar certs issue --client {} --out DIR`",
            answer.name
        ));
    }
    global.output.print(&answer, |role: &ClientRole| match role.owns.first() {
        Some(database) => format!("role {} may connect, and owns the database {database}", role.name),
        None => format!("role {} may connect", role.name),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn password_is_read_from_a_private_file_and_never_shown() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("pass");
        let with = |content: &[u8], mode: u32| {
            std::fs::write(&file, content).unwrap();
            std::fs::set_permissions(&file, std::fs::Permissions::from_mode(mode)).unwrap();
            password(&file)
        };
        assert_eq!(with(b"battery staple\n", 0o600).unwrap().expose(), "battery staple");
        for (content, mode, why) in [
            (&b"battery staple"[..], 0o644, "others may read it"),
            (b"battery", 0o600, "shorter than 8 bytes"),
            (b"battery\nstaple", 0o600, "line break"),
            (b"battery\xff\xff", 0o600, "UTF-8"),
        ] {
            let failure = with(content, mode).unwrap_err();
            let said = format!("{failure} {failure:?}");
            assert!(said.contains(why) && !said.contains("battery"), "{said}");
            assert_eq!(failure.exit_code(), 2);
        }
        assert!(password(Path::new("/nowhere")).unwrap_err().to_string().contains("/nowhere"));
    }

    #[test]
    fn roles_are_listed_with_what_they_should_not_have() {
        let role =
            |name: &str, certificate| ClientRole { name: name.into(), certificate, ..ClientRole::default() };
        let roles = vec![
            ClientRole { owns: vec!["app".into(), "jobs".into()], ..role("app", false) },
            ClientRole { excess: vec!["superuser".into()], ..role("boss", true) },
        ];
        let shown = render_list(&ListRolesResponse { roles });
        assert!(shown.contains("app, jobs") && shown.contains("has superuser"), "{shown}");
    }
}
