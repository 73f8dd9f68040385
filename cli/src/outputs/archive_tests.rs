use super::*;

#[test]
fn an_entry_is_passed_on_with_all_that_it_has() {
    let long = "x/".repeat(80) + "ä";
    let mut header = Header::new_ustar();
    header.set_entry_type(EntryType::Regular);
    header.set_mode(0o4755);
    header.set_size(3);
    let records =
        vec![("SCHILY.xattr.user.x".to_owned(), b"\n5 a=\n\0".to_vec()), ("mtime".into(), b"-1.5".into())];
    let entry = Entry { header, records, path: long.clone().into_bytes(), link: Vec::new(), size: 3 };
    let mut writer = Writer::new(Vec::new());
    writer.own(EntryType::Directory, "x/", 0o755, b"").unwrap();
    writer.entry(&entry, &mut &b"abc"[..]).unwrap();
    let bytes = writer.end().unwrap();
    let mut seen = Vec::new();
    each(&bytes[..], |entry, content| {
        let mut text = String::new();
        content.read_to_string(&mut text)?;
        seen.push((entry.shown(), entry.header.mode()?, entry.modified()?, entry.records.len(), text));
        Ok(())
    })
    .unwrap();
    assert_eq!(
        seen,
        [
            ("x/".to_owned(), 0o755, (0, 0), 0, String::new()),
            (long, 0o4755, (-2, 500_000_000), 2, "abc".to_owned())
        ]
    );
}

#[test]
fn what_leads_out_or_breaks_off_is_an_error() {
    for path in ["../x", "a/../../x", "/etc/passwd", "a/..", "a\0b"] {
        assert!(parts(path.as_bytes()).is_err(), "{path:?}");
    }
    assert_eq!(joined(&parts(b"./a//b/").unwrap()), PathBuf::from("a/b"));
    assert!(parts(b"./").unwrap().is_empty());
    let mut writer = Writer::new(Vec::new());
    writer.own(EntryType::Regular, "a", 0o644, &[1; 2000]).unwrap();
    let bytes = writer.end().unwrap();
    let copy = |entry: Entry, content: &mut dyn Read| Writer::new(io::sink()).entry(&entry, content);
    assert!(each(&bytes[..1000], copy).is_err());
    assert!(each(&b"FROM scratch"[..], copy).is_err());
    for wrong in [&b"5 a\n"[..], b"99 a=b\n", b"0 a=b\n", b"x a=b\n", b"7 a=bc"] {
        assert!(read_records(wrong).is_err(), "{wrong:?}");
    }
}

#[test]
fn headers_before_an_entry_do_not_pile_up_without_end() {
    let many = |count: usize, kind: EntryType, content: &[u8]| {
        let mut writer = Writer::new(Vec::new());
        for _ in 0..count {
            writer.own(kind, "x", 0o644, content).unwrap();
        }
        writer.own(EntryType::Regular, "a", 0o644, b"").unwrap();
        each(&writer.end().unwrap()[..], |_, _| Ok(()))
    };
    let record = b"7 a=bc\n";
    for kind in [EntryType::XHeader, EntryType::GNULongName, EntryType::GNULongLink, EntryType::XGlobalHeader]
    {
        assert!(many(3, kind, record).is_ok(), "{kind:?}");
        assert!(many(2100, kind, record).unwrap_err().to_string().contains("endless"), "{kind:?}");
    }
    // Before many entries there may be as many.
    let mut writer = Writer::new(Vec::new());
    for _ in 0..2100 {
        writer.own(EntryType::XHeader, "x", 0o644, record).unwrap();
        writer.own(EntryType::Regular, "a", 0o644, b"").unwrap();
    }
    assert!(each(&writer.end().unwrap()[..], |_, _| Ok(())).is_ok());
}
