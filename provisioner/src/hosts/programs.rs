//! The files of Cellar's own programs on a host: exchanging them for new ones, and putting the old ones back.

use std::fs::{self, File};
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use cellar_system::{AtomicFile, is_same_place};

use crate::binaries::{DAEMONS, find_daemon};
use crate::error::provision_error::{ProvisionError, Result};
use crate::file::check_ours;

/// The program that runs this.
const OWN: &str = "cellar";

/// Mode of an installed program.
const MODE: u32 = 0o755;

/// How long a program may take to tell its version.
const VERSION_TIMEOUT: Duration = Duration::from_secs(10);

/// How often it is looked whether it has.
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// Below these directories files belong to a package, whose manager would neither know of other ones nor put its own back.
const OF_PACKAGES: [&str; 3] = ["/usr/bin", "/usr/sbin", "/bin"];

/// A program whose file is to be exchanged.
#[derive(Debug)]
struct Exchange {
    new: PathBuf,
    place: PathBuf,
}

/// The programs that a directory brings and that differ from those in use.
#[derive(Debug)]
pub(crate) struct NewPrograms {
    exchanges: Vec<Exchange>,
    /// What the new ones say of themselves.
    pub(crate) versions: Vec<String>,
}

fn refused(reason: String, hint: &str) -> ProvisionError {
    ProvisionError::UpgradeRefused { reason, hint: hint.to_owned() }
}

/// Where the program is kept that was exchanged.
fn kept(place: &Path) -> PathBuf {
    let mut name = place.file_name().unwrap_or_default().to_owned();
    name.push(".previous");
    place.with_file_name(name)
}

/// What a program says to `--version`. It is run, so that a file that is no program of this machine is found before
/// anything has changed.
fn version_of(program: &Path, name: &str) -> std::result::Result<String, String> {
    let run = || -> std::io::Result<(bool, String)> {
        let mut child = Command::new(program)
            .arg("--version")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()?;
        let deadline = Instant::now() + VERSION_TIMEOUT;
        let status = loop {
            match child.try_wait()? {
                Some(status) => break status,
                None if Instant::now() < deadline => std::thread::sleep(POLL_INTERVAL),
                None => {
                    child.kill()?;
                    child.wait()?;
                    return Err(ErrorKind::TimedOut.into());
                }
            }
        };
        let mut text = String::new();
        if let Some(output) = child.stdout.take() {
            output.take(4096).read_to_string(&mut text)?;
        }
        Ok((status.success(), text.trim().to_owned()))
    };
    match run() {
        Ok((true, text)) if text.split_whitespace().next() == Some(name) => Ok(text),
        Ok(_) => Err(format!("{} --version does not say that it is {name}", program.display())),
        Err(error) => Err(format!("{} cannot be run: {error}", program.display())),
    }
}

fn has_same_content(one: &Path, other: &Path) -> std::io::Result<bool> {
    if fs::metadata(one)?.len() != fs::metadata(other)?.len() {
        return Ok(false);
    }
    Ok(fs::read(one)? == fs::read(other)?)
}

impl NewPrograms {
    /// Looks at what the directory brings for the programs in use. Nothing is changed.
    ///
    /// # Errors
    /// When it has none of them, one cannot be run here, or those in use are a package's.
    pub(crate) fn find(from: &Path) -> Result<Self> {
        let own = std::env::current_exe().map_err(ProvisionError::io("find", Path::new("/proc/self/exe")))?;
        let place = |name: &str| if name == OWN { Some(own.clone()) } else { find_daemon(name) };
        Self::between(from, place)
    }

    fn between(from: &Path, place: impl Fn(&str) -> Option<PathBuf>) -> Result<Self> {
        check_ours(from)?;
        let mut found = Self { exchanges: Vec::new(), versions: Vec::new() };
        for name in DAEMONS.into_iter().chain([OWN]) {
            let new = from.join(name);
            let (true, Some(place)) = (new.exists(), place(name)) else { continue };
            if place.parent().is_some_and(|parent| is_same_place(parent, from)) {
                return Err(refused(
                    format!("{} is where the programs in use are", from.display()),
                    "name the directory of the new programs, and run the `cellar` that is in use",
                ));
            }
            if OF_PACKAGES.iter().any(|directory| place.starts_with(directory)) {
                return Err(refused(
                    format!("{} belongs to a package", place.display()),
                    "install the new packages (`apt-get install ./cellar_*.deb ./cellar-server_*.deb`), then `cellar host upgrade` without --from",
                ));
            }
            let version = version_of(&new, name).map_err(|reason| {
                refused(reason, "nothing was changed: name a directory with programs for this machine")
            })?;
            found.versions.push(version);
            // What an interrupted upgrade has kept can be put back, although the new file is in place.
            let is_new = !has_same_content(&new, &place).map_err(ProvisionError::io("compare", &new))?;
            if is_new || kept(&place).exists() {
                found.exchanges.push(Exchange { new, place });
            }
        }
        match found.versions.is_empty() {
            true => Err(refused(
                format!("there is none of the programs in {}", from.display()),
                "name the directory of the new multiadmin, multipooler and cellar",
            )),
            false => Ok(found),
        }
    }

    /// Puts the new files in the places of those in use, which are kept beside them. What runs goes on with the old ones.
    pub(crate) fn install(&self) -> Result<()> {
        for Exchange { new, place } in &self.exchanges {
            let kept = kept(place);
            // What an interrupted upgrade has kept is what was well.
            match fs::hard_link(place, &kept) {
                Err(error) if error.kind() != ErrorKind::AlreadyExists => {
                    return Err(ProvisionError::io("keep", &kept)(error));
                }
                _ => {}
            }
            let copy = || -> std::io::Result<()> {
                let mut draft = AtomicFile::new(place).mode(MODE).begin()?;
                std::io::copy(&mut File::open(new)?, &mut draft)?;
                draft.finish()
            };
            copy().map_err(ProvisionError::io("write", place))?;
        }
        Ok(())
    }

    /// Puts the files back that were in use before.
    pub(crate) fn put_back(&self) -> Result<()> {
        self.exchanges.iter().try_for_each(|Exchange { place, .. }| {
            let kept = kept(place);
            match fs::rename(&kept, place) {
                Err(error) if error.kind() != ErrorKind::NotFound => {
                    Err(ProvisionError::io("put back", &kept)(error))
                }
                _ => Ok(()),
            }
        })
    }

    /// Removes what was kept: the new ones are well.
    pub(crate) fn forget_previous(&self) -> Result<()> {
        self.exchanges.iter().try_for_each(|Exchange { place, .. }| remove_kept(&kept(place)))
    }
}

/// Removes what an interrupted upgrade has kept beside the programs in use: they are well.
pub(crate) fn forget_previous_of_those_in_use() -> Result<()> {
    let own = std::env::current_exe().ok();
    let places = DAEMONS.into_iter().filter_map(find_daemon).chain(own);
    let is_ours = |place: &PathBuf| !OF_PACKAGES.iter().any(|directory| place.starts_with(directory));
    places.filter(is_ours).try_for_each(|place| remove_kept(&kept(&place)))
}

fn remove_kept(kept: &Path) -> Result<()> {
    match fs::remove_file(kept) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(ProvisionError::io("remove", kept)(error)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn program(path: &Path, name: &str, version: &str) {
        fs::write(path, format!("#!/bin/sh\necho {name} {version}\n")).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    /// A directory with programs in use, and one with new ones.
    fn world() -> (tempfile::TempDir, PathBuf, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let (used, new) = (dir.path().join("used"), dir.path().join("new"));
        for (directory, version) in [(&used, "1"), (&new, "2")] {
            fs::create_dir(directory).unwrap();
            program(&directory.join("multiadmin"), "multiadmin", version);
            program(&directory.join("multipooler"), "multipooler", version);
        }
        (dir, used, new)
    }

    #[test]
    fn programs_are_exchanged_and_put_back() {
        let (_dir, used, new) = world();
        let find = || NewPrograms::between(&new, |name| Some(used.join(name)));
        let text = |name: &str| fs::read_to_string(used.join(name)).unwrap();
        let found = find().unwrap();
        assert_eq!(found.versions, ["multiadmin 2", "multipooler 2"]);
        // Twice, as after an interruption: what was well is what is kept.
        found.install().unwrap();
        let found = find().unwrap();
        found.install().unwrap();
        assert!(text("multiadmin").contains('2') && text("multipooler").contains('2'));
        assert_eq!(used.join("multiadmin").metadata().unwrap().permissions().mode() & 0o7777, MODE);
        found.put_back().unwrap();
        assert!(text("multiadmin").contains('1') && text("multipooler").contains('1'));

        found.install().unwrap();
        found.forget_previous().unwrap();
        assert_eq!(fs::read_dir(&used).unwrap().count(), 2);
        // Nothing is left to be exchanged, and nothing to be put back.
        let again = find().unwrap();
        assert!(again.exchanges.is_empty());
        again.install().unwrap();
        again.put_back().unwrap();
        assert!(text("multiadmin").contains('2'));
    }

    #[test]
    fn what_is_no_such_program_is_refused_before_anything_changes() {
        let (dir, used, new) = world();
        let refusal = |from: &Path| {
            let place = |name: &str| Some(used.join(name));
            NewPrograms::between(from, place).unwrap_err().to_string()
        };
        let bad = new.join("multipooler");
        fs::write(&bad, "not a program").unwrap();
        assert!(refusal(&new).contains("cannot be run"));
        program(&bad, "multiadmin", "2");
        assert!(refusal(&new).contains("does not say that it is multipooler"));
        fs::write(&bad, "#!/bin/sh\nexit 1\n").unwrap();
        assert!(refusal(&new).contains("does not say"));
        let empty = dir.path().join("empty");
        fs::create_dir(&empty).unwrap();
        assert!(refusal(&empty).contains("none of the programs"));
        assert!(refusal(&used).contains("where the programs in use are"));
        fs::set_permissions(&new, fs::Permissions::from_mode(0o777)).unwrap();
        assert!(refusal(&new).contains("cannot use"));
        assert_eq!(fs::read_dir(&used).unwrap().count(), 2);
    }

    #[test]
    fn what_belongs_to_a_package_is_not_exchanged() {
        let (_dir, _used, new) = world();
        let packaged = NewPrograms::between(&new, |name| Some(Path::new("/usr/bin").join(name)));
        assert!(packaged.unwrap_err().to_string().contains("/usr/bin/multiadmin belongs to a package"));
    }
}
