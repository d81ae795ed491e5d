//! The certificates of a local cluster on disk, and who may connect with them: the authority, the sets that it signs, the list of
//! what is revoked, and clients with a certificate. Replacing them while everything runs is the folder `renewal`.

pub(crate) mod authority;
pub(crate) mod clients;
pub(crate) mod etcd_users;
pub(crate) mod listing;
pub(crate) mod operator;
pub(crate) mod revocation_list;
pub(crate) mod set;
pub(crate) mod sets;
