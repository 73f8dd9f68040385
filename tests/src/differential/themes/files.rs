//! Contexts: names, modes, links, patterns, and the ways in which a context is given.

use crate::differential::case::{Form, Kind};
use crate::differential::draft::Draft;

pub fn wildcards(draft: &mut Draft) {
    for name in ["x1", "x2", "x10", "[x]", "x-y", "x?", "-x", "X1"] {
        draft.file(format!("w/{name}"), name);
    }
    draft.file("w/.hidden", "");
    draft.line("FROM scratch");
    let all = [
        "COPY *.txt /1/",
        "COPY w/x? /2/",
        "COPY w/x[0-9] /3/",
        "COPY w/[[]x] /4/",
        "COPY w/x\\? /5/",
        "COPY */a.txt /6/",
        "COPY d*/s*/* /7/",
        "COPY [\"w/[^x]*\", \"/8/\"]",
        "COPY w/* *.log /9/",
        "COPY dir/* /10/",
        "COPY w /11",
        "COPY w/ /12/",
        "COPY . /13",
        "COPY ./dir/../a.txt /14/",
        "COPY /a.txt /15/",
        "COPY dir other /16/",
        "COPY w/[a-z]1 /17/",
        "COPY w/x* /18/",
        "ADD *.txt w/x* /19/",
        "COPY a.txt /20",
        "COPY **/a.txt /21/",
        "COPY ?.txt /22/",
    ];
    let count = 2 + usize::try_from(draft.number(4)).unwrap_or(0);
    for line in draft.some(&all, count) {
        draft.line(line);
    }
}

pub fn odd_names(draft: &mut Draft) {
    let names: &[&[u8]] = &[
        b"with space",
        b" leading space",
        b"trailing space ",
        b"quo\"te",
        b"apo'strophe",
        b"dollar$HOME",
        b"back\\slash",
        b"-dash",
        b"--dash=x",
        b"[brackets]",
        b"{braces}",
        b"#hash",
        b"!bang",
        b"semi;colon",
        b"per%20cent",
        "umläut".as_bytes(),
        "u\u{308}decomposed".as_bytes(),
        "日本語".as_bytes(),
        "🦀".as_bytes(),
        b"new\nline",
        b"tab\tbed",
        b"...",
        b"..x",
        b"a:b",
        b"a,b",
        b"a=b",
        b"~tilde",
        b"star*",
        b"bell\x07",
        b".wh.not",
        b"con",
        b"`tick`",
    ];
    for name in names {
        if draft.chance(3) {
            let in_folder = draft.chance(4);
            let path = if in_folder {
                [b"odd/", *name, b"/x"].concat()
            } else {
                [b"odd/".as_slice(), *name].concat()
            };
            // BuildKit itself takes no such name for a file.
            if !name.starts_with(b".wh.") {
                draft.file(path, "odd");
            }
        }
    }
    draft.file("odd/long-".to_owned() + &"x".repeat(200), "long");
    draft.line("FROM scratch");
    draft.line("COPY odd /odd");
    let named = [
        ("with space", "COPY [\"odd/with space\", \"/named/\"]"),
        ("umläut", "COPY odd/umläut /named/"),
        ("quo\"te", "COPY [\"odd/quo\\\"te\", \"/named/\"]"),
        ("[brackets]", "COPY odd/[[]brackets] /named/"),
        ("dollar$HOME", "COPY odd/dollar\\$HOME /named/"),
        ("back\\slash", "COPY [\"odd/back\\\\\\\\slash\", \"/named/\"]"),
    ];
    let (name, line) = draft.pick(&named);
    let path = [b"odd/", name.as_bytes()].concat();
    if !draft.context.iter().any(|node| node.path.starts_with(&path)) {
        draft.file(path, "named");
    }
    draft.line(line);
}

pub fn ignoring(draft: &mut Draft) {
    for path in [
        "keep.txt",
        "dir/keep.txt",
        "dir/sub/x.log",
        "node_modules/m/index.js",
        ".git/HEAD",
        "deep/a/b/c.txt",
    ] {
        draft.file(path, path);
    }
    let all = [
        "# a comment",
        "*.log",
        "**/*.log",
        "dir",
        "!dir/keep.txt",
        "!dir/sub",
        "*",
        "!*.txt",
        "!dir/**",
        "node_modules",
        "**/node_modules/**",
        "/a.txt",
        "./b.txt",
        "deep/*/b",
        "deep/**/c.txt",
        "!deep/a/b/c.txt",
        ".git",
        "  other  ",
        "dir/",
        "other/../c.log",
        "**",
        "!**/a.txt",
        "[ab].txt",
        "\\!bang",
        "!",
        "? .txt",
        "Dockerfile",
        ".dockerignore",
        "a.tx?",
        "dir/su[b]",
        "!/keep.txt",
    ];
    let count = 2 + usize::try_from(draft.number(5)).unwrap_or(0);
    let mut lines: Vec<&str> = draft.some(&all, count);
    // Nothing but a mistake in a pattern makes an error, and only where it comes to matter.
    if draft.chance(12) {
        lines.push("[broken");
    }
    let end = draft.pick(&["\n", "\n", "\r\n"]);
    let mut text = if draft.chance(6) { "\u{feff}".to_owned() } else { String::new() };
    text += &lines.join(end);
    text += draft.pick(&["", "\n", "\n\n"]);
    draft.file(".dockerignore", &text);
    draft.line("FROM scratch");
    draft.line("COPY . /all/");
    let one = draft.pick(&["COPY dir /dir/", "COPY *.txt /texts/", "COPY keep.txt /", "LABEL nothing=more"]);
    draft.line(one);
}

pub fn symlinks(draft: &mut Draft) {
    let all: &[(&str, &str)] = &[
        ("to-file", "a.txt"),
        ("to-folder", "dir"),
        ("to-link", "to-file"),
        ("dir/up", "../b.txt"),
        ("absolute", "/a.txt"),
        ("away", "/etc/hostname"),
        ("far-away", "../../../../../../../../etc/hostname"),
        ("dangling", "nowhere"),
        ("loop", "loop"),
        ("dir/to-self", "."),
        ("via", "dir/sub/../two.txt"),
        ("through", "to-folder/one"),
        ("odd target", "a b\\c"),
    ];
    for (path, target) in all {
        if !draft.chance(4) {
            draft.node(path, Kind::Symlink(target.as_bytes().to_vec()));
        }
    }
    draft.line("FROM scratch AS from");
    draft.line("COPY . /all/");
    let lines = [
        ("to-file", "COPY to-file /1"),
        ("to-folder", "COPY to-folder /2"),
        ("to-folder", "COPY to-folder/ /3/"),
        ("to-folder", "COPY to-folder/one /4"),
        ("to-link", "COPY to-link /5"),
        ("dangling", "COPY dangling /6"),
        ("absolute", "COPY absolute /7"),
        ("away", "COPY away /8"),
        ("far-away", "COPY far-away /9"),
        ("dir/up", "COPY dir/up /10"),
        ("via", "COPY via to-* /11/"),
        ("to-folder", "COPY to-folder/* /12/"),
    ];
    for _ in 0..=draft.number(2) {
        let (needs, line) = draft.pick(&lines);
        if draft.context.iter().any(|node| node.path == needs.as_bytes()) {
            draft.line(line);
        }
    }
    if draft.chance(2) {
        draft.line("FROM scratch");
        draft.line("COPY --from=from /all /all");
    }
}

pub fn modes(draft: &mut Draft) {
    for mode in [0o000, 0o111, 0o444, 0o755, 0o777, 0o1777, 0o2755, 0o4755, 0o6711] {
        if draft.chance(2) {
            draft.file(format!("m/{mode:o}"), "mode").mode = mode;
        }
        if draft.chance(3) {
            draft.node(format!("m/d{mode:o}"), Kind::Folder).mode = mode;
        }
    }
    draft.node("m/empty", Kind::Folder);
    draft.node("m/empty/er", Kind::Folder);
    draft.file("m/first", "linked");
    draft.node("m/second", Kind::Hardlink(b"m/first".to_vec()));
    if draft.chance(2) {
        draft.node("m/sub/third", Kind::Hardlink(b"m/first".to_vec()));
    }
    if draft.chance(3) {
        draft.node("m/pipe", Kind::Fifo);
    }
    for node in &mut draft.context {
        // Before 1970 there is no number that tar's plain form could hold; far times it can.
        if node.path.ends_with(b"first") {
            node.mtime = 1;
        }
    }
    draft.line("FROM scratch");
    draft.line(b"COPY m /m/");
    let line = draft.pick(&[
        "COPY m/empty /e",
        "COPY m/second /s",
        "COPY m/ m/sub* /t/",
        "ADD m /added/",
        "WORKDIR /m/d755",
    ]);
    draft.line(line);
}

pub fn copy_flags(draft: &mut Draft) {
    draft.line("FROM scratch AS source");
    draft.line("COPY . /src");
    draft.line("FROM scratch");
    let all = [
        "COPY --chown=1:2 a.txt /1",
        "COPY --chown=7 dir /2",
        "COPY --chown=root:root dir /3",
        "COPY --chown=nobody a.txt /4",
        "COPY --chmod=600 a.txt /5",
        "COPY --chmod=4755 dir /6",
        "COPY --chmod=u=rwX,go=r dir /7",
        "COPY --chmod=0 --chown=5:5 a.txt b.txt /8/",
        "COPY --link a.txt /9/",
        "COPY --link=true --chown=3:4 dir /10/",
        "COPY --link --from=source /src/dir /11",
        "COPY --from=source --chmod=711 /src/a.txt /src/b.txt /12/",
        "COPY --from=0 /src/*.txt /13/",
        "COPY --exclude=*.txt . /14/",
        "COPY --exclude=dir/sub --exclude=*.log . /15/",
        "COPY --parents dir/sub/deep.txt /16/",
        "COPY --parents ./dir/./sub /17/",
        "ADD --chown=9:9 --chmod=640 a.txt /18/",
        "ADD --link dir /19/",
        "COPY --from=source . /20/",
        "WORKDIR /wd\nCOPY a.txt rel/",
        "WORKDIR /wd2\nCOPY dir .",
        "USER 5:6\nCOPY a.txt /21\nUSER 0",
        "COPY --chmod=644 --link=false a.txt /22",
        "COPY a.txt /a/b/c/d",
        "COPY a.txt /23\nCOPY b.txt /23",
        "ARG OWN=11:12\nCOPY --chown=$OWN a.txt /24",
    ];
    let count = 2 + usize::try_from(draft.number(4)).unwrap_or(0);
    for line in draft.some(&all, count) {
        draft.line(line);
    }
}

pub fn archives(draft: &mut Draft) {
    let format = draft.pick(&["gnu", "posix", "ustar", "v7"]);
    draft.form = Some(Form::Archive { format, compress: draft.chance(2) });
    draft.file("dir/sticky", "").mode = 0o4755;
    draft.node("empty", Kind::Folder).mode = 0o700;
    draft.node("dir/link", Kind::Symlink(b"one".to_vec()));
    draft.node("dir/hard", Kind::Hardlink(b"dir/one".to_vec()));
    if format != "v7" && format != "ustar" {
        draft.file("l/".to_owned() + &"long/".repeat(30) + "name", "long");
        draft.file("größe 大", "unicode");
    }
    if draft.chance(2) {
        draft.file(".dockerignore", "*.log\nother\n!other/a.txt\n");
    }
    draft.line("FROM scratch");
    draft.line("COPY . /all/");
    let line =
        draft.pick(&["COPY dir/link /1", "COPY dir /2/", "COPY --chmod=640 *.txt /3/", "ADD dir/hard /4"]);
    draft.line(line);
}

pub fn adding(draft: &mut Draft) {
    draft.node("p.tar", Kind::Tar { compress: false, content: b"packed".to_vec() });
    draft.node("p.tar.gz", Kind::Tar { compress: true, content: b"packed, too".to_vec() });
    draft.node("no-ending", Kind::Tar { compress: true, content: b"by its content".to_vec() });
    draft.file("not.tar", "only a name");
    draft.line("FROM scratch");
    let all = [
        "ADD p.tar /1/",
        "ADD p.tar.gz /2",
        "ADD no-ending /3/",
        "ADD not.tar /4/",
        "COPY p.tar /5/",
        "ADD p.tar p.tar.gz /6/",
        "ADD --unpack=false p.tar /7/",
        "ADD --chown=4:5 p.tar.gz /8/",
        "ADD --chmod=600 p.tar /9/",
        "ADD p.tar* a.txt /10/",
        "ADD . /11/",
        "ADD --keep-git-dir=true a.txt /12/",
        "ADD --unpack p.tar /13/",
    ];
    let count = 2 + usize::try_from(draft.number(3)).unwrap_or(0);
    for line in draft.some(&all, count) {
        draft.line(line);
    }
}

pub fn elsewhere(draft: &mut Draft) {
    draft.path = draft.pick(&["docker/web.Dockerfile", "build file", "Dockerfile.dev", "dockerfile"]);
    draft.form =
        Some(if draft.chance(4) { Form::Archive { format: "gnu", compress: false } } else { Form::Folder });
    if draft.path != "dockerfile" || draft.chance(2) {
        draft.args.push(format!("--file={}", draft.path));
    }
    if draft.chance(2) {
        let ignore = format!("{}.dockerignore", draft.path);
        draft.file(ignore, "*.log\nb.txt\n");
    }
    if draft.chance(2) {
        draft.file(".dockerignore", "a.txt\n");
    }
    draft.line("FROM scratch");
    let line = draft.pick(&["COPY . /", "COPY dir /d", "COPY *.txt /t/"]);
    draft.line(line);
}
