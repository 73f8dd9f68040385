//! Links of the Dockerfile and of ignore files in a folder, as buildx 0.29 was seen to take them.

use std::fs;
use std::os::unix::fs::symlink;

use super::tests::{Bed, around, paths};
use super::*;

/// A context `c`, and beside it what is none of its business.
fn bed() -> Bed {
    let bed = Bed::new(&[
        ("c/Dockerfile", "FROM x\n"),
        ("c/d/real", "FROM x\n"),
        ("c/a", "1"),
        ("c/b", "1"),
        ("c/ignore", "a\n"),
        ("secret/Dockerfile", "FROM secret\n"),
        ("secret/ignore", "b\n"),
    ]);
    fs::remove_file(bed.path("c/Dockerfile")).unwrap();
    bed
}

fn look(bed: &Bed, file: Option<&str>, links: Links) -> Result<Location, ContextError> {
    let file = file.map(|file| bed.path(file));
    let named = BTreeMap::new();
    let wanted = Wanted { file: file.as_deref(), is_own_file: false, named: &named, links };
    Location::look(bed.path("c").to_str().unwrap(), &wanted)
}

fn text(location: &Location) -> String {
    let path = location.beside(OsStr::new(&location.dockerfile_name)).unwrap().unwrap();
    fs::read_to_string(path).unwrap()
}

#[test]
fn a_dockerfile_s_link_stays_in_its_folder() {
    let bed = bed();
    let outside = bed.path("secret/Dockerfile");
    for target in ["../secret/Dockerfile", outside.to_str().unwrap(), "nothing", "Dockerfile"] {
        symlink(target, bed.path("c/Dockerfile")).unwrap();
        for file in [None, Some("c/Dockerfile")] {
            let error = look(&bed, file, Links::Buildx).unwrap_err().to_string();
            assert!(
                error.contains("is a link to") && error.contains("no such file in its folder"),
                "{error}"
            );
        }
        fs::remove_file(bed.path("c/Dockerfile")).unwrap();
    }
    // As if the folder were the root of all.
    for target in ["d/real", "/d/real", "../../d/real"] {
        symlink(target, bed.path("c/Dockerfile")).unwrap();
        for links in [Links::Buildx, Links::Inside] {
            let location = look(&bed, None, links).unwrap();
            assert_eq!(text(&location), "FROM x\n");
            let source = read(&location, &around(&Disk, None)).unwrap();
            assert_eq!(paths(&source, ROOT_DOCKERFILE), ["Dockerfile"]);
        }
        fs::remove_file(bed.path("c/Dockerfile")).unwrap();
    }
    symlink("nothing", bed.path("c/Dockerfile")).unwrap();
    fs::write(bed.path("c/dockerfile"), "FROM small\n").unwrap();
    assert_eq!(text(&look(&bed, None, Links::Buildx).unwrap()), "FROM small\n");
}

#[test]
fn folders_on_the_way_are_followed_unless_all_is_to_be_inside() {
    let bed = bed();
    symlink("../../secret", bed.path("c/d/out")).unwrap();
    for file in ["c/d/out/Dockerfile", "secret/Dockerfile"] {
        assert_eq!(text(&look(&bed, Some(file), Links::Buildx).unwrap()), "FROM secret\n");
        let error = look(&bed, Some(file), Links::Inside).unwrap_err().to_string();
        assert!(error.contains(file) && error.contains("outside of the context"), "{error}");
        assert!(
            error.contains("--context-links=inside") && error.contains("put it into the context"),
            "{error}"
        );
    }
    symlink("d", bed.path("c/in")).unwrap();
    assert!(look(&bed, Some("c/in/real"), Links::Inside).is_ok());
    // What came from standard input lies elsewhere, and is nobody's link.
    let named = BTreeMap::new();
    let file = bed.path("secret/Dockerfile");
    let wanted = Wanted { file: Some(&file), is_own_file: true, named: &named, links: Links::Inside };
    let location = Location::look(bed.path("c").to_str().unwrap(), &wanted).unwrap();
    assert!(read(&location, &around(&Disk, None)).is_ok());
}

#[test]
fn an_ignore_file_s_link_is_followed_inside_and_else_told() {
    let bed = bed();
    fs::write(bed.path("c/Dockerfile"), "FROM x\n").unwrap();
    let found = |links| -> Result<(Vec<String>, Vec<String>), ContextError> {
        let source = read(&look(&bed, None, links)?, &around(&Disk, None))?;
        let found =
            paths(&source, ROOT_CONTEXT).into_iter().filter(|path| path == "a" || path == "b").collect();
        Ok((found, source.warnings))
    };
    for ignore in ["c/.dockerignore", "c/Dockerfile.dockerignore"] {
        symlink("ignore", bed.path(ignore)).unwrap();
        assert_eq!(found(Links::Inside).unwrap(), (vec!["b".to_owned()], vec![]));
        fs::remove_file(bed.path(ignore)).unwrap();
        symlink("../secret/ignore", bed.path(ignore)).unwrap();
        let (all, warnings) = found(Links::Buildx).unwrap();
        assert_eq!(all, ["a", "b"]);
        assert!(warnings[0].contains("is a link to ../secret/ignore") && warnings.len() == 1, "{warnings:?}");
        let error = found(Links::Inside).unwrap_err().to_string();
        assert!(error.contains("dockerignore: this is a link to ../secret/ignore"), "{error}");
        fs::remove_file(bed.path(ignore)).unwrap();
    }
}

#[test]
fn a_named_context_has_the_same_rules() {
    let bed = Bed::new(&[("c/Dockerfile", "FROM x\n"), ("lib/a", "1"), ("secret", "a\n")]);
    symlink("../secret", bed.path("lib/.dockerignore")).unwrap();
    let named = BTreeMap::from([("lib".to_owned(), bed.path("lib"))]);
    let wanted = Wanted { file: None, is_own_file: false, named: &named, links: Links::Buildx };
    let location = Location::look(bed.path("c").to_str().unwrap(), &wanted).unwrap();
    let source = read(&location, &around(&Disk, None)).unwrap();
    assert_eq!(paths(&source, "context:lib"), [".dockerignore -> ../secret", "a"]);
    assert_eq!(source.warnings.len(), 1);
}

#[test]
fn bytes_in_comments_of_an_ignore_file_are_no_matter() {
    let bed = Bed::new(&[("Dockerfile", "FROM x\n"), ("a", "1"), ("b", "1")]);
    fs::write(bed.path(".dockerignore"), b"\xef\xbb\xbf# caf\xe9 \xef\xbf\xbd \x01\na\n#\xff").unwrap();
    let source = bed.read("", None).unwrap();
    assert_eq!(paths(&source, ROOT_CONTEXT), [".dockerignore", "Dockerfile", "b"]);
}
