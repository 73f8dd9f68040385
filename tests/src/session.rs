//! A session of its own in a database: it holds what it has locked until it is told otherwise.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

#[derive(Debug)]
pub struct Session {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Session {
    pub fn open(url: &str) -> Session {
        let mut command = Command::new(crate::database::psql_program());
        command.args(["-XqAt", "-v", "ON_ERROR_STOP=1", "-d", url]);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let (input, output) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()));
        Session { child, input, output }
    }

    /// Runs SQL that answers one line.
    pub fn ask(&mut self, sql: &str) -> String {
        self.try_ask(sql).unwrap_or_else(|| panic!("psql ended: {sql}"))
    }

    /// The same, or nothing when the session has ended.
    pub fn try_ask(&mut self, sql: &str) -> Option<String> {
        writeln!(self.input, "{sql};").ok()?;
        let mut line = String::new();
        self.output.read_line(&mut line).ok()?;
        (!line.is_empty()).then(|| line.trim_end().to_owned())
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}
