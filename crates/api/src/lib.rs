//! Cellar's gRPC API: the code generated from `proto/`, and the mappings
//! between it and the model that everybody who speaks it needs.

mod error;
mod job;
mod member;
mod record;
pub mod structure;
pub mod wkt;

pub use error::{MISSING_STANZA, exit_code, hint_of, reason_of, status_of, subject_of};
pub use member::{MemberFactsError, facts_of_member, member_facts};
pub use record::{ConvertError, from_message, to_message};

/// Generated from `proto/cellar/v1`.
#[allow(
    missing_docs,
    unreachable_pub,
    clippy::all,
    clippy::pedantic,
    rustdoc::all,
    reason = "generated code"
)]
pub mod v1 {
    tonic::include_proto!("cellar.v1");
    include!(concat!(env!("OUT_DIR"), "/cellar.v1.serde.rs"));
}

/// The encoded `FileDescriptorSet`, for the reflection service.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
