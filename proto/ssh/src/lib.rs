//! ssh keys and agents, as far as builds need them: reading private keys, signing by them, and what an agent is asked.
//!
//! A build that mounts ssh (`RUN --mount=type=ssh`) speaks to an agent. Either that is [`Keys`], which a worker has for the
//! attempt, or the agent of whoever follows the build, to which only what [`Request::of`] knows is passed on: nobody's agent is
//! changed by a build.
//!
//! Formats: the agent protocol is draft-ietf-sshm-ssh-agent, with OpenSSH's `session-bind@openssh.com` (`PROTOCOL.agent`); keys are
//! OpenSSH's own (`PROTOCOL.key`), PKCS #8, PKCS #1 and SEC 1, in PEM. What signs is ring, which all of farm has for TLS, so of
//! keys those are taken that ring knows: Ed25519, ECDSA on P-256 and P-384, RSA of 2048, 3072 and 4096 bits.
//!
//! Invariants: what comes from a build, or from a file, makes nothing here panic, and no message is longer than
//! [`MOST_MESSAGE_BYTES`]. Nothing prints a key. Layers, from below: `wire` (numbers and strings), `pem`, `read` (files to keys),
//! `key` (signing), `agent` (messages).

mod agent;
mod key;
mod pem;
mod read;
mod wire;

pub use agent::{FAILURE, Frames, Keys, MOST_BINDS, Request, TooLong, framed};
pub use key::Key;
pub use read::{Unusable, has_private_key, keys};

/// The longest message of an agent, bytes without its length. OpenSSH's own limit.
pub const MOST_MESSAGE_BYTES: usize = 256 * 1024;
