//! The table of who may what names every method of our services, and none that is not there.

use std::collections::{BTreeMap, BTreeSet};

use cellar_model::access::{METHODS, mutates};
use cellar_model::{RECORDED, RECORDED_INSIDE, WITHHELD};
use prost::Message;
use prost_types::DescriptorProto;

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

/// The fields of a message, and of all messages of ours in it, as `Message.field` with the field's name in JSON.
fn fields_inside(
    messages: &BTreeMap<String, DescriptorProto>,
    name: &str,
    found: &mut BTreeMap<String, String>,
) {
    let Some(message) = messages.get(name) else { return };
    for field in &message.field {
        let new =
            found.insert(format!("{name}.{}", field.json_name()), field.json_name().to_owned()).is_none();
        let inside = field.type_name().rsplit('.').next().unwrap_or_default();
        if new && field.type_name().starts_with(".cellar.v1.") {
            fields_inside(messages, inside, found);
        }
    }
}

/// Whoever adds a field to a request that changes something says whether it may stand in the audit trail.
#[test]
fn every_argument_of_what_mutates_is_recorded_or_withheld() {
    let files = prost_types::FileDescriptorSet::decode(cellar_api::DESCRIPTORS).unwrap();
    let ours: Vec<_> = files.file.iter().filter(|file| file.package() == "cellar.v1").collect();
    let messages: BTreeMap<String, DescriptorProto> = ours
        .iter()
        .flat_map(|file| &file.message_type)
        .map(|message| (message.name().to_owned(), message.clone()))
        .collect();
    let mut seen = 0;
    let mut nested = BTreeMap::new();
    // Poolers are called by multiadmin only, and keep no audit trail of their own.
    let services = ours.iter().flat_map(|file| &file.service);
    for service in services.filter(|service| service.name() == "MultiAdmin") {
        for method in &service.method {
            if !mutates(&format!("/cellar.v1.{}/{}", service.name(), method.name())) {
                continue;
            }
            let input = method.input_type().rsplit('.').next().unwrap();
            for field in &messages[input].field {
                seen += 1;
                let known = RECORDED.contains(&field.json_name()) || WITHHELD.contains(&field.json_name());
                assert!(known, "{input}.{} is neither RECORDED nor WITHHELD", field.json_name());
                let inside = field.type_name().rsplit('.').next().unwrap_or_default();
                if field.type_name().starts_with(".cellar.v1.") {
                    fields_inside(&messages, inside, &mut nested);
                }
            }
        }
    }
    assert!(seen > 30, "{seen}");
    assert!(nested.len() > 10, "{nested:?}");
    for (field, name) in nested {
        let lists = [RECORDED, RECORDED_INSIDE, WITHHELD];
        let known = lists.iter().any(|list| list.contains(&name.as_str()));
        assert!(known, "{field} is neither RECORDED, RECORDED_INSIDE nor WITHHELD");
    }
}
