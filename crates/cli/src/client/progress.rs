//! Shows the progress of a job that is followed: a bar on a terminal, plain lines elsewhere.

use std::io::IsTerminal;
use std::time::Duration;

use cellar_api::v1::Job;
use console::Term;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle, TermLike};

use crate::output;
use crate::render::progress::{Lines, bytes, phase};

/// How often the spinner turns.
const SPINNER_INTERVAL: Duration = Duration::from_millis(120);

/// The bar, the sizes and the time left need so many columns beside a phase of a few words.
const MIN_BAR_WIDTH: u16 = 100;

/// A job whose bytes are not counted. `wide_msg` is cut to the terminal's width: a line that wraps is not erased.
const SPINNER: &str = "{spinner} {wide_msg}";

/// A job whose bytes are counted, on a narrow terminal.
const PERCENTAGE: &str = "{wide_msg} {percent} %";

/// A job whose bytes are counted.
const BAR: &str = "{wide_msg}  {bar:24} {binary_bytes} of {binary_total_bytes}  {percent} %  ETA {eta}";

/// Where progress is shown.
pub(crate) enum Display {
    /// On a terminal: one line that is redrawn.
    Bar(Bar),
    /// On a pipe or in a file: a line for what is new.
    Lines(Lines),
    /// Nowhere.
    Silent,
}

impl Display {
    /// Shows progress on stderr; nothing if `quiet`.
    pub(crate) fn new(quiet: bool) -> Self {
        if quiet {
            return Self::Silent;
        }
        if !std::io::stderr().is_terminal() {
            return Self::Lines(Lines::default());
        }
        let bar = Bar::new(ProgressDrawTarget::stderr(), Box::new(Term::stderr()));
        bar.bar.enable_steady_tick(SPINNER_INTERVAL);
        Self::Bar(bar)
    }

    /// Shows what is new of the job.
    pub(crate) fn update(&mut self, job: &Job) {
        match self {
            Self::Bar(bar) => bar.update(job),
            Self::Lines(lines) => lines.update(job).iter().for_each(|line| output::note(line)),
            Self::Silent => {}
        }
    }

    /// Removes the bar.
    pub(crate) fn finish(&self) {
        if let Self::Bar(bar) = self {
            bar.bar.finish_and_clear();
        }
    }
}

/// One line of a terminal.
pub(crate) struct Bar {
    bar: ProgressBar,
    /// Gives the width, which can change while the bar is shown. `ProgressBar` does not expose it.
    terminal: Box<dyn TermLike>,
    template: &'static str,
}

impl Bar {
    fn new(target: ProgressDrawTarget, terminal: Box<dyn TermLike>) -> Self {
        let mut bar = Self { bar: ProgressBar::with_draw_target(None, target), terminal, template: "" };
        bar.use_template(SPINNER);
        bar
    }

    fn use_template(&mut self, template: &'static str) {
        if self.template == template {
            return;
        }
        self.template = template;
        if let Ok(style) = ProgressStyle::with_template(template) {
            self.bar.set_style(style.progress_chars("=> "));
        }
    }

    fn update(&mut self, job: &Job) {
        let (done, total) = bytes(job.progress.as_ref());
        // The step after one that counted bytes may have none.
        if total > 0 {
            self.bar.set_length(total);
            self.use_template(if self.terminal.width() >= MIN_BAR_WIDTH { BAR } else { PERCENTAGE });
            self.bar.set_position(done.min(total));
        } else {
            self.bar.unset_length();
            self.use_template(SPINNER);
            self.bar.set_position(done);
        }
        // A line break or a tabulator would make more than one line of it.
        let message: String = phase(job).chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        self.bar.set_message(message);
    }
}

#[cfg(test)]
mod tests {
    use cellar_api::v1::{JobState, Progress};
    use indicatif::InMemoryTerm;

    use super::*;

    fn shown_at(width: u16, job: &Job) -> String {
        let terminal = InMemoryTerm::new(10, width);
        let target = ProgressDrawTarget::term_like(Box::new(terminal.clone()));
        let mut bar = Bar::new(target, Box::new(terminal.clone()));
        bar.update(job);
        bar.bar.tick();
        terminal.contents()
    }

    fn running(phase: &str, bytes_done: u64, bytes_total: u64) -> Job {
        let progress = Progress { phase: phase.to_owned(), bytes_done, bytes_total, ..Progress::default() };
        let mut job = Job { progress: Some(progress), ..Job::default() };
        job.set_state(JobState::Running);
        job
    }

    #[test]
    fn progress_is_one_line_at_any_width() {
        let long =
            "recover zone2: replaying WAL until 2026-03-02T10:10:00.123456Z,\nthen promoting to timeline 2";
        for job in
            [running(long, 0, 0), running(long, 3 << 30, 7 << 30), running("copying", 1023 << 40, 1023 << 40)]
        {
            for width in [10, 40, 79, 80, 99, 100, 200] {
                let text = shown_at(width, &job);
                assert_eq!(text.lines().count(), 1, "{width} columns: {text:?}");
                assert!(text.chars().count() <= usize::from(width), "{width} columns: {text:?}");
            }
        }
    }

    #[test]
    fn a_wide_terminal_shows_the_bytes_and_a_narrow_one_the_percentage() {
        let job = running("copying", 1 << 30, 4 << 30);
        let wide = shown_at(120, &job);
        assert!(wide.contains("1.00 GiB of 4.00 GiB") && wide.contains("25 %"), "{wide:?}");
        let narrow = shown_at(40, &job);
        assert!(narrow.starts_with("copying") && narrow.ends_with("25 %"), "{narrow:?}");
    }
}
