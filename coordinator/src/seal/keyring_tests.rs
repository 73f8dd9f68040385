//! Keys in a file: which seals, and what a change of the file leaves.

use farm_types::{BuildId, ProjectId};

use super::*;

#[test]
fn all_coordinators_of_a_folder_have_one_key_and_a_new_one_opens_what_the_old_one_sealed() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("deep/keys");
    let ids: Vec<Vec<KeyId>> = std::thread::scope(|scope| {
        let open = || Keyring::of_file(&file).unwrap().ids();
        let starting: Vec<_> = (0..4).map(|_| scope.spawn(open)).collect();
        starting.into_iter().map(|one| one.join().unwrap()).collect()
    });
    assert!(ids.iter().all(|one| *one == ids[0] && one.len() == 1), "{ids:?}");
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(std::fs::read_dir(file.parent().unwrap()).unwrap().count(), 1);

    let (running, owner) =
        (Keyring::of_file(&file).unwrap(), Owner::Build(ProjectId::generate(), BuildId::generate()));
    let (_, old) = running.new_data_key(owner);
    let newest = rotate(&file).unwrap();
    let other = Keyring::of_file(&file).unwrap();
    assert_eq!(other.ids(), [newest.clone(), ids[0][0].clone()]);
    let (_, new) = other.new_data_key(owner);
    assert_eq!(new.by, newest.as_str());
    // One that runs finds the new key when it meets it.
    assert!(running.open(owner, &new).is_ok() && running.open(owner, &old).is_ok());
    let resealed = other.reseal(owner, &old).unwrap();
    assert_eq!(resealed.by, newest.as_str());
    let refused = remove(&file, newest.as_str()).unwrap_err().to_string();
    assert!(refused.contains("seals now"), "{refused}");
    assert!(remove(&file, "0").unwrap_err().to_string().contains(newest.as_str()));
    remove(&file, ids[0][0].as_str()).unwrap();
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    let without = Keyring::of_file(&file).unwrap();
    assert!(without.open(owner, &resealed).is_ok());
    assert_eq!(without.open(owner, &old).unwrap_err(), Unopened::KeyIsLost(ids[0][0].to_string()));
}

#[test]
fn a_new_key_seals_when_all_others_have_it_and_whoever_has_it_opens_what_it_sealed() {
    let [new, old] = std::array::from_fn(|_| new_line().trim().to_owned());
    let keyring = Keyring::from_text(&format!("{new},{old}")).unwrap();
    let ids = keyring.ids();
    let both: Vec<String> = ids.iter().map(ToString::to_string).collect();
    let (owner, old_only) = (Owner::Build(ProjectId::generate(), BuildId::generate()), &both[1..]);
    let by = || keyring.new_data_key(owner).1.by;
    assert!(by() == both[0] && keyring.seals_by_newest());
    assert_eq!(keyring.agree([old_only, &both[..]].into_iter()), Some(ids[1].clone()));
    assert!(by() == both[1] && !keyring.seals_by_newest());
    assert!(Keyring::from_text(&old).unwrap().open(owner, &keyring.new_data_key(owner).1).is_ok());
    assert_eq!(keyring.agree([old_only].into_iter()), None);
    assert_eq!(keyring.agree([&both[..], &both[..]].into_iter()), Some(ids[0].clone()));
    assert!(by() == both[0] && keyring.seals_by_newest());
    // With somebody who has none of them there is nothing to wait for.
    keyring.agree([old_only].into_iter());
    let strange = ["0".to_owned()];
    assert_eq!(keyring.agree([&strange[..]].into_iter()), Some(ids[0].clone()));
}

#[test]
fn a_change_of_the_file_leaves_it_whose_it_was_and_a_link_a_link() {
    let folder = tempfile::tempdir().unwrap();
    let (real, file) = (folder.path().join("real/keys"), folder.path().join("keys"));
    std::os::unix::fs::symlink(&real, &file).unwrap();
    let first = Keyring::of_file(&real).unwrap().newest().unwrap();
    std::fs::set_permissions(&real, std::fs::Permissions::from_mode(0o640)).unwrap();
    // As the service's; only root can give a file away, and the tests of the security run as root.
    let is_given = std::os::unix::fs::chown(&real, Some(12_345), Some(23_456)).is_ok();
    let stands = || {
        assert!(std::fs::symlink_metadata(&file).unwrap().is_symlink());
        let real = std::fs::metadata(&real).unwrap();
        assert_eq!(real.mode() & 0o777, 0o640);
        assert!(!is_given || (real.uid(), real.gid()) == (12_345, 23_456));
    };
    let second = rotate(&file).unwrap();
    stands();
    assert_eq!(Keyring::of_file(&file).unwrap().ids(), [second.clone(), first.clone()]);
    remove(&file, first.as_str()).unwrap();
    stands();
    assert_eq!(Keyring::of_file(&real).unwrap().ids(), [second]);
    for folder in [folder.path(), real.parent().unwrap()] {
        assert_eq!(std::fs::read_dir(folder).unwrap().count(), if folder.ends_with("real") { 1 } else { 2 });
    }
}

#[test]
fn of_several_keys_in_a_line_one_is_taken_out_and_the_others_stay() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("keys");
    let [newest, one, two, three] = std::array::from_fn(|_| new_line().trim().to_owned());
    let text = format!("# the newest\n{newest}\n{one}, {two} # old,{three}");
    std::fs::write(&file, &text).unwrap();
    let ids = Keyring::of_file(&file).unwrap().ids();
    remove(&file, ids[2].as_str()).unwrap();
    assert_eq!(Keyring::of_file(&file).unwrap().ids(), [ids[0].clone(), ids[1].clone(), ids[3].clone()]);
    assert!(std::fs::read_to_string(&file).unwrap().starts_with("# the newest\n"));
    remove(&file, ids[1].as_str()).unwrap();
    remove(&file, ids[3].as_str()).unwrap();
    assert_eq!(Keyring::of_file(&file).unwrap().ids(), ids[..1]);
}

#[test]
fn what_is_no_key_is_told_and_not_shown() {
    for (text, said) in [
        ("", "no key in it"),
        ("# only this\n", "no key in it"),
        ("farm_key_12", "line 1 is no key"),
        ("\n0000", "line 2 is no key"),
    ] {
        let error = format!("{:#}", Keyring::from_text(text).unwrap_err());
        assert!(error.contains(said) && !error.contains("0000") && !error.contains("12"), "{error}");
    }
    let line = new_line();
    let twice = format!("{}{}", &*line, &*line);
    assert!(Keyring::from_text(&twice).unwrap_err().to_string().contains("twice"));
    let two = format!("{} # new\n# old\n{}", line.trim(), &*new_line());
    let keyring = Keyring::from_text(&two).unwrap();
    assert_eq!(keyring.ids().len(), 2);
    assert!(!format!("{keyring:?}").contains(line.trim()));
    let commas = two.replace(" # new\n# old\n", ",");
    assert_eq!(Keyring::from_text(&commas).unwrap().ids(), keyring.ids());
}
