//! The wire: generated types and services of `farm.v1`, and their conversion to and from the domain.
//!
//! What comes from the wire is validated here, once; an error names the field. To add a field: the .proto
//! file, then the conversion in [`convert`], and a test that it survives the way there and back.

/// The generated types and services.
#[allow(
    missing_docs,
    clippy::all,
    clippy::as_conversions,
    clippy::allow_attributes_without_reason,
    reason = "generated code"
)]
pub mod v1 {
    tonic::include_proto!("farm.v1");
}

impl std::fmt::Debug for v1::Registry {
    /// Without the password: what holds it, [`v1::Offered`] for one, may be printed.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Registry")
            .field("host", &self.host)
            .field("username", &self.username)
            .field("plain_http", &self.plain_http)
            .finish_non_exhaustive()
    }
}

impl std::fmt::Debug for v1::LendGitLoginResponse {
    /// Without token and key.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LendGitLoginResponse").field("username", &self.username).finish_non_exhaustive()
    }
}

impl std::fmt::Debug for v1::LendLoginResponse {
    /// Without the password.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LendLoginResponse").field("username", &self.username).finish_non_exhaustive()
    }
}

impl std::fmt::Debug for v1::SetRegistryLoginRequest {
    /// Without the password.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SetRegistryLoginRequest")
            .field("host", &self.host)
            .field("username", &self.username)
            .finish_non_exhaustive()
    }
}

impl std::fmt::Debug for v1::SetGitLoginRequest {
    /// Without token and key.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SetGitLoginRequest")
            .field("place", &self.place)
            .field("username", &self.username)
            .finish_non_exhaustive()
    }
}

impl std::fmt::Debug for v1::LendTokenResponse {
    /// Without the token.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LendTokenResponse")
            .field("expires_in", &self.expires_in)
            .field("refused", &self.refused)
            .finish_non_exhaustive()
    }
}

impl std::fmt::Debug for v1::MountValue {
    /// Without the value.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MountValue")
            .field("type", &self.r#type)
            .field("id", &self.id)
            .field("bytes", &self.value.len())
            .finish_non_exhaustive()
    }
}

impl std::fmt::Debug for v1::SetSecretRequest {
    /// Without the value.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SetSecretRequest")
            .field("name", &self.name)
            .field("bytes", &self.value.as_ref().map(prost::bytes::Bytes::len))
            .finish_non_exhaustive()
    }
}

macro_rules! without_secret {
    ($($name:ident($field:ident);)*) => {$(
        impl std::fmt::Debug for v1::$name {
            /// Without the secret.
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.debug_struct(stringify!($name)).field(stringify!($field), &self.$field).finish_non_exhaustive()
            }
        }
    )*};
}

without_secret! {
    AddHookRequest(repository);
    AddHookResponse(hook);
    AddNoticeRequest(name);
    AddNoticeResponse(notice);
    RotateHookRequest(name);
    RotateHookResponse(hook);
    RotateNoticeResponse(notice);
    SetSigningKeyRequest(name);
}

pub mod convert;
mod failure;
mod fetch;
pub mod layers;
pub mod notify;
mod packaging;

/// The compiled descriptors of all files, for server reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));

/// The protocol version between workers and coordinators that this code speaks.
pub const WORKER_PROTOCOL: u32 = 2;

/// The longest message that either side takes, bytes. Bulk travels in pieces of [`PIECE_BYTES`].
pub const MAX_MESSAGE_BYTES: usize = 8 * 1024 * 1024;

/// How bulk data is cut, bytes.
pub const PIECE_BYTES: usize = 256 * 1024;

/// How an output is cut on its way from a worker, bytes. Each piece is stored by itself.
pub const OUTPUT_PIECE_BYTES: usize = 4 * 1024 * 1024;

/// The HTTP/2 window of streams and connections over which bytes flow.
pub const WINDOW_BYTES: u32 = 8 * 1024 * 1024;

#[cfg(test)]
mod tests {
    use super::v1;

    #[test]
    fn what_holds_a_lent_password_token_or_secret_can_be_printed_without_it() {
        let registry =
            v1::Registry { host: "r.example".into(), password: "hush".into(), ..Default::default() };
        let offered = v1::Offered { registries: vec![registry], ..Default::default() };
        let printed = format!("{offered:?}");
        assert!(printed.contains("r.example") && !printed.contains("hush"), "{printed}");
        let lent = v1::LendTokenResponse { token: "hush".into(), expires_in: 7, ..Default::default() };
        let printed = format!("{lent:?}");
        assert!(printed.contains('7') && !printed.contains("hush"), "{printed}");
        let value = v1::MountValue { id: "npm".into(), value: "hush".into(), ..Default::default() };
        let lent = v1::LendMountsResponse { values: vec![value] };
        let printed = format!("{lent:?}");
        assert!(printed.contains("npm") && !printed.contains("hush"), "{printed}");
        let set =
            v1::SetSecretRequest { name: "npm".into(), value: Some("hush".into()), ..Default::default() };
        let printed = format!("{set:?}");
        assert!(printed.contains("npm") && !printed.contains("hush"), "{printed}");
        let set =
            v1::SetSigningKeyRequest { name: "release".into(), key: "hush".into(), ..Default::default() };
        let printed = format!("{set:?}");
        assert!(printed.contains("release") && !printed.contains("hush"), "{printed}");
        let added = v1::AddHookResponse { secret: "hush".into(), project: "web".into(), hook: None };
        assert!(!format!("{added:?}").contains("hush"), "{added:?}");
    }
}
