//! `farm login` on a terminal, without a flag: a browser where there is one, else a code; a token only if that is wanted.

use std::io::Read as _;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use portable_pty::{Child, CommandBuilder, PtySize, native_pty_system};

use super::world::{World, get, wait, world};

/// A command on a terminal, and all that it has written.
struct Terminal {
    child: Box<dyn Child + Send + Sync>,
    said: Arc<Mutex<String>>,
}

fn login(world: &World, args: &[&str], env: &[(&str, &str)]) -> Terminal {
    let like = world.command(&[&["login", &world.farm.url()], args].concat());
    let pair = native_pty_system().openpty(PtySize { rows: 30, cols: 400, ..PtySize::default() }).unwrap();
    let mut command = CommandBuilder::new(like.get_program());
    command.env_clear();
    command.args(like.get_args());
    for (name, value) in like.get_envs() {
        command.env(name, value.unwrap_or_default());
    }
    for (name, value) in env {
        command.env(name, value);
    }
    let child = pair.slave.spawn_command(command).unwrap();
    drop(pair.slave);
    let said = Arc::new(Mutex::new(String::new()));
    let (mut reader, into) = (pair.master.try_clone_reader().unwrap(), Arc::clone(&said));
    std::thread::spawn(move || {
        // The terminal lives as long as somebody reads it.
        let _master = pair.master;
        let mut piece = [0; 4096];
        while let Ok(read @ 1..) = reader.read(&mut piece) {
            into.lock().unwrap().push_str(&String::from_utf8_lossy(&piece[..read]));
        }
    });
    Terminal { child, said }
}

impl Terminal {
    fn shows(&self, text: &str) -> String {
        wait(text, Duration::from_secs(20), || {
            let said = self.said.lock().unwrap().clone();
            said.contains(text).then_some(said)
        })
    }

    fn ends(&mut self) -> u32 {
        let ended = wait("end", Duration::from_secs(30), || self.child.try_wait().unwrap());
        ended.exit_code()
    }
}

#[test]
fn without_a_browser_a_code_is_shown_and_with_one_it_opens() {
    let world = world();
    let mut device = login(&world, &[], &[]);
    device.shows("and enter the code  WDJB-MJHT");
    assert_eq!(device.ends(), 0);
    device.shows("you are ada");
    // Something that opens pages, which nobody looks at; the address is there for any other browser.
    let mut browser = login(&world, &["--name", "other"], &[("BROWSER", "true:false")]);
    let said = browser.shows("code_challenge_method=S256");
    let page = said.split_whitespace().find(|word| word.contains("/authorize?")).unwrap();
    let (_, back, _) = get(page, None);
    assert!(get(&back.unwrap(), None).2.contains("You are signed in"));
    assert_eq!(browser.ends(), 0);
    assert_eq!(world.issuer.taken(), ["device public", "device_code public", "authorization_code public"]);
}

#[test]
fn whoever_wants_to_give_a_token_is_asked_for_it() {
    let world = world();
    let mut asked = login(&world, &["--token"], &[("BROWSER", "true")]);
    asked.shows("Your token for http://127.0.0.1");
    asked.child.kill().unwrap();
    asked.ends();
    assert!(world.issuer.taken().is_empty());
}
