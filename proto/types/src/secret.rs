//! Whether a build argument looks like a secret: a guess from its name and its value, nothing is asked anywhere.
//!
//! Names follow the rule `SecretsUsedInArgOrEnv` of BuildKit's own linter (`frontend/dockerfile/dockerfile2llb/validations.go`,
//! `getSecretsRegex`): the same words, and what makes a name harmless (`public`, `file`, `version`). Words that it doesn't
//! know are marked. Values are told by how well-known tokens begin. To add one: a row of [`PREFIXES`], and of the table
//! in the tests.
//!
//! Invariant: it never says more than that. Whoever tells people of it names the argument, never the value.

/// What stands for a value that isn't shown.
pub const HIDDEN: &str = "…";

/// By what an argument looks like a secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Look {
    /// By a word in its name.
    Name,
    /// By its value's form.
    Value,
}

impl Look {
    /// The word for it: `name` or `value`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Name => "name",
            Self::Value => "value",
        }
    }
}

/// What in a name says that it is a secret. Up to `token` they are BuildKit's, what follows is not.
const WORDS: [&str; 16] = [
    "apikey",
    "auth",
    "credential",
    "credentials",
    "key",
    "password",
    "pword",
    "passwd",
    "secret",
    "token",
    "passphrase",
    "passwords",
    "pwd",
    "secrets",
    "apitoken",
    "tokens",
];

/// What in a name says that it is none after all. Up to `version` they are BuildKit's.
const HARMLESS: [&str; 4] = ["public", "file", "version", "path"];

/// How tokens begin, and how many letters, digits, `-` and `_` follow at least.
const PREFIXES: [(&str, usize); 18] = [
    ("ghp_", 20),
    ("gho_", 20),
    ("ghu_", 20),
    ("ghs_", 20),
    ("ghr_", 20),
    ("github_pat_", 20),
    ("glpat-", 16),
    ("xoxa-", 10),
    ("xoxb-", 10),
    ("xoxp-", 10),
    ("dckr_pat_", 16),
    ("npm_", 30),
    ("pypi-", 16),
    // farm's own: of persons, services, jobs of other systems, and to join.
    ("farm_p_", 32),
    ("farm_s_", 32),
    ("farm_o_", 32),
    ("farm_j_", 32),
    // Of the file that everything may be done with.
    ("farm_", 64),
];

/// By what a build argument looks like a secret; `None`: it doesn't. What is empty, a word for yes or no, or a number of
/// at most four digits is none, whatever it is called.
pub fn looks_secret(name: &str, value: &str) -> Option<Look> {
    if is_trivial(value) {
        return None;
    }
    if is_secret_name(name, value) {
        return Some(Look::Name);
    }
    is_secret_value(value).then_some(Look::Value)
}

fn is_trivial(value: &str) -> bool {
    let value = value.trim();
    let is_switch = ["", "true", "false", "yes", "no", "on", "off"];
    is_switch.iter().any(|word| value.eq_ignore_ascii_case(word))
        || (value.len() <= 4 && value.bytes().all(|byte| byte.is_ascii_digit()))
}

fn is_secret_name(name: &str, value: &str) -> bool {
    let words = words(name);
    if words.iter().any(|word| HARMLESS.contains(&word.as_str())) {
        return false;
    }
    words.iter().any(|word| {
        // `API_TOKEN2`; but AUTH0 is the name of something.
        let numbered = word.trim_end_matches(|c: char| c.is_ascii_digit());
        let word = if numbered == "auth" { word.as_str() } else { numbered };
        // PWD is a shell's word for the folder that it is in.
        WORDS.contains(&word) && !(word == "pwd" && value.starts_with('/'))
    })
}

/// The words of a name, in small letters: between what is neither letter nor digit, and where capitals begin one
/// (`githubToken`, `APIKey`).
fn words(name: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let letters: Vec<char> = name.chars().collect();
    for (at, letter) in letters.iter().enumerate() {
        let before = at.checked_sub(1).and_then(|at| letters.get(at));
        let is_small_next = letters.get(at + 1).is_some_and(|next| next.is_ascii_lowercase());
        let begins = letter.is_ascii_uppercase()
            && before.is_some_and(|b| b.is_ascii_lowercase() || (b.is_ascii_uppercase() && is_small_next));
        if begins || !letter.is_alphanumeric() {
            words.push(String::new());
        }
        if let (Some(word), true) = (words.last_mut(), letter.is_alphanumeric()) {
            word.extend(letter.to_lowercase());
        }
    }
    words.retain(|word| !word.is_empty());
    words
}

fn is_secret_value(value: &str) -> bool {
    let key = value.split_once("-----BEGIN ").is_some_and(|(_, rest)| {
        rest.split_once("-----").is_some_and(|(what, _)| what.ends_with("PRIVATE KEY"))
    });
    let between = |c: char| c.is_whitespace() || matches!(c, '"' | '\'' | ',' | ';' | '=' | ':' | '/' | '@');
    key || value.split_whitespace().any(has_password)
        || value.split(between).any(|part| is_token(part) || is_aws_key(part) || is_jwt(part))
}

fn is_token_text(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
}

fn is_token(part: &str) -> bool {
    PREFIXES.iter().any(|(prefix, least)| {
        part.strip_prefix(prefix).is_some_and(|rest| rest.len() >= *least && is_token_text(rest))
    })
}

/// An id of an access key of AWS: `AKIA`, or `ASIA` of a passing one, and 16 capitals and digits.
fn is_aws_key(part: &str) -> bool {
    let rest = part.strip_prefix("AKIA").or_else(|| part.strip_prefix("ASIA"));
    rest.is_some_and(|rest| {
        rest.len() == 16 && rest.bytes().all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit())
    })
}

/// A JSON web token (RFC 7519): three parts in base64url, of which the first two are JSON objects (`eyJ` is `{"`).
fn is_jwt(part: &str) -> bool {
    let parts: Vec<&str> = part.split('.').collect();
    let [header, claims, signature] = parts[..] else { return false };
    let is_object = |text: &str| text.starts_with("eyJ") && text.len() >= 8 && is_token_text(text);
    is_object(header) && is_object(claims) && signature.len() >= 8 && is_token_text(signature)
}

/// Whether there is `SCHEME://USER:PASSWORD@HOST` in it.
fn has_password(text: &str) -> bool {
    text.match_indices("://").any(|(at, mark)| {
        let has_scheme = text[..at].ends_with(|c: char| c.is_ascii_alphanumeric());
        let authority = text[at + mark.len()..].split(['/', '?', '#']).next().unwrap_or_default();
        let password = authority.rsplit_once('@').and_then(|(user, _)| user.split_once(':'));
        has_scheme && password.is_some_and(|(_, password)| !password.is_empty())
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_tell_by_whole_words_in_any_case() {
        for name in [
            "TOKEN",
            "token",
            "GITHUB_TOKEN",
            "github-token",
            "githubToken",
            "NPM_TOKEN",
            "API_TOKEN2",
            "TOKENS",
            "SECRET",
            "secret_MESSAGE",
            "CLIENT_SECRET",
            "PASSWORD",
            "DB_PASSWORD",
            "dbPassword",
            "PASSWD",
            "MYSQL_PWD",
            "PASSPHRASE",
            "APIKEY",
            "API_KEY",
            "APIKey",
            "api.key",
            "AWS_ACCESS_KEY",
            "PRIVATE_KEY",
            "SSH_KEY",
            "CREDENTIAL",
            "GCP_CREDENTIALS",
            "AUTH",
            "NPM_AUTH",
            "PWORD",
        ] {
            assert_eq!(looks_secret(name, "some value"), Some(Look::Name), "{name}");
        }
        for name in [
            "",
            "_",
            "VERSION",
            "TOKENIZER_VERSION",
            "TOKENIZER",
            "PUBLIC_KEY",
            "PUBLIC_TOKEN",
            "AUTHOR",
            "AUTHORS",
            "AUTH0_DOMAIN",
            "KEYBOARD",
            "MONKEY",
            "SECRETARY",
            "PASSWORDLESS",
            "KEY_FILE",
            "TOKEN_PATH",
            "SECRETS_VERSION",
            "OLDPWD",
            "ACCESS",
            "SOURCE_DATE_EPOCH",
            "HTTP_PROXY",
        ] {
            assert_eq!(looks_secret(name, "some value"), None, "{name}");
        }
        assert_eq!(looks_secret("PWD", "/home/ada"), None);
        assert_eq!(looks_secret("PWD", "hunter2"), Some(Look::Name));
    }

    #[test]
    fn switches_small_numbers_and_nothing_are_no_secrets_whatever_they_are_called() {
        for value in ["", " ", "true", "FALSE", "yes", "No", "on", "off", "0", "1", "4096"] {
            assert_eq!(looks_secret("TOKEN", value), None, "{value}");
        }
        for value in ["12345", "truely", "a"] {
            assert_eq!(looks_secret("TOKEN", value), Some(Look::Name), "{value}");
        }
    }

    /// Put together here, so that nothing in this file looks like one.
    fn token(begin: &str, length: usize) -> String {
        begin.to_owned() + &"a1B2".repeat(length)[..length]
    }

    #[test]
    fn values_tell_by_how_well_known_tokens_look() {
        let jwt = format!("{}.{}.{}", token("eyJ", 20), token("eyJ", 40), token("", 43));
        let mut values = vec![
            token("AKIA", 0) + "ABCD0123" + "ABCD0123",
            jwt.clone(),
            format!("Bearer {jwt}"),
            format!("//registry.example/:_authToken={}", token("npm_", 36)),
            format!("-----BEGIN {}-----\nMII\n", ["RSA", "PRIVATE", "KEY"].join(" ")),
            format!("-----BEGIN {}-----\nMII\n", ["PRIVATE", "KEY"].join(" ")),
            ["https://ada", ":", "hunter2", "@", "pypi.example/simple"].concat(),
            ["--index https://x.example git+ssh://a", ":", "b", "@", "c"].concat(),
        ];
        values.extend(PREFIXES.iter().map(|(prefix, least)| token(prefix, *least)));
        for value in values {
            assert_eq!(looks_secret("A", &value), Some(Look::Value), "{value}");
        }
    }

    #[test]
    fn what_only_resembles_a_token_is_none() {
        for value in [
            token("ghp_", 10),
            token("npm_", 3),
            "npm_config_cache".to_owned(),
            "npm_config_strict_ssl".to_owned(),
            "farm_tests".to_owned(),
            token("AKIA", 16).to_ascii_lowercase(),
            "eyJ.eyJ.x".to_owned(),
            "1.2.3".to_owned(),
            "-----BEGIN CERTIFICATE-----".to_owned(),
            ["-----BEGIN PUBLIC", " KEY-----"].concat(),
            "https://ada@example/x".to_owned(),
            "https://ada:@example/x".to_owned(),
            "https://example:8080/a@b".to_owned(),
            "https://example/x?mail=a:b@c".to_owned(),
            "docker-image://registry.example:5000/app@sha256:00".to_owned(),
            "://a:b@c".to_owned(),
        ] {
            assert_eq!(looks_secret("A", &value), None, "{value}");
        }
        // A name that says where a secret lies makes a secret no other.
        assert_eq!(looks_secret("KEY_FILE", &token("ghp_", 36)), Some(Look::Value));
    }

    proptest! {
        #[test]
        fn any_name_and_value_is_taken(name in any::<String>(), value in any::<String>()) {
            let _ = looks_secret(&name, &value);
        }

        #[test]
        fn a_word_counts_between_any_separators_in_any_case(
            word in 0..WORDS.len(), before in "([B-D]{3,5}[-_.])?", behind in "([-_.][B-D]{3})?", upper: bool
        ) {
            let word = if upper { WORDS[word].to_ascii_uppercase() } else { WORDS[word].to_owned() };
            prop_assert_eq!(looks_secret(&format!("{before}{word}{behind}"), "hunter2"), Some(Look::Name));
            // Within a word it says nothing.
            prop_assert_eq!(looks_secret(&format!("x{}x", word.to_ascii_lowercase()), "hunter2"), None);
        }

        #[test]
        fn a_token_is_found_wherever_it_stands(which in 0..PREFIXES.len(), before in "([a-z]{1,5}[ =:])?", tail in "[A-Za-z0-9]{64}") {
            let value = format!("{before}{}{tail}", PREFIXES[which].0);
            prop_assert_eq!(looks_secret("A", &value), Some(Look::Value));
        }

        #[test]
        fn versions_and_paths_are_no_secrets(value in "[0-9]{1,3}(\\.[0-9]{1,3}){0,3}(-[a-z]{1,8})?|(/[a-z]{1,8}){1,4}") {
            prop_assert_eq!(looks_secret("A", &value), None);
        }
    }
}
