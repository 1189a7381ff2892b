//! What the agent tells of itself: logs, metrics, audit; and the mask that keeps secret values out of all of it.

pub mod audit;
pub mod certificates;
pub mod encodings;
pub mod logging;
pub mod mask;
pub mod metrics;
pub mod view;
