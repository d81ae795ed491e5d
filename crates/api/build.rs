//! Generates the gRPC code and the canonical JSON mapping from `proto/`.

use std::path::PathBuf;

use prost::Message;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let root = PathBuf::from(std::env::var("CARGO_MANIFEST_DIR")?).join("../../proto");
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    println!("cargo:rerun-if-changed={}", root.display());
    let files = ["topology", "job", "schedule", "audit", "multiadmin", "multipooler"]
        .map(|name| format!("cellar/v1/{name}.proto"));
    let descriptors = protox::compile(files, [&root])?;
    let encoded = descriptors.encode_to_vec();
    std::fs::write(out.join("descriptors.bin"), &encoded)?;
    tonic_prost_build::configure()
        .compile_well_known_types(true)
        .extern_path(".google.protobuf.Timestamp", "crate::wkt::Timestamp")
        .extern_path(".google.protobuf.Duration", "crate::wkt::Duration")
        .extern_path(".google.protobuf.Struct", "crate::structure::Struct")
        .btree_map(".")
        .compile_fds(descriptors)?;
    pbjson_build::Builder::new()
        .register_descriptors(&encoded)?
        .btree_map([".cellar"])
        .build(&[".cellar"])?;
    Ok(())
}
