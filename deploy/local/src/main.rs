//! `farm-local`: see the library.

fn main() -> std::process::ExitCode {
    farm_local::process::main()
}
