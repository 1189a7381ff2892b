//! From YAML to validated types. Every later room takes only [`model`].
//!
//! [`load`] reads a file and answers the whole config, or every fault in it at once, each with file, line and column.
//! The steps: `tree` (YAML with places, `${VAR}` expanded) -> `raw` (known keys, types, defaults; also the source of
//! [`schema`]) -> `build` (names resolved, cross-checks) -> [`model`]. Which secrets the templates use is the render
//! room's knowledge: the caller hands it to [`cross_check`].

mod build;
mod confidential;
mod decode;
mod expand;
mod fault;
mod load;
pub mod model;
mod raw;
mod scalar;
mod tree;
mod uses;

pub use build::{Inputs, Users};
pub use confidential::Confidential;
pub use fault::{Fault, Faults, Place, did_you_mean, near};
pub use load::{Loaded, System, load, load_for_command, parse, state_dir};
pub use scalar::{Account, duration};
pub use uses::{Reference, ReferenceError, Use, cross_check, reference};

/// The JSON Schema (draft 2020-12) of a config file. Made from the same tables that decode it. It cannot tell what
/// spans several keys: exactly one source a file, one owner a path, declared names.
pub fn schema() -> serde_json::Value {
    let mut schema = <raw::RawConfig as decode::Shape>::schema();
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema".into();
    schema["title"] = "Leasehold's config".into();
    schema
}
