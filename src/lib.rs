pub mod config;
pub mod digest;
pub mod probe;
pub mod reload;
pub mod render;
pub mod secret;
pub mod store;
pub mod verdict;
