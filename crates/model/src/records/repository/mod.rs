//! Where the backups and the WAL of a database are kept.
//!
//! [`location`] has the kinds of repository and how records hold them, [`store`] those that are reached over the network,
//! [`store_url`] the URL that names one, [`store_option`] what such a URL may say, and [`error`] why a text names none.

pub(crate) mod error;
pub(crate) mod location;
pub(crate) mod repo_path;
pub(crate) mod store;
pub(crate) mod store_kind;
mod store_option;
mod store_url;
