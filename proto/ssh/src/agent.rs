//! What an agent is asked, and what it answers.

use std::fmt;

use zeroize::Zeroizing;

use crate::MOST_MESSAGE_BYTES;
use crate::key::Key;
use crate::wire::{Reader, Writer};

/// Message numbers (draft-ietf-sshm-ssh-agent, section 6.1).
const SSH_AGENT_FAILURE: u8 = 5;
const SSH_AGENTC_REQUEST_IDENTITIES: u8 = 11;
const SSH_AGENT_IDENTITIES_ANSWER: u8 = 12;
const SSH_AGENTC_SIGN_REQUEST: u8 = 13;
const SSH_AGENT_SIGN_RESPONSE: u8 = 14;
const SSH_AGENTC_EXTENSION: u8 = 27;
/// OpenSSH's: tells an agent for which host what follows is. It counts for the connection that it comes on.
const SESSION_BIND: &[u8] = b"session-bind@openssh.com";

/// The answer to what an agent doesn't do.
pub const FAILURE: &[u8] = &[SSH_AGENT_FAILURE];
/// The most that one connection is bound to. OpenSSH's own limit.
pub const MOST_BINDS: usize = 16;

/// A message to an agent, as far as builds may send it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Request<'a> {
    /// Which keys there are.
    Identities,
    /// Sign `data`.
    Sign { public: &'a [u8], data: &'a [u8], flags: u32 },
    /// For which host what follows on this connection is. An agent that knows nothing of it fails, which does no harm.
    Bind,
}

impl<'a> Request<'a> {
    /// What a message asks for; `None`: nothing that a build may, as adding, removing or locking keys, or it can't be read.
    pub fn of(message: &'a [u8]) -> Option<Self> {
        let mut reader = Reader::new(message);
        match reader.byte()? {
            SSH_AGENTC_REQUEST_IDENTITIES => reader.is_empty().then_some(Self::Identities),
            SSH_AGENTC_SIGN_REQUEST => {
                let (public, data, flags) = (reader.string()?, reader.string()?, reader.number()?);
                reader.is_empty().then_some(Self::Sign { public, data, flags })
            }
            SSH_AGENTC_EXTENSION => (reader.string()? == SESSION_BIND).then_some(Self::Bind),
            _ => None,
        }
    }
}

/// An agent that has keys, and does nothing but sign by them.
#[derive(Default)]
pub struct Keys(Vec<Key>);

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Keys").field(&self.0).finish()
    }
}

impl Keys {
    /// One that has these.
    pub fn new(keys: Vec<Key>) -> Self {
        Self(keys)
    }

    /// The answer to a message.
    pub fn answer(&self, message: &[u8]) -> Vec<u8> {
        let answer = match Request::of(message) {
            Some(Request::Identities) => Some(self.identities()),
            Some(Request::Sign { public, data, flags }) => self.sign(public, data, flags),
            Some(Request::Bind) | None => None,
        };
        answer.unwrap_or_else(|| FAILURE.to_vec())
    }

    fn identities(&self) -> Vec<u8> {
        let count = u32::try_from(self.0.len()).unwrap_or(u32::MAX);
        let head = Writer::default().byte(SSH_AGENT_IDENTITIES_ANSWER).number(count);
        let told = |writer: Writer, key: &Key| writer.string(key.public()).string(key.comment().as_bytes());
        self.0.iter().fold(head, told).done()
    }

    fn sign(&self, public: &[u8], data: &[u8], flags: u32) -> Option<Vec<u8>> {
        let key = self.0.iter().find(|key| key.public() == public)?;
        let signature = key.sign(data, flags)?;
        Some(Writer::default().byte(SSH_AGENT_SIGN_RESPONSE).string(&signature).done())
    }
}

/// A message is longer than any agent takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a message to an ssh agent has at most {MOST_MESSAGE_BYTES} bytes")]
pub struct TooLong;

/// Whole messages of a stream of bytes.
#[derive(Default)]
pub struct Frames(Zeroizing<Vec<u8>>);

impl Frames {
    /// The next bytes.
    pub fn push(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }

    /// The next message, if all of it is there.
    ///
    /// # Errors
    /// It is too long: nothing that follows can be read.
    pub fn take(&mut self) -> Result<Option<Vec<u8>>, TooLong> {
        let mut reader = Reader::new(&self.0);
        let Some(length) = reader.number() else { return Ok(None) };
        let length = usize::try_from(length).ok().filter(|length| *length <= MOST_MESSAGE_BYTES);
        let Some(message) = reader.take(length.ok_or(TooLong)?) else { return Ok(None) };
        let (message, end) = (message.to_vec(), self.0.len() - reader.rest().len());
        self.0.drain(..end);
        Ok(Some(message))
    }
}

/// A message as it goes to an agent, or comes from it: with its length.
pub fn framed(message: &[u8]) -> Vec<u8> {
    Writer::default().string(message).done()
}

#[cfg(test)]
#[path = "agent_tests.rs"]
mod tests;
