//! The sluice command.

use std::process::ExitCode;

/// Requests allocate in many threads and free in the same one: what mimalloc is good at.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    sluice::cli::main()
}
