//! `agent completions`.

use clap::ValueEnum;
use clap_complete::Shell;

use super::arguments::command;
use super::output::{Failure, print};

const EXAMPLES: &str = "\
Examples:
  agent completions bash > /etc/bash_completion.d/agent
  agent completions zsh > \"${fpath[1]}/_agent\"
  agent completions fish > ~/.config/fish/completions/agent.fish";

/// Print the completions of a shell
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Completions {
    /// The shell
    #[arg(value_enum)]
    shell: Name,
}

/// The shells that there are completions for.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum Name {
    Bash,
    Zsh,
    Fish,
}

pub(super) fn run(arguments: &Completions) -> Result<u8, Failure> {
    let shell = match arguments.shell {
        Name::Bash => Shell::Bash,
        Name::Zsh => Shell::Zsh,
        Name::Fish => Shell::Fish,
    };
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut command(), "agent", &mut script);
    print(&String::from_utf8_lossy(&script))?;
    Ok(0)
}
