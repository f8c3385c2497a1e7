//! The host's side: messages into calls of the functions that components call too.

use std::fmt::Write;

use crate::contract::{Contract, Field, Function, Kind, Type, pascal, snake};

pub(crate) fn translation(contract: &Contract) -> String {
    let mut code = format!(
        "//! The package `{}` as messages.\n//!\n\
         //! Made from the contract by `cargo run -p codegen`, not by hand.\n\
         #![expect(clippy::too_many_lines, reason = \"one arm a function of the contract\")]\n\n\
         use serde_json::Value;\n\n\
         use super::{{Arguments, Held, Refusal, cases, record, resource, variant}};\n\
         use crate::plugin::bindings::v0_1::{{blender, gpu, host, image, renderer, state, types}};\n\n",
        contract.package
    );
    for interface in &contract.interfaces {
        for ty in &interface.types {
            let name = format!("{}::{}", snake(&interface.name), pascal(&ty.name));
            match &ty.kind {
                Kind::Record(fields) => {
                    let fields: Vec<_> = fields.iter().map(|field| snake(&field.name)).collect();
                    let _ = writeln!(code, "record!({name} {{ {} }});", fields.join(", "));
                }
                Kind::Enum(cases) => {
                    let _ = writeln!(code, "cases!({name} {{ {} }});", list(cases));
                }
                Kind::Variant(cases) => {
                    let (with, without): (Vec<_>, Vec<_>) = cases.iter().partition(|c| c.ty.is_some());
                    let _ = writeln!(
                        code,
                        "variant!({name} {{ with: {{ {} }}, without: {{ {} }} }});",
                        list(with),
                        list(without)
                    );
                }
                Kind::Resource => {
                    let _ = writeln!(code, "resource!({name}, {:?});", snake(&ty.name));
                }
                Kind::Alias | Kind::Used(_) => {}
            }
        }
    }
    code += "\n/// Carries out a call of a capability.\n\
             pub async fn call(held: &mut Held, method: &str, mut arguments: Arguments) -> Result<Value, Refusal> {\n\
             match method {\n";
    contract.imports().for_each(|function| code += &arm(function));
    for (interface, resource) in contract.resources() {
        let (module, owner) = (snake(interface), pascal(resource));
        let name = snake(resource);
        let _ = writeln!(
            code,
            "\"{name}.drop\" => {{ let {name} = held.give_up(&mut arguments, {name:?})?; arguments.end()?; \
             let done = {module}::Host{owner}::drop(&mut held.handles, {name}).await; held.told(done) }}"
        );
    }
    code += "_ => Err(Refusal::NoMethod),\n}\n}\n";
    code
}

/// Lists cases with their names in JSON.
fn list<'a, T: 'a>(cases: impl IntoIterator<Item = &'a Field<T>>) -> String {
    let case = |case: &Field<T>| format!("{} = {:?}", pascal(&case.name), snake(&case.name));
    cases.into_iter().map(case).collect::<Vec<_>>().join(", ")
}

fn arm(function: &Function) -> String {
    if function.result.iter().chain(function.params.iter().map(|param| &param.ty)).any(Type::is_pixels) {
        // Pixels do not stop on their way: these are written by hand, with the buffers.
        let method = function.method();
        return format!("{method:?} => held.{}(arguments),\n", method.replace('.', "_"));
    }
    let owner = function.resource.as_deref().map(pascal).unwrap_or_default();
    let on = function.on().map(snake);
    let names: Vec<String> =
        on.into_iter().chain(function.params.iter().map(|param| snake(&param.name))).collect();
    // A parameter may be called like the resource that it is a parameter of.
    let local = |name: &String| if *name == "type" { "ty".to_owned() } else { name.clone() };
    let mut body = String::new();
    for name in &names {
        let _ = write!(body, "let {} = held.take(&mut arguments, {name:?})?; ", local(name));
    }
    let arguments: Vec<_> = names.iter().map(local).collect();
    let answered = if function.fails { "answered" } else { "told" };
    format!(
        "{:?} => {{ {body}arguments.end()?; let done = {}::Host{owner}::{}(&mut held.handles, {}).await; \
         held.{answered}(done) }}\n",
        function.method(),
        snake(&function.interface),
        snake(&function.name),
        arguments.join(", ")
    )
}
