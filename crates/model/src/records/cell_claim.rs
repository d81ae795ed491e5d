//! Which process runs a cell: its claim in etcd, and what its machine remembers of its own claims.

use std::fmt;

use serde::{Deserialize, Serialize};

/// How many of its last processes a machine remembers. Each start is one; etcd put back to a state from before as many
/// starts would name one that is forgotten.
const MAX_EPOCHS: usize = 1000;

/// The process that runs a cell. It stands until another process takes it over, whether that one lives or not.
///
/// In etcd it is one string, as every other claim is, so that older builds can read it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct CellClaim {
    /// Counts the machines that have run the cell, from 1.
    pub number: u32,
    /// The run of the pooler process.
    pub epoch: String,
    /// The machine that it is on, for people.
    pub machine: String,
}

/// The text is no claim of a cell.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} does not say which process runs the cell")]
pub struct CellClaimError(String);

impl TryFrom<String> for CellClaim {
    type Error = CellClaimError;

    fn try_from(text: String) -> Result<Self, CellClaimError> {
        let read = || {
            let (number, rest) = text.split_once(' ')?;
            let (epoch, machine) = rest.split_once(' ')?;
            let number = number.parse().ok().filter(|number| *number > 0)?;
            (!epoch.is_empty()).then(|| Self { number, epoch: epoch.to_owned(), machine: machine.to_owned() })
        };
        read().ok_or_else(|| CellClaimError(text.chars().take(60).collect()))
    }
}

impl From<CellClaim> for String {
    fn from(claim: CellClaim) -> Self {
        claim.to_string()
    }
}

impl fmt::Display for CellClaim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", self.number, self.epoch, self.machine)
    }
}

/// What a machine remembers of its claims on a cell, in a file beside the cell's data.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct OwnClaims {
    /// The number of its last claim; 0 when it never had one, and when an operator gives the cell to it.
    pub number: u32,
    /// The runs of its pooler process, the last one at the end.
    pub epochs: Vec<String>,
    /// The claim of another machine that has taken the cell over. It is remembered, because etcd may lose it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub taken_over_by: Option<CellClaim>,
}

impl OwnClaims {
    /// Of a machine that has run the cell before there were claims.
    #[must_use]
    pub fn of_older_build() -> Self {
        Self { number: 1, ..Self::default() }
    }

    /// Whether this was a run of this machine's pooler process.
    #[must_use]
    pub fn has(&self, epoch: &str) -> bool {
        self.epochs.iter().any(|own| own == epoch)
    }

    /// The same with one more claim.
    #[must_use]
    pub fn with(&self, number: u32, epoch: &str) -> Self {
        let mut epochs = self.epochs.clone();
        if !self.has(epoch) {
            epochs.push(epoch.to_owned());
        }
        let forgotten = epochs.len().saturating_sub(MAX_EPOCHS);
        Self { number, epochs: epochs.split_off(forgotten), taken_over_by: None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn claim_is_one_string_as_older_builds_read_it() {
        let claim = CellClaim { number: 2, epoch: "e-1".into(), machine: "db1 (machine id 0a1b)".into() };
        let text = serde_json::to_string(&claim).unwrap();
        assert_eq!(text, r#""2 e-1 db1 (machine id 0a1b)""#);
        assert_eq!(serde_json::from_str::<String>(&text).unwrap(), claim.to_string());
        assert_eq!(serde_json::from_str::<CellClaim>(&text).unwrap(), claim);
        for bad in ["", "2", "2 e", "0 e m", "x e m", "2  m", "-1 e m"] {
            assert!(CellClaim::try_from(bad.to_owned()).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn the_last_thousand_runs_are_remembered() {
        let own = (0..1500).fold(OwnClaims::default(), |own, n| own.with(1, &n.to_string()));
        assert_eq!(own.epochs.len(), MAX_EPOCHS);
        assert!(own.has("1499") && own.has("500") && !own.has("499"));
        assert_eq!(own.with(1, "1499"), own, "once each");
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_refused_or_reads_back(text in "\\PC{0,80}") {
            if let Ok(claim) = CellClaim::try_from(text.clone()) {
                proptest::prop_assert_eq!(CellClaim::try_from(claim.to_string()), Ok(claim));
            }
        }
    }
}
