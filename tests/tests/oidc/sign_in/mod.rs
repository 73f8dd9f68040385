//! People who sign in at a company's issuer: the whole way, by the command and by what it calls.

mod browser;
mod device;
mod groups;
mod limits;
mod pages;
mod persons;
mod terminal;
mod verifying;
mod world;
