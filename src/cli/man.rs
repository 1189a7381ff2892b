//! `agent man`.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use super::arguments::command;
use super::output::{Failure, print};

const EXAMPLES: &str = "\
Examples:
  agent man --dir /usr/local/share/man/man1
  agent man | man -l -";

/// Print the man pages, or write them into a folder
///
/// Roff, all pages one after another, or each in a file of its own.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Man {
    /// Write agent.1, agent-run.1, … into this folder (it is made where it is missing)
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

pub(super) fn run(arguments: &Man) -> Result<u8, Failure> {
    let pages = pages()?;
    match &arguments.dir {
        Some(dir) => write(&pages, dir)?,
        None => print(&pages.into_iter().map(|(_, text)| text).collect::<String>())?,
    }
    Ok(0)
}

/// File names and texts: the whole first, then each command.
fn pages() -> Result<Vec<(String, String)>, Failure> {
    let mut whole = command();
    whole.build();
    let commands: Vec<clap::Command> = whole.get_subcommands().filter(|one| !one.is_hide_set()).cloned().collect();
    std::iter::once(whole)
        .chain(commands)
        .map(|one| {
            let man = clap_mangen::Man::new(one).source(concat!("leasehold ", env!("CARGO_PKG_VERSION")));
            let mut text = Vec::new();
            man.render(&mut text).map_err(|error| Failure::new(70, error.to_string()))?;
            Ok((man.get_filename(), String::from_utf8_lossy(&text).into_owned()))
        })
        .collect()
}

fn write(pages: &[(String, String)], dir: &Path) -> Result<(), Failure> {
    let fail = |path: &Path| {
        let path = path.to_owned();
        move |error: std::io::Error| Failure::new(74, format!("cannot write {}: {error}", path.display()))
    };
    if !dir.is_dir() {
        std::fs::create_dir_all(dir).map_err(fail(dir))?;
        // Nothing is secret here, and the umask is the agent's.
        std::fs::set_permissions(dir, Permissions::from_mode(0o755)).map_err(fail(dir))?;
    }
    for (name, text) in pages {
        let path = dir.join(name);
        std::fs::write(&path, text).map_err(fail(&path))?;
        std::fs::set_permissions(&path, Permissions::from_mode(0o644)).map_err(fail(&path))?;
    }
    Ok(())
}
