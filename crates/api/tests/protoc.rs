//! The protos compile with protoc, which every other language uses: it resolves names more strictly than protox.

#![allow(clippy::expect_used, reason = "a test ends where it must not go on")]

use std::path::Path;
use std::process::Command;

#[test]
fn protoc_compiles_every_proto() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../proto");
    let files = std::fs::read_dir(root.join("cellar/v1")).expect("the protos");
    let files: Vec<_> = files.map(|file| file.expect("a file").path()).collect();
    assert!(!files.is_empty());
    let output = Command::new("protoc")
        .arg("-I")
        .arg(&root)
        .arg("--descriptor_set_out=/dev/null")
        .args(&files)
        .output()
        .expect("protoc, of Debian's package protobuf-compiler");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
