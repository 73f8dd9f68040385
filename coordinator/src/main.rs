//! `farm-coordinator`: see the library.

fn main() -> std::process::ExitCode {
    farm_coordinator::process::main()
}
