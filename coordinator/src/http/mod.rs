//! HTTP/1.1, for whoever isn't a client of gRPC: connections ([`serve`]), bodies that are bounded in length and memory
//! ([`body`]), answers without words ([`answer`]). What is listened for is said in [`crate::listeners`].

pub mod answer;
pub mod body;
pub mod serve;
