use super::*;

fn wanted(outputs: &[&str]) -> Result<Wanted, String> {
    let outputs: Vec<String> = outputs.iter().map(|text| (*text).to_owned()).collect();
    Wanted::new(&outputs, false, false).map_err(|error| error.to_string())
}

fn sink(output: &str) -> Sink {
    wanted(&[output]).unwrap().asked.remove(0).sink
}

fn platforms(text: &str) -> Vec<Platform> {
    text.split(' ').map(|platform| platform.parse().unwrap()).collect()
}

#[test]
fn the_forms_of_buildx_are_read() {
    let file = |path: &str| Place::File(path.into());
    for (text, expected) in [
        ("out", Sink::Folder { dest: "out".into(), split: None }),
        ("type=local,dest=out", Sink::Folder { dest: "out".into(), split: None }),
        (
            "type=local,\"dest=a,b\",platform-split=false",
            Sink::Folder { dest: "a,b".into(), split: Some(false) },
        ),
        ("-", Sink::Tar { dest: Place::Stdout, split: None }),
        ("type=tar", Sink::Tar { dest: Place::Stdout, split: None }),
        ("type=tar,dest=out.tar", Sink::Tar { dest: file("out.tar"), split: None }),
        ("TYPE=tar,Dest=-", Sink::Tar { dest: Place::Stdout, split: None }),
        ("type=oci,dest=o.tar", Sink::Image { dest: file("o.tar"), docker: false }),
        ("dest=o.tar,type=oci", Sink::Image { dest: file("o.tar"), docker: false }),
        ("type=oci,dest=-", Sink::Image { dest: Place::Stdout, docker: false }),
        ("type=oci,dest=o,tar=false", Sink::Layout { dest: "o".into(), docker: false }),
        ("type=docker,dest=d.tar", Sink::Image { dest: file("d.tar"), docker: true }),
        ("type=docker", Sink::Load { context: None }),
        ("type=docker,context=remote", Sink::Load { context: Some("remote".into()) }),
    ] {
        assert_eq!(sink(text), expected, "{text}");
    }
}

#[test]
fn what_is_wrong_is_named_with_the_cure() {
    for (text, word) in [
        ("", "type=local"),
        ("type=foo", "no type \"foo\""),
        ("type=local", "dest=DIR"),
        ("type=local,dest=-", "type=tar,dest=-"),
        ("type=local,dest=", "names nothing"),
        ("dest=out", "type=local,dest=out"),
        ("type=local,dest=a,foo=1", "\"foo\""),
        ("type=local,dest=a,compression=zstd", "compression"),
        ("type=local,dest=a,push=true", "push"),
        ("type=tar,tar=false", "tar"),
        ("type=oci,tar=false", "dest=DIR"),
        ("type=oci,tar=maybe,dest=a", "true or false"),
        ("type=oci,dest=a,compression=lzma", "gzip"),
        ("type=image", "push=true"),
        ("type=image,push=false", "push=true"),
        ("type=registry,dest=a", "dest"),
        ("type=cacheonly,dest=a", "dest"),
        ("type=oci,dest=a,annotation.x=y", "annotations"),
        ("type=oci,dest", "KEY=VALUE"),
        ("type=oci,\"dest=a", "not closed"),
    ] {
        let error = wanted(&[text]).unwrap_err();
        assert!(error.contains(word) && error.starts_with("--output"), "{text}: {error}");
    }
    assert!(wanted(&["-", "type=oci"]).unwrap_err().contains("only one"));
}

#[test]
fn only_what_was_asked_for_is_published() {
    let pushes = |outputs: &[&str], load, push| {
        let outputs: Vec<String> = outputs.iter().map(|text| (*text).to_owned()).collect();
        Wanted::new(&outputs, load, push).unwrap().pushes()
    };
    assert!(pushes(&[], false, false));
    assert!(pushes(&[], false, true));
    assert!(!pushes(&[], true, false));
    assert!(pushes(&[], true, true));
    assert!(!pushes(&["out"], false, false));
    assert!(pushes(&["out"], false, true));
    assert!(pushes(&["out", "type=registry"], false, false));
    assert!(pushes(&["type=image,push=true"], false, false));
    assert!(!pushes(&["type=cacheonly"], false, false));
}

#[test]
fn load_stands_for_type_docker_once() {
    let wanted = Wanted::new(&["type=docker".to_owned()], true, false).unwrap();
    assert_eq!(wanted.loads().count(), 1);
}

#[test]
fn names_of_outputs_count_without_tags_only() {
    let wanted = wanted(&["type=oci,dest=a,\"name=x/y:1,z\""]).unwrap();
    let texts = |tags: Vec<ImageTag>| tags.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
    assert_eq!(texts(wanted.tags(Vec::new()).unwrap()), "docker.io/x/y:1 docker.io/library/z:latest");
    assert_eq!(texts(wanted.tags(vec!["r:1".parse().unwrap()]).unwrap()), "docker.io/library/r:1");
}

#[test]
fn equal_exports_are_made_once_and_several_platforms_need_an_index() {
    let wanted =
        wanted(&["a", "b", "type=oci,dest=c", "type=docker", "type=oci,dest=d,compression=zstd"]).unwrap();
    let forms = |platforms: &[Platform]| {
        let (exports, places) = wanted.exports(platforms, false).unwrap();
        (exports.iter().map(|export| export.form.as_str()).collect::<Vec<_>>().join(" "), places)
    };
    assert_eq!(forms(&platforms("linux/amd64")), ("files oci docker oci".into(), vec![0, 0, 1, 2, 3]));
    assert_eq!(forms(&platforms("linux/amd64 linux/arm64")), ("files oci oci".into(), vec![0, 0, 1, 1, 2]));
    let check = |outputs: &[&str], platforms: &[Platform], attested| {
        super::tests::wanted(outputs).unwrap().check(platforms, attested).map_err(|error| error.to_string())
    };
    let (one, two) = (platforms("linux/amd64"), platforms("linux/amd64 linux/arm64"));
    assert!(check(&["type=docker,dest=x"], &two, false).unwrap_err().contains("type=oci"));
    assert!(check(&["type=docker,dest=x"], &one, true).unwrap_err().contains("provenance"));
    assert!(check(&["type=docker,dest=x"], &one, false).is_ok());
    assert!(check(&["type=docker"], &two, false).is_ok());
}

#[test]
fn of_what_is_published_an_output_may_choose_the_formats_and_the_times() {
    let of = |text: &str| {
        let wanted = wanted(&[text]).unwrap();
        (wanted.pushes(), wanted.is_docker(), wanted.rewrites_timestamps())
    };
    assert_eq!(of("type=registry"), (true, false, false));
    assert_eq!(of("type=registry,oci-mediatypes=true,rewrite-timestamp=false"), (true, false, false));
    assert_eq!(of("type=image,push=true,oci-mediatypes=false,rewrite-timestamp=true"), (true, true, true));
    assert!(wanted(&["type=registry,compression=zstd"]).unwrap_err().to_string().contains("compression"));
}

#[test]
fn what_is_only_loaded_or_only_cached_is_known() {
    for (outputs, load, push, loads, caches) in [
        (&[][..], false, false, false, false),
        (&[], true, false, true, false),
        (&["type=docker"], true, false, true, false),
        (&["type=docker"], true, true, false, false),
        (&["out"], true, false, false, false),
        (&["out"], false, false, false, false),
        (&["type=cacheonly"], false, false, false, true),
        (&["type=cacheonly"], true, false, true, false),
        (&["type=cacheonly"], false, true, false, false),
    ] {
        let outputs: Vec<String> = outputs.iter().map(ToString::to_string).collect();
        let wanted = Wanted::new(&outputs, load, push).unwrap();
        assert_eq!(
            (wanted.only_loads(), wanted.is_only_cached()),
            (loads, caches),
            "{outputs:?} {load} {push}"
        );
    }
}
