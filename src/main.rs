//! `dsr`: parse, run, exit code.

fn main() -> std::process::ExitCode {
    dsr::cli::main()
}
