//! The OS user that PostgreSQL and everything beside it runs as.

use nix::unistd::{Gid, Uid, User, initgroups, setgid, setuid};

/// A user of this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OsUser {
    /// Login name.
    pub name: String,
    /// User id.
    pub uid: u32,
    /// Primary group id.
    pub gid: u32,
}

/// The user cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum UserError {
    /// No such login.
    #[error(
        "there is no OS user {0}: install the Debian package postgresql-common, which creates `postgres`, or name another with --os-user"
    )]
    Unknown(String),
    /// PostgreSQL refuses to run as root.
    #[error("PostgreSQL refuses to run as root: name an ordinary user with --os-user")]
    Root,
    /// Only root may become another user.
    #[error("this process runs as {current} and cannot become {wanted}: start it as {wanted} or as root")]
    NotPermitted {
        /// The present user.
        current: String,
        /// The wanted one.
        wanted: String,
    },
    /// The system refused.
    #[error("cannot become OS user {user}")]
    System {
        /// The wanted user.
        user: String,
        /// Why.
        #[source]
        source: nix::Error,
    },
}

impl OsUser {
    /// The user of that name; without a name the present user, or `postgres` for root.
    ///
    /// # Errors
    /// When there is no such user or it is root.
    pub fn resolve(name: Option<&str>) -> Result<Self, UserError> {
        let uid = Uid::effective();
        let name = name.or(uid.is_root().then_some("postgres"));
        let user = match name {
            Some(name) => User::from_name(name),
            None => User::from_uid(uid),
        };
        let wanted = name.map_or_else(|| uid.to_string(), str::to_owned);
        let user = user
            .map_err(|source| UserError::System { user: wanted.clone(), source })?
            .ok_or(UserError::Unknown(wanted))?;
        if user.uid.is_root() {
            return Err(UserError::Root);
        }
        Ok(Self { name: user.name, uid: user.uid.as_raw(), gid: user.gid.as_raw() })
    }

    /// The user of this process, be it root.
    ///
    /// # Errors
    /// When the system cannot tell its name.
    pub fn current() -> Result<Self, UserError> {
        let uid = Uid::effective();
        let user = User::from_uid(uid)
            .map_err(|source| UserError::System { user: uid.to_string(), source })?
            .ok_or_else(|| UserError::Unknown(uid.to_string()))?;
        Ok(Self { name: user.name, uid: user.uid.as_raw(), gid: user.gid.as_raw() })
    }

    /// The user to run a child as: `None` when this process is that user already.
    #[must_use]
    pub fn switch(&self) -> Option<(u32, u32)> {
        (Uid::effective().as_raw() != self.uid).then_some((self.uid, self.gid))
    }
}

/// Becomes the user for good. Must be called while the process has one thread.
///
/// # Errors
/// When the process is neither root nor that user.
pub fn become_user(user: &OsUser) -> Result<(), UserError> {
    let current = Uid::effective();
    if current.as_raw() == user.uid {
        return Ok(());
    }
    if !current.is_root() {
        return Err(UserError::NotPermitted { current: current.to_string(), wanted: user.name.clone() });
    }
    let system = |source| UserError::System { user: user.name.clone(), source };
    let name =
        std::ffi::CString::new(user.name.as_str()).map_err(|_| UserError::Unknown(user.name.clone()))?;
    initgroups(&name, Gid::from_raw(user.gid)).map_err(system)?;
    setgid(Gid::from_raw(user.gid)).map_err(system)?;
    setuid(Uid::from_raw(user.uid)).map_err(system)
}
