//! Builds from their submission to their removal: accepting, cancelling and retrying them, the record that is shown of
//! one, and what they made for the client.

pub mod mounts;
pub mod outputs;
mod read;
pub mod record;
pub mod retain;
pub mod retry;
pub mod submit;
pub mod submitter;
pub mod verdicts;
