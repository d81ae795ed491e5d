//! The rules of the protocol that the checker can break, one at a time.

/// Which rules are kept. A program can only have all of them: [`Rules::SAFE`] is the only value that it can make. With the
/// feature `broken-rules`, which only the checker turns on, each can be taken away, to see that the checker notices.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rules {
    /// A promise is durable before the member stops receiving and counts.
    pub(super) durable_promise: bool,
    /// Promises of n-k+1 standbys.
    pub(super) enough_promises: bool,
    /// Positions are compared by term first.
    pub(super) term_before_lsn: bool,
    /// An appointed member leads only from the position that the appointment states.
    pub(super) floor: bool,
    /// A term that was begun is not begun again with other data.
    pub(super) begun_once: bool,
    /// The cohort changes in steps in which both rules hold.
    pub(super) cohort_steps: bool,
    /// A copy whose data was replaced is not the one that acknowledged.
    pub(super) amnesia: bool,
    /// Nothing is acknowledged before the term row has its quorum.
    pub(super) term_row_first: bool,
    /// A report of a rule of before is not taken for one of now.
    pub(super) numbered_rules: bool,
    /// A copy that cannot follow is given up when the leader has no quorum without another one.
    pub(super) gives_up: bool,
}

impl Rules {
    /// All rules.
    pub const SAFE: Self = Self {
        durable_promise: true,
        enough_promises: true,
        term_before_lsn: true,
        floor: true,
        begun_once: true,
        cohort_steps: true,
        amnesia: true,
        term_row_first: true,
        numbered_rules: true,
        gives_up: true,
    };
}

/// For the checker only.
#[cfg(feature = "broken-rules")]
impl Rules {
    /// Without durable promises: a member that restarts has forgotten that it promised.
    #[must_use]
    pub const fn without_durable_promise(self) -> Self {
        Self { durable_promise: false, ..self }
    }

    /// One promise fewer is enough.
    #[must_use]
    pub const fn without_enough_promises(self) -> Self {
        Self { enough_promises: false, ..self }
    }

    /// The longest log wins, whatever its term.
    #[must_use]
    pub const fn without_term_before_lsn(self) -> Self {
        Self { term_before_lsn: false, ..self }
    }

    /// An appointed member leads from wherever it is.
    #[must_use]
    pub const fn without_floor(self) -> Self {
        Self { floor: false, ..self }
    }

    /// A member whose data was lost begins its term again.
    #[must_use]
    pub const fn without_begun_once(self) -> Self {
        Self { begun_once: false, ..self }
    }

    /// A new cohort takes the place of the old one at once.
    #[must_use]
    pub const fn without_cohort_steps(self) -> Self {
        Self { cohort_steps: false, ..self }
    }

    /// Any copy of a cell counts.
    #[must_use]
    pub const fn without_amnesia(self) -> Self {
        Self { amnesia: false, ..self }
    }

    /// A promoted member acknowledges from its first moment.
    #[must_use]
    pub const fn without_term_row_first(self) -> Self {
        Self { term_row_first: false, ..self }
    }

    /// A report of any rule with the same cohort counts.
    #[must_use]
    pub const fn without_numbered_rules(self) -> Self {
        Self { numbered_rules: false, ..self }
    }

    /// A copy always leaves the cohort before its data is replaced.
    #[must_use]
    pub const fn without_giving_up(self) -> Self {
        Self { gives_up: false, ..self }
    }
}
