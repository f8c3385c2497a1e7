//! The contract itself: whole, and every item of it documented.

use wit_parser::{Docs, Resolve, TypeDefKind};

use crate::harness::root;

#[test]
fn every_item_of_the_contract_is_documented() {
    let mut resolve = Resolve::default();
    let (package, _) = resolve.push_path(root().join("wit/v0.1")).unwrap();
    let mut bare = Vec::new();
    let mut check = |name: String, docs: &Docs| {
        if docs.contents.as_deref().unwrap_or_default().trim().is_empty() {
            bare.push(name);
        }
    };
    let interfaces = &resolve.packages[package].interfaces;
    let expected = ["types", "renderer", "blender", "image", "gpu", "host", "state"];
    assert!(expected.iter().all(|name| interfaces.contains_key(*name)), "{:?}", interfaces.keys());
    for (name, &id) in interfaces {
        let interface = &resolve.interfaces[id];
        check(name.clone(), &interface.docs);
        for function in interface.functions.values() {
            check(format!("{name}.{}", function.name), &function.docs);
        }
        for (kind, &id) in &interface.types {
            let ty = &resolve.types[id];
            let parts: Vec<(&String, &Docs)> = match &ty.kind {
                // A name from another interface is documented there.
                TypeDefKind::Type(wit_parser::Type::Id(_)) => continue,
                TypeDefKind::Record(record) => record.fields.iter().map(|f| (&f.name, &f.docs)).collect(),
                TypeDefKind::Enum(cases) => cases.cases.iter().map(|c| (&c.name, &c.docs)).collect(),
                TypeDefKind::Variant(cases) => cases.cases.iter().map(|c| (&c.name, &c.docs)).collect(),
                _ => Vec::new(),
            };
            check(format!("{name}.{kind}"), &ty.docs);
            parts.into_iter().for_each(|(part, docs)| check(format!("{name}.{kind}.{part}"), docs));
        }
    }
    assert!(bare.is_empty(), "without documentation: {bare:#?}");
}
