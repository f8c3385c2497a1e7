//! The plugins' side in Rust, with the shape that `wit-bindgen` gives components.

use std::fmt::Write;

use crate::contract::{Contract, Function, Interface, Kind, Named, Type, pascal, snake};

pub(crate) fn bindings(contract: &Contract) -> String {
    let mut code = format!(
        "// The package `{}` for plugins that are processes.\n//\n\
         // Made from the contract by `cargo run -p codegen`, not by hand.\n\n",
        contract.package
    );
    code += "pub mod hotshoe { pub mod plugin {\n";
    for interface in contract.interfaces.iter().filter(|interface| interface.name != "renderer") {
        code += &module(contract, interface);
    }
    code += "} }\n\npub mod exports { pub mod hotshoe { pub mod plugin {\n";
    code += &module(contract, contract.interface("renderer"));
    code += "} } }\n";
    code
}

fn module(contract: &Contract, interface: &Interface) -> String {
    let mut code = String::new();
    let is_export = interface.name == "renderer";
    let _ = writeln!(code, "pub mod {} {{", snake(&interface.name));
    if interface.types.iter().any(|ty| matches!(ty.kind, Kind::Record(_) | Kind::Enum(_) | Kind::Variant(_)))
    {
        code += "use serde::{Deserialize, Serialize};\n\n";
    }
    if !is_export && !interface.functions.is_empty() {
        code += "use serde_json::json;\n\nuse crate::process;\n\n";
    }
    for ty in &interface.types {
        code += &definition(contract, interface, ty);
    }
    if is_export {
        code += "/// What a plugin answers.\npub trait Guest {\n";
        for function in &interface.functions {
            let params = function.params.iter();
            let params: Vec<_> =
                params.map(|p| format!("{}: {}", snake(&p.name), owned(&interface.name, &p.ty))).collect();
            let result = returned(&interface.name, function);
            let _ = writeln!(code, "fn {}({}){result};", snake(&function.name), params.join(", "));
        }
        code += "}\n";
    } else {
        let free = interface.functions.iter().filter(|function| function.resource.is_none());
        free.for_each(|function| code += &call(contract, interface, function));
    }
    code + "}\n"
}

fn definition(contract: &Contract, interface: &Interface, ty: &Named) -> String {
    let (name, docs) = (pascal(&ty.name), comment(&ty.docs));
    let this = Type::Named(interface.name.clone(), ty.name.clone());
    let copy = || if contract.is_copy(&this) { "Clone, Copy" } else { "Clone" };
    match &ty.kind {
        Kind::Record(fields) => {
            let mut code = format!("{docs}#[derive(Debug, {}, Serialize, Deserialize)]\n", copy());
            let _ = writeln!(code, "pub struct {name} {{");
            for field in fields {
                let ty = owned(&interface.name, &field.ty);
                let _ = writeln!(code, "{}pub {}: {ty},", comment(&field.docs), snake(&field.name));
            }
            code + "}\n\n"
        }
        Kind::Enum(cases) => {
            let mut code =
                format!("{docs}#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]\n");
            let _ = writeln!(code, "#[serde(rename_all = \"snake_case\")]\npub enum {name} {{");
            for case in cases {
                let _ = writeln!(code, "{}{},", comment(&case.docs), pascal(&case.name));
            }
            code + "}\n\n"
        }
        Kind::Variant(cases) => {
            let mut code = format!("{docs}#[derive(Debug, {}, Serialize, Deserialize)]\n", copy());
            let _ = writeln!(code, "#[serde(rename_all = \"snake_case\")]\npub enum {name} {{");
            for case in cases {
                let ty = case.ty.as_ref().map(|ty| format!("({})", owned(&interface.name, ty)));
                let ty = ty.unwrap_or_default();
                let _ = writeln!(code, "{}{}{ty},", comment(&case.docs), pascal(&case.name));
            }
            code + "}\n\n"
        }
        Kind::Resource => {
            let mut code = format!("{docs}#[derive(Debug)]\npub struct {name}(process::Handle);\n\n");
            let _ = writeln!(code, "process::handle!({name}, {:?});\n", snake(&ty.name));
            let _ = writeln!(code, "impl {name} {{");
            let own = interface.functions.iter().filter(|f| f.resource.as_ref() == Some(&ty.name));
            own.for_each(|function| code += &call(contract, interface, function));
            code + "}\n\n"
        }
        Kind::Alias => String::new(),
        // They are texts wherever they are used.
        Kind::Used(_) if ty.name == "json" || ty.name == "scene-ref" => String::new(),
        Kind::Used(from) => {
            let path = match interface.name.as_str() {
                "renderer" => format!("crate::sys::hotshoe::plugin::{}", snake(from)),
                _ => format!("super::{}", snake(from)),
            };
            format!("pub use {path}::{name};\n")
        }
    }
}

/// Writes the function that asks the host.
fn call(contract: &Contract, interface: &Interface, function: &Function) -> String {
    let on = function.on();
    let mut params: Vec<String> = on.iter().map(|_| "&self".to_owned()).collect();
    params.extend(
        function.params.iter().map(|p| format!("{}: {}", snake(&p.name), lent(contract, interface, &p.ty))),
    );
    let mut sent: Vec<String> = on.iter().map(|on| format!("{:?}: self.0", snake(on))).collect();
    sent.extend(function.params.iter().map(|param| {
        let name = snake(&param.name);
        let value = match &param.ty {
            ty if ty.is_pixels() => format!("process::pixels({name})?"),
            ty if ty.is_bytes() => format!("process::text({name})"),
            _ => name.clone(),
        };
        format!("{name:?}: {value}")
    }));
    let sent =
        if sent.is_empty() { "json!({})".to_owned() } else { format!("json!({{{}}})", sent.join(", ")) };
    let ask = match (&function.result, function.fails) {
        (Some(ty), true) if ty.is_pixels() => "ask_for_pixels",
        (Some(Type::Option(of)), true) if of.is_bytes() => "ask_for_bytes",
        (_, true) => "ask",
        (_, false) => "tell",
    };
    format!(
        "{}pub fn {}({}){} {{ process::{ask}({:?}, {sent}) }}\n\n",
        comment(&function.docs),
        snake(&function.name),
        params.join(", "),
        returned(&interface.name, function),
        function.method(),
    )
}

fn returned(interface: &str, function: &Function) -> String {
    let ok = match &function.result {
        Some(ty) if ty.is_pixels() => "process::Floats".to_owned(),
        Some(ty) => owned(interface, ty),
        None => "()".to_owned(),
    };
    let error = path(interface, "types", "error");
    match (function.fails, ok.as_str()) {
        (true, _) => format!(" -> Result<{ok}, {error}>"),
        (false, "()") => String::new(),
        (false, _) => format!(" -> {ok}"),
    }
}

/// A type as it is kept or returned.
fn owned(interface: &str, ty: &Type) -> String {
    match ty {
        Type::Plain(name) => plain(name).to_owned(),
        Type::Json => "String".to_owned(),
        Type::Option(inner) => format!("Option<{}>", owned(interface, inner)),
        Type::List(inner) => format!("Vec<{}>", owned(interface, inner)),
        Type::Tuple(parts) => {
            let parts: Vec<_> = parts.iter().map(|part| owned(interface, part)).collect();
            format!("({})", parts.join(", "))
        }
        Type::Named(of, name) | Type::Own(of, name) | Type::Borrow(of, name) => path(interface, of, name),
    }
}

/// A type as it is given to a function.
fn lent(contract: &Contract, interface: &Interface, ty: &Type) -> String {
    match ty {
        Type::Plain("string") | Type::Json => "&str".to_owned(),
        Type::Option(inner) => format!("Option<{}>", lent(contract, interface, inner)),
        Type::List(inner) => match &**inner {
            Type::Plain(name) => format!("&[{}]", plain(name)),
            inner => format!("&[{}]", lent(contract, interface, inner)),
        },
        Type::Borrow(of, name) => format!("&{}", path(&interface.name, of, name)),
        Type::Named(of, name) if !contract.is_copy(ty) => format!("&{}", path(&interface.name, of, name)),
        ty => owned(&interface.name, ty),
    }
}

fn path(interface: &str, of: &str, name: &str) -> String {
    match (interface, of) {
        (here, of) if here == of => pascal(name),
        ("renderer", of) => format!("crate::sys::hotshoe::plugin::{}::{}", snake(of), pascal(name)),
        (_, of) => format!("super::{}::{}", snake(of), pascal(name)),
    }
}

fn plain(name: &str) -> &str {
    match name {
        "s32" => "i32",
        "string" => "String",
        same => same,
    }
}

fn comment(docs: &str) -> String {
    docs.lines().map(|line| format!("/// {line}").trim_end().to_owned() + "\n").collect()
}
