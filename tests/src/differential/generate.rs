//! Cases drawn from a seed: each is about one [`THEMES`] entry, in turn, and the draw chooses its details.
//!
//! A case depends on its seed and its number only, so that one can be made alone. `themes/` has what they are made of;
//! one more: a function there, and its line here.

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::case::{Case, Form, Kind, Node};
use super::themes::{failing, files, words};

/// Has a shell; in the test bed's registry.
pub const BASE: &str = "localhost:5002/python:3.11-slim";
/// Made by the driver; a build from it copies `a.txt`.
pub const ONBUILD_BASE: &str = "localhost:5002/differential/onbuild:1";
pub const ONBUILD_DOCKERFILE: &str = "FROM scratch\nLABEL made=by-base\nONBUILD COPY a.txt /from-base\nONBUILD LABEL of=onbuild\nONBUILD WORKDIR sub\n";

type Theme = (&'static str, fn(&mut Draft));

/// Those that a short run should meet come first.
pub const THEMES: &[Theme] = &[
    ("expansions of ARG and ENV", words::expansions),
    ("sources with wildcards", files::wildcards),
    ("odd names", files::odd_names),
    ("forms of FROM", words::from_forms),
    (".dockerignore", files::ignoring),
    ("modes, links and empty folders", files::modes),
    ("symbolic links", files::symlinks),
    ("flags of COPY", files::copy_flags),
    ("comments and continuations", words::continuations),
    ("sources that are not there", failing::missing_sources),
    ("mistakes in syntax", failing::syntax),
    ("a RUN that fails", failing::failing_run),
    ("shell and JSON forms", words::forms),
    ("heredocs", words::heredocs),
    ("quotes in LABEL and ENV", words::quoting),
    ("small instructions", words::small),
    ("RUN with mounts", words::mounts),
    ("ONBUILD", words::onbuild),
    ("directives", words::directives),
    ("bytes of the Dockerfile", words::bytes),
    ("an archive of a context", files::archives),
    ("ADD of archives", files::adding),
    ("stages that do not exist", failing::stages),
    ("Dockerfiles elsewhere", files::elsewhere),
    ("build arguments and labels", words::flags),
];

/// The cases 1 to `count` of a seed.
pub fn generate(seed: u64, count: u32) -> Vec<Case> {
    (1..=count).map(|number| generate_one(seed, number)).collect()
}

/// One of them.
pub fn generate_one(seed: u64, number: u32) -> Case {
    let place = usize::try_from(number).unwrap_or_default().wrapping_sub(1) % THEMES.len();
    let (theme, draw) = THEMES[place];
    let mut draft = Draft::new(seed, number);
    draw(&mut draft);
    draft.finish(seed, number, theme)
}

/// A case that is being drawn.
#[derive(Debug)]
pub struct Draft {
    rng: StdRng,
    pub text: Vec<u8>,
    pub path: &'static str,
    pub context: Vec<Node>,
    pub form: Option<Form>,
    pub args: Vec<String>,
}

impl Draft {
    fn new(seed: u64, number: u32) -> Draft {
        let mut draft = Draft {
            rng: StdRng::seed_from_u64(seed.wrapping_mul(1_000_003).wrapping_add(u64::from(number))),
            text: Vec::new(),
            path: "Dockerfile",
            context: Vec::new(),
            form: None,
            args: Vec::new(),
        };
        for (path, content) in [
            ("a.txt", "a\n"),
            ("b.txt", "b b\n"),
            ("c.log", ""),
            ("run.sh", "#!/bin/sh\necho run\n"),
            ("dir/one", "1"),
            ("dir/two.txt", "2"),
            ("dir/sub/deep.txt", "deep"),
            ("other/a.txt", "other a"),
        ] {
            let mut node = Node::file(path, content);
            node.mtime = 1_000_000_000 + draft.rng.random_range(0..500_000_000);
            node.mode =
                if path == "run.sh" { 0o755 } else { draft.pick(&[0o644, 0o644, 0o640, 0o600, 0o666]) };
            node.owner = draft.pick(&[0, 0, 0, 1234]);
            draft.context.push(node);
        }
        draft
    }

    fn finish(mut self, seed: u64, number: u32, theme: &'static str) -> Case {
        // Whatever it is about, it may come as an archive; folders come more often.
        let form = self.form.unwrap_or_else(|| {
            if self.chance(5) {
                // A ustar archive has no room for long names.
                let is_short = self.context.iter().all(|node| node.path.len() < 100);
                let formats = if is_short { ["gnu", "posix", "ustar"] } else { ["gnu", "posix", "gnu"] };
                let format = self.pick(&formats);
                // buildx knows a pax archive only when it is compressed; one theme has it the other way.
                Form::Archive { format, compress: format == "posix" || self.chance(2) }
            } else {
                Form::Folder
            }
        });
        Case {
            seed,
            number,
            theme,
            dockerfile: self.text,
            dockerfile_path: self.path,
            context: self.context,
            form,
            args: self.args,
        }
    }

    pub fn pick<T: Clone>(&mut self, from: &[T]) -> T {
        from[self.rng.random_range(0..from.len())].clone()
    }

    /// Several of them, each at most once, in their order.
    pub fn some<'a>(&mut self, from: &[&'a str], count: usize) -> Vec<&'a str> {
        let mut left: Vec<usize> = (0..from.len()).collect();
        let mut taken: Vec<usize> = (0..count.min(from.len()))
            .map(|_| left.swap_remove(self.rng.random_range(0..left.len())))
            .collect();
        taken.sort_unstable();
        taken.into_iter().map(|place| from[place]).collect()
    }

    /// One in so many.
    pub fn chance(&mut self, of: u32) -> bool {
        self.rng.random_range(0..of) == 0
    }

    pub fn number(&mut self, below: u32) -> u32 {
        self.rng.random_range(0..below)
    }

    /// A line of the Dockerfile.
    pub fn line(&mut self, line: impl AsRef<[u8]>) {
        self.text.extend_from_slice(line.as_ref());
        self.text.push(b'\n');
    }

    /// An entry of the context, to be changed.
    pub fn node(&mut self, path: impl AsRef<[u8]>, kind: Kind) -> &mut Node {
        let mut node = Node::new(path.as_ref(), kind);
        node.mtime = 1_000_000_000 + self.rng.random_range(0..500_000_000);
        self.context.push(node);
        self.context.last_mut().unwrap()
    }

    pub fn file(&mut self, path: impl AsRef<[u8]>, content: &str) -> &mut Node {
        self.node(path, Kind::File(content.as_bytes().to_vec()))
    }

    pub fn arg(&mut self, arg: &str) {
        self.args.push(arg.to_owned());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_and_a_number_give_one_case_and_others_give_others() {
        let bytes = |case: &Case| format!("{case:?}");
        let (one, again) = (generate(7, 100), generate(7, 100));
        assert!(one.iter().zip(&again).all(|(one, other)| bytes(one) == bytes(other)));
        assert_eq!(bytes(&generate_one(7, 42)), bytes(&one[41]));
        let dockerfiles: std::collections::BTreeSet<&[u8]> =
            one.iter().map(|case| case.dockerfile.as_slice()).collect();
        assert!(dockerfiles.len() > 80, "only {} of 100 Dockerfiles are different", dockerfiles.len());
        assert_ne!(bytes(&generate(8, 1)[0]), bytes(&one[0]));
    }

    #[test]
    fn every_theme_has_its_turn_and_every_case_can_be_laid_down() {
        let cases = generate(3, u32::try_from(THEMES.len()).unwrap());
        assert!(cases.iter().zip(THEMES).all(|(case, (theme, _))| case.theme == *theme));
        for case in generate(3, 200) {
            let folder = tempfile::tempdir().unwrap();
            case.write(folder.path());
            let path = folder.path().join("context").join(case.dockerfile_path);
            assert_eq!(std::fs::read(path).unwrap(), case.dockerfile, "case {}", case.number);
        }
    }
}
