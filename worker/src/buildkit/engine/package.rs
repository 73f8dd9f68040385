//! The package that a Docker engine on this machine is from: a distribution mends what is in one without giving it another
//! version of Docker's.
//!
//! That is what dpkg has. An engine that wasn't started anew since an update is told apart only where Docker's version has changed.

use std::process::{Command, Stdio};

/// Those that have a Docker engine in them.
const PACKAGES: [&str; 3] = ["docker.io", "docker-ce", "moby-engine"];

/// The package with its version of an engine that says this version; empty where none is known that fits.
pub(super) async fn of_docker(version: &str) -> String {
    let version = version.to_owned();
    let asked = tokio::task::spawn_blocking(move || {
        // Elsewhere than on Debian and its like there is no such program.
        let asked = Command::new("dpkg-query")
            .args(["-W", "-f", "${db:Status-Abbrev}${Package} ${Version}\n"])
            .args(PACKAGES)
            .env("LC_ALL", "C")
            .stdin(Stdio::null())
            .output();
        asked.map(|answer| fitting(&String::from_utf8_lossy(&answer.stdout), &version)).unwrap_or_default()
    });
    asked.await.unwrap_or_default()
}

/// The one package that is installed with this version of Docker's in it.
fn fitting(list: &str, version: &str) -> String {
    let fits = |line: &&str| {
        line.split_once(' ').is_some_and(|(_, packaged)| {
            let upstream = packaged.split_once(':').map_or(packaged, |(_, rest)| rest);
            upstream.rsplit_once('-').map_or(upstream, |(upstream, _)| upstream) == version
        })
    };
    let mut fitting = list.lines().filter_map(|line| line.strip_prefix("ii ")).map(str::trim).filter(fits);
    match (fitting.next(), fitting.next()) {
        (Some(package), None) => package.to_owned(),
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_package_is_the_one_that_has_the_engines_version() {
        let debian = "ii docker.io 28.5.2+dfsg4-5\n";
        assert_eq!(fitting(debian, "28.5.2+dfsg4"), "docker.io 28.5.2+dfsg4-5");
        assert_eq!(
            fitting("ii docker-ce 5:28.5.2-1~debian.12~bookworm\n", "28.5.2"),
            "docker-ce 5:28.5.2-1~debian.12~bookworm"
        );
        // It runs another one, or nobody knows which.
        for (list, version) in [
            (debian, "28.5.2"),
            (debian, "26.1.5+dfsg1"),
            ("rc docker.io 28.5.2+dfsg4-5\n", "28.5.2+dfsg4"),
            ("ii docker.io 28.5.2-1\nii docker-ce 5:28.5.2-2\n", "28.5.2"),
            ("", ""),
            ("ii docker.io\n", ""),
        ] {
            assert_eq!(fitting(list, version), "", "{list} {version}");
        }
    }
}
