//! Changes of the configuration file. What they don't concern, comments and order too, stays as it is.

use std::path::{Path, PathBuf};

use toml_edit::{DocumentMut, Item, Table, value};

use super::{Config, KEYS, LOCAL, NamedFarm, check_default, unknown_key};
use crate::error::{Error, Result};
use crate::place::{Mode, replace};
use crate::security::addresses;
use farm_types::Invalid;

/// The file, in memory.
#[derive(Debug)]
pub struct Edit {
    path: PathBuf,
    document: DocumentMut,
    config: Config,
}

impl Edit {
    /// Reads it; one that is not there is empty.
    ///
    /// # Errors
    /// It can't be read, or can't be understood.
    pub fn open(path: PathBuf) -> Result<Self> {
        let config = Config::load(&path)?;
        let text = std::fs::read_to_string(&path).unwrap_or_default();
        // What was understood just now can be parsed.
        let document = text.parse().unwrap_or_default();
        Ok(Self { path, document, config })
    }

    /// What it says now.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Adds a farm, or changes the one of this name if `replace`.
    ///
    /// # Errors
    /// The name or the address can't be taken, or the name is taken.
    pub fn add(&mut self, name: &str, farm: &NamedFarm, replace: bool) -> Result<()> {
        let url = farm.url.as_str();
        let is_part = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
        if name.is_empty() || name.len() > 63 || !name.chars().all(is_part) {
            let cure = "write 1 to 63 letters, digits, dots, hyphens and underscores";
            return Err(Invalid::new("context", name, cure).into());
        }
        if name == LOCAL {
            return Err(Invalid::new(
                "context",
                name,
                "that is the farm on this machine; choose another name",
            )
            .into());
        }
        if self.config.contexts.contains_key(name) && !replace {
            return Err(Invalid::new("context", name, "there is one already; --replace changes it").into());
        }
        addresses(url).map_err(|_| {
            let cure = "write http://HOST:PORT or https://HOST; of several coordinators all, with commas between them";
            Invalid::new("address", url, cure)
        })?;
        let contexts = table(&mut self.document, "contexts")?;
        contexts.set_implicit(true);
        let mut entry = Table::new();
        entry["url"] = value(url);
        let files = [("token_file", "--token-file", &farm.token_file), ("ca_file", "--ca", &farm.ca_file)];
        for (key, flag, file) in files {
            let Some(file) = file else { continue };
            let Some(text) = file.to_str() else {
                let cure = "its name is not UTF-8; choose another file";
                return Err(Invalid::new(flag, file.display().to_string(), cure).into());
            };
            entry[key] = value(text);
        }
        if let Some(project) = &farm.project {
            entry["project"] = value(project);
        }
        contexts[name] = Item::Table(entry);
        self.config.contexts.insert(name.to_owned(), farm.clone());
        Ok(())
    }

    /// Removes a farm; where it was the one that is used, there is none any more.
    ///
    /// # Errors
    /// There is none of the name.
    pub fn remove(&mut self, name: &str) -> Result<()> {
        self.config.context(name, "context")?;
        table(&mut self.document, "contexts")?.remove(name);
        if self.config.context.as_deref() == Some(name) {
            self.document.remove("context");
        }
        Ok(())
    }

    /// From now on this farm is used.
    ///
    /// # Errors
    /// There is none of the name.
    pub fn choose(&mut self, name: &str) -> Result<()> {
        if name == LOCAL {
            self.document.remove("context");
            return Ok(());
        }
        self.config.context(name, "context")?;
        if self.document.contains_key("context") {
            set(&mut self.document["context"], name);
            return Ok(());
        }
        // Above all tables, or it would belong to the last of them.
        let rest = std::mem::take(&mut self.document).to_string();
        let gap = if rest.is_empty() || rest.starts_with('\n') { "" } else { "\n" };
        let text = format!("context = {}\n{gap}{rest}", value(name).to_string().trim());
        self.document =
            text.parse().map_err(|e| Error::Usage(format!("the configuration can't be changed: {e}")))?;
        Ok(())
    }

    /// Sets a default, or takes it back.
    ///
    /// # Errors
    /// There is no such key, or its flag doesn't take the value.
    pub fn set(&mut self, key: &str, new: Option<&str>) -> Result<()> {
        match new {
            Some(new) => check_default(key, new)?,
            None if !KEYS.contains(&key) => return Err(unknown_key(key).into()),
            None => {}
        }
        let defaults = table(&mut self.document, "defaults")?;
        match new {
            Some(new) => set(&mut defaults[key], new),
            None => drop(defaults.remove(key)),
        }
        Ok(())
    }

    /// Writes it, whole or not at all.
    ///
    /// # Errors
    /// The file can't be written.
    pub fn save(mut self) -> Result<()> {
        for name in ["contexts", "defaults"] {
            if self.document.get(name).and_then(Item::as_table).is_some_and(Table::is_empty) {
                self.document.remove(name);
            }
        }
        let text = self.document.to_string();
        // Nothing is written that could not be read again.
        Config::parse(&text)
            .map_err(|why| Error::Usage(format!("the configuration can't be changed so: {why}")))?;
        // It holds no secret, and may be there for others as well.
        write(&self.path, text.as_bytes(), Mode::Kept(0o644))
    }
}

/// Writes a file that is for this user only, whole or not at all.
///
/// # Errors
/// It can't be written.
pub fn write_private(path: &Path, bytes: &[u8]) -> Result<()> {
    write(path, bytes, Mode::Always(0o600))
}

fn write(path: &Path, bytes: &[u8], mode: Mode) -> Result<()> {
    replace(path, bytes, mode).map_err(|why| Error::Usage(format!("can't write {}: {why}", path.display())))
}

/// Sets a value, and keeps the comment behind the one that was there.
fn set(item: &mut Item, new: &str) {
    let decor = item.as_value().map(|value| value.decor().clone());
    *item = value(new);
    if let (Some(decor), Some(value)) = (decor, item.as_value_mut()) {
        *value.decor_mut() = decor;
    }
}

fn table<'a>(document: &'a mut DocumentMut, name: &str) -> Result<&'a mut Table> {
    if !document.get(name).is_some_and(Item::is_table) {
        // `contexts = {…}` in one line becomes a table of its own.
        let item = document.remove(name).unwrap_or_default();
        document.insert(name, Item::Table(item.into_table().unwrap_or_default()));
    }
    let table = document.get_mut(name).and_then(Item::as_table_mut);
    table.ok_or_else(|| Error::Usage(format!("the configuration's {name} can't be changed; mend it by hand")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(url: &str) -> NamedFarm {
        NamedFarm { url: url.to_owned(), token_file: None, ca_file: None, project: None }
    }

    fn edited(text: &str, change: impl FnOnce(&mut Edit) -> Result<()>) -> Result<String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("new").join("config.toml");
        if !text.is_empty() {
            std::fs::create_dir(path.parent().unwrap()).unwrap();
            std::fs::write(&path, text).unwrap();
        }
        let mut edit = Edit::open(path.clone())?;
        change(&mut edit)?;
        edit.save()?;
        Ok(std::fs::read_to_string(&path).unwrap())
    }

    #[test]
    fn farms_and_defaults_come_and_go() {
        let text = edited("", |edit| {
            let team = NamedFarm {
                token_file: Some("/t".into()),
                ca_file: Some("/ca".into()),
                project: Some("web".into()),
                ..at("https://farm.example")
            };
            edit.add("team", &team, false)?;
            edit.set("emulation", Some("never"))
        })
        .unwrap();
        assert_eq!(
            text,
            "[contexts.team]\nurl = \"https://farm.example\"\ntoken_file = \"/t\"\nca_file = \"/ca\"\nproject = \"web\"\n\n[defaults]\nemulation = \"never\"\n"
        );
        let text = edited(&text, |edit| edit.choose("team")).unwrap();
        assert!(text.starts_with("context = \"team\"\n\n[contexts.team]"), "{text}");
        let text = edited(&text, |edit| edit.remove("team")).unwrap();
        assert_eq!(text.trim(), "[defaults]\nemulation = \"never\"");
        assert_eq!(edited(&text, |edit| edit.set("emulation", None)).unwrap(), "");
    }

    #[test]
    fn what_a_person_wrote_stays() {
        let text = "# mine\ncontexts = { a = { url = \"http://a\" } } # one line\n\n# of flags\n[defaults]\nplatform = \"linux/amd64\" # all we have\n";
        let changed = edited(text, |edit| {
            edit.add("b", &at("http://b"), false)?;
            edit.choose("a")
        })
        .unwrap();
        for part in ["# of flags", "# all we have", "[contexts.b]", "context = \"a\""] {
            assert!(changed.contains(part), "{part} is missing in\n{changed}");
        }
        let config = Config::parse(&changed).unwrap();
        assert_eq!(config.contexts.keys().map(String::as_str).collect::<Vec<_>>(), ["a", "b"]);
    }

    #[test]
    fn a_value_that_is_changed_keeps_its_comment_and_a_token_is_nobody_elses() {
        let text = "context = \"a\" # prod\n[contexts.a]\nurl = \"http://a\"\n[contexts.b]\nurl = \"http://b\"\n[defaults]\nplatform = \"linux/amd64\" # all\n";
        let changed = edited(text, |edit| {
            edit.choose("b")?;
            edit.set("platform", Some("linux/arm64"))
        })
        .unwrap();
        assert_eq!(changed, text.replace("context = \"a\"", "context = \"b\"").replace("amd64", "arm64"));
        let folder = tempfile::tempdir().unwrap();
        write_private(&folder.path().join("token"), b"t").unwrap();
        use std::os::unix::fs::MetadataExt as _;
        let mode = std::fs::metadata(folder.path().join("token")).unwrap().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn mistakes_change_nothing() {
        let text = "[contexts.a]\nurl = \"http://a\"\n";
        let error = |change: &dyn Fn(&mut Edit) -> Result<()>| edited(text, change).unwrap_err().to_string();
        assert!(error(&|edit| edit.add("a", &at("http://b"), false)).contains("--replace"));
        assert!(error(&|edit| edit.add("local", &at("http://b"), false)).contains("this machine"));
        assert!(error(&|edit| edit.add("a b", &at("http://b"), false)).contains("letters"));
        assert!(error(&|edit| edit.add("b", &at("b:7070"), false)).contains("http://"));
        assert!(error(&|edit| edit.remove("b")).contains("known are a, local"));
        assert!(error(&|edit| edit.choose("b")).contains("known are"));
        assert!(error(&|edit| edit.set("emulaton", Some("never"))).contains("did you mean emulation?"));
        assert!(error(&|edit| edit.set("emulation", Some("nevr"))).contains("nevr"));
    }
}
