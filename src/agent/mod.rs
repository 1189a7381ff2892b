//! From a config file to everything that runs.

pub mod check;
pub mod once;
pub mod prepare;
pub mod problem;
mod readings;
