//! A server of ssh (dropbear) that lets a user `git` in by keys that were made for it, and an agent (OpenSSH's).
//!
//! The server sees a list of users of its own, so that nothing of the machine's users counts.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use farm_tests::bed::Bed;
use farm_tests::environment::command;
use farm_tests::ports::free_port;
use farm_tests::process::{Child, run};
use tempfile::TempDir;

use crate::support::*;

/// A server that runs as long as this lives.
pub struct SshServer {
    pub port: u16,
    folder: TempDir,
    _server: Child,
}

impl SshServer {
    /// Starts one that lets nobody in.
    pub fn start() -> SshServer {
        let folder = Bed::from_env().short_folder("ssh");
        let path = |name: &str| folder.path().join(name);
        fs::create_dir_all(path("home/.ssh")).unwrap();
        fs::set_permissions(folder.path(), Permissions::from_mode(0o755)).unwrap();
        for name in ["home", "home/.ssh"] {
            fs::set_permissions(path(name), Permissions::from_mode(0o700)).unwrap();
        }
        let home = path("home");
        fs::write(path("passwd"), format!("git:x:0:0::{}:/bin/sh\n", home.display())).unwrap();
        run(command("dropbearkey").args(["-t", "ed25519", "-f"]).arg(path("host")));
        let port = free_port();
        let script = r#"mount --bind "$1/passwd" /etc/passwd
            exec dropbear -F -E -s -r "$1/host" -P "$1/pid" -p "0.0.0.0:$2""#;
        let mut server = command("unshare");
        server.args(["--mount", "sh", "-euc", script, "-"]).arg(folder.path()).arg(port.to_string());
        let server = Child::spawn("dropbear", &server, &Bed::from_env().test_folder());
        until("ssh server", LONG, || std::net::TcpStream::connect(("127.0.0.1", port)).ok());
        SshServer { port, folder, _server: server }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Makes a key as ssh-keygen is told to; whoever has it may have this command run and no other.
    pub fn key(&self, name: &str, kind: &[&str], runs: &str) -> String {
        let file = self.path(name);
        let mut keygen = command("ssh-keygen");
        run(keygen.args(["-q", "-N", "", "-C", name, "-f"]).arg(&file).args(kind));
        let public = fs::read_to_string(file.with_extension("pub")).unwrap();
        let list = self.path("home/.ssh/authorized_keys");
        let before = fs::read_to_string(&list).unwrap_or_default();
        fs::write(&list, format!("{before}command=\"{runs}\" {public}")).unwrap();
        fs::set_permissions(&list, Permissions::from_mode(0o600)).unwrap();
        file.display().to_string()
    }

    /// Writes files of the repository, and commits all there is.
    pub fn commit(&self, files: &[(&str, &str)]) {
        for (name, text) in files {
            fs::write(self.path("work").join(name), text).unwrap();
        }
        self.git(&["add", "-A"]);
        self.git(&["-c", "user.name=a", "-c", "user.email=a@example.com", "commit", "-q", "-m", "a change"]);
    }

    fn git(&self, arguments: &[&str]) {
        let mut git = command("git");
        run(git.env("HOME", self.folder.path()).arg("-C").arg(self.path("work")).args(arguments));
    }

    /// A file with the keys by which this host is known.
    pub fn known_hosts(&self) -> String {
        let file = self.path("known_hosts");
        fs::write(&file, run(command("ssh-keyscan").args(["-p", &self.port.to_string(), "127.0.0.1"])))
            .unwrap();
        file.display().to_string()
    }

    /// A program that is run for a key, in the environment of these tests.
    fn program(&self, name: &str, script: &str) -> String {
        let file = self.path(name);
        let path = std::env::var("PATH").unwrap();
        fs::write(&file, format!("#!/bin/sh\nPATH={path}\nexport PATH\n{script}\n")).unwrap();
        fs::set_permissions(&file, Permissions::from_mode(0o755)).unwrap();
        file.display().to_string()
    }

    /// Makes a key by which the repository can be read, as a forge's deploy key without the right to write.
    pub fn deploy_key(&self) -> String {
        let reads = r#"case "$SSH_ORIGINAL_COMMAND" in
            "git-upload-pack "*) eval "$SSH_ORIGINAL_COMMAND" ;;
            *) echo 'this key only reads' >&2; exit 1 ;;
            esac"#;
        let program = self.program("reads", reads);
        self.key("deploy", &["-t", "ed25519"], &program)
    }

    /// From now on the repository takes pushes; after each this shell script is run, as git's `post-receive`.
    pub fn take_pushes(&self, script: &str) {
        self.git(&["config", "receive.denyCurrentBranch", "ignore"]);
        let file = self.path("work/.git/hooks/post-receive");
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(&file, script).unwrap();
        fs::set_permissions(&file, Permissions::from_mode(0o755)).unwrap();
    }

    /// Makes a key for all that git needs here, and a repository with one file; answers both.
    pub fn repository(&self, content: &str) -> (String, String) {
        let program = self.program("serve", "eval \"$SSH_ORIGINAL_COMMAND\"");
        let key = self.key("git", &["-t", "ed25519"], &program);
        let work = self.path("work");
        std::fs::create_dir(&work).unwrap();
        self.git(&["init", "-q", "-b", "main"]);
        self.commit(&[("file", content)]);
        (key, format!("ssh://git@127.0.0.1:{}{}", self.port, work.join(".git").display()))
    }
}

impl Context {
    /// With a client of ssh, as it is on this machine: `python3 /ssh/ssh.py PORT COMMAND`, after a COPY.
    pub fn with_ssh(self) -> Context {
        let ssh = which("ssh");
        let libraries = run(command("ldd").arg(&ssh));
        let mut context = self.file("ssh/ssh.py", include_str!("../../fixtures/ssh.py"));
        for path in libraries.split_whitespace().filter(|word| word.starts_with('/')) {
            let name = Path::new(path).file_name().unwrap().to_str().unwrap();
            let name = if name.starts_with("ld-linux") { "ld.so" } else { name };
            context = context.file(&format!("ssh/{name}"), fs::read(path).unwrap());
        }
        context = context.file("ssh/ssh", fs::read(ssh).unwrap());
        for name in ["ssh", "ld.so"] {
            let path = context.path().join("ssh").join(name);
            fs::set_permissions(path, Permissions::from_mode(0o755)).unwrap();
        }
        context
    }
}

fn which(program: &str) -> String {
    run(command("sh").args(["-c", "command -v \"$1\"", "-", program])).trim().to_owned()
}

/// An agent that runs as long as this lives.
pub struct SshAgent {
    pub socket: String,
    _agent: Child,
    _folder: TempDir,
}

impl SshAgent {
    /// Starts one with these keys.
    pub fn start(keys: &[&str]) -> SshAgent {
        let folder = Bed::from_env().short_folder("agent");
        let socket = folder.path().join("socket").display().to_string();
        let mut agent = command("ssh-agent");
        let agent =
            Child::spawn("ssh-agent", agent.args(["-D", "-a", &socket]), &Bed::from_env().test_folder());
        until("ssh agent", LONG, || std::os::unix::net::UnixStream::connect(&socket).ok());
        let it = SshAgent { socket, _agent: agent, _folder: folder };
        for key in keys {
            run(it.add(&["-q", key]).env("SSH_ASKPASS_REQUIRE", "never"));
        }
        it
    }

    /// `ssh-add ARGUMENTS` of this agent.
    pub fn add(&self, arguments: &[&str]) -> Command {
        let mut add = command("ssh-add");
        add.args(arguments).env("SSH_AUTH_SOCK", &self.socket);
        add
    }
}
