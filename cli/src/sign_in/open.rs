//! Opening a page in this machine's browser: by the program that $BROWSER names, else by the desktop's own.

use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

/// The desktop's own program for it.
const OPENER: &str = if cfg!(target_os = "macos") { "open" } else { "xdg-open" };

/// Whether there may be a browser: one is named, or there is a desktop with what opens it.
pub fn can_open() -> bool {
    let is_set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    let has_desktop = cfg!(target_os = "macos") || is_set("DISPLAY") || is_set("WAYLAND_DISPLAY");
    is_set("BROWSER") || has_desktop && is_there(OPENER)
}

/// Opens a page. Whether a browser came of it can't be told.
///
/// # Errors
/// There is no such program.
pub fn open(url: &str) -> std::io::Result<()> {
    let named = std::env::var("BROWSER").unwrap_or_default();
    let words = words(&named, url);
    let (program, arguments) =
        words.split_first().map_or((OPENER, &[][..]), |(program, rest)| (program, rest));
    let mut command = Command::new(program);
    if words.is_empty() {
        command.arg(url);
    }
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    // A browser that begins with it must not end by this command's Ctrl-C.
    command.process_group(0).spawn().map(drop)
}

/// The words of the first program in $BROWSER, which has `:` between several, and `%s` where the page stands if not at the end.
fn words(named: &str, url: &str) -> Vec<String> {
    let first = named.split(':').map(str::trim).find(|program| !program.is_empty());
    let mut words: Vec<String> = first.unwrap_or_default().split_whitespace().map(str::to_owned).collect();
    if words.iter().any(|word| word.contains("%s")) {
        words.iter_mut().for_each(|word| *word = word.replace("%s", url));
    } else if !words.is_empty() {
        words.push(url.to_owned());
    }
    words
}

fn is_there(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| Path::new(&folder).join(program).is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_is_an_argument_of_the_first_browser_that_is_named() {
        let url = "https://sso.example/?a=%20b";
        for (named, expected) in [
            ("firefox", &["firefox", url][..]),
            ("firefox:chromium", &["firefox", url]),
            (" : w3m -o x", &["w3m", "-o", "x", url]),
            ("open --url=%s -n", &["open", "--url=https://sso.example/?a=%20b", "-n"]),
            ("", &[]),
        ] {
            assert_eq!(words(named, url), expected, "{named}");
        }
    }
}
