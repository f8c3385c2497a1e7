//! The plugins' side in Python: one module an interface, types and docstrings included.

use std::collections::BTreeSet;
use std::fmt::Write;

use crate::contract::{Contract, Field, Function, Interface, Kind, Named, Type, pascal, snake};

/// Returns each module's name with its text.
pub(crate) fn modules(contract: &Contract) -> Vec<(String, String)> {
    let module = |interface: &Interface| (snake(&interface.name), module(contract, interface));
    contract.interfaces.iter().map(module).collect()
}

fn module(contract: &Contract, interface: &Interface) -> String {
    let mut body = String::new();
    // What is derived from must stand before what derives from it, and functions last.
    for ty in &interface.types {
        body += &definition(interface, ty);
    }
    if interface.name != "renderer" {
        let free = interface.functions.iter().filter(|function| function.resource.is_none());
        free.for_each(|function| body += &format!("\n\n{}", call(function, "")));
    }
    let mut text = String::from(
        "# Made from the contract by `cargo run -p codegen`, not by hand.\n# ruff: noqa: D107, E501, F401\n",
    );
    let _ = writeln!(text, "{}\nfrom __future__ import annotations\n", docstring(&interface.docs, ""));
    if body.contains("@dataclass") {
        let field = if body.contains("= field(") { ", field" } else { "" };
        let _ = writeln!(text, "from dataclasses import dataclass{field}");
    }
    if body.contains("(Enum)") {
        text += "from enum import Enum\n";
    }
    let names = ["Any", "Callable", "Dict", "List", "Optional", "Tuple", "Union"];
    let names: Vec<_> = names.into_iter().filter(|name| mentions(&body, name)).collect();
    if !names.is_empty() {
        let _ = writeln!(text, "from typing import {}", names.join(", "));
    }
    text += "\n";
    if body.contains("_process.") {
        text += "from . import _process\n";
    }
    for other in contract.interfaces.iter().filter(|other| other.name != interface.name) {
        let defined = other.types.iter().filter(|ty| !matches!(ty.kind, Kind::Used(_) | Kind::Alias));
        let used: BTreeSet<String> =
            defined.map(|ty| pascal(&ty.name)).filter(|name| mentions(&body, name)).collect();
        if !used.is_empty() {
            let used: Vec<_> = used.into_iter().collect();
            let _ = writeln!(text, "from .{} import {}", snake(&other.name), used.join(", "));
        }
    }
    while text.ends_with("\n\n") {
        text.pop();
    }
    text + &body
}

/// Whether a text uses a name in what is code or a type.
fn mentions(text: &str, name: &str) -> bool {
    let is_part = |c: char| c.is_alphanumeric() || c == '_';
    text.match_indices(name).any(|(at, _)| {
        let before = text[..at].chars().next_back();
        let after = text[at + name.len()..].chars().next();
        let is_code = before.is_none_or(|c| !is_part(c) && c != '.' && c != '`' && c != '"');
        // A word of a sentence is followed by another one.
        is_code
            && after.is_some_and(|c| "[](),:\n=".contains(c) || (c == ' ' && text[at..].contains("= ")))
            && !is_prose(text, at)
    })
}

/// Whether a place is within a docstring.
fn is_prose(text: &str, at: usize) -> bool {
    text[..at].matches("\"\"\"").count() % 2 == 1
}

fn definition(interface: &Interface, ty: &Named) -> String {
    let name = pascal(&ty.name);
    let mut text = String::new();
    match &ty.kind {
        // It is an exception.
        Kind::Record(_) if ty.name == "error" => {}
        Kind::Record(fields) => {
            let _ = writeln!(text, "\n\n@dataclass(frozen=True)\nclass {name}:");
            let _ = write!(text, "{}", docstring(&described(&ty.docs, fields), "    "));
            text += "\n";
            let default = |field: &Field| match &field.ty {
                Type::Option(_) | Type::Json => " = None",
                Type::List(_) => " = field(default_factory=list)",
                _ => "",
            };
            let (required, others): (Vec<_>, Vec<_>) = fields.iter().partition(|f| default(f).is_empty());
            for field in required.into_iter().chain(others) {
                let ty = kept(&field.ty);
                let _ = writeln!(text, "    {}: {ty}{}", snake(&field.name), default(field));
            }
        }
        Kind::Enum(cases) => {
            let _ = writeln!(text, "\n\nclass {name}(Enum):");
            let _ = write!(text, "{}", docstring(&ty.docs, "    "));
            for case in cases {
                let value = snake(&case.name);
                let _ = writeln!(text, "\n    {} = {value:?}", value.to_uppercase());
                text += &docstring(&case.docs, "    ");
            }
            if ty.name == "error-code" {
                text += &error_classes(cases);
            }
        }
        Kind::Variant(cases) => {
            let mut names = Vec::new();
            for case in cases {
                let class = format!("{name}{}", pascal(&case.name));
                let _ = writeln!(text, "\n\n@dataclass(frozen=True)\nclass {class}(_process.Case):");
                text += &docstring(&case.docs, "    ");
                let _ = writeln!(text, "\n    case = {:?}", snake(&case.name));
                if let Some(ty) = &case.ty {
                    let _ = writeln!(text, "    value: {}", kept(ty));
                }
                names.push(class);
            }
            let _ = writeln!(text, "\n\n{name} = Union[{}]", names.join(", "));
            text += &docstring(&ty.docs, "");
        }
        Kind::Resource => {
            let _ = writeln!(text, "\n\nclass {name}(_process.Handle):");
            text += &docstring(&ty.docs, "    ");
            let _ = writeln!(text, "\n    kind = {:?}", snake(&ty.name));
            let own = interface.functions.iter().filter(|f| f.resource.as_ref() == Some(&ty.name));
            own.for_each(|function| text += &format!("\n{}", call(function, "    ")));
        }
        Kind::Alias | Kind::Used(_) => {}
    }
    text
}

/// The exceptions, one a kind of failure.
fn error_classes(cases: &[Field<()>]) -> String {
    let mut text = String::from(
        "\n\nclass Error(Exception):\n    \"\"\"What went wrong, for a program and for a person.\"\"\"\n\n    \
         def __init__(self, code: ErrorCode, message: str) -> None:\n        \
         super().__init__(message)\n        self.code = code\n        self.message = message\n",
    );
    for case in cases {
        let (name, member) = (pascal(&case.name), snake(&case.name).to_uppercase());
        let _ = writeln!(text, "\n\nclass {name}Error(Error):");
        text += &docstring(&case.docs, "    ");
        let _ = writeln!(
            text,
            "\n    def __init__(self, message: str) -> None:\n        super().__init__(ErrorCode.{member}, message)"
        );
    }
    text += "\n\nERRORS: Dict[ErrorCode, Callable[[str], Error]] = {\n";
    for case in cases {
        let (name, member) = (pascal(&case.name), snake(&case.name).to_uppercase());
        let _ = writeln!(text, "    ErrorCode.{member}: {name}Error,");
    }
    text + "}\n\"\"\"The exception of each code.\"\"\"\n"
}

fn call(function: &Function, indent: &str) -> String {
    let name = snake(&function.name);
    let on = function.on();
    let mut params: Vec<String> = on.iter().map(|_| "self".to_owned()).collect();
    for param in &function.params {
        let default = if matches!(param.ty, Type::Option(_)) { " = None" } else { "" };
        params.push(format!("{}: {}{default}", snake(&param.name), given(&param.ty)));
    }
    let mut sent: Vec<String> = on.iter().map(|on| format!("{}=self", snake(on))).collect();
    sent.extend(function.params.iter().map(|param| {
        let name = snake(&param.name);
        match &param.ty {
            Type::Json => format!("{name}=_process.text({name})"),
            ty if ty.is_pixels() => format!("{name}=_process.pixels({name})"),
            _ => format!("{name}={name}"),
        }
    }));
    let result = function.result.as_ref().map_or("None".to_owned(), kept);
    let mut arguments = vec![format!("{:?}", function.method()), result.clone()];
    arguments.extend(sent);
    let mut text = String::new();
    if function.is_static {
        let _ = writeln!(text, "{indent}@staticmethod");
    }
    let _ = writeln!(text, "{indent}def {name}({}) -> {result}:", params.join(", "));
    text += &docstring(&function.docs, &format!("{indent}    "));
    let ask = match result.as_str() {
        "None" => format!("_process.ask({})", arguments.join(", ")),
        result => {
            format!("answer: {result} = _process.ask({})\n{indent}    return answer", arguments.join(", "))
        }
    };
    let _ = writeln!(text, "{indent}    {ask}");
    text
}

/// A type as it is returned or kept.
fn kept(ty: &Type) -> String {
    match ty {
        Type::Plain("bool") => "bool".to_owned(),
        Type::Plain("f32" | "f64") => "float".to_owned(),
        Type::Plain("string") => "str".to_owned(),
        Type::Plain(_) => "int".to_owned(),
        Type::Json => "Any".to_owned(),
        Type::Option(inner) => format!("Optional[{}]", kept(inner)),
        Type::List(inner) => match &**inner {
            Type::Plain("u8") => "bytes".to_owned(),
            Type::Plain("f32") => "memoryview".to_owned(),
            inner => format!("List[{}]", kept(inner)),
        },
        Type::Tuple(parts) => format!("Tuple[{}]", parts.iter().map(kept).collect::<Vec<_>>().join(", ")),
        Type::Named(_, name) | Type::Own(_, name) | Type::Borrow(_, name) => pascal(name),
    }
}

/// A type as it is given to a function.
fn given(ty: &Type) -> String {
    match ty {
        ty if ty.is_pixels() => "_process.Pixels".to_owned(),
        ty => kept(ty),
    }
}

fn described(docs: &str, fields: &[Field]) -> String {
    let mut text = docs.to_owned() + "\n\nAttributes:\n";
    for field in fields {
        let docs = field.docs.lines().collect::<Vec<_>>().join(" ");
        let _ = writeln!(text, "    {}: {docs}", snake(&field.name));
    }
    text.trim_end().to_owned()
}

fn docstring(docs: &str, indent: &str) -> String {
    let lines: Vec<&str> = docs.lines().collect();
    match lines.as_slice() {
        [] => String::new(),
        [line] => format!("{indent}\"\"\"{line}\"\"\"\n"),
        [first, rest @ ..] => {
            let mut text = format!("{indent}\"\"\"{first}\n");
            for line in rest {
                let line = format!("{indent}{line}");
                text += line.trim_end();
                text += "\n";
            }
            text + indent + "\"\"\"\n"
        }
    }
}
