//! The table of who may what names every method of our services, and none that is not there.

use std::collections::BTreeSet;

use cellar_model::access::METHODS;
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
    let table: BTreeSet<String> = METHODS.iter().map(|(method, _)| (*method).to_owned()).collect();
    assert_eq!(table.len(), METHODS.len(), "a method has two rows");
    assert_eq!(defined, table);
}
