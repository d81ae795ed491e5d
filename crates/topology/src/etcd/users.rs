//! etcd's own users, roles and permissions: they limit what a stolen certificate can read and write.
//!
//! With client certificates required and authentication enabled, etcd takes a certificate's common name for its user.
//! Nobody has a password, so a certificate is the only way in.

use std::collections::BTreeSet;

use cellar_model::{Grant, GrantRange};
use etcd_client::{
    AuthClient, Error, Permission, PermissionType, RoleRevokePermissionOptions, UserAddOptions,
};

use crate::error::StoreError;
use crate::etcd::client::{EtcdKv, prefix_end};
use crate::etcd::connection::Connection;

/// etcd requires a user and a role of this name before authentication can be enabled; no certificate has it.
const ROOT: &str = "root";

/// A user of etcd.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EtcdUser {
    /// The common name of the certificate, and the name of the role that holds the grants.
    pub name: String,
    /// What the user may read and write; `None` for an administrator, who may do everything.
    pub grants: Option<Vec<Grant>>,
}

/// Whether etcd refused because the thing to create exists, or the thing to remove does not.
fn is_done(error: &Error) -> bool {
    let Error::GRpcStatus(status) = error else { return false };
    let message = status.message();
    ["already exists", "not found", "is not granted", "already enabled"]
        .iter()
        .any(|text| message.contains(text))
}

/// Makes a change that may have been made already: by an earlier run, or by this one when the answer was lost.
async fn idempotent<T, F>(etcd: &EtcdKv, change: impl Fn(AuthClient) -> F) -> Result<(), StoreError>
where
    F: Future<Output = Result<T, Error>>,
{
    let change = &change;
    let made = |to: Connection| async move {
        match change(to.auth).await {
            Err(error) if !is_done(&error) => Err(error),
            _ => Ok(()),
        }
    };
    etcd.repeatable(made).await
}

/// A range of keys (first key, end) and whether it may be written, in etcd's terms.
type KeyRange = (Vec<u8>, Vec<u8>, bool);

fn key_range(grant: &Grant) -> KeyRange {
    match &grant.range {
        GrantRange::Key(key) => (key.clone().into_bytes(), Vec::new(), grant.write),
        GrantRange::Prefix(prefix) => (prefix.clone().into_bytes(), prefix_end(prefix), grant.write),
    }
}

async fn grants_of(etcd: &EtcdKv, role: &str) -> Result<BTreeSet<KeyRange>, StoreError> {
    let get = |mut to: Connection| async move { to.auth.role_get(role).await };
    let response = match etcd.repeatable(get).await {
        Ok(response) => response,
        Err(StoreError::Terminal(text)) if text.contains("not found") => return Ok(BTreeSet::new()),
        Err(error) => return Err(error),
    };
    let of = |permission: &Permission| {
        let writes = permission.get_type() != PermissionType::Read as i32;
        (permission.key().to_vec(), permission.range_end().to_vec(), writes)
    };
    Ok(response.permissions().iter().map(of).collect())
}

impl EtcdKv {
    /// Makes sure that the user exists and may do exactly what it says; repeating it changes nothing.
    ///
    /// # Errors
    /// When etcd does not answer, or this client may not change users.
    pub async fn ensure_user(&self, user: &EtcdUser) -> Result<(), StoreError> {
        let name = user.name.as_str();
        let role = match &user.grants {
            None => ROOT,
            Some(grants) => {
                let wanted: BTreeSet<KeyRange> = grants.iter().map(key_range).collect();
                let present = grants_of(self, name).await?;
                if present.is_empty() {
                    idempotent(self, |mut auth| async move { auth.role_add(name).await }).await?;
                }
                for (key, end, _) in present.difference(&wanted) {
                    let revoke = |mut auth: AuthClient| async move {
                        let options = RoleRevokePermissionOptions::new().with_range_end(end.clone());
                        auth.role_revoke_permission(name, key.clone(), Some(options)).await
                    };
                    idempotent(self, revoke).await?;
                }
                for (key, end, writes) in wanted.difference(&present) {
                    let kind = if *writes { PermissionType::Readwrite } else { PermissionType::Read };
                    let grant = |mut auth: AuthClient| async move {
                        let permission = Permission::new(kind, key.clone()).with_range_end(end.clone());
                        auth.role_grant_permission(name, permission).await
                    };
                    idempotent(self, grant).await?;
                }
                name
            }
        };
        if role == ROOT {
            idempotent(self, |mut auth| async move { auth.role_add(ROOT).await }).await?;
        }
        let get = |mut to: Connection| async move { to.auth.user_get(name).await };
        let present = match self.repeatable(get).await {
            Ok(response) => Some(response.roles().to_vec()),
            Err(StoreError::Terminal(text)) if text.contains("not found") => None,
            Err(error) => return Err(error),
        };
        if present.is_none() {
            let add = |mut auth: AuthClient| async move {
                auth.user_add(name, "", Some(UserAddOptions::new().with_no_pwd())).await
            };
            idempotent(self, add).await?;
        }
        if !present.is_some_and(|roles| roles.iter().any(|held| held == role)) {
            idempotent(self, |mut auth| async move { auth.user_grant_role(name, role).await }).await?;
        }
        Ok(())
    }

    /// Removes a user and its role; connections with its certificate are refused from the next request on.
    ///
    /// # Errors
    /// When etcd does not answer, or this client may not change users.
    pub async fn remove_user(&self, name: &str) -> Result<(), StoreError> {
        idempotent(self, |mut auth| async move { auth.user_delete(name).await }).await?;
        idempotent(self, |mut auth| async move { auth.role_delete(name).await }).await
    }

    /// Lets etcd check permissions from now on. There must be an administrator, or nobody could change them again.
    ///
    /// # Errors
    /// When etcd does not answer or refuses.
    pub async fn enable_permissions(&self) -> Result<(), StoreError> {
        let root = EtcdUser { name: ROOT.to_owned(), grants: None };
        self.ensure_user(&root).await?;
        idempotent(self, |mut auth| async move { auth.auth_enable().await }).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_ends_where_the_listing_of_it_ends() {
        let grant =
            Grant { range: GrantRange::Prefix("/cellar/demo/runs/app/zone1/".to_owned()), write: false };
        let end = b"/cellar/demo/runs/app/zone10".to_vec();
        assert_eq!(key_range(&grant), (b"/cellar/demo/runs/app/zone1/".to_vec(), end, false));
        let grant = Grant { range: GrantRange::Key("/k".to_owned()), write: true };
        assert_eq!(key_range(&grant), (b"/k".to_vec(), Vec::new(), true));
    }

    #[test]
    fn other_errors_do_not_count_as_done() {
        assert!(!is_done(&Error::InvalidArgs("already exists".to_owned())));
    }
}
