//! From YAML to validated types. Every later room takes only [`model`].

pub mod model;
