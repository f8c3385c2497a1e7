//! The generated bindings, one module for each released world. Each translates
//! between its generated types and those of `plugin` and `capability`.

pub mod v0_1;
