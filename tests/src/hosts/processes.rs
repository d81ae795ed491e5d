//! What happens to all processes of a host at once.

use nix::sys::signal::Signal;

use crate::hosts::network;
use crate::hosts::set::Hosts;
use crate::machine::process::{is_stopped, signal};
use crate::machine::wait::eventually;

impl Hosts {
    /// All processes on a host.
    #[must_use]
    #[track_caller]
    pub fn processes(&self, host: &str) -> Vec<i32> {
        network::processes(&self.namespace(host))
    }

    /// Kills all processes on a host; its kernel tells those who are connected, unless the host is isolated before: that
    /// is a power cut.
    ///
    /// # Panics
    /// When one does not end.
    #[track_caller]
    pub fn kill_all(&self, host: &str) {
        network::kill_all(&self.namespace(host));
        assert_eq!(self.processes(host), [0; 0], "processes on {host} that do not end");
    }

    /// Stops all processes on a host, until [`Hosts::thaw`]; its kernel still takes what is sent.
    ///
    /// # Panics
    /// When one does not stop.
    #[track_caller]
    pub fn freeze(&self, host: &str) {
        let running =
            || -> Vec<i32> { self.processes(host).into_iter().filter(|pid| !is_stopped(*pid)).collect() };
        eventually(&format!("all processes on {host} to be stopped"), || {
            running().into_iter().for_each(|pid| signal(pid, Signal::SIGSTOP));
            // Twice: one may have started another after the first look at all, just before it stopped.
            running().is_empty() && running().is_empty()
        });
    }

    /// Lets all processes on a host go on.
    #[track_caller]
    pub fn thaw(&self, host: &str) {
        self.processes(host).into_iter().for_each(|pid| signal(pid, Signal::SIGCONT));
    }
}
