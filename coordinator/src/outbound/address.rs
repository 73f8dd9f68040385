//! Which addresses are public, and what the others are.
//!
//! Sources: IANA's registries of special-purpose addresses (RFC 6890 and what came after), and the addresses at which clouds
//! keep what a machine may do (169.254.169.254, fd00:ec2::254, 168.63.129.16, 100.100.100.200, 192.0.0.192).
//!
//! Invariant: an address of IPv6 that stands for one of IPv4 is what that one is. To add a range: its line in `V4` or
//! `V6`, and one in the tests.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

const LOOPBACK: &str = "loopback, which is the coordinator's own machine";
const PRIVATE: &str = "in a private network";
const LINK_LOCAL: &str = "link-local, where clouds keep their machines' credentials";
const METADATA: &str = "where a cloud keeps its machines' credentials";
const SHARED: &str = "within a provider's own network (100.64.0.0/10)";
const MULTICAST: &str = "multicast";
const EXAMPLE: &str = "for documentation and tests only";
const NOBODY: &str = "nobody's on the public network";
const TUNNEL: &str = "an old form of tunnel (Teredo)";

/// Networks of IPv4 by address, length and what they are; the first that fits tells.
const V4: &[([u8; 4], u32, &str)] = &[
    ([127, 0, 0, 0], 8, LOOPBACK),
    // This host, which systems connect to themselves.
    ([0, 0, 0, 0], 8, LOOPBACK),
    ([10, 0, 0, 0], 8, PRIVATE),
    ([172, 16, 0, 0], 12, PRIVATE),
    ([192, 168, 0, 0], 16, PRIVATE),
    ([169, 254, 0, 0], 16, LINK_LOCAL),
    ([168, 63, 129, 16], 32, METADATA),
    ([100, 64, 0, 0], 10, SHARED),
    ([192, 0, 2, 0], 24, EXAMPLE),
    ([198, 51, 100, 0], 24, EXAMPLE),
    ([203, 0, 113, 0], 24, EXAMPLE),
    ([198, 18, 0, 0], 15, EXAMPLE),
    ([192, 0, 0, 0], 24, NOBODY),
    // Relays of 6to4, given up by RFC 7526.
    ([192, 88, 99, 0], 24, NOBODY),
    ([224, 0, 0, 0], 4, MULTICAST),
    ([240, 0, 0, 0], 4, NOBODY),
];

/// The same of IPv6, by the first two groups. What isn't in 2000::/3 is not public at all.
const V6: &[([u16; 2], u32, &str)] = &[
    ([0xfe80, 0], 10, LINK_LOCAL),
    ([0xfc00, 0], 7, PRIVATE),
    // Site-local, given up by RFC 3879; systems still route it.
    ([0xfec0, 0], 10, PRIVATE),
    ([0xff00, 0], 8, MULTICAST),
    ([0x2001, 0], 32, TUNNEL),
    ([0x2001, 0x0db8], 32, EXAMPLE),
    ([0x3fff, 0], 20, EXAMPLE),
    // For protocols (RFC 2928): ORCHID, benchmarks, relays.
    ([0x2001, 0], 23, NOBODY),
];

/// What an address is, if it isn't a public one that anybody may have a service at.
pub fn not_public(address: IpAddr) -> Option<&'static str> {
    match address {
        IpAddr::V4(address) => not_public_v4(address),
        IpAddr::V6(address) => not_public_v6(address),
    }
}

fn not_public_v4(address: Ipv4Addr) -> Option<&'static str> {
    let bits = address.to_bits();
    let within =
        |(net, length, _): &&([u8; 4], u32, _)| (bits ^ u32::from_be_bytes(*net)) >> (32 - length) == 0;
    V4.iter().find(within).map(|(_, _, what)| *what)
}

fn not_public_v6(address: Ipv6Addr) -> Option<&'static str> {
    if address.is_loopback() || address.is_unspecified() {
        return Some(LOOPBACK);
    }
    if let Some(held) = held(address) {
        return not_public_v4(held);
    }
    let [first, second, ..] = address.segments();
    let bits = u32::from(first) << 16 | u32::from(second);
    let within = |([first, second], length, _): &&([u16; 2], u32, _)| {
        (bits ^ (u32::from(*first) << 16 | u32::from(*second))) >> (32 - length) == 0
    };
    let named = V6.iter().find(within).map(|(_, _, what)| *what);
    named.or_else(|| (first >> 13 != 1).then_some(NOBODY))
}

/// The address of IPv4 that one of IPv6 leads to.
fn held(address: Ipv6Addr) -> Option<Ipv4Addr> {
    let of = |high: u16, low: u16| Ipv4Addr::from_bits(u32::from(high) << 16 | u32::from(low));
    match address.segments() {
        // Mapped (RFC 4291), NAT64 (RFC 6052), and translated (RFC 2765).
        [0, 0, 0, 0, 0, 0xffff, high, low]
        | [0x64, 0xff9b, 0, 0, 0, 0, high, low]
        | [0, 0, 0, 0, 0xffff, 0, high, low]
        // Compatible (RFC 4291, given up).
        | [0, 0, 0, 0, 0, 0, high, low]
        // 6to4 (RFC 3056).
        | [0x2002, high, low, ..] => Some(of(high, low)),
        // ISATAP (RFC 5214), in whichever network.
        [first, _, _, _, 0 | 0x0200, 0x5efe, high, low] if first >> 13 == 1 => Some(of(high, low)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn what(text: &str) -> Option<&'static str> {
        not_public(text.parse().unwrap_or_else(|e| panic!("{text}: {e}")))
    }

    #[test]
    fn addresses_are_told_by_what_they_are() {
        for (text, is) in [
            ("127.0.0.1", LOOPBACK),
            ("127.255.255.254", LOOPBACK),
            ("0.0.0.0", LOOPBACK),
            ("::1", LOOPBACK),
            ("::", LOOPBACK),
            ("10.255.0.1", PRIVATE),
            ("172.16.0.1", PRIVATE),
            ("172.31.255.255", PRIVATE),
            ("192.168.1.1", PRIVATE),
            ("fd00:ec2::254", PRIVATE),
            ("fc00::1", PRIVATE),
            ("fec0::1", PRIVATE),
            ("169.254.169.254", LINK_LOCAL),
            ("fe80::1", LINK_LOCAL),
            ("168.63.129.16", METADATA),
            ("100.64.0.1", SHARED),
            ("100.127.255.255", SHARED),
            ("100.100.100.200", SHARED),
            ("192.0.0.192", NOBODY),
            ("224.0.0.1", MULTICAST),
            ("ff02::1", MULTICAST),
            ("192.0.2.1", EXAMPLE),
            ("198.19.255.255", EXAMPLE),
            ("2001:db8::1", EXAMPLE),
            ("3fff:fff::1", EXAMPLE),
            ("2001:2::1", NOBODY),
            ("255.255.255.255", NOBODY),
            ("64:ff9b:1::1", NOBODY),
            ("5f00::1", NOBODY),
            ("2001::1", TUNNEL),
            // What hides one of the above.
            ("::ffff:127.0.0.1", LOOPBACK),
            ("::127.0.0.1", LOOPBACK),
            ("::ffff:0:127.0.0.1", LOOPBACK),
            ("64:ff9b::169.254.169.254", LINK_LOCAL),
            ("2002:7f00:1::", LOOPBACK),
            ("2002:a9fe:a9fe::1", LINK_LOCAL),
            ("2606:4700::5efe:10.0.0.1", PRIVATE),
            ("2606:4700::200:5efe:10.0.0.1", PRIVATE),
        ] {
            assert_eq!(what(text), Some(is), "{text}");
        }
    }

    #[test]
    fn public_ones_are_public_also_beside_those_that_are_not() {
        for text in [
            "1.1.1.1",
            "9.255.255.255",
            "11.0.0.0",
            "100.63.255.255",
            "100.128.0.0",
            "126.255.255.255",
            "128.0.0.0",
            "168.63.129.17",
            "169.253.255.255",
            "172.15.255.255",
            "172.32.0.0",
            "192.167.255.255",
            "198.17.255.255",
            "198.20.0.0",
            "223.255.255.255",
            "2001:200::1",
            "2606:4700::1111",
            "2a00:1450:4001::1",
            "3ffe:ffff::1",
            "::ffff:1.1.1.1",
            "64:ff9b::1.1.1.1",
            "2002:101:101::1",
        ] {
            assert_eq!(what(text), None, "{text}");
        }
    }

    proptest! {
        /// What the standard library knows to be special is never public, in whichever form it is written.
        #[test]
        fn no_form_makes_a_special_address_public(bits: u32, form in 0..7_usize, rest: u16) {
            let v4 = Ipv4Addr::from_bits(bits);
            let [a, b, c, d] = bits.to_be_bytes();
            let (high, low) = (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]));
            let six: [u16; 8] = match form {
                0 => [0, 0, 0, 0, 0, 0xffff, high, low],
                1 => [0x64, 0xff9b, 0, 0, 0, 0, high, low],
                2 => [0, 0, 0, 0, 0xffff, 0, high, low],
                3 => [0, 0, 0, 0, 0, 0, high, low],
                4 => [0x2002, high, low, rest, 0, 0, 0, rest],
                5 => [0x2606, rest, 0, 0, 0, 0x5efe, high, low],
                _ => [0x2606, rest, 0, 0, 0x200, 0x5efe, high, low],
            };
            let hidden = not_public(IpAddr::V6(Ipv6Addr::from(six)));
            let plain = not_public(IpAddr::V4(v4));
            if bits > 1 {
                prop_assert_eq!(hidden, plain);
            }
            let is_special = v4.is_loopback() || v4.is_private() || v4.is_link_local() || v4.is_multicast()
                || v4.is_broadcast() || v4.is_documentation() || v4.is_unspecified();
            prop_assert!(!is_special || (plain.is_some() && hidden.is_some()), "{v4}");
        }

        /// Of IPv6 nothing outside of what is given out is public, but for what leads to a public address of IPv4.
        #[test]
        fn only_what_is_given_out_is_public(segments: [u16; 8]) {
            let address = Ipv6Addr::from(segments);
            if not_public(IpAddr::V6(address)).is_none() {
                prop_assert!(segments[0] >> 13 == 1 || held(address).is_some(), "{address}");
            }
            prop_assert!(!(address.is_unique_local() || address.is_unicast_link_local() || address.is_multicast())
                || not_public(IpAddr::V6(address)).is_some(), "{address}");
        }
    }
}
