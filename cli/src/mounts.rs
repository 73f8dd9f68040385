//! `--secret` and `--ssh`: what RUN instructions may mount, read from files and variables.
//!
//! The forms are those of `docker buildx build` (buildx, `util/buildflags`; BuildKit, `session/secrets/secretsprovider`), and one of
//! farm's own: `from=project`. A value is read here, before anything is sent; it is sent with the build only, over TLS, and printed
//! nowhere. A shell may have put one into the flag itself (`env=$TOKEN`): what looks so isn't repeated either ([`shown`]).

use std::collections::BTreeMap;
use std::fmt;
use std::io::Read as _;
use std::path::PathBuf;

use bytes::Bytes;
use farm_proto::v1::MountValue;
use farm_types::chain::io_in_short;
use farm_types::mounts::{MOST_MOUNTED_BYTES, MOST_SECRET_BYTES};
use farm_types::secret::HIDDEN;
use farm_types::suggest::nearest;
use farm_types::{Invalid, MountId, Mounts, SecretSource, ValueType, looks_secret};
use zeroize::Zeroizing;

use crate::outputs::csv;

mod logins;
mod ssh;

/// The keys of `--secret`.
const KEYS: [&str; 6] = ["id", "src", "source", "env", "type", "from"];

/// What a build may mount, with the values that are given.
#[derive(Default)]
pub struct Mounting {
    mounts: Mounts,
    values: BTreeMap<(ValueType, MountId), Zeroizing<Vec<u8>>>,
    /// Sockets of agents that run here.
    agents: BTreeMap<MountId, PathBuf>,
    warnings: Vec<String>,
}

impl fmt::Debug for Mounting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Mounting").field(&self.mounts).finish()
    }
}

/// Where one secret's value is to be found.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Place {
    File(String),
    Variable(String),
    Project(farm_types::SecretName),
}

impl Mounting {
    /// Reads what these flags name. `variable` gives the environment's values.
    ///
    /// # Errors
    /// A flag can't be taken, or a file or variable isn't there, can't be read or is too large.
    pub fn read(
        secrets: &[String],
        ssh: &[String],
        variable: impl Fn(&str) -> Result<Option<String>, Invalid>,
    ) -> Result<Self, Invalid> {
        let mut mounting = Self::default();
        for flag in secrets {
            let (id, place) = place(flag, |name| Ok(variable(name)?.is_some()))?;
            if mounting.mounts.secrets.contains_key(&id) {
                let cure = format!("the id {id} is given twice; keep one");
                return Err(Invalid::new("--secret", shown(flag), cure));
            }
            let source = match place {
                Place::Project(name) => SecretSource::Project(name),
                place => {
                    let value = match place {
                        Place::Variable(name) => of_variable(flag, &name, &variable)?,
                        Place::File(path) => of_file(flag, &path)?,
                        Place::Project(_) => Zeroizing::default(),
                    };
                    mounting.values.insert((ValueType::Secret, id.clone()), value);
                    SecretSource::Given
                }
            };
            mounting.mounts.secrets.insert(id, source);
        }
        mounting.take_ssh(ssh, &variable)?;
        let all: usize = mounting.values.values().map(|value| value.len()).sum();
        if all > MOST_MOUNTED_BYTES {
            let cure =
                format!("all secrets and keys of a build have at most {MOST_MOUNTED_BYTES} bytes together");
            return Err(Invalid::new("--secret", format!("{all} bytes"), cure));
        }
        Ok(mounting)
    }

    /// As a spec names them.
    pub fn mounts(&self) -> &Mounts {
        &self.mounts
    }

    /// Whether something goes to the farm that must go over no line that others can read.
    pub fn is_private(&self) -> bool {
        !self.values.is_empty() || !self.agents.is_empty()
    }

    /// The sockets of agents that run here, which are asked as long as somebody follows the build.
    pub fn agents(&self) -> &BTreeMap<MountId, PathBuf> {
        &self.agents
    }

    /// What is wrong with the files, and hinders nothing.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// The values, as they go with a request.
    pub fn values(&self) -> Vec<MountValue> {
        let value = |((mount, id), value): (&(ValueType, MountId), &Zeroizing<Vec<u8>>)| MountValue {
            r#type: mount.to_string(),
            id: id.to_string(),
            value: Bytes::from(value.to_vec()),
        };
        self.values.iter().map(value).collect()
    }
}

/// A variable's value: of `--build-arg NAME`, of `--secret`, and of those that stand for flags.
///
/// # Errors
/// It isn't UTF-8.
pub fn environment(name: &str) -> Result<Option<String>, Invalid> {
    match std::env::var(name) {
        Ok(value) => Ok(Some(value)),
        Err(std::env::VarError::NotPresent) => Ok(None),
        Err(std::env::VarError::NotUnicode(_)) => {
            let cure = "its value in the environment is not UTF-8; give it as NAME=VALUE, or change it";
            Err(Invalid::new("variable", name, cure))
        }
    }
}

/// What somebody is told who may have given a value where its place belongs.
const NO_VALUES: &str =
    "env= takes the variable's name and src= the file's, not the value itself (leave out the $)";
/// The longest flag that is shown.
const LONGEST_SHOWN: usize = 1024;
/// A variable's name that is as long and has digits may be something else.
const LONG_NAME: usize = 20;

/// A flag of `--secret` or `--ssh` as an error may repeat it: of one that may hold a value, its id only.
fn shown(flag: &str) -> String {
    let is_odd =
        |(key, value): (&str, &str)| key.eq_ignore_ascii_case("env") && !value.is_empty() && !is_name(value);
    let is_strange = flag.len() > LONGEST_SHOWN
        || flag.contains(char::is_control)
        || looks_secret("", flag).is_some()
        || fields(flag).any(is_odd);
    if is_strange { hidden(flag) } else { flag.to_owned() }
}

/// The id of a flag, and that there is more.
fn hidden(flag: &str) -> String {
    let id = fields(flag).find(|(key, _)| key.eq_ignore_ascii_case("id"));
    let id = id.and_then(|(_, id)| id.parse::<MountId>().ok());
    match id.filter(|id| looks_secret("", id.as_str()).is_none()) {
        Some(id) => format!("id={id},{HIDDEN}"),
        None => HIDDEN.to_owned(),
    }
}

/// What has the form KEY=VALUE, however odd the rest.
fn fields(flag: &str) -> impl Iterator<Item = (&str, &str)> {
    flag.split(',').filter_map(|field| field.trim_matches('"').split_once('='))
}

/// Whether it is likely to be a variable's name.
fn is_name(text: &str) -> bool {
    let begins = text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
    let is_long = text.len() >= LONG_NAME && text.contains(|c: char| c.is_ascii_digit());
    begins && !is_long && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

/// What a flag says. As with buildx, an id alone is a variable of that name if there is one, else a file; and a key's case
/// doesn't matter.
fn place(flag: &str, is_set: impl Fn(&str) -> Result<bool, Invalid>) -> Result<(MountId, Place), Invalid> {
    let told = shown(flag);
    let is_shown = told == flag;
    let invalid = |cure: String| Invalid::new("--secret", &told, cure);
    let forms = "write id=ID,src=FILE, id=ID,env=NAME or id=ID,from=project";
    let mut said: BTreeMap<&str, &str> = BTreeMap::new();
    let fields = csv::fields(flag).map_err(|cure| invalid(cure.to_owned()))?;
    for field in &fields {
        let Some((key, value)) = field.split_once('=') else {
            return Err(invalid(match is_shown {
                true => format!("{field:?} has no value; {forms}"),
                false => format!("a part of it has no value; {forms}; {NO_VALUES}"),
            }));
        };
        let known = KEYS.iter().find(|known| key.eq_ignore_ascii_case(known));
        let Some(key) = known.copied() else {
            if !is_shown {
                return Err(invalid(format!("a part of it isn't known; {forms}; {NO_VALUES}")));
            }
            let meant = nearest(key, KEYS).map(|near| format!("did you mean {near}? ")).unwrap_or_default();
            return Err(invalid(format!("{key:?} isn't known. {meant}{forms}")));
        };
        said.insert(if key == "source" { "src" } else { key }, value);
    }
    let get = |key: &str| said.get(key).copied().filter(|value| !value.is_empty());
    let id: MountId = match get("id") {
        Some(id) => id.parse().map_err(|error: Invalid| invalid(format!("its id: {}", error.cure)))?,
        None => return Err(invalid(format!("it has no id; {forms}"))),
    };
    if let Some(from) = get("from") {
        if let Some(other) = ["src", "env", "type"].iter().find(|other| get(other).is_some()) {
            return Err(invalid(format!("from=project and {other} can't go together")));
        }
        let name = match from.split_once(':') {
            None if from == "project" => id.as_str(),
            Some(("project", name)) => name,
            _ => return Err(invalid("from is project, or project:NAME".to_owned())),
        };
        let name = name.parse().map_err(|error: Invalid| invalid(format!("its name: {}", error.cure)))?;
        return Ok((id, Place::Project(name)));
    }
    let place = match (get("type"), get("src"), get("env")) {
        (Some("file"), Some(path), None) | (None, Some(path), None) => Place::File(path.to_owned()),
        (Some("env"), None, Some(name)) | (Some("env"), Some(name), None) | (None, None, Some(name)) => {
            Place::Variable(name.to_owned())
        }
        (_, Some(_), Some(_)) => return Err(invalid("src and env can't go together".to_owned())),
        (Some("file"), None, None) => Place::File(id.to_string()),
        (Some("file"), None, Some(_)) => {
            return Err(invalid("type=file and env can't go together".to_owned()));
        }
        (Some("env"), None, None) => Place::Variable(id.to_string()),
        (None, None, None) if is_set(id.as_str())? => Place::Variable(id.to_string()),
        (None, None, None) => Place::File(id.to_string()),
        (Some(_), ..) => return Err(invalid("type is file or env".to_owned())),
    };
    Ok((id, place))
}

fn of_variable(
    flag: &str,
    name: &str,
    variable: impl Fn(&str) -> Result<Option<String>, Invalid>,
) -> Result<Zeroizing<Vec<u8>>, Invalid> {
    let Some(value) = variable(name)? else {
        let cure = match is_name(name) && looks_secret("", name).is_none() {
            true => format!("the variable {name} isn't set; set it, or name a file with src=FILE"),
            false => format!("there is no variable that is called so; {NO_VALUES}"),
        };
        // By `type=env,src=` as well.
        let flag = if is_name(name) { shown(flag) } else { hidden(flag) };
        return Err(Invalid::new("--secret", flag, cure));
    };
    fits(flag, value.len())?;
    Ok(Zeroizing::new(value.into_bytes()))
}

fn of_file(flag: &str, path: &str) -> Result<Zeroizing<Vec<u8>>, Invalid> {
    let told = shown(flag);
    // An id alone has none of the forms, and is shown with the flag.
    let path_told = if told == flag { path } else { HIDDEN };
    let unread = |error: std::io::Error| {
        let cure = match error.kind() {
            _ if told != flag => {
                format!("there is no such file to be read ({}); {NO_VALUES}", io_in_short(&error))
            }
            std::io::ErrorKind::NotFound => {
                format!("there is no file {path}; name one with src=FILE, or a variable with env=NAME")
            }
            _ => format!("can't read {path} ({})", io_in_short(&error)),
        };
        Invalid::new("--secret", &told, cure)
    };
    let file = std::fs::File::open(path).map_err(unread)?;
    if file.metadata().map_err(unread)?.is_dir() {
        return Err(Invalid::new("--secret", &told, format!("{path_told} is a folder; name a file")));
    }
    // A pipe (`<(…)`) tells no length.
    let most = u64::try_from(MOST_SECRET_BYTES).unwrap_or(u64::MAX).saturating_add(1);
    let mut value = Zeroizing::new(Vec::new());
    file.take(most).read_to_end(&mut value).map_err(unread)?;
    fits(flag, value.len())?;
    Ok(value)
}

fn fits(flag: &str, length: usize) -> Result<(), Invalid> {
    if length > MOST_SECRET_BYTES {
        let cure = format!("it has more than {MOST_SECRET_BYTES} bytes, which is the most");
        return Err(Invalid::new("--secret", shown(flag), cure));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn variable(name: &str) -> Result<Option<String>, Invalid> {
        Ok((name == "TOKEN").then(|| "of the variable".to_owned()))
    }

    #[test]
    fn the_forms_of_buildx_are_read_as_buildx_reads_them() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("npm");
        std::fs::write(&file, b"of the file\n").unwrap();
        let path = file.display();
        for (flag, expected) in [
            (format!("id=a,src={path}"), "of the file\n"),
            (format!("id=a,source={path}"), "of the file\n"),
            (format!("ID=a,SRC={path}"), "of the file\n"),
            (format!("type=file,id=a,src={path}"), "of the file\n"),
            ("id=a,env=TOKEN".to_owned(), "of the variable"),
            ("type=env,id=a,env=TOKEN".to_owned(), "of the variable"),
            // Of type env src is a variable's name, too.
            ("type=env,id=a,src=TOKEN".to_owned(), "of the variable"),
            ("id=TOKEN".to_owned(), "of the variable"),
            ("id=TOKEN,type=env".to_owned(), "of the variable"),
        ] {
            let mounting = Mounting::read(std::slice::from_ref(&flag), &[], variable).unwrap();
            let values = mounting.values();
            assert_eq!((values.len(), &values[0].value[..]), (1, expected.as_bytes()), "{flag}");
            assert_eq!(mounting.mounts.secrets.values().next(), Some(&SecretSource::Given));
            assert!(!format!("{mounting:?}").contains("of the"), "{mounting:?}");
        }
        let (id, read) = place("id=nothing", |_| Ok(false)).unwrap();
        assert_eq!((id.as_str(), read), ("nothing", Place::File("nothing".to_owned())));
        for (flag, name) in [("id=npm,from=project", "npm"), ("id=npm,from=project:NPM_TOKEN", "NPM_TOKEN")] {
            let mounting = Mounting::read(&[flag.to_owned()], &[], variable).unwrap();
            assert!(!mounting.is_private());
            let source = SecretSource::Project(name.parse().unwrap());
            assert_eq!(mounting.mounts.secrets.values().next(), Some(&source));
        }
    }

    #[test]
    fn what_is_mistyped_lacking_or_too_large_is_told_with_its_cure_and_never_with_its_value() {
        let folder = tempfile::tempdir().unwrap();
        let large = folder.path().join("large");
        std::fs::write(&large, vec![b'x'; MOST_SECRET_BYTES + 1]).unwrap();
        let at = |path: &std::path::Path| format!("id=a,src={}", path.display());
        for (flag, said) in [
            ("npm".to_owned(), "has no value; write id=ID,src=FILE"),
            ("src=x".to_owned(), "it has no id"),
            ("id=,src=x".to_owned(), "it has no id"),
            ("id=a b".to_owned(), "its id: write 1 to 255 bytes"),
            ("id=a,scr=x".to_owned(), "did you mean src?"),
            ("id=a,type=vault".to_owned(), "type is file or env"),
            ("id=a,src=x,env=TOKEN".to_owned(), "src and env can't go together"),
            ("id=a,type=file,env=TOKEN".to_owned(), "type=file and env"),
            ("id=a,env=NOTHING".to_owned(), "the variable NOTHING isn't set"),
            ("id=a,src=/nowhere/x".to_owned(), "there is no file /nowhere/x"),
            ("id=a,from=vault".to_owned(), "from is project"),
            ("id=a,from=project:-".to_owned(), "its name"),
            ("id=a,from=project,env=TOKEN".to_owned(), "from=project and env"),
            (at(folder.path()), "is a folder"),
            (at(&large), "more than 512000 bytes"),
        ] {
            let error = Mounting::read(std::slice::from_ref(&flag), &[], variable).unwrap_err().to_string();
            assert!(error.starts_with("--secret") && error.contains(said), "{flag}: {error}");
        }
        // Where a shell has put the value in the place of the name, it isn't repeated.
        let token = ["ghp_", &"Hunter2".repeat(4)].concat();
        let key = ["-----BEGIN ", "PRIVATE KEY-----\nHunter2\n-----END PRIVATE KEY-----"].concat();
        for (flag, said) in [
            (format!("id=npm,env={token}"), "no variable that is called so"),
            (format!("type=env,id=npm,src={token}"), "no variable that is called so"),
            ("id=npm,env=Hunter2/+=".to_owned(), "no variable that is called so"),
            ("id=npm,env=Hunter2Hunter2Hunter2".to_owned(), "no variable that is called so"),
            ("id=npm,env=9Hunter2,Hunter2".to_owned(), "a part of it has no value"),
            ("id=npm,env=9Hunter2,Hunter2=".to_owned(), "a part of it isn't known"),
            ("id=npm,env=9Hunter2,src=x".to_owned(), "src and env can't go together"),
            (format!("id=npm,src={token}"), "no such file"),
            (format!("id=npm,src={key}"), "no such file"),
            (format!("id=npm,from=project:{token}x/"), "its name"),
        ] {
            let error = Mounting::read(std::slice::from_ref(&flag), &[], variable).unwrap_err().to_string();
            assert!(error.starts_with("--secret \"id=npm,…\"") && error.contains(said), "{flag}: {error}");
            assert!(!error.contains("Hunter2"), "{error}");
        }
        let error = Mounting::read(&[token], &[], variable).unwrap_err().to_string();
        assert!(error.contains("leave out the $") && !error.contains("Hunter2"), "{error}");
        let twice = ["id=a,env=TOKEN".to_owned(), "id=a,env=TOKEN".to_owned()];
        assert!(Mounting::read(&twice, &[], variable).unwrap_err().to_string().contains("twice"));
        std::fs::write(&large, vec![b'x'; MOST_SECRET_BYTES]).unwrap();
        assert!(Mounting::read(&[at(&large)], &[], variable).is_ok());
        let many: Vec<String> = (0..9).map(|n| format!("id=a{n},src={}", large.display())).collect();
        assert!(Mounting::read(&many, &[], variable).unwrap_err().to_string().contains("together"));
    }
}
