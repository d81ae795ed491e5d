//! Running a program for a bundle: it has a deadline, and what it prints a limit.

use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::Command;

use super::archive::Parts;
use super::json::{redact_json, redact_log};

/// How long one program may take.
const PROGRAM_TIMEOUT: Duration = Duration::from_secs(30);

/// Bytes that are read of what one program prints.
const MAX_OUTPUT: u64 = 4 << 20;

/// What a program printed, and how it ended.
struct Printed {
    stdout: String,
    stderr: String,
    /// None for success.
    failure: Option<String>,
}

async fn read(stream: Option<impl AsyncRead + Unpin>) -> String {
    let mut bytes = Vec::new();
    if let Some(stream) = stream {
        // What was read until an error is shown.
        let _ = stream.take(MAX_OUTPUT).read_to_end(&mut bytes).await;
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

async fn run(command: &mut Command, timeout: Duration) -> Result<Printed, String> {
    let command =
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let mut child = command.spawn().map_err(|error| format!("it cannot be run: {error}"))?;
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let all = async {
        let (stdout, stderr) = tokio::join!(read(stdout), read(stderr));
        (stdout, stderr, child.wait().await)
    };
    match tokio::time::timeout(timeout, all).await {
        Ok((stdout, stderr, status)) => {
            let failure = match status {
                Ok(status) if status.success() => None,
                Ok(status) => Some(status.to_string()),
                Err(error) => Some(error.to_string()),
            };
            Ok(Printed { stdout, stderr, failure })
        }
        Err(_) => Err(format!("it did not end within {} s", timeout.as_secs())),
    }
}

/// An answer as JSON, at `<path>.json`; how the command failed beside it.
pub(crate) async fn answer(path: &str, command: &mut Command) -> Parts {
    let mut parts = Parts::default();
    match run(command, PROGRAM_TIMEOUT).await {
        Ok(printed) => {
            match redact_json(&printed.stdout, &mut parts.secrets) {
                Some(text) => parts.add(format!("{path}.json"), text),
                None if printed.stdout.trim().is_empty() => {}
                // What is secret in it could not be told from the rest.
                None => parts.leave_out(
                    format!("{path}.json"),
                    format!("the answer has more than {} MiB, or is no JSON", MAX_OUTPUT >> 20),
                ),
            }
            if printed.failure.is_some() || !printed.stderr.trim().is_empty() {
                let how = printed.failure.unwrap_or_else(|| "it succeeded".to_owned());
                let text = redact_log(&printed.stderr, &mut parts.secrets);
                parts.add(format!("{path}.stderr.txt"), format!("{how}\n{text}"));
            }
        }
        Err(why) => parts.leave_out(format!("{path}.json"), why),
    }
    parts
}

/// What a program prints, as text.
pub(crate) async fn text(path: &str, command: &mut Command) -> Parts {
    let mut parts = Parts::default();
    match run(command, PROGRAM_TIMEOUT).await {
        Ok(Printed { stdout, stderr, failure }) => {
            let how = failure.map(|how| format!("{how}\n")).unwrap_or_default();
            let text = redact_log(&format!("{stdout}{stderr}{how}"), &mut parts.secrets);
            parts.add(path, text);
        }
        Err(why) => parts.leave_out(path, why),
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[tokio::test]
    async fn failing_command_leaves_its_answer_and_its_error() {
        let parts =
            answer("x", &mut shell("echo '{\"a\": 1}'; echo 'error: password=hunter2' >&2; exit 3")).await;
        let names: Vec<&str> = parts.files.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["x.json", "x.stderr.txt"]);
        let error = String::from_utf8(parts.files[1].1.clone()).unwrap();
        assert!(error.contains("exit status: 3") && error.contains("error: password=[removed]"), "{error}");
        let cut_off = answer("x", &mut shell("echo '{\"checks\": [\"select hunter2'")).await;
        assert!(cut_off.files.is_empty() && cut_off.left_out[0].why.contains("no JSON"), "{cut_off:?}");
        let missing = text("x", &mut Command::new("cellar-no-such-program")).await;
        assert!(missing.left_out[0].why.contains("cannot be run"), "{missing:?}");
    }

    #[tokio::test]
    async fn program_that_hangs_is_left_out() {
        let hangs = run(&mut shell("exec sleep 600"), Duration::from_millis(50)).await;
        assert!(hangs.is_err_and(|why| why.contains("did not end")));
    }
}
