//! A thousand agents, and a server that goes away.
