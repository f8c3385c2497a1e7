//! How the types of the contract look in JSON.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde_json::Value;

use super::{Misfit, Names, Wire};

/// Types that look in JSON as they do everywhere.
macro_rules! plain {
    ($($ty:ty)*) => {$(
        impl Wire for $ty {
            fn read(value: Value, _: &mut Names) -> Result<Self, Misfit> {
                serde_json::from_value(value).map_err(|error| Misfit::new(error.to_string()))
            }

            fn write(self, _: &mut Names) -> Result<Value, Misfit> {
                Ok(self.into())
            }
        }
    )*};
}

plain!(bool i32 u32 u64 f32 f64 String);

impl Wire for () {
    fn read(_: Value, _: &mut Names) -> Result<Self, Misfit> {
        Ok(())
    }

    fn write(self, _: &mut Names) -> Result<Value, Misfit> {
        Ok(Value::Null)
    }
}

/// Lists of them are texts in base64.
impl Wire for u8 {
    fn read(value: Value, _: &mut Names) -> Result<Self, Misfit> {
        serde_json::from_value(value).map_err(|error| Misfit::new(error.to_string()))
    }

    fn write(self, _: &mut Names) -> Result<Value, Misfit> {
        Ok(self.into())
    }

    fn read_list(value: Value, _: &mut Names) -> Result<Vec<Self>, Misfit> {
        let text = value.as_str().ok_or_else(|| Misfit::new("bytes as a text in base64 are wanted"))?;
        BASE64_STANDARD.decode(text).map_err(|error| Misfit::new(format!("no base64: {error}")))
    }

    fn write_list(list: Vec<Self>, _: &mut Names) -> Result<Value, Misfit> {
        Ok(BASE64_STANDARD.encode(list).into())
    }
}

impl<T: Wire> Wire for Vec<T> {
    fn read(value: Value, names: &mut Names) -> Result<Self, Misfit> {
        T::read_list(value, names)
    }

    fn write(self, names: &mut Names) -> Result<Value, Misfit> {
        T::write_list(self, names)
    }
}

impl<T: Wire> Wire for Option<T> {
    fn read(value: Value, names: &mut Names) -> Result<Self, Misfit> {
        if value.is_null() { Ok(None) } else { T::read(value, names).map(Some) }
    }

    fn write(self, names: &mut Names) -> Result<Value, Misfit> {
        self.map_or(Ok(Value::Null), |value| value.write(names))
    }
}

impl<A: Wire, B: Wire> Wire for (A, B) {
    fn read(value: Value, names: &mut Names) -> Result<Self, Misfit> {
        match serde_json::from_value::<[Value; 2]>(value) {
            Ok([a, b]) => Ok((A::read(a, names)?, B::read(b, names)?)),
            Err(_) => Err(Misfit::new("a list of two is wanted")),
        }
    }

    fn write(self, names: &mut Names) -> Result<Value, Misfit> {
        Ok(Value::Array(vec![self.0.write(names)?, self.1.write(names)?]))
    }
}

/// Objects with a value of each field.
macro_rules! record {
    ($ty:path { $($field:ident),* }) => {
        impl super::Wire for $ty {
            fn read(value: serde_json::Value, names: &mut super::Names) -> Result<Self, super::Misfit> {
                let serde_json::Value::Object(mut fields) = value else {
                    return Err(super::Misfit::new("an object is wanted"));
                };
                $(
                    let $field = fields.remove(stringify!($field)).unwrap_or_default();
                    let $field = super::Wire::read($field, names);
                    let $field = $field.map_err(|misfit: super::Misfit| misfit.below(stringify!($field)))?;
                )*
                match fields.into_iter().next() {
                    Some((name, _)) => Err(super::Misfit::new("there is no such field").below(&name)),
                    None => Ok(Self { $($field),* }),
                }
            }

            fn write(self, names: &mut super::Names) -> Result<serde_json::Value, super::Misfit> {
                let mut fields = serde_json::Map::new();
                $(
                    let value = super::Wire::write(self.$field, names)?;
                    fields.insert(stringify!($field).to_owned(), value);
                )*
                Ok(fields.into())
            }
        }
    };
}

/// Texts that name a case.
macro_rules! cases {
    ($ty:path { $($case:ident = $name:literal),* }) => {
        impl super::Wire for $ty {
            fn read(value: serde_json::Value, _: &mut super::Names) -> Result<Self, super::Misfit> {
                use $ty as Cases;
                match value.as_str() {
                    $(Some($name) => Ok(Cases::$case),)*
                    _ => Err(super::Misfit::new(concat!("one of these is wanted:", $(" ", $name),*))),
                }
            }

            fn write(self, _: &mut super::Names) -> Result<serde_json::Value, super::Misfit> {
                Ok(super::Case::name(&self).into())
            }
        }

        impl super::Case for $ty {
            fn name(&self) -> &'static str {
                use $ty as Cases;
                match self {
                    $(Cases::$case => $name,)*
                }
            }
        }
    };
}

/// Texts that name a case, or objects that hold its value under its name.
macro_rules! variant {
    ($ty:path { with: { $($with:ident = $with_name:literal),* }, without: { $($case:ident = $name:literal),* } }) => {
        impl super::Wire for $ty {
            fn read(value: serde_json::Value, names: &mut super::Names) -> Result<Self, super::Misfit> {
                use $ty as Cases;
                $(if value.as_str() == Some($name) {
                    return Ok(Cases::$case);
                })*
                $(if let Some(value) = value.get($with_name) {
                    return Ok(Cases::$with(super::Wire::read(value.clone(), names)?));
                })*
                Err(super::Misfit::new(concat!("one of these is wanted:", $(" ", $with_name,)* $(" ", $name),*)))
            }

            fn write(self, names: &mut super::Names) -> Result<serde_json::Value, super::Misfit> {
                use $ty as Cases;
                Ok(match self {
                    $(Cases::$with(value) => serde_json::json!({$with_name: super::Wire::write(value, names)?}),)*
                    $(Cases::$case => $name.into(),)*
                })
            }
        }
    };
}

/// Handles.
macro_rules! resource {
    ($ty:path, $name:literal) => {
        impl super::Kind for $ty {
            const KIND: &'static str = $name;
        }
    };
}

pub(super) use {cases, record, resource, variant};
