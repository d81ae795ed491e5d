//! What must hold of a cluster's specification, whatever stands in it.

use cellar_provisioner::{ClusterSpec, render_configs};

/// `cluster.toml`: what is accepted can be rendered, each file with its two sections and nothing but settings in them.
pub fn spec(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let Ok(spec) = ClusterSpec::parse(&text) else { return };
    // A file grows with the number of cells, and there is one for each.
    if spec.poolers.len() > 16 {
        return;
    }
    for (_, file) in render_configs(&spec).expect("an accepted specification can be rendered") {
        let lines = file.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
        let (sections, settings): (Vec<&str>, Vec<&str>) = lines.partition(|line| line.starts_with('['));
        assert_eq!(sections, ["[global]".to_owned(), format!("[{}]", spec.database.stanza)]);
        assert!(settings.iter().all(|line| line.contains('=')), "{file}");
    }
}
