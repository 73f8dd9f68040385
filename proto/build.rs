//! Compiles `farm/v1/*.proto` in pure Rust, and keeps the descriptors for server reflection.

use std::path::PathBuf;
use std::{env, error, fs};

use prost::Message;

fn main() -> Result<(), Box<dyn error::Error>> {
    println!("cargo:rerun-if-changed=farm");
    let files = [
        "audit", "build", "farm", "git", "hook", "image", "machine", "mirror", "notice", "output", "peer",
        "people", "registry", "secret", "sign_in", "signing", "snapshot", "trust", "worker",
    ]
    .map(|name| format!("farm/v1/{name}.proto"));
    let descriptors = protox::compile(files, ["."])?;
    let out = PathBuf::from(env::var("OUT_DIR")?);
    fs::write(out.join("descriptors.bin"), descriptors.encode_to_vec())?;
    tonic_prost_build::configure()
        .bytes(".")
        .skip_debug([
            "farm.v1.AddHookRequest",
            "farm.v1.AddHookResponse",
            "farm.v1.AddNoticeRequest",
            "farm.v1.AddNoticeResponse",
            "farm.v1.RotateHookRequest",
            "farm.v1.RotateHookResponse",
            "farm.v1.RotateNoticeResponse",
            "farm.v1.Registry",
            "farm.v1.LendGitLoginResponse",
            "farm.v1.LendLoginResponse",
            "farm.v1.LendTokenResponse",
            "farm.v1.MountValue",
            "farm.v1.SetGitLoginRequest",
            "farm.v1.SetRegistryLoginRequest",
            "farm.v1.SetSecretRequest",
            "farm.v1.SetSigningKeyRequest",
        ])
        .compile_fds(descriptors)?;
    Ok(())
}
