//! Giving up the right to use files outside some directories, with the kernel's Landlock.

use std::io;
use std::path::{Path, PathBuf};

use landlock::{
    ABI, Access, AccessFs, BitFlags, CompatLevel, Compatible, Ruleset, RulesetAttr, RulesetCreatedAttr,
    RulesetStatus, make_bitflags, path_beneath_rules,
};

use crate::file_id::FileId;

/// The kernel's interface whose rights are given up: with truncation, Linux 6.2. Older kernels give up what they know.
const INTERFACE: ABI = ABI::V3;

/// The files that a confined process may use, and what is below the directories among them. What is not there is left
/// out. Links are followed: what counts is the file or directory that they lead to when the process is confined, and that
/// one only, also when another takes its name later.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FileAccess {
    /// May be read and executed.
    pub programs: Vec<PathBuf>,
    /// May be read.
    pub readable: Vec<PathBuf>,
    /// May be read, written, made and removed.
    pub writable: Vec<PathBuf>,
}

impl FileAccess {
    /// What its paths lead to now: a process that was confined to them when they led elsewhere cannot use that.
    #[must_use]
    pub fn present(&self) -> PresentFiles {
        let all = [&self.programs, &self.readable, &self.writable].into_iter().flatten();
        PresentFiles(all.map(|path| (path.clone(), FileId::of(path).ok())).collect())
    }
}

/// What the paths of a [`FileAccess`] led to at one time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PresentFiles(Vec<(PathBuf, Option<FileId>)>);

/// What may be done with a file or directory that may be written: everything but to execute it, and to make devices,
/// pipes and sockets.
const WRITABLE: BitFlags<AccessFs> = make_bitflags!(AccessFs::{
    ReadFile | ReadDir | WriteFile | Truncate | RemoveFile | RemoveDir | MakeReg | MakeDir | MakeSym | Refer
});

/// Takes from the calling *thread*, and from every process that it starts, the right to use any file but these. There is
/// no way back. False when the kernel cannot do it.
///
/// What is open already stays open. The names of files and what `stat` tells of them can still be learned, where the
/// file's directory may be searched, and sockets in the file system be connected to.
///
/// # Errors
/// When the kernel can do it and refuses.
pub fn confine(access: &FileAccess) -> io::Result<bool> {
    let readable = AccessFs::ReadFile | AccessFs::ReadDir;
    let status = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(INTERFACE))
        .and_then(Ruleset::create)
        .and_then(|rules| {
            rules
                .add_rules(path_beneath_rules(&access.programs, readable | AccessFs::Execute))?
                .add_rules(path_beneath_rules(&access.readable, readable))?
                .add_rules(path_beneath_rules(&access.writable, WRITABLE))
        })
        .and_then(landlock::RulesetCreated::restrict_self)
        .map_err(io::Error::other)?;
    Ok(status.ruleset != RulesetStatus::NotEnforced)
}

/// Takes from the calling *thread*, and from every process that it starts, the right to write to anything but these
/// files and what is below these directories. There is no way back. False when the kernel cannot do it.
///
/// # Errors
/// When the kernel can do it and refuses.
pub fn confine_writes<P: AsRef<Path>>(writable: impl IntoIterator<Item = P>) -> io::Result<bool> {
    let writes = AccessFs::from_write(INTERFACE);
    let status = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(writes)
        .and_then(Ruleset::create)
        .and_then(|rules| rules.add_rules(path_beneath_rules(writable, writes)))
        .and_then(landlock::RulesetCreated::restrict_self)
        .map_err(io::Error::other)?;
    Ok(status.ruleset != RulesetStatus::NotEnforced)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn confined_process_uses_its_files_and_no_other() {
        let dir = tempfile::tempdir().unwrap();
        let place = |name: &str| dir.path().join(name);
        for name in ["read", "write", "outside"] {
            std::fs::create_dir(place(name)).unwrap();
            std::fs::write(place(name).join("there"), format!("of {name}")).unwrap();
        }
        std::fs::write(place("one"), "one file").unwrap();
        std::os::unix::fs::symlink(place("outside"), place("read").join("link")).unwrap();
        // Each line is tried by itself and leaves its name in `write` when it succeeds.
        let tried = [
            ("reads", "cat read/there"),
            ("reads-one", "cat one"),
            ("lists", "ls read/"),
            ("writes", "echo x >write/new && mv write/new write/newer && rm write/newer"),
            ("links", "ln -s ../outside write/link"),
            ("writes-read", "echo x >read/there"),
            ("makes-read", "echo x >read/new"),
            ("reads-outside", "cat outside/there"),
            ("reads-through-link", "cat read/link/there"),
            ("lists-outside", "ls outside/"),
            ("writes-outside", "echo x >>outside/there"),
            ("removes-outside", "rm outside/there"),
            ("executes", "cp /bin/true write/program && write/program"),
        ];
        let script: String = tried
            .iter()
            .map(|(name, line)| format!("if ({line}) >/dev/null 2>&1; then echo >write/{name}; fi\n"))
            .collect();
        let system = ["/usr", "/bin", "/sbin", "/lib", "/lib64", "/nix/store", "/gnu/store"];
        let access = FileAccess {
            programs: system.map(PathBuf::from).into(),
            readable: vec![place("read"), place("one"), place("missing")],
            writable: vec![place("write"), "/dev/null".into()],
        };
        let at = dir.path().to_owned();
        // A thread of its own: the others of this process go on as before.
        let confined = std::thread::spawn(move || {
            let enforced = confine(&access).unwrap();
            let mut shell = std::process::Command::new("sh");
            assert!(shell.arg("-c").arg(script).current_dir(&at).status().unwrap().success());
            enforced
        });
        let enforced = confined.join().unwrap();
        let done: Vec<&str> =
            tried.iter().map(|(name, _)| *name).filter(|name| place("write").join(name).exists()).collect();
        if enforced {
            assert_eq!(done, ["reads", "reads-one", "lists", "writes", "links"]);
        } else {
            assert_eq!(done.len(), tried.len(), "the kernel has no Landlock: {done:?}");
        }
    }

    #[test]
    fn what_takes_the_name_of_a_file_is_another() {
        let dir = tempfile::tempdir().unwrap();
        let (file, link) = (dir.path().join("file"), dir.path().join("link"));
        std::fs::write(&file, "").unwrap();
        std::fs::write(dir.path().join("new"), "").unwrap();
        std::os::unix::fs::symlink(&file, &link).unwrap();
        let access = FileAccess {
            programs: vec![dir.path().to_owned()],
            readable: vec![dir.path().join("later")],
            writable: vec![link.clone()],
        };
        let before = access.present();
        assert_eq!(access.present(), before);
        std::fs::rename(dir.path().join("new"), &file).unwrap();
        let replaced = access.present();
        assert_ne!(replaced, before);
        std::fs::create_dir(dir.path().join("later")).unwrap();
        assert_ne!(access.present(), replaced);
    }

    #[test]
    fn confined_process_writes_where_it_may_and_nowhere_else() {
        let dir = tempfile::tempdir().unwrap();
        let (inside, outside) = (dir.path().join("inside"), dir.path().join("outside"));
        for place in [&inside, &outside] {
            std::fs::create_dir(place).unwrap();
        }
        std::os::unix::fs::symlink(&outside, inside.join("link")).unwrap();
        std::fs::write(outside.join("there"), "as before").unwrap();
        let script = "echo x >mine; mv mine yours; cat ../outside/there >copy; echo x >link/new; echo x >../outside/there; rm ../outside/there; true";
        let (at, rule) = (inside.clone(), inside.clone());
        // A thread of its own: the others of this process go on as before.
        let enforced = std::thread::spawn(move || {
            let enforced = confine_writes([rule.as_path(), Path::new("/dev/null")]).unwrap();
            let mut shell = std::process::Command::new("sh");
            let status =
                shell.arg("-c").arg(script).current_dir(&at).stderr(std::process::Stdio::null()).status();
            assert!(status.unwrap().success());
            enforced
        });
        let enforced = enforced.join().unwrap();
        assert_eq!(std::fs::read_to_string(inside.join("copy")).unwrap(), "as before");
        assert!(inside.join("yours").exists());
        // Without the kernel's help there is nothing to see here.
        if enforced {
            assert!(!outside.join("new").exists());
            assert_eq!(std::fs::read_to_string(outside.join("there")).unwrap(), "as before");
        }
        std::fs::write(outside.join("unconfined"), "").unwrap();
    }
}
