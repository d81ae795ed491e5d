//! The ends of the logs of a test that failed, on its own output.

use std::path::{Path, PathBuf};

/// How many lines of each.
const LINES: usize = 25;

/// How much of each line.
const LINE_CHARACTERS: usize = 240;

/// All files named `*.log` below a directory, at most `depth` directories down.
pub(crate) fn below(directory: &Path, depth: u32) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() && depth > 0 {
            found.extend(below(&path, depth - 1));
        } else if path.extension().is_some_and(|extension| extension == "log") {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// Shows the end of each that is there.
pub(crate) fn show_ends(logs: &[PathBuf]) {
    for log in logs.iter().filter(|log| log.exists()) {
        let text = std::fs::read_to_string(log).unwrap_or_default();
        let lines: Vec<String> =
            text.lines().map(|line| line.chars().take(LINE_CHARACTERS).collect()).collect();
        let end = lines[lines.len().saturating_sub(LINES)..].join("\n");
        eprintln!("--- {}\n{end}", log.display());
    }
}
