//! `farm-differential [--seed N] [--cases N | --case K] [--keep DIR]`: builds drawn Dockerfiles and contexts by farm and by
//! buildx on one engine and compares what came of them. Runs in the test bed: `tests/run.sh differential`.

use std::path::PathBuf;
use std::process::ExitCode;

use farm_tests::differential::{Options, run};

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let mut options = Options { seed: 1, cases: 150, case: None, keep: None };
    for pair in args.chunks(2) {
        let value = pair.get(1).map(String::as_str).unwrap_or_default();
        let number = value.parse::<u32>().ok().filter(|number| *number > 0);
        match (pair[0].as_str(), number) {
            ("--seed", Some(number)) => options.seed = u64::from(number),
            ("--cases", Some(number)) => options.cases = number,
            ("--case", Some(number)) => options.case = Some(number),
            ("--keep", _) if !value.is_empty() => options.keep = Some(PathBuf::from(value)),
            _ => {
                eprintln!("usage: farm-differential [--seed N] [--cases N | --case K] [--keep DIR]");
                return ExitCode::from(2);
            }
        }
    }
    // Both sides are started within the context.
    options.keep = options.keep.map(|folder| std::path::absolute(folder).unwrap_or_default());
    if run(&options) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
