//! A case while it is drawn: what themes put into it, and the images that it can build on.

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::case::{Case, Form, Kind, Node};

/// Has a shell; in the test bed's registry.
pub const BASE: &str = "localhost:5002/python:3.11-slim";
/// Made by the driver; a build from it copies `a.txt`.
pub const ONBUILD_BASE: &str = "localhost:5002/differential/onbuild:1";
pub const ONBUILD_DOCKERFILE: &str = "FROM scratch\nLABEL made=by-base\nONBUILD COPY a.txt /from-base\nONBUILD LABEL of=onbuild\nONBUILD WORKDIR sub\n";

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
    pub(super) fn new(seed: u64, number: u32) -> Draft {
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

    pub(super) fn finish(mut self, seed: u64, number: u32, theme: &'static str) -> Case {
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
