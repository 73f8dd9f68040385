//! Whose programs an image holds: what the heads of its ELF files say, layer by layer.
//!
//! An image says for which platform it is, and nothing sees to it that its programs are for that: a base image that has one
//! platform only gives an image with a right name that doesn't run. So what is in a layer is noted as a [`LayerVerdict`], which is
//! of the layer alone and holds for every image that has it, and [`judge`] holds those of one image against its platform.
//!
//! Looked at are programs and shared libraries (ET_EXEC, ET_DYN) of machines for which there are platforms. Object files, kernel
//! modules and what graphics cards and microcontrollers run say nothing about an image's platform. What honest images hold of
//! other machines ([`EXCEPTED`]) isn't even noted; the rest is for whoever asks for a build to except.
//!
//! Format: System V ABI, "Object Files", ELF header. To know a machine more: a row in [`MACHINES`], and [`RULES`] one up.

use std::sync::LazyLock;

use serde::{Deserialize, Serialize};

use crate::cause::Cause;
use crate::digest::Digest;
use crate::error::Invalid;
use crate::failure::Failure;
use crate::failure_code::FailureCode;
use crate::pattern::PatternSet;
use crate::platform::Platform;
use crate::spec::Verify;

/// Which rules made a verdict; of other rules none counts.
pub const RULES: u32 = 2;
/// So many bytes of a file are its head.
pub const HEAD_BYTES: usize = 20;
/// So many paths are kept of each machine's files; the others are counted.
pub const MOST_PATHS: usize = 8;
/// So long a path is kept, bytes.
pub const PATH_BYTES: usize = 256;
/// An image has so many layers at most, as engines take no more.
pub const MOST_LAYERS: usize = 200;
/// So many patterns may be excepted by a build, each of so many bytes at most.
const MOST_EXCEPTIONS: usize = 50;
const EXCEPTION_BYTES: usize = 128;
/// So many files are held against them; of more nobody is sure.
const MOST_FILES: usize = 2000;

/// What honest images hold of other machines, as patterns of `.dockerignore`. Anything else has to be excepted by name.
pub const EXCEPTED: &[&str] = &[
    // Samples of compilers' and libraries' own tests, as Go's debug/elf.
    "**/testdata",
    // Node.js packages that bring all platforms along, and take theirs when they run.
    "**/prebuilds",
    // The same of Python's debugger.
    "**/pydevd_attach_to_process",
    // Cross compilers: what they link with.
    "usr/*-linux-*",
    "usr/lib/gcc-cross",
    "**/*-none-eabi*",
    "**/rustlib/*/lib",
    // Of devices, and of virtual machines.
    "lib/firmware",
    "usr/lib/firmware",
    "usr/share/qemu",
    "boot",
    // Selenium's, of which each machine takes its own.
    "**/selenium-manager",
    // An emulator that is brought along, to build the image on another machine.
    "usr/bin/qemu-*-static",
];

/// `(architecture, e_machine, 64 bits or 32, high byte first)`: those of which there are platforms. Without a number of bits: both, as
/// of x86-64 and AArch64 there are programs with short pointers.
const MACHINES: &[(&str, u16, Option<bool>, bool)] = &[
    ("amd64", 62, None, false),
    ("386", 3, Some(false), false),
    ("arm64", 183, None, false),
    ("arm", 40, Some(false), false),
    ("riscv64", 243, Some(true), false),
    ("ppc64le", 21, Some(true), false),
    ("ppc64", 21, Some(true), true),
    ("s390x", 22, Some(true), true),
    ("loong64", 258, Some(true), false),
    ("mips", 8, Some(false), true),
    ("mipsle", 8, Some(false), false),
    ("mips64", 8, Some(true), true),
    ("mips64le", 8, Some(true), false),
];

/// Those whose programs run on machines of another architecture: `(of the machine, of the program)`. Not 32-bit Arm on 64-bit: many
/// such CPUs don't have it.
const ALSO: &[(&str, &str)] = &[("amd64", "386")];

/// For which architecture this file is, by its first bytes; `None`: it is no program and no library, or of no platform's machine.
pub fn architecture(head: &[u8]) -> Option<&'static str> {
    let head: &[u8; HEAD_BYTES] = head.get(..HEAD_BYTES)?.try_into().ok()?;
    if head[..4] != *b"\x7fELF" {
        return None;
    }
    let wide = match head[4] {
        1 => false,
        2 => true,
        _ => return None,
    };
    let big_endian = match head[5] {
        1 => false,
        2 => true,
        _ => return None,
    };
    let half = |at: usize| {
        let bytes = [head[at], head[at + 1]];
        if big_endian { u16::from_be_bytes(bytes) } else { u16::from_le_bytes(bytes) }
    };
    let (kind, machine) = (half(16), half(18));
    if !matches!(kind, 2 | 3) {
        return None;
    }
    let found = MACHINES.iter().find(|(_, id, bits, order)| {
        *id == machine && bits.is_none_or(|bits| bits == wide) && *order == big_endian
    });
    found.map(|(name, ..)| *name)
}

/// Whether a machine of this platform runs programs of that architecture. One that isn't known here runs everything.
pub fn runs(platform: &Platform, architecture: &str) -> bool {
    let own = platform.architecture();
    own == architecture
        || ALSO.contains(&(own, architecture))
        || !MACHINES.iter().any(|(name, ..)| *name == own)
}

/// What folders and libraries are called that are there for one architecture among several, in small letters.
const NAMES: &[(&str, &[&str])] = &[
    ("amd64", &["amd64", "x86_64", "x86-64", "x64"]),
    ("386", &["386", "i386", "i586", "i686", "x86", "ia32"]),
    ("arm64", &["arm64", "aarch64", "arm64-v8a"]),
    (
        "arm",
        &["arm", "arm32", "armhf", "armel", "armv6", "armv6l", "armv7", "armv7l", "armv7hf", "armeabi-v7a"],
    ),
    ("riscv64", &["riscv64", "riscv64gc"]),
    ("ppc64le", &["ppc64le", "ppc64el", "powerpc64le"]),
    ("ppc64", &["ppc64", "powerpc64"]),
    ("s390x", &["s390x"]),
    ("loong64", &["loong64", "loongarch64"]),
    ("mips", &["mips"]),
    ("mipsle", &["mipsle", "mipsel"]),
    ("mips64", &["mips64"]),
    ("mips64le", &["mips64le", "mips64el"]),
];

/// Folders below which packages bring programs of all platforms along.
const BRING_ALL: [&str; 2] = ["node_modules", "runtimes"];

/// What is excepted of an architecture's files whatever the build says.
pub fn is_excepted(path: &str, architecture: &str) -> bool {
    static SET: LazyLock<PatternSet> = LazyLock::new(|| PatternSet::from_lines(EXCEPTED).unwrap_or_default());
    SET.is_excluded(path) || is_named_for(path, architecture)
}

/// Whether the file is a library that is called after its own architecture, or lies in a folder that is: packages that bring all platforms
/// along keep them apart so (.NET's `runtimes/linux-arm64`, Android's `lib/arm64-v8a`). The system's loader and its libraries, which are
/// in such folders as well (Debian's `/usr/lib/x86_64-linux-gnu`), are what an image runs with, and those of a wrong base. Programs so only
/// below [`BRING_ALL`]: elsewhere they are the archive for the wrong machine, whose name says it.
fn is_named_for(path: &str, architecture: &str) -> bool {
    let Some((_, names)) = NAMES.iter().find(|(name, _)| *name == architecture) else { return false };
    let path = path.to_ascii_lowercase();
    let (folders, file) = path.rsplit_once('/').unwrap_or(("", &path));
    let own = folders.strip_prefix("usr/").unwrap_or(folders).strip_prefix("lib/");
    // The folder of the system's libraries is no sign; what is below it may be.
    let folders = match own.map(|rest| rest.split_once('/').unwrap_or((rest, ""))) {
        Some((system, rest)) if system.contains("-linux-") => rest,
        _ => folders,
    };
    let is_named = |part: &str| names.iter().any(|name| is_word(part, name));
    let is_library = !file.starts_with("ld-") && (file.contains(".so") || file.ends_with(".node"));
    let brings_all = || folders.split('/').any(|folder| BRING_ALL.contains(&folder));
    let is_in_named = (is_library || brings_all()) && folders.split('/').any(is_named);
    is_in_named || is_library && is_named(file)
}

/// Whether a name holds a word, and not only as a part of another one: `x86` is none of `x86_64`.
fn is_word(text: &str, word: &str) -> bool {
    let is_part = |c: char| c.is_ascii_alphanumeric();
    text.match_indices(word).any(|(at, _)| {
        let (before, after) = (&text[..at], &text[at + word.len()..]);
        !before.ends_with(is_part)
            && !after.starts_with(is_part)
            && !(word == "x86" && (after.starts_with("_64") || after.starts_with("-64")))
    })
}

/// What a layer holds, whichever image it is in.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LayerVerdict {
    /// Programs and libraries by architecture, each once.
    pub found: Vec<Files>,
}

/// The programs and libraries of one architecture in a layer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Files {
    /// As platforms have it: `amd64`.
    pub architecture: String,
    /// How many.
    pub count: u64,
    /// The first of them, from the root and without a leading slash.
    pub paths: Vec<String>,
}

impl LayerVerdict {
    /// Notes a file.
    pub fn note(&mut self, architecture: &str, path: &str) {
        let at =
            self.found.iter().position(|files| files.architecture == architecture).unwrap_or_else(|| {
                let architecture = architecture.to_owned();
                self.found.push(Files { architecture, count: 0, paths: Vec::new() });
                self.found.len() - 1
            });
        let files = &mut self.found[at];
        files.count += 1;
        files.paths.push(
            path.chars()
                .scan(0, |length, c| {
                    *length += c.len_utf8();
                    (*length <= PATH_BYTES).then_some(c)
                })
                .collect(),
        );
    }

    /// The same with so few paths that it can be kept.
    pub fn shortened(mut self) -> Self {
        self.found.iter_mut().for_each(|files| files.paths.truncate(MOST_PATHS));
        self
    }
}

/// One layer of an image.
#[derive(Debug, Clone, Copy)]
pub struct Layer<'a> {
    /// The digest of its bytes, unpacked.
    pub diff_id: &'a Digest,
    /// What is in it; `None`: nobody has looked.
    pub verdict: Option<&'a LayerVerdict>,
}

/// What an image's layers say about its platform.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Judgement {
    /// Nothing against it.
    Right,
    /// Something in it is of another machine.
    Foreign(Foreign),
    /// All that is kept of these layers' foreign files is excepted, and not all is kept: look again, at all of it.
    Unsure(Vec<Digest>),
}

/// A file of another machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Foreign {
    /// Which layer, from 1.
    pub layer: usize,
    /// Of how many.
    pub layers: usize,
    /// The layer's digest, unpacked.
    pub diff_id: Digest,
    /// From the root.
    pub path: String,
    /// Of which machine it is.
    pub architecture: String,
    /// So many more are in that layer, those of which nobody knows whether they are excepted among them.
    pub more: u64,
}

/// Holds an image's layers, from the lowest, against its platform.
pub fn judge<'a>(
    layers: impl IntoIterator<Item = Layer<'a>>,
    platform: &Platform,
    excepted: &PatternSet,
) -> Judgement {
    let layers: Vec<Layer<'_>> = layers.into_iter().collect();
    let (mut unsure, mut judged) = (Vec::new(), 0);
    for (i, layer) in layers.iter().enumerate() {
        let found = layer.verdict.iter().flat_map(|verdict| &verdict.found);
        for files in found.filter(|files| !runs(platform, &files.architecture)) {
            judged += files.paths.len();
            if judged > MOST_FILES {
                unsure.push(*layer.diff_id);
                continue;
            }
            let mut left = files.paths.iter().filter(|path| !excepted.is_excluded(path));
            let kept = u64::try_from(files.paths.len()).unwrap_or(u64::MAX);
            let untold = files.count.saturating_sub(kept);
            if let Some(path) = left.next() {
                return Judgement::Foreign(Foreign {
                    layer: i + 1,
                    layers: layers.len(),
                    diff_id: *layer.diff_id,
                    path: path.clone(),
                    architecture: files.architecture.clone(),
                    more: untold.saturating_add(u64::try_from(left.count()).unwrap_or(u64::MAX)),
                });
            }
            if untold > 0 && !unsure.contains(layer.diff_id) {
                unsure.push(*layer.diff_id);
            }
        }
    }
    if unsure.is_empty() { Judgement::Right } else { Judgement::Unsure(unsure) }
}

impl Foreign {
    /// What becomes of an image that is to be for this platform.
    pub fn failure(&self, platform: &Platform) -> Failure {
        let Self { layer, layers, diff_id, path, architecture, more } = self;
        let path: String = path.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect();
        // As a pattern and in a shell it has to be what it is.
        let is_plain = path.chars().all(|c| c.is_ascii_alphanumeric() || "._/+-".contains(c));
        let except = match is_plain && *more == 0 {
            true => format!("--verify-except '{path}'"),
            false => "--verify-except 'PATTERN'".to_owned(),
        };
        let others = match more {
            0 => String::new(),
            1 => ", and so is one more file of the layer".to_owned(),
            more => format!(", and so are {more} more files of the layer"),
        };
        let message = format!(
            "/{path} in layer {layer} of {layers} ({diff_id}) is for {architecture}, and the image is for {platform}{others}: a base \
             image that has no {platform}, or a file that was copied from another platform's build. Take a base image with all \
             platforms, or a stage for each (FROM final_$TARGETARCH); if it is meant to be there, except it \
             ({except}), or turn the check off (--verify off)"
        );
        Failure::new(Cause::User, FailureCode::ForeignPrograms, message)
    }
}

impl Verify {
    /// What a build excepts; `None`: nothing is looked at.
    ///
    /// # Errors
    /// A pattern that isn't one, or too many.
    pub fn excepted(&self) -> Result<Option<PatternSet>, Invalid> {
        let Self::Elf { except } = self else { return Ok(None) };
        if except.len() > MOST_EXCEPTIONS {
            let cure = format!("there may be {MOST_EXCEPTIONS}; one may name a folder, or have ** in it");
            return Err(Invalid::new("exceptions", except.len().to_string(), cure));
        }
        if let Some(long) = except.iter().find(|pattern| pattern.len() > EXCEPTION_BYTES) {
            let cure = format!("a pattern has at most {EXCEPTION_BYTES} bytes; name a folder above");
            return Err(Invalid::new("exception", long, cure));
        }
        let set = PatternSet::from_lines(except.iter().map(|path| path.trim_start_matches('/')));
        set.map(Some).map_err(|error| Invalid::new("exception", error.value, error.cure))
    }
}

#[cfg(test)]
#[path = "elf_tests.rs"]
mod tests;
