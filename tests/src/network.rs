//! A network of its own for one process, with a link to the test's that can lose packets and carry nothing without telling
//! anybody. It needs root, and the test bed's network namespace.
//!
//! What goes to the other end's address gets to the same port of 127.0.0.1 there, so that whoever listens on the loopback
//! is reached over a real link.

use std::path::Path;
use std::process::Command;

use crate::process::run;

/// What the link does to packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Weather {
    Fair,
    /// Three of ten packets are lost, in each direction.
    Lossy,
    /// Nothing comes through, and nobody is told.
    Silent,
    /// What the process sends is lost; what is sent to it arrives.
    HalfOpen,
    /// The cable is out.
    Down,
}

/// Gone when it is dropped.
#[derive(Debug)]
pub struct Network {
    number: u32,
}

impl Network {
    pub fn make() -> Network {
        // The kernel refuses a name that is taken, so numbers are tried until one is new.
        let number = (1..250)
            .find(|number| {
                let mut add = ip(&format!("link add fn{number} type veth peer name fp{number}"));
                add.output().is_ok_and(|output| output.status.success())
            })
            .expect("a link can be made; is this the test bed's network namespace?");
        let network = Network { number };
        run(&mut ip(&format!("netns add {}", network.name())));
        run(&mut ip(&format!("link set fp{number} netns {}", network.name())));
        run(&mut ip(&format!("addr add 172.29.{number}.1/24 dev fn{number}")));
        run(&mut ip(&format!("link set fn{number} up")));
        for command in [
            format!("addr add 172.29.{number}.2/24 dev fp{number}"),
            "link set lo up".to_owned(),
            format!("link set fp{number} up"),
        ] {
            run(&mut ip(&format!("-n {} {command}", network.name())));
        }
        std::fs::write(format!("/proc/sys/net/ipv4/conf/fn{number}/route_localnet"), "1").unwrap();
        let to = format!("-t nat -A PREROUTING -i fn{number} -p tcp -j DNAT --to-destination 127.0.0.1");
        run(&mut iptables(&to));
        network
    }

    /// The address of the test's end.
    pub fn gateway(&self) -> String {
        format!("172.29.{}.1", self.number)
    }

    /// A command that runs this program within this network; the process id stays the same.
    pub fn command(&self, program: &Path) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/run/netns/{}", self.name())).arg("--").arg(program);
        command
    }

    pub fn set(&self, weather: Weather) {
        let number = self.number;
        // The rules of the weather before, as many as there are.
        for chain in ["INPUT -i", "OUTPUT -o"] {
            for what in ["-j DROP", LOSS] {
                while iptables(&format!("-D {chain} fn{number} {what}")).output().unwrap().status.success() {}
            }
        }
        let add = |chain: &str, what: &str| run(&mut iptables(&format!("-I {chain} fn{number} {what}")));
        run(&mut ip(&format!(
            "link set fn{number} {}",
            if weather == Weather::Down { "down" } else { "up" }
        )));
        match weather {
            Weather::Fair | Weather::Down => {}
            Weather::Lossy => {
                add("INPUT -i", LOSS);
                add("OUTPUT -o", LOSS);
            }
            Weather::Silent => {
                add("INPUT -i", "-j DROP");
                add("OUTPUT -o", "-j DROP");
            }
            Weather::HalfOpen => {
                add("INPUT -i", "-j DROP");
            }
        }
    }

    fn name(&self) -> String {
        format!("farm-{}-{}", std::process::id(), self.number)
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        self.set(Weather::Fair);
        let number = self.number;
        let _ = iptables(&format!(
            "-t nat -D PREROUTING -i fn{number} -p tcp -j DNAT --to-destination 127.0.0.1"
        ))
        .output();
        let _ = ip(&format!("link del fn{number}")).output();
        let _ = ip(&format!("netns del {}", self.name())).output();
    }
}

const LOSS: &str = "-m statistic --mode random --probability 0.3 -j DROP";

fn ip(args: &str) -> Command {
    words("ip", args)
}

fn iptables(args: &str) -> Command {
    words("iptables", &format!("-w {args}"))
}

fn words(program: &str, args: &str) -> Command {
    let mut command = Command::new(program);
    command.args(args.split(' '));
    command
}
