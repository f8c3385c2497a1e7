//! The contract as messages: what a plugin that is a process calls, and is called with.
//!
//! Values are JSON as the contract names them, with `_` for `-`. Handles are numbers
//! that belong to one attempt and are never given twice by one process. Pixels are in
//! buffers. Which message is which function of the contract is made from the contract
//! itself (`v0_1`); what the functions do stands in `capability`.

pub mod buffers;
mod shapes;
pub mod v0_1;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::{Map, Value, json};
use wasmtime::component::Resource;

use super::bindings::v0_1::types;
use super::handles::Handles;
use crate::capability::usage::Hit;
use crate::capability::{Attempt, CapabilityError};
use crate::config::limits::Limits;
use crate::rpc::{ErrorObject, INTERNAL_ERROR, INVALID_PARAMS, METHOD_NOT_FOUND};
use crate::terms::Capability;
use buffers::{Buffer, PixelLine};
use shapes::{cases, record, resource, variant};

/// The code of an error of the contract.
pub const CONTRACT_ERROR: i64 = -32000;
/// The code of a call for an attempt that is not under way.
pub const NO_ATTEMPT: i64 = -32001;

/// What one attempt holds of the host, by the numbers that its process knows.
#[derive(Debug)]
pub struct Held {
    /// What is behind the numbers.
    pub handles: Handles,
    names: Names,
}

/// The numbers of an attempt.
#[derive(Debug)]
pub struct Names {
    /// The next number that the process has not seen yet.
    next: Arc<AtomicU32>,
    known: HashMap<u32, (&'static str, u32)>,
    buffers: HashMap<u32, Buffer>,
    pixels: Arc<PixelLine>,
    most: usize,
}

/// The parameters of a call.
#[derive(Debug)]
pub struct Arguments(Map<String, Value>);

/// Why a call was not carried out, or failed.
#[derive(Debug)]
pub enum Refusal {
    /// There is no such function.
    NoMethod,
    /// The parameters are not what the function takes.
    Misfit(String),
    /// The contract's own error.
    Answer(types::Error),
    /// The plugin has hit a limit, and is ended.
    Hit(Hit),
    /// The host failed.
    Host(String),
}

/// A value that does not fit, and where in the parameters it stands.
#[derive(Debug)]
pub struct Misfit {
    path: String,
    what: String,
}

/// A result of a call of the host.
pub type Reply = Result<Value, Refusal>;

/// A type of the contract as JSON.
pub trait Wire: Sized {
    /// Reads a value.
    fn read(value: Value, names: &mut Names) -> Result<Self, Misfit>;
    /// Writes a value.
    fn write(self, names: &mut Names) -> Result<Value, Misfit>;

    /// Reads a list of them.
    fn read_list(value: Value, names: &mut Names) -> Result<Vec<Self>, Misfit> {
        let Value::Array(values) = value else { return Err(Misfit::new("a list is wanted")) };
        let values = values.into_iter().enumerate();
        values.map(|(n, value)| Self::read(value, names).map_err(|m| m.below(&n.to_string()))).collect()
    }

    /// Writes a list of them.
    fn write_list(list: Vec<Self>, names: &mut Names) -> Result<Value, Misfit> {
        list.into_iter().map(|value| value.write(names)).collect()
    }
}

/// One of several named cases of the contract.
pub trait Case {
    /// Its name in JSON.
    fn name(&self) -> &'static str;
}

/// A resource of the contract.
pub trait Kind: Send + 'static {
    /// Its name there.
    const KIND: &'static str;
}

impl Misfit {
    fn new(what: impl Into<String>) -> Self {
        Self { path: String::new(), what: what.into() }
    }

    fn below(mut self, name: &str) -> Self {
        self.path = if self.path.is_empty() { name.to_owned() } else { format!("{name}.{}", self.path) };
        self
    }
}

impl From<Misfit> for Refusal {
    fn from(Misfit { path, what }: Misfit) -> Self {
        Self::Misfit(if path.is_empty() { what } else { format!("{path}: {what}") })
    }
}

impl From<CapabilityError> for Refusal {
    fn from(error: CapabilityError) -> Self {
        Self::Answer(error.into())
    }
}

impl From<Refusal> for ErrorObject {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::NoMethod => Self::new(METHOD_NOT_FOUND, "the contract has no such function"),
            Refusal::Misfit(what) => Self::new(INVALID_PARAMS, what),
            Refusal::Host(what) => Self::new(INTERNAL_ERROR, what),
            Refusal::Hit(hit) => Self::new(INTERNAL_ERROR, hit.to_string()),
            Refusal::Answer(types::Error { code, message }) => {
                let data = json!({"code": code.name(), "message": message});
                Self { code: CONTRACT_ERROR, message, data }
            }
        }
    }
}

impl Arguments {
    /// Takes the parameters of a message, but for the attempt that brought it here.
    pub fn new(params: Value) -> Result<Self, Refusal> {
        match params {
            Value::Object(mut params) => {
                params.remove("attempt");
                Ok(Self(params))
            }
            _ => Err(Refusal::Misfit("parameters have names".to_owned())),
        }
    }

    /// Fails if there is a parameter that nobody has taken.
    pub fn end(self) -> Result<(), Refusal> {
        match self.0.into_iter().next() {
            Some((name, _)) => Err(Refusal::Misfit(format!("{name}: there is no such parameter"))),
            None => Ok(()),
        }
    }
}

impl Held {
    /// Makes what an attempt of a process holds, at first nothing; without an attempt
    /// it stays so.
    pub fn new(
        attempt: Option<Arc<Attempt>>,
        limits: &Limits,
        next: Arc<AtomicU32>,
        pixels: Arc<PixelLine>,
    ) -> Self {
        let handles = Handles::new(attempt, limits);
        let (known, buffers) = (HashMap::new(), HashMap::new());
        let names = Names { next, known, buffers, pixels, most: limits.handles };
        Self { handles, names }
    }

    /// Carries out a call: of the contract, or about buffers.
    pub async fn call(&mut self, method: &str, mut arguments: Arguments) -> Reply {
        match method {
            "buffer.create" => {
                let length: u32 = self.take(&mut arguments, "length")?;
                arguments.end()?;
                self.handles.called("buffer.create").map_err(Refusal::Hit)?;
                let attempt = self.handles.attempt(Capability::Image)?;
                self.names.make_buffer(length, &attempt).map(Value::from)
            }
            "buffer.drop" => {
                let number: u32 = self.take(&mut arguments, "buffer")?;
                arguments.end()?;
                self.handles.called("buffer.drop").map_err(Refusal::Hit)?;
                let dropped = self.names.buffers.remove(&number);
                dropped.map(|_| Value::Null).ok_or_else(|| unknown("buffer", number).below("buffer").into())
            }
            _ => v0_1::call(self, method, arguments).await,
        }
    }

    /// Reads a parameter.
    fn take<T: Wire>(&mut self, arguments: &mut Arguments, name: &str) -> Result<T, Refusal> {
        let given = arguments.0.remove(name);
        let is_missing = given.is_none();
        let read = T::read(given.unwrap_or_default(), &mut self.names);
        Ok(read
            .map_err(|misfit| if is_missing { Misfit::new("it is missing") } else { misfit }.below(name))?)
    }

    /// Reads a handle that is dropped by the call.
    fn give_up<T: Kind>(&mut self, arguments: &mut Arguments, name: &str) -> Result<Resource<T>, Refusal> {
        let number = arguments.0.get(name).and_then(Value::as_u64);
        let resource = self.take(arguments, name)?;
        number.and_then(|number| self.names.known.remove(&(number as u32)));
        Ok(resource)
    }

    /// Writes what a function gave that can fail.
    fn answered<T: Wire>(&mut self, done: wasmtime::Result<Result<T, types::Error>>) -> Reply {
        match done {
            Ok(Ok(value)) => self.told(Ok(value)),
            Ok(Err(error)) => Err(Refusal::Answer(error)),
            Err(error) => self.told::<T>(Err(error)),
        }
    }

    /// Writes what a function gave that cannot.
    fn told<T: Wire>(&mut self, done: wasmtime::Result<T>) -> Reply {
        match done {
            Ok(value) => Ok(value.write(&mut self.names)?),
            Err(error) => Err(match error.downcast::<Hit>() {
                Ok(hit) => Refusal::Hit(hit),
                Err(error) => Refusal::Host(error.to_string()),
            }),
        }
    }

    /// Reads a value of the process.
    pub fn read<T: Wire>(&mut self, value: Value) -> Result<T, Refusal> {
        Ok(T::read(value, &mut self.names)?)
    }

    /// Writes a value for the process.
    pub fn write(&mut self, value: impl Wire) -> Reply {
        Ok(value.write(&mut self.names)?)
    }
}

impl Names {
    fn number(&self) -> u32 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }
}

fn unknown(kind: &str, number: u32) -> Misfit {
    Misfit::new(format!(
        "there is no {kind} {number} in this attempt: it was dropped, is of another attempt, or no {kind}"
    ))
}

impl<T: Kind> Wire for Resource<T> {
    fn read(value: Value, names: &mut Names) -> Result<Self, Misfit> {
        let number = value.as_u64().and_then(|number| u32::try_from(number).ok());
        let number = number.ok_or_else(|| Misfit::new(format!("the number of its {} is wanted", T::KIND)))?;
        match names.known.get(&number) {
            Some((kind, rep)) if *kind == T::KIND => Ok(Self::new_own(*rep)),
            _ => Err(unknown(T::KIND, number)),
        }
    }

    fn write(self, names: &mut Names) -> Result<Value, Misfit> {
        let number = names.number();
        names.known.insert(number, (T::KIND, self.rep()));
        Ok(number.into())
    }
}
