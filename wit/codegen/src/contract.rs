//! The contract, as far as it matters to those who translate it.

use std::path::Path;

use anyhow::{Context, Result, bail};
use wit_parser::{FunctionKind, Handle, Resolve, TypeDefKind, TypeId};

/// A released world.
pub(crate) struct Contract {
    /// Its name with its version.
    pub package: String,
    /// Its interfaces, in the order of their names.
    pub interfaces: Vec<Interface>,
}

/// One interface.
pub(crate) struct Interface {
    pub name: String,
    pub docs: String,
    pub types: Vec<Named>,
    pub functions: Vec<Function>,
}

/// A type with a name.
pub(crate) struct Named {
    pub name: String,
    pub docs: String,
    pub kind: Kind,
}

/// What a type with a name is.
pub(crate) enum Kind {
    Record(Vec<Field>),
    Enum(Vec<Field<()>>),
    Variant(Vec<Field<Option<Type>>>),
    Resource,
    /// Another name of a type, which is used in its place.
    Alias,
    /// The same name in another interface.
    Used(String),
}

/// A field, a case or a parameter.
pub(crate) struct Field<T = Type> {
    pub name: String,
    pub docs: String,
    pub ty: T,
}

/// A type where it is used.
#[derive(Clone, PartialEq)]
pub(crate) enum Type {
    /// A primitive type, as WIT calls it.
    Plain(&'static str),
    /// Text that is JSON.
    Json,
    Option(Box<Self>),
    List(Box<Self>),
    Tuple(Vec<Self>),
    /// A record, enum or variant: the interface that defines it, and its name.
    Named(String, String),
    /// A handle that changes hands.
    Own(String, String),
    /// A handle that is lent.
    Borrow(String, String),
}

impl Type {
    /// Whether it is pixels, which are in buffers.
    pub(crate) fn is_pixels(&self) -> bool {
        self.is_list_of("f32")
    }

    /// Whether it is bytes, which are text in base64.
    pub(crate) fn is_bytes(&self) -> bool {
        self.is_list_of("u8")
    }

    fn is_list_of(&self, plain: &str) -> bool {
        matches!(self, Self::List(of) if matches!(**of, Self::Plain(name) if name == plain))
    }
}

/// A function.
pub(crate) struct Function {
    pub interface: String,
    /// The resource it is a method or a static function of.
    pub resource: Option<String>,
    pub is_static: bool,
    pub name: String,
    pub docs: String,
    /// Its parameters, without the resource that a method is called on.
    pub params: Vec<Field>,
    pub result: Option<Type>,
    /// Whether it may fail with `error`.
    pub fails: bool,
}

impl Function {
    /// Returns its name among all functions: that of the method of a message.
    pub(crate) fn method(&self) -> String {
        let owner = self.resource.as_ref().unwrap_or(&self.interface);
        format!("{}.{}", snake(owner), snake(&self.name))
    }

    /// Returns the resource that it is called on.
    pub(crate) fn on(&self) -> Option<&str> {
        self.resource.as_deref().filter(|_| !self.is_static)
    }
}

impl Contract {
    /// Reads a folder of WIT files.
    pub(crate) fn read(folder: &Path) -> Result<Self> {
        let mut resolve = Resolve::default();
        let (package, _) = resolve.push_path(folder).context("the contract cannot be read")?;
        let package = &resolve.packages[package];
        let interfaces = package.interfaces.iter().map(|(name, &id)| {
            let interface = &resolve.interfaces[id];
            let types = interface.types.iter().map(|(name, &id)| named(&resolve, id, name));
            let functions = interface.functions.values().map(|f| function(&resolve, name, f));
            Ok(Interface {
                name: name.clone(),
                docs: text(&interface.docs),
                types: types.collect::<Result<_>>()?,
                functions: functions.collect::<Result<_>>()?,
            })
        });
        let mut interfaces: Vec<Interface> = interfaces.collect::<Result<_>>()?;
        interfaces.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(Self { package: package.name.to_string(), interfaces })
    }

    /// Returns an interface.
    pub(crate) fn interface(&self, name: &str) -> &Interface {
        self.interfaces.iter().find(|found| found.name == name).expect("the contract has it")
    }

    /// Returns what a type is that is used somewhere.
    pub(crate) fn kind(&self, interface: &str, name: &str) -> &Kind {
        let named = self.interface(interface).types.iter().find(|found| found.name == name);
        &named.expect("the contract has it").kind
    }

    /// Returns the functions that plugins call, in order.
    pub(crate) fn imports(&self) -> impl Iterator<Item = &Function> {
        let imports = self.interfaces.iter().filter(|interface| interface.name != "renderer");
        imports.flat_map(|interface| &interface.functions)
    }

    /// Returns the resources, with the interface of each.
    pub(crate) fn resources(&self) -> impl Iterator<Item = (&str, &str)> {
        self.interfaces.iter().flat_map(|interface| {
            let resources = interface.types.iter().filter(|ty| matches!(ty.kind, Kind::Resource));
            resources.map(|ty| (interface.name.as_str(), ty.name.as_str()))
        })
    }

    /// Whether values of a type are copied without a thought.
    pub(crate) fn is_copy(&self, ty: &Type) -> bool {
        match ty {
            Type::Plain(name) => *name != "string",
            Type::Option(inner) => self.is_copy(inner),
            Type::Tuple(parts) => parts.iter().all(|part| self.is_copy(part)),
            Type::Named(interface, name) => match self.kind(interface, name) {
                Kind::Record(fields) => fields.iter().all(|field| self.is_copy(&field.ty)),
                Kind::Enum(_) => true,
                Kind::Variant(cases) => {
                    cases.iter().all(|case| case.ty.as_ref().is_none_or(|ty| self.is_copy(ty)))
                }
                _ => false,
            },
            _ => false,
        }
    }
}

fn text(docs: &wit_parser::Docs) -> String {
    docs.contents.clone().unwrap_or_default().trim().to_owned()
}

fn function(resolve: &Resolve, interface: &str, function: &wit_parser::Function) -> Result<Function> {
    let (resource, is_static) = match function.kind {
        FunctionKind::Freestanding => (None, false),
        FunctionKind::Method(id) => (resolve.types[id].name.clone(), false),
        FunctionKind::Static(id) => (resolve.types[id].name.clone(), true),
        _ => bail!("{}: only plain functions, methods and static functions", function.name),
    };
    let skipped = usize::from(resource.is_some() && !is_static);
    let params = function.params.iter().skip(skipped).map(|param| {
        Ok(Field { name: param.name.clone(), docs: String::new(), ty: used(resolve, &param.ty)? })
    });
    let (result, fails) = match function.result {
        None => (None, false),
        Some(wit_parser::Type::Id(id)) => match &resolve.types[id].kind {
            TypeDefKind::Result(result) => (result.ok.map(|ok| used(resolve, &ok)).transpose()?, true),
            _ => (Some(used(resolve, &wit_parser::Type::Id(id))?), false),
        },
        Some(ty) => (Some(used(resolve, &ty)?), false),
    };
    Ok(Function {
        interface: interface.to_owned(),
        resource,
        is_static,
        name: function.item_name().to_owned(),
        docs: text(&function.docs),
        params: params.collect::<Result<_>>()?,
        result,
        fails,
    })
}

fn named(resolve: &Resolve, id: TypeId, name: &str) -> Result<Named> {
    let ty = &resolve.types[id];
    let kind = match &ty.kind {
        TypeDefKind::Record(record) => Kind::Record(
            record
                .fields
                .iter()
                .map(|field| {
                    let ty = used(resolve, &field.ty)?;
                    Ok(Field { name: field.name.clone(), docs: text(&field.docs), ty })
                })
                .collect::<Result<_>>()?,
        ),
        TypeDefKind::Enum(cases) => {
            let case = |case: &wit_parser::EnumCase| Field {
                name: case.name.clone(),
                docs: text(&case.docs),
                ty: (),
            };
            Kind::Enum(cases.cases.iter().map(case).collect())
        }
        TypeDefKind::Variant(cases) => Kind::Variant(
            cases
                .cases
                .iter()
                .map(|case| {
                    let ty = case.ty.map(|ty| used(resolve, &ty)).transpose()?;
                    Ok(Field { name: case.name.clone(), docs: text(&case.docs), ty })
                })
                .collect::<Result<_>>()?,
        ),
        TypeDefKind::Resource => Kind::Resource,
        TypeDefKind::Type(wit_parser::Type::Id(id)) => Kind::Used(place(resolve, *id)?.0),
        TypeDefKind::Type(_) => Kind::Alias,
        other => bail!("{name}: no translation of {}", other.as_str()),
    };
    Ok(Named { name: name.to_owned(), docs: text(&ty.docs), kind })
}

/// Returns the interface that defines a type, and its name there.
fn place(resolve: &Resolve, mut id: TypeId) -> Result<(String, String)> {
    while let TypeDefKind::Type(wit_parser::Type::Id(other)) = resolve.types[id].kind {
        id = other;
    }
    let ty = &resolve.types[id];
    let wit_parser::TypeOwner::Interface(owner) = ty.owner else { bail!("a type of no interface") };
    let interface = resolve.interfaces[owner].name.clone().context("an interface without a name")?;
    Ok((interface, ty.name.clone().context("a type without a name")?))
}

fn used(resolve: &Resolve, ty: &wit_parser::Type) -> Result<Type> {
    use wit_parser::Type as Wit;
    Ok(match ty {
        Wit::Bool => Type::Plain("bool"),
        Wit::U8 => Type::Plain("u8"),
        Wit::U32 => Type::Plain("u32"),
        Wit::S32 => Type::Plain("s32"),
        Wit::U64 => Type::Plain("u64"),
        Wit::F32 => Type::Plain("f32"),
        Wit::F64 => Type::Plain("f64"),
        Wit::String => Type::Plain("string"),
        Wit::Id(id) => match &resolve.types[*id].kind {
            TypeDefKind::Option(inner) => Type::Option(Box::new(used(resolve, inner)?)),
            TypeDefKind::List(inner) => Type::List(Box::new(used(resolve, inner)?)),
            TypeDefKind::Tuple(parts) => {
                Type::Tuple(parts.types.iter().map(|part| used(resolve, part)).collect::<Result<_>>()?)
            }
            TypeDefKind::Handle(Handle::Own(id)) => {
                let (interface, name) = place(resolve, *id)?;
                Type::Own(interface, name)
            }
            TypeDefKind::Handle(Handle::Borrow(id)) => {
                let (interface, name) = place(resolve, *id)?;
                Type::Borrow(interface, name)
            }
            _ => {
                let (interface, name) = place(resolve, *id)?;
                let definition = resolve.types.iter().map(|(_, ty)| ty).find(|ty| {
                    ty.name.as_ref() == Some(&name)
                        && matches!(&ty.kind, TypeDefKind::Type(plain) if !matches!(plain, Wit::Id(_)))
                });
                match (name.as_str(), definition) {
                    ("json", _) => Type::Json,
                    (_, Some(alias)) => match &alias.kind {
                        TypeDefKind::Type(plain) => used(resolve, plain)?,
                        _ => Type::Named(interface, name),
                    },
                    (_, None) => Type::Named(interface, name),
                }
            }
        },
        other => bail!("no translation of {other:?}"),
    })
}

/// `wait-any` as `wait_any`.
pub(crate) fn snake(name: &str) -> String {
    name.replace('-', "_")
}

/// `scene-info` as `SceneInfo`.
pub(crate) fn pascal(name: &str) -> String {
    let part = |part: &str| part[..1].to_uppercase() + &part[1..];
    name.split('-').map(part).collect()
}
