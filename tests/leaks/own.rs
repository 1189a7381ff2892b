//! What the system lets others see of the agent itself.
