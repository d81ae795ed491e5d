//! A problem that is found before anything is started or written.

use std::fmt;

/// One problem.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// What, with names.
    pub message: String,
    /// What to do about it.
    pub hint: Option<String>,
}

/// All of them: one as a sentence, several as a list with their hints.
pub(crate) struct Findings<'a>(pub(crate) &'a [Finding]);

impl fmt::Display for Findings<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            [one] => write!(f, "{}", one.message),
            several => {
                write!(f, "{} problems were found; nothing was started{}", several.len(), Listed(several))
            }
        }
    }
}

/// Each on lines of its own, with its hint.
pub(crate) struct Listed<'a>(pub(crate) &'a [Finding]);

impl fmt::Display for Listed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|finding| {
            write!(f, "\n  - {}", finding.message)?;
            finding.hint.iter().try_for_each(|hint| write!(f, "\n    ({hint})"))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::provision_error::ProvisionError;

    #[test]
    fn one_finding_is_a_sentence_and_several_are_a_list() {
        let finding = |message: &str| Finding { message: message.into(), hint: Some("repair it".into()) };
        let one = ProvisionError::Preflight(vec![finding("a")]);
        assert_eq!((one.to_string().as_str(), one.hint().as_deref()), ("a", Some("repair it")));
        let two = ProvisionError::Preflight(vec![finding("a"), finding("b")]);
        assert_eq!(
            two.to_string(),
            "2 problems were found; nothing was started\n  - a\n    (repair it)\n  - b\n    (repair it)"
        );
        assert_eq!(two.hint(), None);
    }
}
