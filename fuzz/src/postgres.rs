//! What must hold of what PostgreSQL's programs and files say.

use cellar_postgres::{ControlData, conninfo_address};

/// `pg_controldata`.
pub fn control_data(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    if let Ok(found) = ControlData::parse(&text) {
        assert!(found.segment_size.bytes().is_power_of_two());
        assert!(text.contains("Database system identifier"));
    }
}

/// `primary_conninfo`.
pub fn conninfo(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    if let Some((host, _)) = conninfo_address(&text) {
        assert!(!host.is_empty() && text.contains("host"));
    }
}
