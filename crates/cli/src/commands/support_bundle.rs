//! `cellar support-bundle`.

mod parts;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use cellar_provisioner::{PASSPHRASE_VARIABLE, ProvisionError};
use cellar_system::AtomicFile;
use clap::Args;
use jiff::Timestamp;
use serde_json::json;

use crate::bundle::archive::{LeftOut, Parts, pack};
use crate::failure::{Failure, Outcome};
use crate::global::{Global, absolute};
use crate::output::Form;
use crate::render::units::size as size_text;
use crate::{local, output};

/// Gather what somebody needs who is to help with this cluster, in one file, without its secrets
///
/// Versions, the answers of status, doctor and the lists, generated configs, PostgreSQL's settings, the ends of logs,
/// names, modes and sizes of files, certificates' names and dates, memory and disks. Works with everything down. Keys,
/// passphrases, passwords, statements and data are left out; names of hosts, users, databases and tables are not, so
/// look through it before you give it away. Run it as the user who ran `cellar up`, on each machine of the cluster.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  cellar support-bundle
  cellar support-bundle --out /tmp/demo.tar.gz && tar -tzf /tmp/demo.tar.gz")]
pub(crate) struct SupportBundle {
    /// The file to write, mode 0600 [default: cellar-support-CLUSTER-TIME.tar.gz here]
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

/// What the reader of a bundle should know; first file in it.
const README: &str = "\
A support bundle of Cellar: what the machine of a cluster shows of it at one moment.

commands/      answers of `cellar ... --output json`; beside each its error, if it had one
system/        versions, memory, disks, processes
state, log, client, CELL/...
               copies of files of the cluster's directory, logs with their ends only
files.txt      names, modes, owners, sizes and times of all files; not what is in them
certificates.json
               names, serial numbers and dates of certificates
left-out.txt   what could not be taken, and why

[removed] stands for what was removed: values of settings and options that may be secret, statements and
literals in PostgreSQL's log, and every key, passphrase and password that was known. Remarks in
configuration files are left out. Names of hosts, users, databases, tables and files are not removed, and
what somebody wrote into a place where no secret belongs is not known to be one:

Look through it before you give it to anybody.
";

/// A name for the bundle and the directory in it.
fn default_name(root: &Path, now: Timestamp) -> String {
    let cluster = root.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
    let cluster: String =
        cluster.chars().map(|c| if c.is_ascii_alphanumeric() || c == '-' { c } else { '_' }).collect();
    format!("cellar-support-{cluster}-{}", now.strftime("%Y%m%dT%H%M%SZ"))
}

/// What is in it and what is not, for people.
fn render(file: &Path, size: usize, files: &[(String, Vec<u8>)], left_out: &[LeftOut]) -> String {
    let mut text = format!("wrote {} ({}, mode 0600)\n\nin it:\n", file.display(), size_text(size as u64));
    let group = |path: &str| match path.rsplit_once('/') {
        Some((directory, _)) => format!("{directory}/"),
        None => path.to_owned(),
    };
    let groups: BTreeSet<String> = files.iter().map(|(path, _)| group(path)).collect();
    for name in groups {
        let count = files.iter().filter(|(path, _)| group(path) == name).count();
        let files = if count == 1 { "file" } else { "files" };
        text.push_str(&format!("  {name} ({count} {files})\n"));
    }
    text.push_str("\nleft out:\n  keys, passphrases, passwords, statements and literals in logs, data, the repository\n");
    for LeftOut { what, why } in left_out {
        text.push_str(&format!("  {what}: {why}\n"));
    }
    text.push_str(
        "\nLook through it before you give it to anybody: names of hosts, users, databases and files are in it.\n",
    );
    text
}

impl SupportBundle {
    pub(crate) async fn run(self, global: &Global) -> Outcome {
        local::refuse_remote(global, "support-bundle")?;
        let root = global.directory()?;
        // A wrong --cluster must not show another one's. A cluster whose state cannot be read needs help most.
        if let Err(failure @ Failure::Usage { .. }) = local::open(global) {
            return Err(failure);
        }
        if !root.try_exists().unwrap_or(true) {
            return Err(ProvisionError::NoCluster { dir: root }.into());
        }
        let now = Timestamp::now();
        let name = default_name(&root, now);
        let out = absolute(&self.out.unwrap_or_else(|| PathBuf::from(format!("{name}.tar.gz"))))?;
        let is_taken = || {
            Failure::usage(
                format!("{} is there already", out.display()),
                "name another file with --out, or remove it",
            )
        };
        if out.symlink_metadata().is_ok() {
            return Err(is_taken());
        }
        output::note("gathering; each part has a deadline, and all of them together take at most a minute");
        let mut parts = Parts::default();
        parts.add("README.txt", README);
        parts.extend(parts::gather(&root, global).await);
        if let Ok(passphrase) = std::env::var(PASSPHRASE_VARIABLE) {
            parts.secrets.add(&passphrase);
        }
        let scrubber = parts.secrets.scrubber();
        if !scrubber.is_complete() {
            return Err(Failure::Bug("there are too many secrets to look for".to_owned()));
        }
        parts.limit();
        parts.left_out.sort();
        let left_out: String =
            parts.left_out.iter().map(|left| format!("{}: {}\n", left.what, left.why)).collect();
        parts.add("left-out.txt", left_out);
        let time = u64::try_from(now.as_second()).unwrap_or(0);
        let failed = |source| Failure::Io { what: format!("write {}", out.display()), source };
        let packed = pack(&name, &parts.files, &scrubber, time).map_err(failed)?;
        if !AtomicFile::new(&out).create(&packed).map_err(failed)? {
            return Err(is_taken());
        }
        match global.output {
            Form::Human => output::print(&render(&out, packed.len(), &parts.files, &parts.left_out)),
            Form::Json => output::json(&json!({
                "file": out.display().to_string(),
                "bytes": packed.len(),
                "files": parts.files.iter().map(|(path, _)| path).collect::<Vec<_>>(),
                "leftOut": parts.left_out,
            })),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn summary_names_what_is_in_it_and_what_is_not() {
        let files =
            ["README.txt", "zone1/log/a.log", "zone1/log/b.log"].map(|path| (path.to_owned(), Vec::new()));
        let left_out = [LeftOut { what: "zone2/log".into(), why: "permission denied".into() }];
        let text = render(Path::new("/x.tar.gz"), 2048, &files, &left_out);
        for part in [
            "wrote /x.tar.gz (2",
            "zone1/log/ (2 files)",
            "README.txt (1 file)",
            "zone2/log: permission denied",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
        assert!(text.contains("Look through it"));
    }

    #[test]
    fn default_name_has_nothing_of_a_path() {
        let name = default_name(Path::new("/x/de mo\n"), Timestamp::UNIX_EPOCH);
        assert_eq!(name, "cellar-support-de_mo_-19700101T000000Z");
    }
}
