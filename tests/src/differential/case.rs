//! A case: a Dockerfile, a context and flags, and how they are laid down on disk for both sides to build.
//!
//! Everything in it is values, so the same seed and number give the same bytes on every machine.

use std::ffi::{OsStr, OsString};
use std::fs::{self, Permissions};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{PermissionsExt, lchown, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::fs::{AtFlags, CWD, FileType, Mode, Timespec, Timestamps, UTIME_OMIT, mknodat, utimensat};
use rustix::process::geteuid;

/// What is built, by both sides.
#[derive(Clone, Debug)]
pub struct Case {
    pub seed: u64,
    /// From 1; by seed and number alone a case can be made again.
    pub number: u32,
    /// What it is about.
    pub theme: &'static str,
    pub dockerfile: Vec<u8>,
    /// Where the Dockerfile lies in the context; with anything but `Dockerfile`, [`Case::args`] name it by `-f`.
    pub dockerfile_path: &'static str,
    /// In the order in which they are made. The Dockerfile is not among them.
    pub context: Vec<Node>,
    pub form: Form,
    /// Flags that mean the same to `farm submit` and to `docker buildx build`.
    pub args: Vec<String>,
}

/// How the context is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    Folder,
    /// On standard input, in a format that `tar --format` knows.
    Archive {
        format: &'static str,
        compress: bool,
    },
}

/// An entry of a context.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Relative; any bytes that a file system takes.
    pub path: Vec<u8>,
    pub kind: Kind,
    /// All twelve bits. A link has none of its own.
    pub mode: u32,
    /// Seconds since 1970, long past, so that it can be told from what a build makes.
    pub mtime: u64,
    /// User and group, which a build sets to 0.
    pub owner: u32,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    File(Vec<u8>),
    Folder,
    Symlink(Vec<u8>),
    /// A further name of a file that stands before it.
    Hardlink(Vec<u8>),
    Fifo,
    /// A tar archive of one file with this content, for ADD to unpack.
    Tar {
        compress: bool,
        content: Vec<u8>,
    },
}

impl Case {
    /// Lays everything down in an empty folder: `context/`, `args`, and for [`Form::Archive`] the file `archive`.
    pub fn write(&self, folder: &Path) {
        let context = folder.join("context");
        fs::create_dir_all(&context).unwrap();
        let dockerfile = Node::file(self.dockerfile_path, &self.dockerfile);
        let nodes: Vec<&Node> = self.context.iter().chain([&dockerfile]).collect();
        for node in &nodes {
            node.make(&context);
        }
        // Afterwards, as whatever is made in a folder changes its time and may need its mode.
        for node in nodes.iter().rev() {
            node.finish(&context);
        }
        fs::write(folder.join("args"), self.args.join("\n")).unwrap();
        if let Form::Archive { format, compress } = self.form {
            let mut tar = Command::new("tar");
            tar.arg(format!("--format={format}")).arg("--sort=name").args(compress.then_some("-z"));
            tar.arg("-cf").arg(folder.join("archive")).arg("-C").arg(&context).arg(".");
            crate::process::run(tar.stdin(Stdio::null()));
        }
    }

    /// The words that build it again, alone.
    pub fn again(&self) -> String {
        format!("tests/run.sh differential --seed {} --case {}", self.seed, self.number)
    }
}

impl Node {
    pub fn file(path: &str, content: impl AsRef<[u8]>) -> Node {
        Node::new(path.as_bytes(), Kind::File(content.as_ref().to_vec()))
    }

    pub fn new(path: &[u8], kind: Kind) -> Node {
        let mode = if kind == Kind::Folder { 0o755 } else { 0o644 };
        Node { path: path.to_vec(), kind, mode, mtime: 1_000_000_000, owner: 0 }
    }

    fn make(&self, context: &Path) {
        let path = self.at(context);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        match &self.kind {
            Kind::File(content) => fs::write(&path, content).unwrap(),
            Kind::Folder => fs::create_dir_all(&path).unwrap(),
            Kind::Symlink(target) => symlink(OsStr::from_bytes(target), &path).unwrap(),
            Kind::Hardlink(to) => fs::hard_link(context.join(OsStr::from_bytes(to)), &path).unwrap(),
            Kind::Fifo => mknodat(CWD, &path, FileType::Fifo, Mode::from_raw_mode(0o644), 0).unwrap(),
            Kind::Tar { compress, content } => fs::write(&path, packed(content, *compress)).unwrap(),
        }
    }

    fn finish(&self, context: &Path) {
        let path = self.at(context);
        // Nobody else may give files away; in the test bed all are root.
        if geteuid().is_root() {
            lchown(&path, Some(self.owner), Some(self.owner)).unwrap();
        }
        let is_link = matches!(self.kind, Kind::Symlink(_));
        if !is_link && !matches!(self.kind, Kind::Hardlink(_)) {
            fs::set_permissions(&path, Permissions::from_mode(self.mode)).unwrap();
        }
        let time = Timespec { tv_sec: i64::try_from(self.mtime).unwrap(), tv_nsec: 0 };
        let none = Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT };
        let times = Timestamps { last_access: none, last_modification: time };
        utimensat(CWD, &path, &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
    }

    fn at(&self, context: &Path) -> PathBuf {
        context.join(OsString::from_vec(self.path.clone()))
    }
}

fn packed(content: &[u8], compress: bool) -> Vec<u8> {
    let mut header = tar::Header::new_gnu();
    header.set_size(u64::try_from(content.len()).unwrap());
    header.set_mode(0o640);
    header.set_mtime(1_100_000_000);
    header.set_uid(7);
    header.set_gid(8);
    let mut archive = tar::Builder::new(Vec::new());
    archive.append_data(&mut header, "packed/inside.txt", content).unwrap();
    let plain = archive.into_inner().unwrap();
    if !compress {
        return plain;
    }
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    std::io::Write::write_all(&mut gzip, &plain).unwrap();
    gzip.finish().unwrap()
}
