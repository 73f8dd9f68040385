//! `--output` and `--load`: a build's result in the hands of whoever asked for it.
//!
//! [`wanted`] reads what was asked for, [`destination`] looks at where it is to go, before anything is built. When the build
//! has succeeded, [`deliver`] fetches each output ([`download`]) and puts it there: [`unpack`] files into a folder, [`layout`]
//! images and merged archives into a file, [`layout_folder`] images into a folder, [`docker`] an image into a Docker engine.
//!
//! Invariants: nothing is written outside of what was named, whatever is in an output; a file appears whole or not at all;
//! nothing is done that can't be, before the build has begun. To add a kind: a variant of [`wanted::Sink`], how it is
//! written, and what comes of it in [`deliver`].

pub mod archive;
pub(crate) mod csv;
pub mod deliver;
pub mod destination;
pub mod docker;
pub mod download;
pub mod layout;
mod layout_folder;
pub mod unpack;
pub mod wanted;
