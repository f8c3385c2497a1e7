//! The document for whoever writes a plugin in another language.

use serde_json::{Map, Value, json};

use crate::contract::{Contract, Function, Kind, Type, pascal, snake};

/// What host and plugin say to each other beside the contract.
const BESIDE: &str = include_str!("beside.json");

pub(crate) fn document(contract: &Contract) -> String {
    let mut methods: Vec<Value> = Vec::new();
    let beside: Value = serde_json::from_str(BESIDE).expect("beside.json is JSON");
    methods.extend(beside["methods"].as_array().cloned().unwrap_or_default());
    let exports = contract.interface("renderer").functions.iter();
    methods.extend(exports.map(|function| method(function, "plugin")));
    methods.extend(contract.imports().map(|function| method(function, "host")));
    methods.extend(contract.resources().map(|(_, resource)| {
        let name = snake(resource);
        let handle = json!({"$ref": format!("#/components/schemas/{}", pascal(resource))});
        json!({
            "name": format!("{name}.drop"),
            "description": "Drops a handle before its attempt ends.",
            "x-served-by": "host",
            "paramStructure": "by-name",
            "params": [attempt(), {"name": name, "required": true, "schema": handle}],
            "result": {"name": "result", "schema": {"type": "null"}},
            "errors": [{"$ref": "#/components/errors/Contract"}],
        })
    }));
    let mut schemas: Map<String, Value> = beside["schemas"].as_object().cloned().unwrap_or_default();
    for ty in contract.interfaces.iter().flat_map(|interface| &interface.types) {
        if let Some(mut shape) = shape(&ty.kind) {
            shape["description"] = json!(ty.docs);
            schemas.insert(pascal(&ty.name), shape);
        }
    }
    let document = json!({
        "openrpc": "1.3.2",
        "info": {
            "title": "Hotshoe plugins that are processes",
            "version": contract.package.rsplit('@').next(),
            "description": "What a host and a plugin that is a process say to each other. \
                `x-served-by` says who answers a method. Read docs/protocol.md first.",
            "license": {"name": "MIT OR Apache-2.0"},
        },
        "methods": methods,
        "components": {"schemas": schemas, "errors": beside["errors"]},
    });
    serde_json::to_string_pretty(&document).expect("a document is plain data") + "\n"
}

fn attempt() -> Value {
    json!({
        "name": "attempt",
        "description": "The attempt that the call belongs to, as it came with the task.",
        "required": true,
        "schema": {"$ref": "#/components/schemas/Attempt"},
    })
}

fn method(function: &Function, served_by: &str) -> Value {
    let mut params = Vec::new();
    if function.name != "describe" {
        params.push(attempt());
    }
    if let Some(on) = function.on() {
        let handle = json!({"$ref": format!("#/components/schemas/{}", pascal(on))});
        params.push(json!({"name": snake(on), "required": true, "schema": handle}));
    }
    params.extend(function.params.iter().map(|param| {
        let is_required = !matches!(param.ty, Type::Option(_));
        json!({"name": snake(&param.name), "required": is_required, "schema": schema(&param.ty)})
    }));
    if function.result.as_ref().is_some_and(Type::is_pixels) {
        params.push(json!({
            "name": "into",
            "description": "A buffer of the attempt; the answer is in a new one if absent or too small.",
            "required": false,
            "schema": {"$ref": "#/components/schemas/Buffer"},
        }));
    }
    let result = function.result.as_ref().map_or(json!({"type": "null"}), schema);
    let mut method = json!({
        "name": function.method(),
        "description": function.docs,
        "x-served-by": served_by,
        "paramStructure": "by-name",
        "params": params,
        "result": {"name": "result", "schema": result},
    });
    if function.fails {
        method["errors"] = json!([{"$ref": "#/components/errors/Contract"}]);
    }
    method
}

fn shape(kind: &Kind) -> Option<Value> {
    Some(match kind {
        Kind::Record(fields) => {
            let required = fields.iter().filter(|field| !matches!(field.ty, Type::Option(_)));
            let required: Vec<_> = required.map(|field| snake(&field.name)).collect();
            let properties = fields.iter().map(|field| {
                let mut schema = schema(&field.ty);
                schema["description"] = json!(field.docs);
                (snake(&field.name), schema)
            });
            let properties: Map<String, Value> = properties.collect();
            json!({"type": "object", "required": required, "properties": properties, "additionalProperties": false})
        }
        Kind::Enum(cases) => {
            let case = |name: &str, docs: &str| json!({"const": snake(name), "description": docs});
            json!({"oneOf": cases.iter().map(|c| case(&c.name, &c.docs)).collect::<Vec<_>>()})
        }
        Kind::Variant(cases) => {
            let cases = cases.iter().map(|case| match &case.ty {
                None => json!({"const": snake(&case.name), "description": case.docs}),
                Some(ty) => json!({
                    "type": "object",
                    "description": case.docs,
                    "required": [snake(&case.name)],
                    "properties": {snake(&case.name): schema(ty)},
                    "additionalProperties": false,
                }),
            });
            json!({"oneOf": cases.collect::<Vec<_>>()})
        }
        Kind::Resource => json!({"type": "integer", "minimum": 1}),
        Kind::Alias | Kind::Used(_) => return None,
    })
}

fn schema(ty: &Type) -> Value {
    match ty {
        Type::Plain("bool") => json!({"type": "boolean"}),
        Type::Plain("f32" | "f64") => json!({"type": "number"}),
        Type::Plain("string") => json!({"type": "string"}),
        Type::Plain("s32") => json!({"type": "integer", "minimum": i32::MIN, "maximum": i32::MAX}),
        Type::Plain("u32") => json!({"type": "integer", "minimum": 0, "maximum": u32::MAX}),
        Type::Plain(_) => json!({"type": "integer", "minimum": 0}),
        Type::Json => json!({"type": "string", "contentMediaType": "application/json"}),
        Type::Option(inner) => json!({"oneOf": [schema(inner), {"type": "null"}]}),
        Type::List(inner) => match &**inner {
            Type::Plain("u8") => json!({"type": "string", "contentEncoding": "base64"}),
            Type::Plain("f32") => json!({"$ref": "#/components/schemas/Pixels"}),
            inner => json!({"type": "array", "items": schema(inner)}),
        },
        Type::Tuple(parts) => {
            let parts: Vec<_> = parts.iter().map(schema).collect();
            json!({"type": "array", "minItems": parts.len(), "maxItems": parts.len(), "prefixItems": parts})
        }
        Type::Named(_, name) | Type::Own(_, name) | Type::Borrow(_, name) => {
            json!({"$ref": format!("#/components/schemas/{}", pascal(name))})
        }
    }
}
