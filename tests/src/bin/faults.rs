//! `farm-faults [--seed N] [--faults N] [--kinds new|all|NAME,NAME]`: kills and troubles all parts of a farm while it builds, and looks at what
//! became of the builds. `farm-faults --steps`: kills and stops a coordinator at each step of its publish pass.
//! `farm-faults --pressure SECONDS`: a build that takes all of the machine for so long. Runs in the test bed:
//! `tests/run.sh faults`.

use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if let [flag, seconds] = args.as_slice()
        && flag == "--pressure"
        && let Ok(seconds) = seconds.parse()
    {
        return if farm_tests::faults::pressure::pressure(seconds) {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        };
    }
    if args == ["--steps"] {
        return if farm_tests::faults::walk(true) { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    }
    let (mut seed, mut faults, mut named) = (None, 200, "all");
    for pair in args.chunks(2) {
        let value = pair.get(1).and_then(|value| value.parse::<u32>().ok());
        match (pair[0].as_str(), value) {
            ("--seed", Some(value)) => seed = Some(u64::from(value)),
            ("--faults", Some(value)) => faults = value,
            ("--kinds", None) if pair.len() == 2 => named = &pair[1],
            _ => {
                eprintln!(
                    "usage: farm-faults [--seed N] [--faults N] [--kinds new|old|all|NAME,NAME] | --steps | \
                     --pressure SECONDS"
                );
                return ExitCode::from(2);
            }
        }
    }
    let now = || SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |time| time.as_secs() % 1_000_000);
    let faults = usize::try_from(faults).unwrap_or(usize::MAX);
    let kinds = match named.parse() {
        Ok(kinds) => kinds,
        Err(error) => {
            eprintln!("error: --kinds: {error}");
            return ExitCode::from(2);
        }
    };
    if farm_tests::faults::run(seed.unwrap_or_else(now), faults, &kinds, named) {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
