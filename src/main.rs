use std::process::ExitCode;

use leasehold::telemetry::{logging, mask};
use leasehold::{cli, hardening, reload};

/// Wipes whatever is freed: texts that held a secret on the way leave nothing behind.
#[global_allocator]
static ALLOC: zeroizing_alloc::ZeroAlloc<std::alloc::System> = zeroizing_alloc::ZeroAlloc(std::alloc::System);

fn main() -> ExitCode {
    // Before any thread or runtime: this process may only be here to become another one.
    if reload::exec::is_trampoline() {
        reload::exec::trampoline_main();
    }
    logging::set_panic_hook();
    match hardening::harden() {
        Ok(original) => ExitCode::from(cli::main(original)),
        Err(error) => {
            eprintln!("agent: {}", mask::display(&error));
            ExitCode::from(77)
        }
    }
}
