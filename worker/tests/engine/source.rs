//! How source trees arrive.

use super::*;

#[tokio::test]
async fn a_context_of_many_files_arrives_and_is_not_sent_twice() {
    let Some(address) = address() else { return };
    let engine = connect(&address).await;
    let key = fresh();
    let tree = |change: &str| {
        let mut files: Vec<(String, u32, Vec<u8>)> = (0..8000)
            .map(|n| (format!("d{}/e{}/f{n}.txt", n % 20, n % 7), 0o644, vec![b'x'; (n % 100) * 100]))
            .collect();
        files.push(("big".to_owned(), 0o644, vec![7; 20 << 20]));
        files.push(("changed".to_owned(), 0o644, change.as_bytes().to_vec()));
        MemoryTree::new(files.iter().map(|(path, mode, content)| (path.as_str(), *mode, content.clone())))
    };
    let text = format!(
        "{}\nCOPY . /all\nRUN echo {}; find /all -type f | wc -l; cat /all/changed\n",
        from(),
        fresh()
    );
    for change in ["first", "second one"] {
        let mut solve = solve(&text, tree(change));
        solve.shared_key = key.clone();
        let started = Instant::now();
        let (outcome, events) = run(&engine, solve).await;
        outcome.unwrap();
        eprintln!("8002 files, {change}: {:?}", started.elapsed());
        let output = output(&events);
        assert!(output.contains("8002\n") && output.contains(change), "{output}");
        let sent = events.iter().filter_map(|event| match &event.event {
            Some(Event::Transfer(transfer)) if transfer.name.starts_with("transferring") => {
                Some(transfer.current)
            }
            _ => None,
        });
        let sent = sent.max().unwrap_or(0);
        eprintln!("{sent} bytes were sent");
        assert_eq!(sent > 1_000_000, change == "first");
    }
}

#[tokio::test]
async fn links_modes_pipes_and_odd_names_arrive_as_they_are() {
    let Some(address) = address() else { return };
    let engine = connect(&address).await;
    let mut tree = MemoryTree::new([
        ("a-b", 0o644, b"1".to_vec()),
        ("a/z", 0o4755, b"2".to_vec()),
        ("ü ö/日本 *.txt", 0o600, b"3".to_vec()),
        ("with\nnewline", 0o644, b"4".to_vec()),
        ("-rf", 0o644, b"5".to_vec()),
        ("100%+x", 0o1644, b"6".to_vec()),
        ("lib/v1/f", 0o644, b"7".to_vec()),
        ("empty", 0o644, vec![]),
    ]);
    let entry = |path: &str, mode, kind| TreeEntry {
        path: path.to_owned(),
        mode,
        mtime: 1_700_000_000_123_456_789,
        kind,
    };
    tree.add(entry("folder", 0o2750, TreeKind::Folder));
    tree.add(entry("pipe", 0o640, TreeKind::Fifo));
    tree.add(entry("current", 0o777, TreeKind::Symlink { target: "lib/v1".to_owned() }));
    tree.add(entry("dangling", 0o777, TreeKind::Symlink { target: "/no/where".to_owned() }));
    let text = format!(
        "{}\nCOPY . /all\nCOPY [\"ü ö/日本 *.txt\", \"100%+x\", \"/one/\"]\nCOPY current/f /followed\nRUN echo {} && cd /all && stat -c '%n|%a|%F' -- * && readlink current dangling && ls /one && cat /followed && stat -c %Y pipe\n",
        from(),
        fresh()
    );
    let (outcome, events) = run(&engine, solve(&text, tree)).await;
    let output = output(&events);
    outcome.unwrap();
    for line in [
        "a-b|644|regular file",
        "a|755|directory",
        "-rf|644|regular file",
        "100%+x|1644|regular file",
        "empty|644|regular empty file",
        "folder|2750|directory",
        "pipe|640|fifo",
        "current|777|symbolic link",
        "lib/v1",
        "/no/where",
        "日本 *.txt",
        "7",
        "1700000000",
    ] {
        assert!(output.contains(line), "{line}: {output}");
    }
}

#[tokio::test]
async fn an_edit_that_keeps_size_and_time_arrives() {
    let Some(address) = address() else { return };
    let engine = connect(&address).await;
    let key = fresh();
    for text in ["one", "two"] {
        let mut solve =
            solve(&format!("{}\nCOPY f /\nRUN echo {} && cat /f\n", from(), fresh()), memory([("f", text)]));
        solve.shared_key = key.clone();
        let (outcome, events) = run(&engine, solve).await;
        outcome.unwrap();
        assert!(output(&events).contains(text), "{}", output(&events));
    }
}

#[tokio::test]
async fn named_contexts_take_the_place_of_stages() {
    let Some(address) = address() else { return };
    let engine = connect(&address).await;
    let text = "FROM base\nCOPY --from=files /hello /\nCOPY --from=context2 /x /\nRUN cat /hello /x\n";
    let mut solve = solve(text, MemoryTree::default());
    let image = format!("{}/python:3.11-slim", registry());
    solve.named_contexts = [
        ("base".to_owned(), farm_types::spec::NamedContext::Image(image)),
        ("files".to_owned(), farm_types::spec::NamedContext::Local),
        ("context2".to_owned(), farm_types::spec::NamedContext::Local),
    ]
    .into();
    solve.roots.insert("context:files".to_owned(), Arc::new(memory([("hello", "hello\n"), ("unused", "")])));
    let unique = fresh();
    solve.roots.insert("context:context2".to_owned(), Arc::new(memory([("x", unique.as_str())])));
    let (outcome, events) = run(&engine, solve).await;
    outcome.unwrap();
    assert!(output(&events).contains(&format!("hello\n{unique}")));
}
