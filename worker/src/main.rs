//! `farm-worker`: see the library.

fn main() -> std::process::ExitCode {
    farm_worker::process::main()
}
