//! Published vectors, and what must not pass for a token.

use serde_json::json;

use super::*;

/// RFC 7515, A.3: the token and its key.
const ES256: &str = "eyJhbGciOiJFUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ.\
    DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q";

fn es256_key() -> Value {
    json!({
        "kty": "EC", "crv": "P-256",
        "x": "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU", "y": "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"
    })
}

/// RFC 7515, A.2.
const RS256: &str = "eyJhbGciOiJSUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ.\
    cC4hiUPoj9Eetdgtv3hF80EGrhuB__dzERat0XF9g2VtQgr9PJbu3XOiZj5RZmh7AAuHIm4Bh-0Qc_lF5YKt_O8W2Fp5jujGbds9uJdbF9CUAr7t1dnZcAcQjbKBYNX4\
    BAynRFdiuB--f_nZLgrnbyTyWzO75vRK5h6xBArLIARNPvkSjtQBMHlb1L07Qe7K0GarZRmB_eSN9383LcOLn6_dO--xi12jzDwusC-eOkHWEsqtFZESc6BfI7noOPqv\
    hJ1phCnvWh6IeYI2w9QOYEUipUTI8np6LbgGY9Fs98rqVt5AXLIhWkWywlVmtVrBp0igcN_IoypGlUPQGe77Rw";

fn rs256_key() -> Value {
    json!({
        "kty": "RSA", "e": "AQAB",
        "n": "ofgWCuLjybRlzo0tZWJjNiuSfb4p4fAkd_wWJcyQoTbji9k0l8W26mPddxHmfHQp-Vaw-4qPCJrcS2mJPMEzP1Pt0Bm4d4QlL-yRT-SFd2lZS-pCgNMsD1W_YpRP\
              EwOWvG6b32690r2jZ47soMZo9wGzjb_7OMg0LOL-bSf63kpaSHSXndS5z5rexMdbBYUsLA9e-KXBdQOS-UTo7WTBEMa2R2CapHg665xsmtdVMTBQY4uDZlxvb3qC\
              o5ZwKh9kG4LT6_I5IhlJH7aGhyxXFvUK-DWNmoudF8NAco9_h9iaGNj8q2ethFkMLs91kzk2PAcDTW9gb54h4FRWyuXpoQ"
    })
}

fn set(keys: &[Value]) -> Vec<Key> {
    Key::read_set(json!({ "keys": keys }).to_string().as_bytes()).unwrap()
}

fn verified(token: &str, keys: &[Value], allowed: &[Algorithm]) -> Result<Map<String, Value>, String> {
    Jws::read(token).and_then(|token| token.verify(&set(keys), allowed)).map_err(|why| why.to_string())
}

/// A token with this header, which nobody has signed.
fn unsigned(header: Value, claims: Value) -> String {
    let part = |value: Value| BASE64.encode(value.to_string());
    format!("{}.{}.{}", part(header), part(claims), BASE64.encode("x"))
}

fn refused(token: &str) -> String {
    Jws::read(token).unwrap_err().to_string()
}

#[test]
fn the_vectors_of_the_standards_pass() {
    for (token, key) in [(ES256, es256_key()), (RS256, rs256_key())] {
        let claims = verified(token, &[key], &Algorithm::ALL).unwrap();
        assert_eq!(claims["iss"], "joe");
    }
    // RFC 8037, A.4; what is signed there are no claims.
    let key =
        set(&[json!({"kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"})]);
    let signed = "eyJhbGciOiJFZERTQSJ9.RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc";
    let signature = "hgyY0il_MGCjP0JzlnLWG1PPOt7-09PGcvMg3AIbQR6dWbhijcNR4ki4iylGjg5BhVsPt9g7sVvpAr_MuM0KAg";
    let signature = BASE64.decode(signature).unwrap();
    assert!(key[0].has_signed(signed.as_bytes(), &signature));
    assert!(!key[0].has_signed(b"something else", &signature));
}

#[test]
fn what_is_changed_by_a_letter_passes_no_more() {
    for (token, key) in [(ES256, es256_key()), (RS256, rs256_key())] {
        let dots: Vec<usize> = token.match_indices('.').map(|(at, _)| at).collect();
        for at in [dots[0] + 5, dots[1] + 5] {
            let letter = if &token[at..=at] == "A" { "B" } else { "A" };
            let changed = [&token[..at], letter, &token[at + 1..]].concat();
            assert!(verified(&changed, std::slice::from_ref(&key), &Algorithm::ALL).is_err());
        }
        // The same bits once more: a signature has one form.
        assert!(verified(&format!("{token}="), &[key], &Algorithm::ALL).is_err());
    }
}

#[test]
fn the_token_does_not_choose_how_it_is_verified() {
    let claims = json!({"iss": "joe"});
    for alg in ["none", "None", "HS256", "RS512", "ES384", ""] {
        let token = unsigned(json!({ "alg": alg }), claims.clone());
        for key in [es256_key(), rs256_key()] {
            let why = verified(&token, &[key], &Algorithm::ALL).unwrap_err();
            assert!(why.contains(&format!("signed by {alg:?}")), "{why}");
        }
    }
    // A key of another kind; an algorithm that this issuer doesn't use; a key that is for another one.
    assert!(verified(ES256, &[rs256_key()], &Algorithm::ALL).unwrap_err().contains("signed by \"ES256\""));
    assert!(verified(ES256, &[es256_key()], &[Algorithm::Rs256]).unwrap_err().contains("farm takes RS256"));
    let mut other = rs256_key();
    other["alg"] = json!("RS512");
    assert!(verified(RS256, &[other], &Algorithm::ALL).unwrap_err().contains("no keys that farm can use"));
}

#[test]
fn the_key_is_the_one_that_is_named_or_the_only_one() {
    let named = |kid: &str, mut key: Value| {
        key["kid"] = json!(kid);
        key
    };
    // These tokens name none.
    assert!(verified(ES256, &[named("a", es256_key()), named("b", rs256_key())], &Algorithm::ALL).is_ok());
    let two = [named("a", es256_key()), named("b", es256_key())];
    assert!(verified(ES256, &two, &Algorithm::ALL).unwrap_err().contains("kid"));
    let token = unsigned(json!({"alg": "ES256", "kid": "c"}), json!({}));
    assert!(verified(&token, &two, &Algorithm::ALL).unwrap_err().contains("no key \"c\""));
    let token = unsigned(json!({"alg": "ES256", "kid": "b"}), json!({}));
    assert!(verified(&token, &two, &Algorithm::ALL).unwrap_err().contains("signature is wrong"));
}

#[test]
fn keys_that_are_for_something_else_or_broken_are_left_out() {
    let with = |field: &str, value: Value| {
        let mut key = es256_key();
        key[field] = value;
        key
    };
    for useless in [
        with("use", json!("enc")),
        with("key_ops", json!(["sign"])),
        with("crv", json!("P-384")),
        with("x", json!("AA")),
        with("y", json!(null)),
        with("kty", json!("oct")),
        json!({"kty": "oct", "k": "c2VjcmV0", "alg": "HS256"}),
        json!({"kty": "RSA", "n": "", "e": "AQAB"}),
        json!("no key"),
    ] {
        assert_eq!(set(&[useless.clone(), es256_key()]).len(), 1, "{useless}");
    }
    assert!(set(&[with("use", json!("sig")), with("key_ops", json!(["verify"]))]).len() == 2);
    assert!(Key::read_set(b"{}").is_err() && Key::read_set(b"<html>").is_err());
}

#[test]
fn what_is_no_token_is_refused_in_words_and_never_repeated() {
    let jwe = "a.b.c.d.e";
    for (wrong, why) in [
        ("", "three parts"),
        ("farm_0123", "three parts"),
        (jwe, "encrypted"),
        ("a.b.c.d", "three parts"),
        ("!.e30.eA", "header is not in base64url"),
        ("e30=.e30.eA", "header is not in base64url"),
        ("e30.e30.eA", "its header"),
        ("eyJhbGciOiJFUzI1NiJ9.W10.eA", "its body"),
        ("eyJhbGciOiJFUzI1NiJ9.e30.?", "signature is not"),
    ] {
        let said = refused(wrong);
        assert!(said.contains(why) && !said.contains("farm_0123"), "{wrong}: {said}");
    }
    assert!(refused(&"a".repeat(MAX_TOKEN + 1)).contains("longer than"));
    assert!(
        refused(&unsigned(json!({"alg": "ES256", "crit": ["b64"], "b64": false}), json!({})))
            .contains("crit")
    );
    let logout = refused(&unsigned(json!({"alg": "ES256", "typ": "logout+jwt"}), json!({})));
    assert!(logout.contains("\"logout+jwt\""), "{logout}");
    let deep = format!("eyJhbGciOiJFUzI1NiJ9.{}.eA", BASE64.encode("[".repeat(10_000)));
    assert!(refused(&deep).contains("its body"));
    let token = unsigned(json!({"alg": "ES256", "typ": "jwt"}), json!({"iss": "x"}));
    assert!(!format!("{:?}", Jws::read(&token).unwrap()).contains(&token[30..]), "a token is printed");
}
