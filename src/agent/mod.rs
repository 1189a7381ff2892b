//! From a config file to everything that runs.

pub mod prepare;
pub mod problem;
