//! The build script: what the linker is told when it makes the release binary on Linux with glibc.
//!
//! Each argument saves bytes and nothing else, so one that this machine's linker does not take is left out. A debug build
//! is not touched; nor is a release build with debug information (`CARGO_PROFILE_RELEASE_DEBUG=1`), which a debugger or
//! `perf record --call-graph dwarf` is to read: both walk the stack by what is left out here.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

fn main() {
    for input in ["scripts/link.rs", UNWIND_TABLES] {
        println!("cargo:rerun-if-changed={input}");
    }
    let is = |name: &str, value: &str| env::var(name).is_ok_and(|given| given == value);
    let portable = is("CARGO_CFG_TARGET_OS", "linux") && is("CARGO_CFG_TARGET_ENV", "gnu");
    if !(portable && is("PROFILE", "release") && is("DEBUG", "false")) {
        return;
    }
    let script = env::var_os("CARGO_MANIFEST_DIR").map(|root| Path::new(&root).join(UNWIND_TABLES)).unwrap_or_default();
    let arguments = [
        // 1.4 MB of 10.5: a panic aborts, so no stack is ever unwound.
        vec!["-Wl,--no-eh-frame-hdr".to_owned(), format!("-T{}", script.display())],
        // 0.3 MB: functions of the same code are one. Rust gives a function no address of its own that could be missed.
        // The default linker on x86_64, LLD, has it; GNU ld does not.
        vec!["-Wl,--icf=all".to_owned()],
    ];
    for arguments in arguments {
        if linker_takes(&arguments) {
            arguments.iter().for_each(|argument| println!("cargo:rustc-link-arg-bins={argument}"));
        }
    }
}

/// Leaves out the tables by which a stack is unwound.
const UNWIND_TABLES: &str = "scripts/unwind-tables.ld";

/// Whether an empty program can be linked with these, as cargo would link it.
fn linker_takes(arguments: &[String]) -> bool {
    let (Some(rustc), Some(out), Ok(target)) = (env::var_os("RUSTC"), env::var_os("OUT_DIR"), env::var("TARGET"))
    else {
        return false;
    };
    let source = PathBuf::from(&out).join("empty.rs");
    if fs::write(&source, "fn main() {}").is_err() {
        return false;
    }
    let mut link = Command::new(rustc);
    link.arg(&source).arg("--out-dir").arg(&out).args(["--target", &target, "-Cpanic=abort"]);
    let flags = env::var("CARGO_ENCODED_RUSTFLAGS").unwrap_or_default();
    link.args(flags.split('\u{1f}').filter(|flag| !flag.is_empty()));
    if let Ok(linker) = env::var("RUSTC_LINKER") {
        link.arg(format!("-Clinker={linker}"));
    }
    link.args(arguments.iter().map(|argument| format!("-Clink-arg={argument}")));
    link.output().is_ok_and(|linked| linked.status.success())
}
