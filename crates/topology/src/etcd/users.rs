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
use crate::etcd::client::{EtcdKv, prefix_end, timed};

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
async fn idempotent<T>(call: impl Future<Output = Result<T, Error>>) -> Result<(), StoreError> {
    timed(async {
        match call.await {
            Err(error) if !is_done(&error) => Err(error),
            _ => Ok(()),
        }
    })
    .await
}

/// A range of keys (first key, end) and whether it may be written, in etcd's terms.
type KeyRange = (Vec<u8>, Vec<u8>, bool);

fn key_range(grant: &Grant) -> KeyRange {
    match &grant.range {
        GrantRange::Key(key) => (key.clone().into_bytes(), Vec::new(), grant.write),
        GrantRange::Prefix(prefix) => (prefix.clone().into_bytes(), prefix_end(prefix), grant.write),
    }
}

async fn grants_of(auth: &mut AuthClient, role: &str) -> Result<BTreeSet<KeyRange>, StoreError> {
    let response = match timed(auth.role_get(role)).await {
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
        let mut auth = self.auth();
        let role = match &user.grants {
            None => ROOT,
            Some(grants) => {
                let wanted: BTreeSet<KeyRange> = grants.iter().map(key_range).collect();
                let present = grants_of(&mut auth, &user.name).await?;
                if present.is_empty() {
                    idempotent(auth.role_add(user.name.as_str())).await?;
                }
                for (key, end, _) in present.difference(&wanted) {
                    let options = RoleRevokePermissionOptions::new().with_range_end(end.clone());
                    let key = key.clone();
                    idempotent(auth.role_revoke_permission(user.name.as_str(), key, Some(options))).await?;
                }
                for (key, end, writes) in wanted.difference(&present) {
                    let kind = if *writes { PermissionType::Readwrite } else { PermissionType::Read };
                    let permission = Permission::new(kind, key.clone()).with_range_end(end.clone());
                    idempotent(auth.role_grant_permission(user.name.as_str(), permission)).await?;
                }
                user.name.as_str()
            }
        };
        if role == ROOT {
            idempotent(auth.role_add(ROOT)).await?;
        }
        let present = match timed(auth.user_get(user.name.as_str())).await {
            Ok(response) => Some(response.roles().to_vec()),
            Err(StoreError::Terminal(text)) if text.contains("not found") => None,
            Err(error) => return Err(error),
        };
        if present.is_none() {
            let options = UserAddOptions::new().with_no_pwd();
            idempotent(auth.user_add(user.name.as_str(), "", Some(options))).await?;
        }
        if !present.is_some_and(|roles| roles.iter().any(|held| held == role)) {
            idempotent(auth.user_grant_role(user.name.as_str(), role)).await?;
        }
        Ok(())
    }

    /// Removes a user and its role; connections with its certificate are refused from the next request on.
    ///
    /// # Errors
    /// When etcd does not answer, or this client may not change users.
    pub async fn remove_user(&self, name: &str) -> Result<(), StoreError> {
        let mut auth = self.auth();
        idempotent(auth.user_delete(name)).await?;
        idempotent(auth.role_delete(name)).await
    }

    /// Lets etcd check permissions from now on. There must be an administrator, or nobody could change them again.
    ///
    /// # Errors
    /// When etcd does not answer or refuses.
    pub async fn enable_permissions(&self) -> Result<(), StoreError> {
        let root = EtcdUser { name: ROOT.to_owned(), grants: None };
        self.ensure_user(&root).await?;
        idempotent(self.auth().auth_enable()).await
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
