//! The confirmation before data is deleted: the answer is the database's name, so that a mistyped key confirms nothing.

use std::io::IsTerminal;

use crate::failure::{Failure, Outcome};
use crate::output;

/// Refuses a command that would ask for confirmation where no terminal is, before anything is done.
pub(crate) fn check_terminal(yes: bool) -> Outcome {
    if yes || (std::io::stdin().is_terminal() && std::io::stderr().is_terminal()) {
        return Ok(());
    }
    Err(Failure::usage(
        "this asks for confirmation, and there is no terminal to ask on",
        "confirm with --yes",
    ))
}

/// Asks on the terminal. Anything but the expected answer ends the command.
pub(crate) async fn ask(question: &str, expected: &str) -> Outcome {
    output::prompt(&format!("{question} Type the database's name to go on: "));
    let answer = tokio::task::spawn_blocking(|| {
        let mut line = String::new();
        std::io::stdin().read_line(&mut line).map(|_| line)
    })
    .await
    .map_err(|error| Failure::Bug(error.to_string()))?
    .map_err(|source| Failure::Io { what: "read the answer".to_owned(), source })?;
    if is_confirmed(&answer, expected) {
        return Ok(());
    }
    Err(Failure::usage(
        "not confirmed; nothing was changed",
        format!("the expected answer was {expected}; with --yes the command does not ask"),
    ))
}

fn is_confirmed(answer: &str, expected: &str) -> bool {
    !expected.is_empty() && answer.trim() == expected
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_databases_name_confirms() {
        assert!(is_confirmed("app\n", "app"));
        assert!(is_confirmed(" app \r\n", "app"));
        for no in ["", "\n", "y\n", "yes\n", "App\n", "app app\n"] {
            assert!(!is_confirmed(no, "app"), "{no:?}");
        }
        assert!(!is_confirmed("\n", ""), "an empty answer does not confirm an unknown name");
    }
}
