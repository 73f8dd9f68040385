//! Flags of `docker buildx build` that farm doesn't take (yet), so that whoever has them in their fingers reads what to
//! do instead. `docs/reference/buildx-flags.md` lists all; a test walks it.

use farm_types::{Invalid, Provenance};

/// They stand in no help.
#[derive(Debug, Default, clap::Args)]
pub struct Others {
    #[arg(long, hide = true, value_name = "KEY=VALUE")]
    annotation: Vec<String>,
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
    #[arg(long, hide = true, value_name = "PARAMETERS", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    sbom: Option<String>,
}

impl Others {
    /// Refuses what was given.
    ///
    /// # Errors
    /// The first of them, with what to do instead.
    pub fn check(&self) -> Result<(), Invalid> {
        let first = |list: &[String]| list.first().cloned();
        let given = |is: bool| is.then(String::new);
        // What asks for nothing is granted.
        let off = |value: &&String| !matches!(value.as_str(), "false" | "0");
        let refused = [
            (
                "--annotation",
                first(&self.annotation),
                "not yet; --label writes into the image's configuration",
            ),
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
            ("--sbom", self.sbom.as_ref().filter(off).cloned(), "not yet; scan the image that was pushed"),
        ];
        for (flag, value, cure) in refused {
            if let Some(value) = value {
                return Err(Invalid::new(flag, value, cure));
            }
        }
        Ok(())
    }
}

/// `--attest type=provenance,mode=max`: the provenance that it asks for, if it does.
///
/// # Errors
/// The text asks for another attestation than provenance.
pub fn attest(text: &str) -> Result<Option<Provenance>, Invalid> {
    let invalid = |cure: &str| Invalid::new("--attest", text, cure);
    let mut kind = "";
    let (mut mode, mut disabled) = ("min", false);
    for field in text.split(',') {
        match field.split_once('=') {
            Some(("type", value)) => kind = value,
            Some(("mode", value)) => mode = value,
            Some(("disabled", value)) => disabled = value != "false",
            None if kind.is_empty() => kind = field,
            _ => return Err(invalid("of provenance only mode=min and mode=max can be chosen")),
        }
    }
    match (kind, disabled) {
        ("provenance", true) => Ok(Some(Provenance::Off)),
        ("provenance", false) => format!("mode={mode}")
            .parse()
            .map(Some)
            .map_err(|_| invalid("write type=provenance,mode=min or mode=max")),
        ("sbom", true) => Ok(None),
        ("sbom", false) => Err(invalid("not yet; scan the image that was pushed")),
        _ => Err(invalid("write type=provenance,mode=min or type=provenance,mode=max")),
    }
}
