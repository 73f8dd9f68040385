//! Instructions and their words: expansions, quotes, forms, comments, directives.

use crate::differential::draft::{BASE, Draft, ONBUILD_BASE};

pub fn expansions(draft: &mut Draft) {
    let value = draft.pick(&["one.two.three", "a/b/c.tar.gz", "", "x y", "ünï", "$literal", "aXbXc"]);
    draft.line("ARG GLOBAL=scratch");
    draft.line("FROM ${GLOBAL:-nothing}");
    draft.line("ARG GLOBAL");
    draft.line(format!("ARG V='{value}'"));
    draft.line("ARG EMPTY=");
    draft.line("ARG UNSET");
    let all = [
        "ENV E1=${V:-default} E2=${EMPTY:-default} E3=${UNSET:-default}",
        "ENV F1=${V-default} F2=${EMPTY-default} F3=${UNSET-default}",
        "ENV G1=${V:+set} G2=${EMPTY:+set} G3=${UNSET:+set}",
        "ENV H1=${V+set} H2=${EMPTY+set} H3=${UNSET+set}",
        "ENV I1=${V#*.} I2=${V##*.} I3=${V%.*} I4=${V%%.*}",
        "ENV J1=${V/X/-} J2=${V//X/-} J3=${V/./} J4=${V//?/q}",
        "ENV K1=\\$V K2=\\${V} K3='$V' K4=\"$V\" K5=\"\\$V\"",
        "ENV L1=a${V}b L2=$V$V L3=$V_x L4=${V}_x L5=$ L6=$1",
        "ENV M1=first\nENV M1=second M2=$M1",
        "ENV N1=${V:-${EMPTY:-inner}} N2=${UNSET:-${V}}",
        "LABEL l1=$V \"l 2\"=\"${V#a}\" l3=${UNSET:-x}",
        "ENV O1=${EMPTY:+a}${UNSET:-b}",
        "ENV WD=/w\nWORKDIR $WD/${UNSET:-sub}\nWORKDIR rel/$EMPTY",
        "ARG P=80\nEXPOSE $P ${P}81/udp",
        "ENV U=5\nUSER ${U}:${U}",
        "ENV S=SIGUSR1\nSTOPSIGNAL ${S}",
        "ENV D=/data\nVOLUME $D ${D}2",
        "ARG SRC=a\nCOPY ${SRC}.txt /$SRC/",
        "ENV Q1=\"a\\\"b\" Q2='a\"b' Q3=a\\ b Q4=\"a\\\\b\"",
        "ENV R1 all of $V this is one value",
        "ENV T1=${V#[a-o]} T2=${V%[!z]} T3=${V#\\*}",
        "ARG A1=1 A2=${A1}2 A3\nENV W=$A1-$A2-$A3",
        "ENV X1=${TARGETARCH:-none}",
        "ARG TARGETARCH\nARG TARGETOS\nENV X2=$TARGETOS-$TARGETARCH",
        "CMD echo $V ${UNSET:-left alone}",
        "ENV Z1=${V:0:2}",
        "ENV Z2=${V^^}",
    ];
    let count = 3 + usize::try_from(draft.number(4)).unwrap_or(0);
    for line in draft.some(&all, count) {
        draft.line(line);
    }
    if draft.chance(3) {
        let arg = draft.pick(&["V=from outside", "V=", "UNSET=now set", "EMPTY=full", "GLOBAL=scratch"]);
        draft.arg(&format!("--build-arg={arg}"));
    }
}

pub fn from_forms(draft: &mut Draft) {
    draft.line("ARG BASE=scratch");
    draft.line("ARG TAG=one");
    let first = draft.pick(&[
        "FROM scratch AS one",
        "from scratch as one",
        "FROM $BASE AS one",
        "FROM ${BASE} AS one",
        "FROM \"$BASE\" AS one",
        "FROM --platform=$BUILDPLATFORM scratch AS one",
        "FROM --platform=$TARGETPLATFORM ${BASE:-x} AS one",
        "FROM scratch  AS\tone",
    ]);
    draft.line(first);
    draft.line("COPY a.txt /one");
    draft.line("ENV FROM_ONE=1");
    let second = draft.pick(&[
        "FROM one AS two",
        "FROM ONE AS Two",
        "FROM ${TAG} AS two",
        "FROM scratch AS two\nCOPY --from=one /one /",
        "FROM scratch AS two\nCOPY --from=0 /one /",
        "FROM scratch AS two\nCOPY --from=One /one /",
        "FROM --platform=$BUILDPLATFORM one AS two",
        "FROM scratch AS two.x_y-z",
        "FROM scratch",
    ]);
    draft.line(second);
    draft.line("COPY b.txt /two");
    match draft.number(5) {
        0 => draft.arg("--target=one"),
        1 => draft.arg("--target=0"),
        2 => draft.line("FROM scratch AS unused\nCOPY not-there /\nFROM one"),
        3 => draft.line("ARG BASE\nARG TAG\nENV SEEN=$BASE$TAG"),
        _ => draft.line(format!("FROM {BASE}\nCOPY --from=one / /from-one/")),
    }
    draft.line("LABEL last=1");
}

pub fn continuations(draft: &mut Draft) {
    let all = [
        "LABEL a=1 \\\n      b=2",
        "LABEL c=1 \\\n# a comment within\n      d=2",
        "LABEL e=1 \\\n\n      f=2",
        "LABEL g=1 \\   \n      h=2",
        "  LABEL indented=1",
        "\tlabel tabbed=1",
        "LaBeL case=1",
        "LABEL i=\"a\\\n  b\"",
        "ENV J=1\\\n2",
        "COPY a.txt \\\n     b.txt \\\n     /x/",
        "CMD echo a && \\\n    echo b",
        "CMD [\"a\", \\\n     \"b\"]",
        "# a comment \\\nLABEL k=1",
        "   # an indented comment",
        "LABEL l=\"#not a comment\" m=#neither",
        "ENV N a # no comment",
        "LABEL o=1 \\\n   # indented comment within\n   p=2",
        "\n\n\n",
        "CMD echo \\\n# lost\n\n   kept",
        "LABEL q=1 \\\n  \\\n  r=2",
        "EXPOSE 1 \\\n 2",
        "ENTRYPOINT exec \\\\\n",
    ];
    draft.line("FROM scratch");
    let count = 4 + usize::try_from(draft.number(5)).unwrap_or(0);
    for line in draft.some(&all, count) {
        draft.line(line);
    }
    if draft.chance(4) {
        // The last line has no end, or goes on into nothing.
        let end = draft.pick(&["LABEL z=1", "LABEL z=1 \\", "LABEL z=1 \\\n"]);
        draft.text.extend_from_slice(end.as_bytes());
    }
}

pub fn forms(draft: &mut Draft) {
    draft.line("FROM scratch");
    let all = [
        "CMD [\"a\", \"b c\", \"d\\\"e\"]",
        "CMD a \"b c\" 'd'",
        "CMD ['single', 'quotes']",
        "CMD [ \"spaces\" , \"around\" ]  ",
        "CMD [\"\\u00fc\\n\"]",
        "CMD [broken",
        "CMD []",
        "ENTRYPOINT [\"/x\"]",
        "ENTRYPOINT exec /x $A",
        "ENTRYPOINT [\"sh\", \"-c\", \"$A\"]",
        "ENTRYPOINT []",
        "SHELL [\"/bin/bash\", \"-ec\"]\nCMD after shell",
        "SHELL [\"/bin/zsh\"]\nENTRYPOINT x",
        "CMD [\"reset\"]\nENTRYPOINT [\"after\"]",
        "COPY [\"a.txt\", \"b.txt\", \"/j/\"]",
        "VOLUME [\"/a\", \"/b c\"]",
        "VOLUME /a \"/b\"",
        "HEALTHCHECK CMD [\"a\", \"b\"]",
        "HEALTHCHECK CMD a b && c",
        "SHELL [\"x\"]\nHEALTHCHECK CMD y",
        "CMD",
        "CMD echo <html> & | \\\\ \\n",
    ];
    let count = 2 + usize::try_from(draft.number(3)).unwrap_or(0);
    for line in draft.some(&all, count) {
        draft.line(line);
    }
}

pub fn heredocs(draft: &mut Draft) {
    let runs = draft.chance(3);
    draft.line(if runs { format!("FROM {BASE}") } else { "FROM scratch".to_owned() });
    draft.line("ENV A=value");
    let all = [
        "COPY <<EOF /1\n$A ${A:-x} \\$A\n\ttab\nEOF",
        "COPY <<\"EOF\" /2\n$A stays\nEOF",
        "COPY <<'EOF' /3\n'quoted' $A\nEOF",
        "COPY <<-EOF /4\n\ttab gone\n\t\tone left\n\tEOF",
        "COPY <<one <<two a.txt /5/\nfirst\none\nsecond\ntwo",
        "COPY --chmod=755 --chown=3:3 <<EOF /6\n#!/bin/sh\nEOF",
        "ADD <<EOF /7\nadded\nEOF",
        "COPY <<EOF /8\nEOF",
        "COPY <<end.txt /9/\nnamed by its word\nend.txt",
        "COPY <<EOF /10\n# not a comment\nRUN not an instruction\n\n  EOF\nEOF",
        "COPY --link <<EOF /11\nlinked\nEOF",
        "COPY <<EOF /12\nends \\\nwith \\\\\nEOF",
    ];
    let count = 1 + usize::try_from(draft.number(4)).unwrap_or(0);
    for line in draft.some(&all, count) {
        draft.line(line);
    }
    if runs {
        let line = draft.pick(&[
            "RUN <<EOF\necho $A >/made\necho two >>/made\nEOF",
            "RUN <<EOF cat >/made\nby $A\nEOF",
            "RUN <<-\"EOF\" sh >/made\n\techo $A\n\tEOF",
            "RUN <<EOF\n#!/usr/bin/env python3\nopen('/made', 'w').write('python')\nEOF",
            "RUN cat <<one - <<two >/made 3<&0\na\none\nb\ntwo",
        ]);
        draft.line(line);
    }
}

pub fn quoting(draft: &mut Draft) {
    draft.line("FROM scratch");
    let all = [
        "LABEL a b c",
        "LABEL \"a b\"=\"c d\"",
        "LABEL a='b \"c\" d'",
        "LABEL a=\"b 'c' d\"",
        "LABEL a=b\\ c",
        "LABEL a= b=\"\" c=''",
        "LABEL a=b=c",
        "LABEL a=\"multi \\\nline\"",
        "LABEL a.b-c/d_e=1 A=2 a=3",
        "LABEL ü=ö 日=本",
        "LABEL a=\"\\n\\t\\\\\"",
        "LABEL a=$ b=\\$",
        "LABEL \"a\"=1 a=2",
        "ENV A=\"b c\" B='d e' C=f\\ g",
        "ENV A  b  c",
        "ENV A \"b\" c",
        "ENV A=a\"b\"'c'd",
        "ENV A='' B=\"\"",
        "ENV PATH=/x:$PATH",
        "ENV a=1 A=2",
        "ENV A=\"it's\" B='say \"x\"'",
        "ENV A=\\\"",
        "MAINTAINER Some Body <a@b.c>",
        "LABEL maintainer=\"x <y@z>\"",
        "ENV A=`tick` B=$(cmd) C={x} D=[y]",
    ];
    let count = 3 + usize::try_from(draft.number(5)).unwrap_or(0);
    for line in draft.some(&all, count) {
        draft.line(line);
    }
}

pub fn small(draft: &mut Draft) {
    draft.line("FROM scratch");
    let all = [
        "WORKDIR /a\nWORKDIR b\nWORKDIR ../c",
        "WORKDIR rel",
        "WORKDIR \"/with space\"",
        "WORKDIR /a//b/./c/",
        "WORKDIR C:\\\\x",
        "USER nobody",
        "USER 1:2",
        "USER a:b",
        "EXPOSE 80 443/tcp 53/udp",
        "EXPOSE 8000-8003/udp 9/sctp",
        "EXPOSE 80/TCP 80",
        "HEALTHCHECK NONE",
        "HEALTHCHECK --interval=5s --timeout=1m30s --start-period=2s --retries=7 CMD x",
        "HEALTHCHECK --start-interval=1s CMD [\"y\"]",
        "HEALTHCHECK --retries=0 CMD z",
        "SHELL [\"/bin/x\", \"-c\"]",
        "STOPSIGNAL SIGTERM",
        "STOPSIGNAL 9",
        "STOPSIGNAL SIGRTMIN+3",
        "STOPSIGNAL kill",
        "VOLUME /a /b",
        "VOLUME [\"/c\"]",
        "VOLUME /a\nCOPY a.txt /a/",
        "ENV A=1\nENV A=2",
        "LABEL a=1\nLABEL a=2",
        "CMD a\nCMD b",
        "ENTRYPOINT a\nENTRYPOINT [\"b\"]",
        "ARG A\nARG A=2\nENV B=$A",
        "WORKDIR /made\nCOPY a.txt .\nWORKDIR /",
    ];
    let count = 4 + usize::try_from(draft.number(5)).unwrap_or(0);
    for line in draft.some(&all, count) {
        draft.line(line);
    }
}

pub fn mounts(draft: &mut Draft) {
    draft.line("FROM scratch AS other");
    draft.line("COPY dir /dir");
    draft.line(format!("FROM {BASE}"));
    let line = draft.pick(&[
        "RUN --mount=type=bind,target=/c ls -A /c/dir >/made && cat /c/a.txt >>/made",
        "RUN --mount=type=bind,source=dir,target=/c ls /c >/made",
        "RUN --mount=type=bind,from=other,source=/dir,target=/c cp /c/one /made",
        "RUN --mount=target=/c,rw echo x >/c/new && ls /c >/made",
        "RUN --mount=type=cache,target=/cache test -d /cache && echo $(stat -c %a /cache) >/made",
        "RUN --mount=type=cache,target=/cache,mode=0700,uid=5,id=diff stat -c '%a %u' /cache >/made",
        "RUN --mount=type=tmpfs,target=/t,size=1m df /t | grep -c tmpfs >/made; echo x >/t/x",
        "RUN --network=none ls /sys/class/net | sort >/made",
        "RUN --mount=type=secret,id=none cat /run/secrets/none >/made 2>/dev/null || echo no secret >/made",
        "RUN --mount=type=bind,source=missing,target=/c true",
        "RUN --mount=type=nonsense true",
        "RUN --mount=type=bind,source=a.txt,target=/c/file cat /c/file >/made",
        "RUN --security=sandbox id -u >/made",
        "WORKDIR /w\nRUN --mount=type=bind,target=rel ls rel >made",
        "RUN --mount=type=secret,id=none,required=true true",
        "ARG M=dir\nRUN --mount=type=bind,source=$M,target=/c ls /c >/made",
        "USER 1234:5\nRUN id -u >/tmp/made; umask >>/tmp/made",
        "ENV A=1\nRUN env | grep ^A= >/made\nRUN rm /made",
    ]);
    draft.line(line);
}

pub fn onbuild(draft: &mut Draft) {
    if draft.chance(2) {
        draft.line(format!("FROM {ONBUILD_BASE}"));
        let line = draft.pick(&["COPY b.txt /b", "LABEL own=1", "WORKDIR further", "COPY a.txt ."]);
        draft.line(line);
        return;
    }
    draft.line("FROM scratch AS base");
    let all = [
        "ONBUILD COPY a.txt /on",
        "ONBUILD ENV A=${B:-c}",
        "ONBUILD LABEL x=\"y z\"",
        "ONBUILD CMD [\"a\"]",
        "onbuild  WORKDIR  /w",
        "ONBUILD ARG Q=1",
        "ONBUILD EXPOSE 80",
        "ONBUILD COPY <<EOF /here\nheredoc\nEOF",
        "ONBUILD ADD dir \\\n /d",
        "ONBUILD COPY --chmod=600 b.txt /b",
    ];
    let count = 1 + usize::try_from(draft.number(3)).unwrap_or(0);
    for line in draft.some(&all, count) {
        draft.line(line);
    }
    if draft.chance(2) {
        draft.line("FROM base");
        draft.line("LABEL after=1");
    }
}

pub fn directives(draft: &mut Draft) {
    let text = draft.pick(&[
        "# escape=`\nFROM scratch\nLABEL a=1 `\n  b=2\nENV C=`$x D=\"e`\"f\"\nWORKDIR C:\\x\\\n",
        "# escape=\\\nFROM scratch\nLABEL a=1 \\\n b=2\n",
        "#escape = `\nFROM scratch\nCOPY a.txt `\n /x\n",
        "# ESCAPE=`\nFROM scratch\nLABEL a=1 `\n b=2\n",
        "# check=skip=all\nFROM scratch as x\nLABEL a=1\n",
        "# check=skip=JSONArgsRecommended;error=false\nFROM scratch\nCMD x\n",
        "# check=error=true\nFROM scratch AS x\nMAINTAINER y\n",
        "# check=error=true\nFROM scratch AS x\nLABEL y=1\n",
        "# unknown=directive\n# escape=`\nFROM scratch\nLABEL a=1 \\\n b=2\n",
        "# a comment\n# escape=`\nFROM scratch\nLABEL a=1 \\\n b=2\n",
        "\n# escape=`\nFROM scratch\nLABEL a=1 \\\n b=2\n",
        "# escape=x\nFROM scratch\n",
        "# escape=\\\n# escape=`\nFROM scratch\n",
        "#!/usr/bin/env docker build\nFROM scratch\nLABEL a=1\n",
        "# escape=`\n# check=skip=all\n\nFROM scratch\nCOPY [\"a.txt\", \"/x\"]\nCMD [\"a\", `\n\"b\"]\n",
    ]);
    draft.text.extend_from_slice(text.as_bytes());
    if draft.chance(2) {
        draft.line("COPY b.txt /");
    }
}

pub fn bytes(draft: &mut Draft) {
    let text: &[u8] = draft.pick(&[
        b"FROM scratch\r\nCOPY a.txt /\r\nLABEL a=1 \\\r\n  b=2\r\nCMD [\"x\"]\r\n".as_slice(),
        b"\xef\xbb\xbfFROM scratch\nCOPY a.txt /\n",
        b"\xef\xbb\xbf# escape=`\nFROM scratch\nLABEL a=1 `\n b=2\n",
        b"FROM scratch\nLABEL a=\"\xc3\xbc\"\n# caf\xe9 in Latin-1\nCOPY a.txt /\n",
        b"# \xff\xfe\nFROM scratch\nCOPY a.txt /\n",
        b"FROM scratch\nLABEL a=\"caf\xe9\"\n",
        b"FROM scratch\nCOPY a.txt /\n# \xef\xbf\xbd a replacement character\n",
        b"FROM scratch\nCOPY a.txt /",
        b"FROM scratch\nCOPY a.txt /\n\n\n\t \n",
        b"\n\n  FROM scratch\n\tCOPY a.txt /\n",
        b"FROM scratch\nCOPY <<EOF /crlf\r\nline\r\nEOF\r\nCOPY a.txt /\r\n",
        b"FROM\tscratch\nCOPY\ta.txt\t/tab/\n",
        b"FROM scratch\nLABEL a=1\x0bb=2\n",
        b"FROM scratch\nLABEL a=\xe2\x80\xa8b c\xc2\xa0d=e\n",
        b"FROM scratch\nENV A=\xf0\x9f\xa6\x80 B=\"\xe6\x97\xa5 \xe6\x9c\xac\"\n",
        b"FROM scratch\rCOPY a.txt /\r",
        b"FROM scratch\nLABEL a=\x00b\n",
    ]);
    draft.text.extend_from_slice(text);
    if draft.chance(8) {
        // Of a size at which things begin to be cut.
        let size = draft.pick(&[1_000, 70_000, 300_000]);
        draft.line(format!("\n# {}", "long ".repeat(size / 5)));
        draft.line(format!("LABEL long=\"{}\"", "x".repeat(size / 10)));
    }
}

pub fn flags(draft: &mut Draft) {
    draft.line("ARG FIRST=scratch");
    draft.line("FROM $FIRST AS one");
    draft.line("ARG A=default");
    draft.line("ARG B");
    draft.line("LABEL in=file both=file a=$A b=$B");
    draft.line("ENV A2=${A:-none} B2=${B-none}");
    draft.line("FROM one AS two");
    draft.line("COPY a.txt /$A");
    let all = [
        "--build-arg=A=x y",
        "--build-arg=A=",
        "--build-arg=B=1=2",
        "--build-arg=UNUSED=1",
        "--build-arg=NOT_IN_ENVIRONMENT",
        "--build-arg=FIRST=scratch",
        "--label=both=flag",
        "--label=only=flag with space",
        "--label=empty=",
        "--label=a.b/c=ü=1",
        "--target=one",
        "--network=none",
        "--label=bare",
        "--build-arg=http_proxy=http://proxy.invalid",
        "--add-host=x.test:10.1.2.3",
        "--shm-size=5m",
    ];
    let count = 1 + usize::try_from(draft.number(4)).unwrap_or(0);
    for arg in draft.some(&all, count) {
        draft.arg(arg);
    }
}
