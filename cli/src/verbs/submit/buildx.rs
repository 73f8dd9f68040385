//! Flags of `docker buildx build` that farm doesn't take (yet), so that whoever has them in their fingers reads what to
//! do instead. `docs/reference/buildx-flags.md` lists all; a test walks it.

use farm_types::{Invalid, Provenance};

/// They stand in no help.
#[derive(Debug, Default, clap::Args)]
pub struct Others {
    #[arg(long, hide = true, value_name = "NAME")]
    builder: Option<String>,
    #[arg(long, hide = true, value_name = "SOURCE")]
    cache_from: Vec<String>,
    #[arg(long, hide = true, value_name = "DESTINATION")]
    cache_to: Vec<String>,
    #[arg(long, hide = true, value_name = "GROUP")]
    cgroup_parent: Option<String>,
    #[arg(short = 'D', long, hide = true)]
    debug: bool,
}

impl Others {
    /// Refuses what was given.
    ///
    /// # Errors
    /// The first of them, with what to do instead.
    pub fn check(&self) -> Result<(), Invalid> {
        let first = |list: &[String]| list.first().cloned();
        let given = |is: bool| is.then(String::new);
        let refused = [
            (
                "--builder",
                self.builder.clone(),
                "the farm chooses; which farm is said by --context, --url or FARM_URL",
            ),
            ("--cache-from", first(&self.cache_from), "not yet; workers keep their own cache between builds"),
            ("--cache-to", first(&self.cache_to), "not yet; workers keep their own cache between builds"),
            ("--cgroup-parent", self.cgroup_parent.clone(), "the worker's engine decides; leave it out"),
            (
                "--debug",
                given(self.debug),
                "see what the farm's parts write: farm logs --of PART, farm logs BUILD",
            ),
        ];
        for (flag, value, cure) in refused {
            if let Some(value) = value {
                return Err(Invalid::new(flag, value, cure));
            }
        }
        Ok(())
    }
}

/// What an `--attest` asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Attest {
    /// This provenance.
    Provenance(Provenance),
    /// An SBOM, or none, and by which image if it is named.
    Sbom(bool, String),
}

/// `--attest type=provenance,mode=max`, `--attest type=sbom,generator=IMAGE`.
///
/// # Errors
/// The text asks for another attestation, or says of it what it doesn't have.
pub fn attest(text: &str) -> Result<Attest, Invalid> {
    let invalid = |cure: &str| Invalid::new("--attest", text, cure);
    let (mut kind, mut mode, mut generator) = ("", None, None);
    let mut disabled = false;
    for field in text.split(',') {
        match field.split_once('=') {
            Some(("type", value)) => kind = value,
            Some(("mode", value)) => mode = Some(value),
            Some(("generator", value)) => generator = Some(value),
            Some(("disabled", value)) => disabled = value != "false",
            None if kind.is_empty() => kind = field,
            _ => return Err(invalid("of provenance only mode can be chosen, and of an SBOM only generator")),
        }
    }
    match kind {
        "provenance" if generator.is_some() => Err(invalid("provenance has no generator; an SBOM has")),
        "provenance" if disabled => Ok(Attest::Provenance(Provenance::Off)),
        "provenance" => format!("mode={}", mode.unwrap_or("min"))
            .parse()
            .map(Attest::Provenance)
            .map_err(|_| invalid("write type=provenance,mode=min or mode=max")),
        "sbom" if mode.is_some() => Err(invalid("an SBOM has no mode; provenance has")),
        "sbom" => Ok(Attest::Sbom(!disabled, generator.unwrap_or_default().to_owned())),
        _ => Err(invalid("write type=provenance,mode=max or type=sbom,generator=IMAGE")),
    }
}
