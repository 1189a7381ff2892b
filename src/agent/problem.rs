//! What is wrong, where, and with which exit code: sysexits.h's classes over a fault with its place.

use std::fmt;
use std::path::Path;

use serde_json::json;

use crate::config::{Fault, Faults};
use crate::durable::{Cause, FileError, FileErrorKind};
use crate::generation::Difference;
use crate::render::{RenderError, RenderErrorKind};
use crate::seal::KEY_ACT;
use crate::store::{StoreError, StoreErrorKind};
use crate::verify::{VerifyError, VerifyErrorKind};

/// The classes of sysexits.h that a fault can have, in the order in which they decide an exit code: where several
/// apply, the first one here counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Class {
    /// 64, EX_USAGE: the command names what the config has not.
    Usage,
    /// 78, EX_CONFIG: the config is invalid, or asks for what this build has not.
    Config,
    /// 65, EX_DATAERR: a template or its output is invalid, or a value was refused.
    Template,
    /// 66, EX_NOINPUT: a secret or file that the config names does not exist.
    Missing,
    /// 77, EX_NOPERM: a store or the system denied access.
    Denied,
    /// 69, EX_UNAVAILABLE: a store or provider could not be reached in time, or another agent holds `state_dir`.
    Unavailable,
    /// 74, EX_IOERR: reading or writing a file failed.
    Io,
}

impl Class {
    /// The exit code.
    pub fn code(self) -> u8 {
        match self {
            Self::Usage => 64,
            Self::Config => 78,
            Self::Template => 65,
            Self::Missing => 66,
            Self::Denied => 77,
            Self::Unavailable => 69,
            Self::Io => 74,
        }
    }

    /// What a store's answer means.
    pub fn of_store(error: &StoreError) -> Self {
        match error.kind {
            StoreErrorKind::Unavailable | StoreErrorKind::Malformed => Self::Unavailable,
            StoreErrorKind::Denied => Self::Denied,
            StoreErrorKind::Missing => Self::Missing,
        }
    }

    /// What a failed act on a file means.
    pub fn of_file(error: &FileError) -> Self {
        match (&error.cause, error.kind()) {
            (Cause::Refused(_), _) if error.op == "lock" => Self::Unavailable,
            (_, FileErrorKind::Denied) => Self::Denied,
            (_, FileErrorKind::Missing) if error.op == KEY_ACT => Self::Missing,
            (Cause::Refused(_) | Cause::Corrupt(_), _) if error.op == KEY_ACT => Self::Config,
            _ => Self::Io,
        }
    }

    /// What a refused or interrupted verification means.
    pub fn of_verify(error: &VerifyError) -> Self {
        match error.kind {
            VerifyErrorKind::Rejected => Self::Template,
            VerifyErrorKind::Missing | VerifyErrorKind::NoProgram { denied: false } => Self::Missing,
            VerifyErrorKind::NoProgram { denied: true } => Self::Denied,
            VerifyErrorKind::CheckBroken => Self::Io,
            VerifyErrorKind::Unreachable => Self::Unavailable,
        }
    }

    /// What a fault means that was found before there was any value: names that the config does not declare are the
    /// config's.
    pub fn of_template(error: &RenderError) -> Self {
        match error.kind {
            RenderErrorKind::MissingTemplate => Self::Missing,
            RenderErrorKind::Undeclared | RenderErrorKind::Env | RenderErrorKind::Parse => Self::Config,
            _ => Self::Template,
        }
    }

    /// What a fault means that was found with the values at hand.
    pub fn of_render(error: &RenderError) -> Self {
        match error.kind {
            RenderErrorKind::MissingTemplate | RenderErrorKind::MissingSecret => Self::Missing,
            RenderErrorKind::Undeclared => Self::Config,
            _ => Self::Template,
        }
    }
}

/// A fault and its class. Shown as the fault.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Which exit code it means.
    pub class: Class,
    /// What is wrong, where.
    pub fault: Fault,
}

impl Problem {
    /// For programs: `{"exit_code","file","line","column","message","hint"}`.
    pub fn json(&self) -> serde_json::Value {
        let mut value = fault_json(&self.fault);
        value["exit_code"] = self.class.code().into();
        value
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.fault.fmt(f)
    }
}

/// What keeps a file from being published, of what is found in its place. In a `directory` only the folder itself and
/// `..data` can: the rest of its layout is made anew.
pub(super) fn in_the_way(directory: Option<&Path>, path: &Path, found: &Difference) -> Option<(Class, String)> {
    match found {
        Difference::InTheWay(why) => {
            let harmless = directory.is_some_and(|root| path != root && path != root.join("..data"));
            (!harmless).then(|| (Class::Io, format!("{}: {why}", path.display())))
        }
        Difference::Unreadable(why) => Some((Class::Denied, format!("{}: {why}", path.display()))),
        Difference::Absent | Difference::Bytes | Difference::Mode { .. } | Difference::Owner { .. } => None,
    }
}

/// A fault for programs: `{"file","line","column","message","hint"}`; line and column are null where it is the whole
/// file's.
pub fn fault_json(fault: &Fault) -> serde_json::Value {
    let place = |n: u32| (n > 0).then_some(n);
    json!({
        "file": fault.file.display().to_string(),
        "line": place(fault.line),
        "column": place(fault.column),
        "message": fault.message,
        "hint": fault.hint,
    })
}

/// The exit code of several classes: the first by precedence; 0 where there is none.
pub fn exit_code(classes: impl IntoIterator<Item = Class>) -> u8 {
    classes.into_iter().min().map_or(0, Class::code)
}

/// Why a config cannot be used: every fault that was found, one a line when shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Faulty {
    /// The faults, in the order of the files.
    pub problems: Vec<Problem>,
    /// What is doubtful beside them.
    pub warnings: Vec<Fault>,
    /// The files that were read or looked for, absolute: worth another try when one of them changes.
    pub watched: Vec<std::path::PathBuf>,
}

impl Faulty {
    /// The exit code that the faults mean.
    pub fn exit_code(&self) -> u8 {
        exit_code(self.problems.iter().map(|problem| problem.class))
    }

    /// Faults of the config itself.
    pub(super) fn of_config(faults: Faults, watched: Vec<std::path::PathBuf>) -> Self {
        let problems = faults.0.into_iter().map(|fault| Problem { class: Class::Config, fault }).collect();
        Self { problems, warnings: Vec::new(), watched }
    }
}

impl fmt::Display for Faulty {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.problems.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            problem.fmt(f)?;
        }
        Ok(())
    }
}

impl std::error::Error for Faulty {}
