#[global_allocator]
static A: zeroizing_alloc::ZeroAlloc<std::alloc::System> = zeroizing_alloc::ZeroAlloc(std::alloc::System);
fn main() {
    if leasehold::reload::exec::is_trampoline() {
        leasehold::reload::exec::trampoline_main();
    }
    let original = leasehold::hardening::harden().unwrap();
    leasehold::telemetry::logging::init(leasehold::telemetry::logging::Format::Text, tracing_subscriber::filter::LevelFilter::DEBUG);
    let args: Vec<String> = std::env::args().collect();
    let rt = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let code = rt.block_on(leasehold::agent::run(leasehold::agent::Options{config: args[2].clone().into(), command: args[3..].to_vec(), reload_targets: true, original}));
    std::process::exit(code.into());
}
