//! What a program hears from a service manager and tells it, as systemd does it.

use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// The receiving end of a service manager.
#[derive(Debug)]
pub struct ServiceManager {
    path: PathBuf,
    socket: UnixDatagram,
}

impl ServiceManager {
    /// One that any user may report to.
    ///
    /// # Panics
    /// When the socket cannot be made.
    #[must_use]
    #[track_caller]
    pub(crate) fn listen(path: &Path) -> Self {
        let made = UnixDatagram::bind(path).and_then(|socket| {
            std::fs::set_permissions(path, PermissionsExt::from_mode(0o666))?;
            Ok(socket)
        });
        match made {
            Ok(socket) => Self { path: path.to_owned(), socket },
            Err(error) => panic!("{}: {error}", path.display()),
        }
    }

    /// The variables that lead a program here. Without the process id, which is not known before it is started.
    pub(crate) fn variables(&self, watchdog: Duration) -> Vec<(&'static str, String)> {
        vec![
            ("NOTIFY_SOCKET", self.path.display().to_string()),
            ("WATCHDOG_USEC", watchdog.as_micros().to_string()),
        ]
    }

    /// Waits until the program tells this, such as `READY=1`. False when it does not within `timeout`.
    ///
    /// # Panics
    /// When the socket fails.
    #[must_use]
    #[track_caller]
    pub fn hears(&self, what: &str, timeout: Duration) -> bool {
        let end = Instant::now() + timeout;
        let mut buffer = [0; 4096];
        loop {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            let heard = self.socket.set_read_timeout(Some(left)).and_then(|()| self.socket.recv(&mut buffer));
            match heard {
                Ok(length) => {
                    let text = String::from_utf8_lossy(&buffer[..length]);
                    if text.lines().any(|line| line == what) {
                        return true;
                    }
                }
                // A wait with a deadline is not begun again after a signal, such as that of an ended child.
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
                Err(error) => panic!("{}: {error}", self.path.display()),
            }
        }
    }

    /// Forgets what has been told and not heard yet.
    ///
    /// # Panics
    /// When the socket fails.
    pub fn forget(&self) {
        let Ok(()) = self.socket.set_nonblocking(true) else { panic!("{}", self.path.display()) };
        while self.socket.recv(&mut [0; 1]).is_ok() {}
        let Ok(()) = self.socket.set_nonblocking(false) else { panic!("{}", self.path.display()) };
    }
}
