//! Farm beside buildx: Dockerfiles and contexts that are drawn from a seed, built by `farm submit` and by `docker buildx
//! build` on one engine, and a verdict on what differs.
//!
//! [`generate`] draws [`case`]s from `themes/`, [`outcome`] builds them, [`image`] reads what lies in the registry then,
//! [`verdict`] compares, and knows which differences are meant. Both sides build without their cache, or one would be
//! shown what the other has made.

pub mod case;
mod draft;
mod generate;
pub mod image;
pub mod outcome;
mod reading;
mod themes;
pub mod verdict;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

pub use case::Case;
pub use draft::{BASE, ONBUILD_BASE};
pub use generate::{generate, generate_one};

use crate::bed::Bed;
use crate::farm::{Farm, WorkerSpec};
use crate::{environment, process};
use outcome::{Ended, Outcome};
use verdict::{Difference, compare, decided};

/// More would only wait for one another.
const AT_ONCE: usize = 2;
const SAID: usize = 160;

/// Which cases, and where to leave them.
#[derive(Clone, Debug)]
pub struct Options {
    pub seed: u64,
    pub cases: u32,
    /// Only this one.
    pub case: Option<u32>,
    /// Each case is left here: `case-N/` with `context/`, `args` and `archive`.
    pub keep: Option<PathBuf>,
}

/// What a case has shown.
struct Finding {
    case: Case,
    farm: Outcome,
    buildx: Outcome,
    differences: Vec<Difference>,
}

/// Builds all cases on both sides and prints what differs; true when every difference is decided.
pub fn run(options: &Options) -> bool {
    let cases = match options.case {
        Some(number) => vec![generate_one(options.seed, number)],
        None => generate(options.seed, options.cases),
    };
    println!("differential seed={} cases={}: starting a farm", options.seed, cases.len());
    let platform = if cfg!(target_arch = "aarch64") { "linux/arm64" } else { "linux/amd64" };
    let worker = WorkerSpec::new("w1").slots(u32::try_from(AT_ONCE).unwrap()).platforms(platform);
    let farm = Farm::builder().worker(worker).start();
    make_onbuild_base(platform);
    let work = Bed::from_env().folder("differential");

    let next = AtomicUsize::new(0);
    let findings = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                while let Some(case) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let name = format!("case-{}", case.number);
                    let folder = options.keep.as_deref().unwrap_or(work.path()).join(name);
                    let finding = build(&farm, case, &folder, platform);
                    report(&finding);
                    findings.lock().unwrap().push(finding);
                    if options.keep.is_none() {
                        std::fs::remove_dir_all(folder).unwrap();
                    }
                }
            });
        }
    });
    summary(options, &findings.into_inner().unwrap())
}

/// What ONBUILD of a base image does can be seen only with a base image.
fn make_onbuild_base(platform: &str) {
    let folder = Bed::from_env().folder("onbuild");
    std::fs::write(folder.path().join("Dockerfile"), draft::ONBUILD_DOCKERFILE).unwrap();
    let mut build = environment::command("docker");
    build.args([
        "buildx",
        "build",
        "--push",
        "--provenance=false",
        "--platform",
        platform,
        "-t",
        ONBUILD_BASE,
    ]);
    process::run(build.arg(folder.path()).stdin(Stdio::null()));
}

fn build(farm: &Farm, case: &Case, folder: &Path, platform: &str) -> Finding {
    let registry = Bed::from_env().registry;
    if folder.exists() {
        std::fs::remove_dir_all(folder).unwrap();
    }
    case.write(folder);
    let repository = format!("differential/s{}-{}", case.seed, case.number);
    let tag = |side: &str| format!("{registry}/{repository}:{side}");
    let mut ours = outcome::farm(farm.command(&["submit"]), case, folder, &tag("farm"), platform);
    let mut theirs = outcome::buildx(case, folder, &tag("buildx"), platform);
    let mut unread = None;
    if (ours.ended, theirs.ended) == (Ended::Built, Ended::Built) {
        let (farm, buildx) = (format!("{repository}:farm"), format!("{repository}:buildx"));
        match image::read_both(&registry, &farm, &buildx) {
            Ok((one, other)) => (ours.image, theirs.image) = (Some(one), Some(other)),
            Err(error) => unread = Some(error),
        }
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let mut differences = compare(&ours, &theirs, now);
    differences.extend(unread.map(|text| Difference { class: "image".to_owned(), all: vec![text] }));
    let mut reading = if theirs.ended == Ended::Built {
        reading::differences(case, folder, &platform.parse().unwrap())
    } else {
        Vec::new()
    };
    // A base image's ONBUILD can't be known from the Dockerfile; all else can.
    let is_known = !String::from_utf8_lossy(&case.dockerfile).contains(ONBUILD_BASE);
    if ours.attempts.is_some_and(|attempts| attempts > 1) && is_known {
        reading.push(
            "the engine asked for more of the context than farm had read, or a try was lost".to_owned(),
        );
    }
    if !reading.is_empty() {
        differences.push(Difference { class: "reading".to_owned(), all: reading });
    }
    Finding { case: case.clone(), farm: ours, buildx: theirs, differences }
}

fn report(finding: &Finding) {
    let Finding { case, farm, buildx, differences } = finding;
    let ended = match farm.ended {
        Ended::Built => "built".to_owned(),
        Ended::Failed => {
            let said: String = farm.said.chars().take(SAID).collect();
            format!("failed at {:?}, exit code {:?}: {said}", farm.lines, farm.exit_code)
        }
        Ended::Otherwise(code) => format!("ended with {code}"),
    };
    let mut text = format!("case {} ({}): {ended}\n", case.number, case.theme);
    for difference in differences {
        let verdict = match decided(case, difference, farm, buildx) {
            Some(decided) => format!("decided: {}", decided.name),
            None => "DIFFERS".to_owned(),
        };
        text += &format!("  {verdict}  {difference}\n");
    }
    if differences.iter().any(|difference| decided(case, difference, farm, buildx).is_none()) {
        text += &format!("  again: {}\n", case.again());
    }
    // What builders say of odd files has odd bytes in it.
    let shown: String = text.chars().map(|c| if c.is_control() && c != '\n' { '?' } else { c }).collect();
    print!("{shown}");
}

fn summary(options: &Options, findings: &[Finding]) -> bool {
    let mut classes: BTreeMap<(&str, &str), usize> = BTreeMap::new();
    let (mut differs, mut meant, mut built) = (0, 0, 0);
    for Finding { case, farm, buildx, differences } in findings {
        built += usize::from(farm.ended == Ended::Built);
        let mut open = 0;
        for difference in differences {
            let decision = decided(case, difference, farm, buildx);
            open += usize::from(decision.is_none());
            *classes.entry((&difference.class, decision.map_or("open", |it| it.name))).or_default() += 1;
        }
        differs += usize::from(!differences.is_empty());
        meant += usize::from(!differences.is_empty() && open == 0);
    }
    println!("built {built}, failed {} (farm's count)", findings.len() - built);
    for ((class, decision), count) in classes {
        println!("  {class}: {count}  ({decision})");
    }
    println!(
        "differential seed={} cases={} same={} differs={differs} (decided={meant})",
        options.seed,
        findings.len(),
        findings.len() - differs
    );
    differs == meant
}
