//! What callers are shown of builds, whichever edge they come by: a record of the store as a message ([`present`]), without what is
//! hidden from whoever asks ([`hidden`]).

pub mod hidden;
pub mod present;
