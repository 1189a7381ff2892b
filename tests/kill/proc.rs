//! Which processes belong to a world, by what /proc says.

use std::fs;
use std::path::Path;

/// A living process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Process {
    pub pid: i32,
    /// What it carries as `LEASEHOLD_PROCESS`.
    pub mark: Option<String>,
    pub command: String,
}

/// Every process that works in this folder. Those of one that has ended are not told (a zombie has no folder).
pub fn all_in(dir: &Path) -> Vec<Process> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        if !fs::read_link(entry.path().join("cwd")).is_ok_and(|cwd| cwd == dir) {
            continue;
        }
        let text =
            |name: &str| String::from_utf8_lossy(&fs::read(entry.path().join(name)).unwrap_or_default()).into_owned();
        let mark = text("environ").split('\0').find_map(|v| v.strip_prefix("LEASEHOLD_PROCESS=").map(str::to_owned));
        found.push(Process { pid, mark, command: text("cmdline").replace('\0', " ") });
    }
    found
}
