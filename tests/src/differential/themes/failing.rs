//! Builds that fail: at which line, and with which exit code, is what is compared.

use crate::differential::draft::{BASE, Draft};

/// Lines in front, so that the failing one is at a drawn place.
fn lead(draft: &mut Draft, base: &str) {
    for _ in 0..draft.number(4) {
        let line = draft.pick(&["", "# a comment", "   ", "\t# another"]);
        draft.line(line);
    }
    draft.line(format!("FROM {base}"));
    for _ in 0..draft.number(4) {
        let line = draft.pick(&["", "# note", "ENV A=1", "LABEL a=b \\\n  c=d", "WORKDIR /w", "ARG X\n"]);
        draft.line(line);
    }
}

pub fn missing_sources(draft: &mut Draft) {
    if draft.chance(4) {
        draft.file(".dockerignore", "a.txt\n");
    }
    lead(draft, "scratch");
    let line = draft.pick(&[
        "COPY missing.txt /",
        "COPY a.txt nowhere.txt /d/",
        "COPY missing/ /",
        "COPY dir/missing* /",
        "ADD missing.tar.gz /",
        "COPY [\"not here\", \"/\"]",
        "COPY ../outside /",
        "COPY a.txt b.txt /not-a-folder",
        "COPY --from=0 /missing /",
        "COPY a.txt \\\n  # in between\n  missing.txt \\\n  /d/",
        "COPY a.txt/ /",
        "COPY dir/one/below /",
        "ADD [\"a.txt\"]",
        "COPY",
    ]);
    draft.line(line);
    draft.line("COPY b.txt /");
}

pub fn syntax(draft: &mut Draft) {
    if draft.chance(6) {
        // Without a stage at all.
        let text = draft.pick(&[
            "RUN true",
            "# only words",
            "COPY a.txt /",
            "ARG A=1",
            "FROM",
            "\u{feff}",
            "FORM scratch",
        ]);
        draft.line(text);
        return;
    }
    lead(draft, "scratch");
    let line = draft.pick(&[
        "RUNN make",
        "COPY --nonsense a.txt /",
        "COPY --chown a.txt /",
        "COPY --chmod=nonsense a.txt /",
        "ENV A",
        "ENV A=1 B",
        "ENV =1",
        "LABEL \"a",
        "EXPOSE nonsense",
        "EXPOSE 70000",
        "EXPOSE 8000-7000",
        "STOPSIGNAL SIGNONSENSE",
        "HEALTHCHECK CMD",
        "HEALTHCHECK --interval=nonsense CMD x",
        "HEALTHCHECK SOMETIMES",
        "SHELL /bin/sh",
        "SHELL []",
        "VOLUME",
        "USER",
        "WORKDIR",
        "ONBUILD FROM scratch",
        "ONBUILD ONBUILD RUN x",
        "ONBUILD",
        "ENTRYPOINT",
        "ARG 1=2=3 ${",
        "ENV A=${A",
        "ENV A=${A:?must be set}",
        "WORKDIR ${B?not given}",
        "ENV A=${A!x}",
        "FROM scratch AS 9lives",
        "FROM scratch AS a b",
        "FROM --platform=nonsense/nonsense scratch",
        "COPY <<EOF /x\nno end",
        "MAINTAINER",
        "STOPSIGNAL",
        "COPY --link=maybe a.txt /",
        "ADD --checksum=sha256:0 a.txt /",
        "CMD [\"a\", 1",
        "COPY --from= a.txt /",
    ]);
    draft.line(line);
    if draft.chance(2) {
        draft.line("CMD [\"x\"]");
    }
}

pub fn failing_run(draft: &mut Draft) {
    lead(draft, BASE);
    let code = draft.pick(&[1, 2, 3, 42, 100, 126, 127, 128, 255]);
    let line = match draft.number(8) {
        0 => format!("RUN exit {code}"),
        1 => format!("RUN echo one \\\n && echo two \\\n && exit {code}"),
        2 => format!("RUN <<EOF\necho within\nexit {code}\nEOF"),
        3 => format!("RUN [\"/bin/sh\", \"-c\", \"exit {code}\"]"),
        4 => format!("RUN echo 'exit code: 9'; echo 'no space left on device' >&2; exit {code}"),
        5 => {
            format!("RUN --network=none <<-\"END\" sh -e\n\techo $NONE\n\t(exit {code})\n\techo never\n\tEND")
        }
        6 => "RUN /no/such/program".to_owned(),
        _ => "RUN [\"no-such-program\", \"x\"]".to_owned(),
    };
    draft.line(line);
    draft.line("RUN true");
}

pub fn stages(draft: &mut Draft) {
    draft.line("FROM scratch AS one");
    draft.line("COPY a.txt /");
    draft.line("");
    draft.line("FROM scratch AS two");
    match draft.number(6) {
        0 => draft.line("COPY --from=localhost:5002/differential/none:1 /a.txt /"),
        1 => draft.line("COPY --from=7 /a.txt /"),
        2 => {
            draft.line("COPY --from=ONE /a.txt /");
            draft.line("FROM localhost:5002/differential/none:2");
        }
        3 => {
            draft.line("COPY b.txt /");
            let target = draft.pick(&["three", "ONE", "0", "", "on e"]);
            draft.arg(&format!("--target={target}"));
        }
        4 => draft.line("COPY --from=two /a.txt /"),
        _ => {
            draft.line("COPY --from=later /a.txt /");
            draft.line("FROM scratch AS later");
            draft.line("COPY a.txt /");
        }
    }
    draft.line("LABEL end=1");
}
