//! What a member must not forget, in a file beside its data.

use std::cell::{Cell, RefCell};
use std::io::ErrorKind;
use std::path::Path;

use cellar_model::{CopyNumber, Rule, Term};
use cellar_system::{AtomicFile, clock};
use serde::{Deserialize, Serialize};

/// The file's content.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Kept {
    /// Which copy of the data this is.
    pub copy: CopyNumber,
    /// No term below this one is followed.
    #[serde(default)]
    pub promised: Term,
    /// The last term that was begun here, and with which copy.
    #[serde(default)]
    pub begun: Option<(Term, CopyNumber)>,
    /// The last term whose leader was followed with which copy: until then it is not known that the copy is on the leader's branch.
    #[serde(default)]
    pub followed: Option<(Term, CopyNumber)>,
    /// The segments in which the followed leader's line leaves earlier timelines, and the next of each. A former primary may have
    /// archived them whole, with WAL of its own that the leader lacks.
    #[serde(default)]
    pub left_segments: Vec<String>,
    /// The rule by which commits are acknowledged under the term that was begun; none until its row has its quorum.
    #[serde(default)]
    pub rule: Option<Rule>,
}

/// Puts the content on disk: it is there for good when this returns.
type Write = dyn Fn(&Kept) -> std::io::Result<()>;

/// The file. What is in memory is what is on disk, once it was written.
pub struct KeptFile {
    write: Box<Write>,
    kept: RefCell<Kept>,
    /// Whether it was ever written.
    saved: Cell<bool>,
}

/// A number that no copy of this cell had: seconds since 1970, or one more than the last. It differs also when the file was
/// lost with its disk.
fn new_number(last: Option<CopyNumber>) -> CopyNumber {
    let now = u32::try_from(clock::now().as_second()).unwrap_or(1);
    CopyNumber::new(last.map_or(now, |last| now.max(last.get().saturating_add(1))))
}

impl KeptFile {
    /// Reads the file. Without one nobody knows what this cell has promised or acknowledged, so its data counts as a new copy.
    ///
    /// # Errors
    /// When it is there and cannot be read.
    pub fn open(path: &Path) -> std::io::Result<Self> {
        let kept = match std::fs::read(path) {
            Ok(text) => Some(
                serde_json::from_slice(&text)
                    .map_err(|error| std::io::Error::other(format!("{}: {error}", path.display())))?,
            ),
            Err(error) if error.kind() == ErrorKind::NotFound => None,
            Err(error) => return Err(error),
        };
        let path = path.to_owned();
        Ok(Self::with(kept, Box::new(move |kept| write(&path, kept))))
    }

    /// The same, of what was `kept` elsewhere; none where there is nothing yet.
    #[must_use]
    pub fn with(kept: Option<Kept>, write: Box<Write>) -> Self {
        let is_new = kept.is_none();
        let kept = kept.unwrap_or_else(|| Kept {
            copy: new_number(None),
            promised: Term::default(),
            begun: None,
            followed: None,
            left_segments: Vec::new(),
            rule: None,
        });
        let mut saved = true;
        // A full disk does not hinder a database without quorum commit: it is written before anything relies on it.
        if is_new && let Err(error) = write(&kept) {
            tracing::warn!(%error, "what this member must not forget cannot be written yet");
            saved = false;
        }
        Self { write, kept: RefCell::new(kept), saved: Cell::new(saved) }
    }

    /// What is kept.
    #[must_use]
    pub fn get(&self) -> Kept {
        self.kept.borrow().clone()
    }

    /// The term that was begun with the present copy.
    #[must_use]
    pub fn own_term(&self) -> Option<Term> {
        let kept = self.kept.borrow();
        kept.begun.filter(|(_, copy)| *copy == kept.copy).map(|(term, _)| term)
    }

    /// The last term that was led or followed with the present copy; none for a copy that was just made.
    #[must_use]
    pub fn last_term(&self) -> Option<Term> {
        let kept = self.kept.borrow();
        let of_copy = |term: Option<(Term, CopyNumber)>| term.filter(|(_, copy)| *copy == kept.copy);
        of_copy(kept.begun).max(of_copy(kept.followed)).map(|(term, _)| term)
    }

    /// Whether this member ever followed or led under quorum commit.
    #[must_use]
    pub fn has_taken_part(&self) -> bool {
        self.kept.borrow().promised > Term::default()
    }

    /// Whether the term that was begun with the present copy has had its quorum.
    #[must_use]
    pub fn was_established(&self) -> bool {
        self.own_term().is_some() && self.kept.borrow().rule.is_some()
    }

    /// Changes what is kept. It is on disk when this returns.
    ///
    /// # Errors
    /// When the disk refuses. Then nothing was changed.
    pub fn update(&self, change: impl FnOnce(&mut Kept)) -> std::io::Result<()> {
        let mut kept = self.get();
        change(&mut kept);
        if kept != *self.kept.borrow() || !self.saved.get() {
            (self.write)(&kept)?;
            self.saved.set(true);
            self.kept.replace(kept);
        }
        Ok(())
    }

    /// Sees that it is on disk.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn save(&self) -> std::io::Result<()> {
        self.update(|_| {})
    }

    /// The data is about to be replaced: what comes in its place is another copy.
    ///
    /// # Errors
    /// When the disk refuses. Then the data must not be touched.
    pub fn begin_copy(&self) -> std::io::Result<()> {
        self.update(|kept| {
            kept.copy = new_number(Some(kept.copy));
            kept.rule = None;
        })
    }
}

impl std::fmt::Debug for KeptFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KeptFile")
            .field("kept", &self.kept)
            .field("saved", &self.saved)
            .finish_non_exhaustive()
    }
}

fn write(path: &Path, kept: &Kept) -> std::io::Result<()> {
    let text = serde_json::to_vec(kept).map_err(std::io::Error::other)?;
    AtomicFile::new(path).replace(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_is_there_after_a_restart_and_a_new_copy_has_another_number() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("availability.json");
        let file = KeptFile::open(&path).unwrap();
        let first = file.get().copy;
        file.update(|kept| {
            kept.promised = Term::new(4);
            kept.begun = Some((Term::new(4), kept.copy));
        })
        .unwrap();
        assert_eq!(file.own_term(), Some(Term::new(4)));
        let again = KeptFile::open(&path).unwrap();
        assert_eq!(again.get(), file.get());
        again.begin_copy().unwrap();
        assert!(again.get().copy > first);
        assert_eq!(again.own_term(), None, "the copy that began it is gone");
        assert_eq!(
            KeptFile::open(&path).unwrap().get().promised,
            Term::new(4),
            "a promise outlives the data"
        );
        std::fs::write(&path, "{").unwrap();
        assert!(KeptFile::open(&path).is_err(), "what cannot be read is not taken for nothing");
    }
}
