fn main() {
    // Before any thread or runtime: this process may only be here to become another one.
    if leasehold::reload::exec::is_trampoline() {
        leasehold::reload::exec::trampoline_main();
    }
}
