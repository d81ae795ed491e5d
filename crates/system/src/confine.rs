//! Giving up the right to write outside some directories, with the kernel's Landlock.

use std::io;
use std::path::Path;

use landlock::{
    ABI, AccessFs, CompatLevel, Compatible, Ruleset, RulesetAttr, RulesetCreated, RulesetCreatedAttr,
    RulesetStatus, path_beneath_rules,
};

/// The kernel's interface whose rights to write are given up: with truncation, Linux 6.2. Older kernels give up what they
/// know.
const INTERFACE: ABI = ABI::V3;

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
        .and_then(RulesetCreated::restrict_self)
        .map_err(io::Error::other)?;
    Ok(status.ruleset != RulesetStatus::NotEnforced)
}

#[cfg(test)]
mod tests {
    use super::*;

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
