//! The rules as an engine reads them (RE2 and Rust's expressions are the same in what is used here), held against what [`Fetches::refuse`] says.

use std::net::IpAddr;
use std::sync::LazyLock;

use bollard_buildkit_proto::moby::buildkit::v1::sourcepolicy::MatchType;
use proptest::prelude::*;
use regex::Regex;

use super::*;

/// Whether an engine would fetch it.
struct Judge(Vec<(bool, Regex)>);

impl Judge {
    fn of(fetches: &Fetches) -> Self {
        let rules = policy(fetches, None).rules.into_iter().map(|rule| {
            let selector = rule.selector.unwrap();
            assert_eq!(selector.match_type, i32::from(MatchType::Regex));
            (rule.action == i32::from(PolicyAction::Allow), Regex::new(&selector.identifier).unwrap())
        });
        Self(rules.collect())
    }

    fn allows(&self, source: &str) -> bool {
        self.0.iter().rfind(|(_, expression)| expression.is_match(source)).is_none_or(|(allow, _)| *allow)
    }
}

fn trusted() -> Fetches {
    Fetches { private: true, ..Fetches::default() }
}

fn places(texts: &[&str]) -> Vec<Place> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

/// Each way to name a host in a source.
fn sources(host: &str) -> Vec<String> {
    let mut sources = Vec::new();
    for scheme in ["http", "HTTPS", "git"] {
        for user in ["", "git@", "user:pass@", "github.com%2f@"] {
            for rest in ["", "/", "/a/b.git#main", "?x=http://github.com/", "#v1", ":80", ":08080/x", ":443/"]
            {
                sources.push(format!("{scheme}://{user}{host}{rest}"));
            }
        }
    }
    for rest in ["/os:1", ":5000/team/os@sha256:00", "/library/os"] {
        sources.push(format!("docker-image://{host}{rest}"));
    }
    sources
}

#[test]
fn no_spelling_of_loopback_or_a_metadata_service_gets_through() {
    let hosts = [
        // As it is, and as Go, curl and libc read it, too.
        "127.0.0.1",
        "127.0.0.1.",
        "127.255.255.254",
        "127.1",
        "127.0.1",
        "2130706433",
        "2130706433.",
        "0x7f000001",
        "0x7F.0.0.1",
        "0x7f.1",
        "0177.0.0.1",
        "017700000001",
        "127.0.0.01",
        "0127.0.0.1",
        "127.00.0.1",
        "0",
        "0.0.0.0",
        "0x0",
        "00",
        "1",
        "1.2.3.0x4",
        "169.254.169.254",
        "169.254.169.254.",
        "2852039166",
        "0xa9fea9fe",
        "0251.0376.0251.0376",
        "169.254.43518",
        "169.16689662",
        "[::1]",
        "[0:0:0:0:0:0:0:1]",
        "[0000::0001]",
        "[::]",
        "[::0]",
        "[0::0]",
        "[::ffff:127.0.0.1]",
        "[::FFFF:7f00:1]",
        "[0:0:0:0:0:ffff:a9fe:a9fe]",
        "[::127.0.0.1]",
        "[64:ff9b::a9fe:a9fe]",
        "[2002:7f00:1::]",
        "[2002:a9fe:a9fe::1]",
        "[2001::1]",
        "[2001:0:7f00:1::1]",
        "[2001:0000::1]",
        "[::1%25lo]",
        "[fe80::1%25eth0]",
        "[fe80::1]",
        "[FE80::a9fe:a9fe]",
        "[febf::1]",
        "[::ffff:0:127.0.0.1]",
        "[fd00:ec2::254]",
        "[FD00:0ec2::254]",
        "[fd00:ec2:0:0:0:0:0:254]",
        "[fd20:ce::254]",
        "[ff02::1]",
        "[1::1]",
        "::1",
        "[::1",
        "::1]",
        "localhost",
        "LOCALHOST",
        "LocalHost.",
        "a.localhost",
        "a.b.LOCALHOST.",
        "localhost.localdomain",
        "ip6-localhost",
        "ip6-loopback.",
        "host.docker.internal",
        "metadata.google.internal",
        "Metadata.Google.Internal.",
        "metadata",
        "metadata.goog",
        "instance-data",
        "100.100.100.200",
        "168.63.129.16",
        "192.0.0.192",
        "224.0.0.1",
        "255.255.255.255",
        "240.0.0.1",
        // Read by some as another host than by others, or mapped to one.
        "127%2e0.0.1",
        "%31%32%37.0.0.1",
        "loc%61lhost",
        "１２７.0.0.1",
        "①②⑦.0.0.1",
        "127。0。0。1",
        "ⓛocalhost",
        "localhos\u{ad}t",
        "localho\u{17f}t",
        "\u{17f}.example",
        "\u{212a}.example",
        "local\thost",
        "localhost\\",
        "github.com\\@127.0.0.1",
        "github.com@evil@127.0.0.1",
        "github.com:80@[::1]",
        "127.0.0.1 ",
        " 127.0.0.1",
        "",
        ".",
        "..",
        "a..b",
        "github.com:",
        "github.com:x",
        "github.com:123456",
        "github.com:80:80",
        "-",
        "[",
        "[]",
    ];
    let anybody = Judge::of(&trusted());
    for host in hosts {
        for source in sources(host) {
            assert!(!anybody.allows(&source), "{source:?}");
            assert!(trusted().refuse(&source).is_some(), "{source:?}");
        }
    }
    for source in [
        "docker-image://localhost",
        "docker-image://",
        "http:",
        "",
        "http:/127.0.0.1/",
        "http:///127.0.0.1/",
        "file:///etc/passwd",
        "ftp://a.example/x",
        "oci-layout://a.example/x@sha256:00",
        "docker-image+blob://a.example/x",
        "blob://a.example/x",
        "ssh://git@a.example/x",
        "unix:///run/x",
        "git://https://a.example/x",
        "http://\n127.0.0.1/",
        "https://a.example\n@127.0.0.1/",
        "git://git@127.0.0.1:team/app.git",
        "LOCAL://context",
    ] {
        assert!(!anybody.allows(source) && trusted().refuse(source).is_some(), "{source:?}");
    }
}

#[test]
fn what_builds_are_made_of_gets_through() {
    let anybody = Judge::of(&trusted());
    for source in [
        "local://context",
        "local://named-base",
        "local://dockerfile",
        "docker-image://docker.io/library/alpine:3.20@sha256:00",
        "docker-image://registry-1.docker.io/library/alpine:3",
        "docker-image://ghcr.io/a/b:1",
        "docker-image://registry:5000/x:1",
        "docker-image://10.0.0.7:5000/x:1",
        "docker-image://[fd12:3::1]:5000/x:1",
        "https://github.com/a/b/releases/download/v1/x.tar.gz",
        "http://user:p%40ss@a.example:8080/x?y=1#z",
        "https://EXAMPLE.com.",
        "https://4.3.example/x",
        "https://a.example/?u=http://127.0.0.1/",
        "https://a.example/http://localhost/",
        "https://1.1.1.1/x",
        "https://[2606:4700:4700::1111]/x",
        "git://github.com/moby/buildkit.git#v0.31.2:hack",
        "git://git.internal:2222/a/b",
        "git://192.168.1.5/team/app",
        "git://_a.b-c.example/x",
        "http://xn--bcher-kva.example/x",
        "https://notlocalhost/x",
        "https://localhost.example/x",
        "https://127.example/x",
    ] {
        assert!(anybody.allows(source), "{source:?}");
        assert_eq!(trusted().refuse(source), None, "{source:?}");
    }
}

#[test]
fn the_farms_hosts_are_closed_and_what_is_opened_is_open_and_no_more() {
    let closed = ["farm.example", "192.0.2.7", "2001:db8::7", "db.internal"];
    let fetches = Fetches {
        closed: closed.iter().map(|host| host.parse().unwrap()).collect(),
        open: places(&["127.0.0.1:8080", "farm.example:3000", "[::1]:80", "10.1.2.0/23"]),
        registries: places(&["localhost:5000", "farm.example", "127.64.0.0/10"]),
        ..Fetches::default()
    };
    let judge = Judge::of(&fetches);
    let check = |source: &str, is_open: bool| {
        assert_eq!(judge.allows(source), is_open, "{source}");
        assert_eq!(fetches.refuse(source).is_none(), is_open, "{source}: {:?}", fetches.refuse(source));
    };
    for (source, is_open) in [
        ("https://farm.example/", false),
        ("https://FARM.example.:3000/", true),
        ("git://git@farm.example:3000/a", true),
        ("https://farm.example:30000/", false),
        ("https://x.farm.example/", true),
        ("http://192.0.2.7/", false),
        ("http://192.0.2.70/", true),
        ("http://[2001:db8::7]/", false),
        ("http://[2001:0db8:0:0::0007]/", false),
        ("http://[2001:db8:0:0:0:0:0:7]/", false),
        ("http://[2001:DB8::70]/", true),
        ("git://db.internal:5432/", false),
        ("http://127.0.0.1:8080/x", true),
        ("http://127.0.0.1:80/", false),
        ("http://127.0.0.1/", false),
        ("docker-image://127.0.0.1:8080/x:1", true),
        ("http://[::1]/", true),
        ("http://[0:0::1]:80/", true),
        ("https://[::1]/", false),
        ("http://10.1.2.3/", true),
        ("http://10.1.3.255:1/", true),
        ("http://10.1.4.0/", false),
        ("http://10.1.1.255/", false),
        ("docker-image://localhost:5000/x:1", true),
        ("docker-image://127.0.0.1:5000/x:1", true),
        ("docker-image://[::1]:5000/x:1", true),
        ("http://localhost:5000/", false),
        ("docker-image://localhost:5001/x:1", false),
        ("docker-image://farm.example/x:1", true),
        ("docker-image://farm.example:443/x:1", true),
        ("docker-image://farm.example:5432/x:1", false),
        ("docker-image://127.65.0.1:1/x", true),
        ("docker-image://127.0.0.2:1/x", false),
        ("docker-image://127.128.0.1:1/x", false),
        ("http://127.65.0.1/", false),
        ("http://192.168.0.1/", false),
        ("docker-image://192.168.0.1/x", false),
        ("https://[fd12::1]/", false),
    ] {
        check(source, is_open);
    }
    let before = Fetches { images_anywhere: true, ..fetches };
    let judge = Judge::of(&before);
    assert!(
        judge.allows("docker-image://127.0.0.2:1/x")
            && before.refuse("docker-image://127.0.0.2:1/x").is_none()
    );
    assert!(!judge.allows("http://127.0.0.2:1/x") && !judge.allows("docker-image://127.1/x"));
}

#[test]
fn a_project_fetches_from_hosts_that_it_lists_and_what_is_closed_stays_closed() {
    let mut fetches = Fetches {
        closed: vec!["farm.example".parse().unwrap()],
        open: places(&["127.0.0.1:8080", "10.1.0.0/16", "git.internal:80", "localhost:81", "127.2.0.0/16"]),
        registries: places(&["localhost:5000"]),
        ..trusted()
    };
    let listed = [
        "*.example",
        "git.internal",
        "10.1.2.3",
        "127.0.0.1",
        "2001:db8::7",
        "192.168.1.1",
        "*.localhost",
        "[::1]",
    ];
    fetches.list("web", &listed.map(str::to_owned));
    let judge = Judge::of(&fetches);
    for (source, is_open) in [
        ("https://a.example/x", true),
        ("git://git@A.b.Example.:1/x#main", true),
        ("https://example/x", false),
        ("https://aexample/x", false),
        ("https://a.example.com/x", false),
        ("https://other.test/a.example", false),
        ("https://a.example@other.test/", false),
        ("https://farm.example/", false),
        ("https://git.internal/", true),
        ("http://[2001:0db8:0:0::7]/", true),
        ("http://[2001:db8::8]/", false),
        ("http://192.168.1.1/", true),
        ("http://192.168.1.2/", false),
        // Open by the worker, and listed or not.
        ("http://127.0.0.1:8080/", true),
        ("http://127.0.0.1:81/", true),
        ("http://[::1]:81/", true),
        ("http://localhost:81/", false),
        ("http://127.0.0.1/", false),
        ("http://127.2.0.1/", false),
        ("http://a.localhost/", false),
        ("http://10.1.2.3/", true),
        ("http://10.1.2.4/", false),
        ("http://169.254.169.254/", false),
        // Images are no matter of this.
        ("docker-image://other.test/x:1", true),
        ("docker-image://localhost:5000/x:1", true),
        ("docker-image://farm.example/x:1", false),
        ("local://context", true),
    ] {
        assert_eq!(judge.allows(source), is_open, "{source}");
        assert_eq!(fetches.refuse(source).is_none(), is_open, "{source}: {:?}", fetches.refuse(source));
    }
    // What can't be read opens nothing, least of all everything.
    fetches.list("web", &["a b".to_owned()]);
    assert!(
        !Judge::of(&fetches).allows("https://a.example/") && fetches.refuse("https://a.example/").is_some()
    );
}

#[test]
fn what_comes_after_counts() {
    let denied = rule(PolicyAction::Deny, "^docker-image://".to_owned());
    let policy = policy(&trusted(), Some(Policy { version: 1, rules: vec![denied.clone()] }));
    assert_eq!((policy.version, policy.rules.last()), (1, Some(&denied)));
}

static TRUSTED: LazyLock<Judge> = LazyLock::new(|| Judge::of(&trusted()));
static UNTRUSTED: LazyLock<Judge> = LazyLock::new(|| Judge::of(&Fetches::default()));

/// An address as somebody may write it.
fn spelled(address: IpAddr, form: u8) -> String {
    match (address, form % 4) {
        (IpAddr::V4(address), 1) => address.to_bits().to_string(),
        (IpAddr::V4(address), 2) => format!("0x{:x}", address.to_bits()),
        (IpAddr::V4(address), 3) => {
            let [a, b, c, d] = address.octets();
            format!("{a:#o}.{b}.{}", u16::from_be_bytes([c, d])).replacen("0o", "0", 1)
        }
        (IpAddr::V4(address), _) => address.to_string(),
        (IpAddr::V6(address), 1) => {
            format!("[{}]", address.segments().map(|group| format!("{group:04X}")).join(":"))
        }
        (IpAddr::V6(address), 2) => {
            format!("[{}]", address.segments().map(|group| format!("{group:x}")).join(":"))
        }
        (IpAddr::V6(address), _) => format!("[{address}]"),
    }
}

/// Addresses of all kinds, those that are closed among them.
fn address() -> impl Strategy<Value = IpAddr> {
    let first =
        prop_oneof![Just(0_u8), Just(127), Just(10), Just(169), Just(172), Just(192), Just(100), any::<u8>()];
    let second = prop_oneof![Just(254_u8), Just(168), Just(16), Just(31), Just(64), Just(127), any::<u8>()];
    let four = (first, second, any::<[u8; 2]>()).prop_map(|(a, b, [c, d])| IpAddr::from([a, b, c, d]));
    let group = prop_oneof![
        Just(0_u16),
        Just(0),
        Just(1),
        Just(0xffff),
        Just(0xec2),
        Just(0x2001),
        Just(0x2002),
        Just(0xfd00),
        any::<u16>()
    ];
    let six = prop::array::uniform8(group).prop_map(IpAddr::from);
    prop_oneof![four, six]
}

proptest! {
    #[test]
    fn an_address_is_judged_alike_by_the_rules_and_in_words_however_it_is_spelled(
        address in address(), form: u8, private: bool, port in prop::option::of(any::<u16>()),
        scheme in prop_oneof![Just("http"), Just("https"), Just("git"), Just("docker-image")],
    ) {
        let fetches = Fetches { private, ..Fetches::default() };
        let port = port.map(|port| format!(":{port}")).unwrap_or_default();
        let source = format!("{scheme}://{}{port}/x", spelled(address, form));
        let allows = if private { &TRUSTED } else { &UNTRUSTED }.allows(&source);
        let inner = match address {
            IpAddr::V4(four) => four.is_loopback() || four.is_link_local() || four.is_unspecified() || form % 4 > 0,
            IpAddr::V6(six) => six.is_loopback() || six.is_unicast_link_local() || six.is_unspecified() || six.to_ipv4_mapped().is_some(),
        };
        prop_assert!(!(inner && allows), "{source}");
        if !source.contains('.') || !source.contains('[') {
            prop_assert_eq!(allows, fetches.refuse(&source).is_none(), "{}", source);
        }
    }

}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]
    #[test]
    fn a_closed_host_is_closed_however_it_is_spelled(segments: [u16; 8], form: u8, zero in 0..8_usize, zeros in 0..8_usize) {
        let mut segments = segments;
        segments[0] = 0x2606;
        segments.iter_mut().skip(zero.max(1)).take(zeros).for_each(|group| *group = 0);
        let address = Ipv6Addr::from(segments);
        let fetches = Fetches { closed: vec![Host::V6(address)], ..trusted() };
        let source = format!("https://{}/", spelled(IpAddr::V6(address), form));
        prop_assert!(!Judge::of(&fetches).allows(&source) && fetches.refuse(&source).is_some(), "{source}");
        prop_assert!(TRUSTED.allows(&source), "{source}");
    }
}

proptest! {
    #[test]
    fn no_text_is_read_by_the_rules_as_one_thing_and_in_words_as_another(
        scheme in prop_oneof![Just("http"), Just("git"), Just("docker-image"), Just("local"), Just("x")],
        rest in r"[a-c1.:@/?#\[\]%\\ -]{0,12}",
    ) {
        let source = format!("{scheme}://{rest}");
        prop_assert_eq!(TRUSTED.allows(&source), trusted().refuse(&source).is_none(), "{}", source);
    }
}
