//! The sluice command.

use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: sluice::dataplane::sys::Allocator = sluice::dataplane::sys::Allocator;

fn main() -> ExitCode {
    sluice::cli::main()
}
