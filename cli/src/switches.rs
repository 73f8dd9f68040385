//! Switches as the flags of `docker buildx build` take them (Go's pflag, "Command line flag syntax"): `--no-cache=false`,
//! `-q=true`, and the last one counts.
//!
//! The command line is rewritten before it is read, for the verbs that stand in for buildx. Which flags are switches is
//! asked of the verb, so that a new one is one of them by itself. A value that is none is left to be refused.

use std::ffi::OsString;

use clap::{ArgAction, Command};

/// The verbs whose switches take a value.
const VERBS: [&str; 2] = ["submit", "check"];
/// Flags in front of the verb that have a value of their own.
const GLOBAL: [&str; 3] = ["--url", "--context", "--project"];

/// The command line without values of switches.
pub fn plain(args: impl IntoIterator<Item = OsString>, command: &Command) -> Vec<OsString> {
    let mut args: Vec<OsString> = args.into_iter().collect();
    let Some((place, verb)) = verb(&args, command) else { return args };
    let rest = args.split_off(place + 1);
    let end = rest.iter().position(|arg| arg == "--").unwrap_or(rest.len());
    let (flags, programs) = rest.split_at(end);
    let mut out: Vec<OsString> = Vec::with_capacity(rest.len());
    for arg in flags {
        match arg.to_str().and_then(|text| switch(text, verb)) {
            None => out.push(arg.clone()),
            Some((names, is_on)) => {
                // What was said before doesn't count any more.
                out.retain(|before| !names.iter().any(|name| before == name.as_str()));
                out.extend(names.into_iter().next().filter(|_| is_on).map(OsString::from));
            }
        }
    }
    args.extend(out);
    args.extend_from_slice(programs);
    args
}

/// Where the verb stands, if it is one of [`VERBS`].
fn verb<'a>(args: &[OsString], command: &'a Command) -> Option<(usize, &'a Command)> {
    let mut place = 1;
    loop {
        let arg = args.get(place)?.to_str()?;
        if GLOBAL.contains(&arg) {
            place += 2;
        } else if arg.starts_with('-') {
            place += 1;
        } else {
            let name = VERBS.into_iter().find(|verb| *verb == arg)?;
            return Some((place, command.find_subcommand(name)?));
        }
    }
}

/// The names of the switch, as they stand on a command line, and whether it is on. `None`: it is no switch with a value.
fn switch(text: &str, verb: &Command) -> Option<(Vec<String>, bool)> {
    let (name, value) = text.split_once('=')?;
    let is_on = go_bool(value)?;
    let switches = verb.get_arguments().filter(|arg| matches!(arg.get_action(), ArgAction::SetTrue));
    let mut names = switches.map(|arg| {
        let long = arg.get_long().map(|long| format!("--{long}"));
        long.into_iter().chain(arg.get_short().map(|short| format!("-{short}"))).collect::<Vec<_>>()
    });
    names.find(|names| names.iter().any(|known| known == name)).map(|names| (names, is_on))
}

/// What Go's `strconv.ParseBool` takes.
pub fn go_bool(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    fn read(line: &[&str]) -> String {
        let args = ["farm"].iter().chain(line).map(OsString::from);
        let out = plain(args, &crate::command::Command::command());
        out[1..].iter().map(|arg| arg.to_str().unwrap()).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn the_last_value_of_a_switch_counts() {
        for (line, plain) in [
            (&["submit", "--no-cache=true", "."][..], "submit --no-cache ."),
            (&["submit", "--no-cache=false", "."], "submit ."),
            (&["submit", "--no-cache", "--pull=T", "--no-cache=0"], "submit --pull"),
            (&["submit", "-q", "--quiet=false"], "submit"),
            (&["submit", "-q=1", "-D=f"], "submit --quiet"),
            (
                &["--url", "submit", "--context=x", "submit", "--load=false"],
                "--url submit --context=x submit",
            ),
            (&["check", "--json=False"], "check"),
            (&["--project", "check", "submit", "--pull=0"], "--project check submit"),
            // Left as they are: what is no switch, no value, another verb's, or a program's.
            (&["submit", "--target=true", "--no-cache=yes"], "submit --target=true --no-cache=yes"),
            (
                &["submit", "-t=a", "--provenance=false", "--build-arg", "A=1"],
                "submit -t=a --provenance=false --build-arg A=1",
            ),
            (&["submit", "--", "--no-cache=true"], "submit -- --no-cache=true"),
            (&["run", "x", "--quiet=true"], "run x --quiet=true"),
            (&[], ""),
            (&["--version"], "--version"),
        ] {
            assert_eq!(read(line), plain, "{line:?}");
        }
    }

    #[test]
    fn every_switch_takes_what_pflag_takes() {
        let command = crate::command::Command::command();
        for verb in VERBS {
            let verb_command = command.find_subcommand(verb).unwrap();
            for arg in
                verb_command.get_arguments().filter(|arg| matches!(arg.get_action(), ArgAction::SetTrue))
            {
                let long = arg.get_long().unwrap();
                assert_eq!(read(&[verb, &format!("--{long}=false")]), verb, "{long}");
                assert_eq!(read(&[verb, &format!("--{long}=TRUE")]), format!("{verb} --{long}"));
            }
        }
    }
}
