//! `files` of a target.

use std::path::{Path, PathBuf};

use super::{Builder, clean};
use crate::config::decode::At;
use crate::config::expand::is_name;
use crate::config::fault::{Place, shown_key};
use crate::config::model::{CheckCommand, FileConfig, Format, Source};
use crate::config::raw::targets::{RawCheck, RawFile};

impl Builder<'_> {
    pub(super) fn file(&mut self, raw: &At<RawFile>, directory: Option<&Path>, at: &str) -> Option<FileConfig> {
        let path = self.destination(raw, directory, at);
        let source = self.source(raw, at);
        let uid = self.uid(&raw.owner, &format!("{at}.owner"));
        let gid = self.gid(&raw.group, &format!("{at}.group"));
        let check = raw.check.get().map(|check| self.check(check, at));
        if raw.mode.0 & 0o002 != 0 {
            self.d.warn(raw.mode.place, format!("{at}.mode: everyone on this machine may write the file"));
        }
        let (path, source) = (path?, source?);
        let format = match raw.format.get() {
            Some(format) => *format,
            None => default_format(&path, &source),
        };
        self.fitting(&source, format, raw, at);
        Some(FileConfig {
            path,
            source,
            format,
            mode: raw.mode.0,
            uid,
            gid,
            check,
            follow_symlinks: *raw.follow_symlinks,
            structure: *raw.structure,
        })
    }

    /// Where a file goes, absolute; inside the target's directory where there is one.
    fn destination(&mut self, raw: &RawFile, directory: Option<&Path>, at: &str) -> Option<PathBuf> {
        match self.destination_of(raw, directory) {
            Ok(path) => Some(path),
            Err("") => None,
            Err(why) => {
                self.d.fault(raw.path.place, format!("{at}.path: {why}"));
                None
            }
        }
    }

    /// As `destination`; the error says why, and is empty where the fault was told.
    pub(super) fn destination_of(&self, raw: &RawFile, directory: Option<&Path>) -> Result<PathBuf, &'static str> {
        let text = raw.path.0.as_str();
        if text.is_empty() {
            return Err("");
        }
        let last = text.rsplit('/').next().unwrap_or_default();
        if ["", ".", ".."].contains(&last) {
            return Err("names a folder, not a file");
        }
        let Some(directory) = directory else {
            return Ok(self.path(&raw.path));
        };
        let path = clean(&directory.join(text));
        if !path.starts_with(directory) || path == directory {
            return Err("lies outside the target's directory; write it relative to that");
        }
        Ok(path)
    }

    fn source(&mut self, raw: &RawFile, at: &str) -> Option<Source> {
        let given: Vec<(&str, Place)> = [
            ("template", raw.template.place),
            ("inline", raw.inline.place),
            ("env", raw.env.place),
            ("resolve", raw.resolve.place),
        ]
        .into_iter()
        .filter_map(|(name, place)| Some((name, place?)))
        .collect();
        match given.as_slice() {
            [_] => {}
            [] if ["template", "inline", "env", "resolve"].iter().any(|key| self.d.meant(raw.place, key)) => {}
            [] => {
                let hint = "give it one of template, inline, env, resolve".to_owned();
                self.d.fault_hint(raw.place, format!("{at} has no source"), hint);
            }
            [.., (_, place)] => {
                let names: Vec<String> =
                    given.iter().map(|(name, place)| format!("{name} (line {})", place.line)).collect();
                let message = format!("{at} has {} sources: {}", given.len(), names.join(", "));
                self.d.fault_hint(*place, message, "keep exactly one".to_owned());
            }
        }
        if let Some(env) = raw.env.get() {
            for (name, _) in env.0.iter().filter(|(name, _)| !is_name(name)) {
                let message = format!("{at}.env: '{}' cannot name a variable", shown_key(name));
                self.d.fault_hint(
                    name.place,
                    message,
                    "it is a letter or '_', then letters, digits and '_'".to_owned(),
                );
            }
            if env.0.is_empty() {
                self.d.fault(raw.env.place(), format!("{at}.env: names no variable"));
            }
            let values = env.sound().map(|(name, value)| (name.value.clone(), value.0.clone()));
            return Some(Source::Env(values.collect()));
        }
        if let Some(inline) = raw.inline.get() {
            return Some(Source::Inline(inline.0.clone()));
        }
        let template = self.maybe_path(&raw.template).map(Source::Template);
        template.or_else(|| self.maybe_path(&raw.resolve).map(Source::Resolve))
    }

    /// Refuses a format that the source cannot make.
    fn fitting(&mut self, source: &Source, format: Format, raw: &RawFile, at: &str) {
        let variables = matches!(format, Format::SystemdEnv | Format::DockerEnv | Format::Dotenv | Format::Shell);
        let (what, fits) = match source {
            Source::Env(_) => ("env needs format systemd-env, docker-env, dotenv or shell", variables),
            Source::Resolve(_) => (
                "resolve needs format yaml, json, systemd-env, docker-env, dotenv or shell",
                variables || matches!(format, Format::Yaml | Format::Json),
            ),
            Source::Template(_) | Source::Inline(_) => ("", true),
        };
        if !fits {
            let place = raw.format.place.unwrap_or(raw.place);
            let hint = (!raw.format.given()).then(|| "set format: the path's extension does not say it".to_owned());
            self.d.fault_hint(place, format!("{at}: {what}"), hint);
        }
    }

    fn check(&mut self, raw: &RawCheck, at: &str) -> CheckCommand {
        if !raw.run.0.iter().any(|word| word.contains("{path}")) {
            let message = format!("{at}.check.run: without '{{path}}' it does not see the staged file");
            self.d.warn(raw.run.place, message);
        }
        CheckCommand {
            run: raw.run.0.clone(),
            stdout: raw.stdout.get().map(|text| text.0.clone()),
            timeout: raw.timeout.0,
        }
    }
}

/// The format that a path's extension names; for `resolve`, else that of the file it reads.
fn default_format(path: &Path, source: &Source) -> Format {
    match (by_extension(path), source) {
        (Format::Text, Source::Resolve(from)) => by_extension(from),
        (format, _) => format,
    }
}

fn by_extension(path: &Path) -> Format {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    match name.rsplit_once('.').map(|(_, extension)| extension.to_ascii_lowercase()).as_deref() {
        Some("yaml" | "yml") => Format::Yaml,
        Some("json") => Format::Json,
        Some("toml") => Format::Toml,
        Some("env") => Format::Dotenv,
        Some("sh") => Format::Shell,
        _ => Format::Text,
    }
}
