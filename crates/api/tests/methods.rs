//! The table of who may what names every method of our services, and none that is not there.

use std::collections::BTreeSet;

use cellar_model::access::{METHODS, mutates};
use cellar_model::{RECORDED, WITHHELD};
use prost::Message;

#[test]
fn every_method_has_its_row() {
    let files = prost_types::FileDescriptorSet::decode(cellar_api::DESCRIPTORS).unwrap();
    let mut defined = BTreeSet::new();
    for file in files.file.iter().filter(|file| file.package() == "cellar.v1") {
        for service in &file.service {
            for method in &service.method {
                defined.insert(format!("/cellar.v1.{}/{}", service.name(), method.name()));
            }
        }
    }
    let table: BTreeSet<String> = METHODS.iter().map(|(method, ..)| (*method).to_owned()).collect();
    assert_eq!(table.len(), METHODS.len(), "a method has two rows");
    assert_eq!(defined, table);
}

/// Whoever adds a field to a request that changes something says whether it may stand in the audit trail.
#[test]
fn every_argument_of_what_mutates_is_recorded_or_withheld() {
    let files = prost_types::FileDescriptorSet::decode(cellar_api::DESCRIPTORS).unwrap();
    let ours: Vec<_> = files.file.iter().filter(|file| file.package() == "cellar.v1").collect();
    let messages = || ours.iter().flat_map(|file| &file.message_type);
    let mut seen = 0;
    // Poolers are called by multiadmin only, and keep no audit trail of their own.
    let services = ours.iter().flat_map(|file| &file.service);
    for service in services.filter(|service| service.name() == "MultiAdmin") {
        for method in &service.method {
            if !mutates(&format!("/cellar.v1.{}/{}", service.name(), method.name())) {
                continue;
            }
            let input = method.input_type().rsplit('.').next().unwrap();
            let message = messages().find(|message| message.name() == input).unwrap();
            for field in &message.field {
                seen += 1;
                let known = RECORDED.contains(&field.json_name()) || WITHHELD.contains(&field.json_name());
                assert!(known, "{input}.{} is neither RECORDED nor WITHHELD", field.json_name());
            }
        }
    }
    assert!(seen > 30, "{seen}");
}
