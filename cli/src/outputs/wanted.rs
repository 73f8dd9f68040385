//! What `--output`, `--load` and `--push` ask for together. Forms and meanings are those of `docker buildx build`.

use std::path::PathBuf;

use farm_types::{BuildSpec, Export, Form, ImageTag, Invalid, Platform};

use super::csv;

/// What is said of the form as a whole.
const FORMS: &str = "write a folder, - or type=local, tar, oci, docker, registry, image or cacheonly, for example \
                     type=local,dest=out";

/// A place for a stream of bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// Standard output.
    Stdout,
    /// A file.
    File(PathBuf),
}

/// Where an output goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sink {
    /// `type=local`: files into a folder.
    Folder {
        /// The folder into which they go.
        dest: PathBuf,
        /// A sub-folder for each platform; `None`: when there are several.
        split: Option<bool>,
    },
    /// `type=tar`: files as an archive.
    Tar {
        dest: Place,
        /// A sub-folder for each platform; `None`: when there are several.
        split: Option<bool>,
    },
    /// `type=oci` or `type=docker,dest=…`: an image as an archive.
    Image {
        dest: Place,
        /// Whether it has what older Docker engines read (`manifest.json`).
        docker: bool,
    },
    /// The same with `tar=false`: an image's layout as a folder.
    Layout {
        dest: PathBuf,
        /// Whether it has what older Docker engines read (`manifest.json`).
        docker: bool,
    },
    /// `--load`: into a Docker engine.
    Load {
        /// The docker context that says which; `None`: as the docker command would choose.
        context: Option<String>,
    },
}

impl Sink {
    /// The word that buildx has for it, as `type=` takes it.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Folder { .. } => "local",
            Self::Tar { .. } => "tar",
            Self::Image { docker: false, .. } | Self::Layout { docker: false, .. } => "oci",
            Self::Image { docker: true, .. } | Self::Layout { docker: true, .. } | Self::Load { .. } => {
                "docker"
            }
        }
    }

    /// The file or folder as it was named; `None`: standard output, or an engine.
    pub fn path(&self) -> Option<&PathBuf> {
        match self {
            Self::Folder { dest, .. } | Self::Layout { dest, .. } => Some(dest),
            Self::Tar { dest: Place::File(path), .. } | Self::Image { dest: Place::File(path), .. } => {
                Some(path)
            }
            _ => None,
        }
    }

    fn takes_stdout(&self) -> bool {
        matches!(self, Self::Tar { dest: Place::Stdout, .. } | Self::Image { dest: Place::Stdout, .. })
    }

    fn is_image(&self) -> bool {
        !matches!(self, Self::Folder { .. } | Self::Tar { .. })
    }
}

/// A place, and what the engine's exporter is told for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    /// Where it goes.
    pub sink: Sink,
    attributes: Vec<(String, String)>,
}

/// All that was asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Places, in the order in which they were named.
    pub asked: Vec<Asked>,
    /// Something was asked for, and so only that is done.
    is_said: bool,
    /// It is published.
    push: bool,
    /// In Docker's formats, as its output says.
    docker: bool,
    /// With files that are no younger than SOURCE_DATE_EPOCH, as its output says.
    rewrite_timestamp: bool,
    /// Names that outputs give; they count when there is no `-t`.
    names: Vec<String>,
}

impl Wanted {
    /// Reads the flags.
    ///
    /// # Errors
    /// A form that there isn't, or that can't go with another; the error names it.
    pub fn new(outputs: &[String], load: bool, push: bool) -> Result<Self, Invalid> {
        let mut wanted = Self { is_said: load || push || !outputs.is_empty(), push, ..Self::default() };
        for text in outputs {
            wanted.read(text)?;
        }
        let is_load = |asked: &Asked| matches!(asked.sink, Sink::Load { .. });
        if load && !wanted.asked.iter().any(is_load) {
            wanted.asked.push(Asked { sink: Sink::Load { context: None }, attributes: Vec::new() });
        }
        let on_stdout = wanted.asked.iter().filter(|asked| asked.sink.takes_stdout()).count();
        if on_stdout > 1 {
            return Err(Invalid::new("--output", "-", "only one output can go to standard output"));
        }
        Ok(wanted)
    }

    fn read(&mut self, text: &str) -> Result<(), Invalid> {
        let invalid = |cure: &str| Invalid::new("--output", text, cure);
        let fields = csv::fields(text).map_err(invalid)?;
        if let [field] = &fields[..]
            && !field.starts_with("type=")
        {
            let sink = match field.as_str() {
                "" => return Err(invalid(FORMS)),
                "-" => Sink::Tar { dest: Place::Stdout, split: None },
                // buildx makes a folder of this name, which nobody means.
                field if field.starts_with("dest=") => {
                    return Err(invalid("add what it is to be, for example type=local,dest=out"));
                }
                folder => Sink::Folder { dest: folder.into(), split: None },
            };
            self.asked.push(Asked { sink, attributes: Vec::new() });
            return Ok(());
        }
        let mut form = Fields::default();
        for field in &fields {
            let (key, value) = field
                .split_once('=')
                .ok_or_else(|| invalid(&format!("{field:?} is no KEY=VALUE; {FORMS}")))?;
            form.set(key.trim().to_ascii_lowercase(), value).map_err(|cure| invalid(&cure))?;
        }
        self.take(form).map_err(|cure| invalid(&cure))
    }

    fn take(&mut self, mut form: Fields) -> Result<(), String> {
        let kind = form.kind.take().ok_or_else(|| FORMS.to_owned())?;
        let sink = match kind.as_str() {
            "local" => {
                let dest = form.dest.take().ok_or("name the folder: type=local,dest=DIR")?;
                if dest == "-" {
                    return Err("a folder can't go to standard output; write type=tar,dest=-".to_owned());
                }
                Sink::Folder { dest: dest.into(), split: form.split.take() }
            }
            "tar" => Sink::Tar { dest: place(form.dest.take()), split: form.split.take() },
            "oci" | "docker" => {
                let docker = kind == "docker";
                let (dest, tar) = (form.dest.take(), form.tar.take().unwrap_or(true));
                match (dest, tar) {
                    (Some(dest), false) if dest != "-" => Sink::Layout { dest: dest.into(), docker },
                    (_, false) => return Err("tar=false makes a folder; name it: dest=DIR".to_owned()),
                    (None, true) if docker => Sink::Load { context: form.context.take() },
                    (dest, true) => Sink::Image { dest: place(dest), docker },
                }
            }
            "registry" | "image" => {
                let push = form.push.take().unwrap_or(kind == "registry");
                if !push {
                    return Err(
                        "it would stay in a worker's engine, where nobody finds it; add push=true, or write type=docker"
                            .to_owned(),
                    );
                }
                self.push = true;
                form.attributes.retain(|(key, value)| match (key.as_str(), value.as_str()) {
                    // It is so unless something else is said.
                    ("oci-mediatypes", "true") | ("rewrite-timestamp", "false") => false,
                    ("oci-mediatypes", "false") => {
                        self.docker = true;
                        false
                    }
                    ("rewrite-timestamp", "true") => {
                        self.rewrite_timestamp = true;
                        false
                    }
                    _ => true,
                });
                self.names.append(&mut form.names);
                return form.nothing_left(&kind);
            }
            "cacheonly" => return form.nothing_left(&kind),
            other => return Err(format!("there is no type {other:?}; {FORMS}")),
        };
        let attributes = std::mem::take(&mut form.attributes);
        if sink.is_image() {
            self.names.append(&mut form.names);
        }
        form.nothing_left(&kind)?;
        let of = if sink.is_image() { Form::Oci } else { Form::Files };
        Export::new(of, attributes.clone()).map_err(|error| error.cure)?;
        self.asked.push(Asked { sink, attributes });
        Ok(())
    }

    /// Whether it is published: when it was asked for, or nothing was.
    pub fn pushes(&self) -> bool {
        self.push || !self.is_said
    }

    /// Whether it is published because that was asked for.
    pub fn is_pushed_by_wish(&self) -> bool {
        self.push
    }

    /// Whether an output asks for Docker's formats of what is published.
    pub fn is_docker(&self) -> bool {
        self.docker
    }

    /// Whether an output asks for times that are those of SOURCE_DATE_EPOCH at most, of what is published.
    pub fn rewrites_timestamps(&self) -> bool {
        self.rewrite_timestamp
    }

    /// Whether there will be a digest that stands for the result.
    pub fn has_digest(&self, tags: &[ImageTag]) -> bool {
        (self.pushes() && !tags.is_empty()) || self.asked.iter().any(|asked| asked.sink.is_image())
    }

    /// Whether something is given out.
    pub fn gives_out(&self) -> bool {
        !self.asked.is_empty()
    }

    /// Whether something goes to standard output.
    pub fn takes_stdout(&self) -> bool {
        self.asked.iter().any(|asked| asked.sink.takes_stdout())
    }

    /// Whether an image goes into a Docker engine, and the contexts that say into which.
    pub fn loads(&self) -> impl Iterator<Item = Option<&str>> {
        self.asked.iter().filter_map(|asked| match &asked.sink {
            Sink::Load { context } => Some(context.as_deref()),
            _ => None,
        })
    }

    /// Whether it is only loaded into Docker engines, so that nobody else needs it.
    pub fn only_loads(&self) -> bool {
        !self.pushes() && self.gives_out() && self.loads().count() == self.asked.len()
    }

    /// Whether nothing of it goes anywhere, because that was asked for.
    pub fn is_only_cached(&self) -> bool {
        !self.pushes() && !self.gives_out()
    }

    /// The names that the result bears: those of `-t`, or else those that outputs give.
    ///
    /// # Errors
    /// A name that an output gives is no image's name.
    pub fn tags(&self, tags: Vec<ImageTag>) -> Result<Vec<ImageTag>, Invalid> {
        if !tags.is_empty() {
            return Ok(tags);
        }
        let mut named: Vec<ImageTag> = Vec::new();
        for name in &self.names {
            let tag = name
                .parse()
                .map_err(|e: Invalid| Invalid::new("--output", format!("name={name}"), e.cure))?;
            if !named.contains(&tag) {
                named.push(tag);
            }
        }
        Ok(named)
    }

    /// Sees what can't be for so many platforms.
    ///
    /// # Errors
    /// A form can't hold several platforms, or an attestation; the text has the cure.
    pub fn check(&self, platforms: &[Platform], attested: bool) -> Result<(), Invalid> {
        for asked in &self.asked {
            let docker =
                matches!(asked.sink, Sink::Image { docker: true, .. } | Sink::Layout { docker: true, .. });
            if docker && (platforms.len() > 1 || attested) {
                let what = if attested { "provenance or an SBOM" } else { "several platforms" };
                let cure = format!("this form has no place for {what}; write type=oci");
                return Err(Invalid::new("--output", "type=docker", cure));
            }
        }
        Ok(())
    }

    /// What the farm is asked to make, and for each of [`Wanted::asked`] its place therein.
    ///
    /// # Errors
    /// An attribute of `--output` has a value that it can't have.
    pub fn exports(
        &self,
        platforms: &[Platform],
        attested: bool,
    ) -> Result<(Vec<Export>, Vec<usize>), Invalid> {
        let mut exports: Vec<Export> = Vec::new();
        let mut places = Vec::new();
        let is_single = platforms.len() == 1 && !attested;
        for asked in &self.asked {
            let mut attributes = asked.attributes.clone();
            let form = match &asked.sink {
                Sink::Folder { .. } => Form::Files,
                Sink::Tar { .. } => Form::Tar,
                Sink::Image { docker: false, .. } | Sink::Layout { docker: false, .. } => Form::Oci,
                Sink::Image { docker: true, .. } | Sink::Layout { docker: true, .. } => Form::Docker,
                // An engine of any age reads it; of several platforms only newer ones keep an index.
                Sink::Load { .. } if is_single => {
                    // So it has the digest that it would have in a registry.
                    if !attributes.iter().any(|(key, _)| key == "oci-mediatypes") {
                        attributes.push(("oci-mediatypes".to_owned(), "true".to_owned()));
                    }
                    Form::Docker
                }
                Sink::Load { .. } => Form::Oci,
            };
            let export = Export::new(form, attributes)?;
            let place = exports.iter().position(|known| *known == export).unwrap_or_else(|| {
                exports.push(export);
                exports.len() - 1
            });
            places.push(place);
        }
        Ok((exports, places))
    }

    /// Enters into a spec what has to be made for the outputs.
    ///
    /// # Errors
    /// As [`Wanted::exports`].
    pub fn complete(&self, spec: &mut BuildSpec) -> Result<(), Invalid> {
        (spec.exports, _) = self.exports(&spec.platforms, spec.attests())?;
        if self.asked.iter().any(|asked| asked.sink.is_image()) {
            spec.image_names.clone_from(&spec.tags);
        }
        if !self.pushes() {
            spec.tags.clear();
        }
        Ok(())
    }
}

fn place(dest: Option<String>) -> Place {
    match dest {
        Some(dest) if dest != "-" => Place::File(dest.into()),
        _ => Place::Stdout,
    }
}

/// The fields of one `--output`, as they were written.
#[derive(Default)]
struct Fields {
    kind: Option<String>,
    dest: Option<String>,
    tar: Option<bool>,
    split: Option<bool>,
    push: Option<bool>,
    context: Option<String>,
    names: Vec<String>,
    attributes: Vec<(String, String)>,
}

impl Fields {
    fn set(&mut self, key: String, value: &str) -> Result<(), String> {
        let truth = || match value {
            "true" | "1" => Ok(Some(true)),
            "false" | "0" => Ok(Some(false)),
            _ => Err(format!("{key}={value}: write true or false")),
        };
        match key.as_str() {
            "type" => self.kind = Some(value.to_owned()),
            "dest" if value.is_empty() => return Err("dest= names nothing".to_owned()),
            "dest" => self.dest = Some(value.to_owned()),
            "tar" => self.tar = truth()?,
            "platform-split" => self.split = truth()?,
            "push" => self.push = truth()?,
            "context" => self.context = Some(value.to_owned()),
            "name" => self.names.extend(value.split(',').map(|name| name.trim().to_owned())),
            "compression" | "compression-level" | "force-compression" | "oci-mediatypes"
            | "rewrite-timestamp" => {
                self.attributes.push((key, value.to_owned()));
            }
            key if key == "annotation"
                || key.starts_with("annotation.")
                || key.starts_with("annotation-") =>
            {
                return Err(
                    "annotations are set by --annotation, of what is published; leave it out here".to_owned()
                );
            }
            key => return Err(format!("{key:?} is no key that farm knows here")),
        }
        Ok(())
    }

    /// Refuses what is left, as it means nothing for this type.
    fn nothing_left(self, kind: &str) -> Result<(), String> {
        let given = |is: bool, key: &'static str| is.then_some(key.to_owned());
        let left = given(self.dest.is_some(), "dest")
            .or(given(self.tar.is_some(), "tar"))
            .or(given(self.split.is_some(), "platform-split"))
            .or(given(self.push.is_some(), "push"))
            .or(given(self.context.is_some(), "context"))
            .or(given(!self.names.is_empty(), "name"))
            .or(self.attributes.first().map(|(key, _)| key.clone()));
        match left {
            Some(key) => Err(format!("type={kind} has no {key:?}; leave it out")),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
#[path = "wanted_tests.rs"]
mod tests;
