//! `farm`: see the library.

fn main() -> std::process::ExitCode {
    farm::process::main()
}
