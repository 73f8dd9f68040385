//! How an instruction's text falls into words, flags and lists of strings.
//!
//! Three ways, as instructions differ: blanks alone (`COPY`), blanks outside of quotes (`ENV`, `ARG`), and flags, whose quotes
//! are taken away at once. (BuildKit, `parser/line_parsers.go` and `split_command.go`.)

/// The first word, and the rest without blanks around it.
pub(crate) fn split(text: &str) -> (&str, &str) {
    let text = text.trim();
    text.split_once(char::is_whitespace).map_or((text, ""), |(word, rest)| (word, rest.trim()))
}

/// The flags (`--NAME[=VALUE]`) that stand first, without their quotes, and what follows them.
pub(crate) fn flags(text: &str) -> (Vec<String>, &str) {
    let mut flags = Vec::new();
    let mut rest = text.trim_start();
    while rest.starts_with("--") {
        let mut word = String::new();
        let mut quote = None;
        let mut end = rest.len();
        let mut chars = rest.char_indices();
        while let Some((at, c)) = chars.next() {
            match (quote, c) {
                // The escape is a backslash here, whatever the directive says.
                (_, '\\') => word.extend(chars.next().map(|(_, c)| c)),
                (Some(open), c) if open == c => quote = None,
                (None, '\'' | '"') => quote = Some(c),
                (None, c) if c.is_whitespace() => {
                    end = at;
                    break;
                }
                (_, c) => word.push(c),
            }
        }
        rest = rest[end..].trim_start();
        if word == "--" {
            break;
        }
        flags.push(word);
    }
    (flags, rest)
}

/// A JSON list of strings, if the text is one.
pub(crate) fn list(text: &str) -> Option<Vec<String>> {
    let text = text.trim();
    if text.starts_with('[') { serde_json::from_str(text).ok() } else { None }
}

/// Words between blanks that stand in no quotes; quotes and escapes stay.
pub(crate) fn quoted(text: &str, escape: char) -> Vec<&str> {
    let (mut quote, mut skip) = (None, false);
    let is_blank = move |c: char| {
        if std::mem::take(&mut skip) {
            return false;
        }
        match (quote, c) {
            (Some('\''), '\'') => quote = None,
            (Some('\''), _) => {}
            (_, c) if c == escape => skip = true,
            (Some(open), _) if open == c => quote = None,
            (None, '\'' | '"') => quote = Some(c),
            (None, _) => return c.is_whitespace(),
            (Some(_), _) => {}
        }
        false
    };
    text.split(is_blank).filter(|word| !word.is_empty()).collect()
}

/// A word without its quotes and escapes.
pub(crate) fn unquote(word: &str, escape: char) -> String {
    let mut out = String::with_capacity(word.len());
    let mut quote = None;
    let mut chars = word.chars().peekable();
    while let Some(c) = chars.next() {
        match (quote, c) {
            (Some(open), c) if open == c => quote = None,
            (None, '\'' | '"') => quote = Some(c),
            (Some('\''), c) => out.push(c),
            (None, c) if c == escape => out.extend(chars.next()),
            // Between double quotes an escape is one before these only.
            (Some(_), c) if c == escape => {
                match chars.next_if(|&next| next == '"' || next == '$' || next == escape) {
                    Some(next) => out.push(next),
                    None => out.push(c),
                }
            }
            (_, c) => out.push(c),
        }
    }
    out
}

/// The fields of a line of comma-separated values (RFC 4180), as flags like `--mount` hold them.
pub(crate) fn comma_separated(text: &str) -> Vec<String> {
    let mut fields = vec![String::new()];
    let mut is_quoted = false;
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        let Some(field) = fields.last_mut() else { break };
        match c {
            '"' if is_quoted && chars.next_if_eq(&'"').is_some() => field.push('"'),
            '"' if is_quoted => is_quoted = false,
            '"' if field.is_empty() => is_quoted = true,
            ',' if !is_quoted => fields.push(String::new()),
            c => field.push(c),
        }
    }
    fields
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_end_where_something_else_begins() {
        let (found, rest) = flags("--from=a --chown='1:1 2' --x\\ y  a --b");
        assert_eq!(
            (found, rest),
            (vec!["--from=a".to_owned(), "--chown=1:1 2".into(), "--x y".into()], "a --b")
        );
        assert_eq!(flags("-- --a b"), (Vec::new(), "--a b"));
        assert_eq!(flags("a --b"), (Vec::new(), "a --b"));
        assert_eq!(flags("--a"), (vec!["--a".to_owned()], ""));
    }

    #[test]
    fn words_keep_their_quotes_until_they_are_unquoted() {
        assert_eq!(quoted(r#"A="b c" D='e f'g h\ i"#, '\\'), [r#"A="b c""#, "D='e f'g", r"h\ i"]);
        assert_eq!(unquote(r#""a b"'c\d'e\ f"\$\x""#, '\\'), r"a bc\de f$\x");
        assert_eq!(list(r#" ["a", "b c"] "#), Some(vec!["a".into(), "b c".into()]));
        assert_eq!((list("[a, b]"), list("a")), (None, None));
    }

    #[test]
    fn comma_separated_fields_may_be_quoted() {
        assert_eq!(comma_separated("type=bind,from=a"), ["type=bind", "from=a"]);
        assert_eq!(comma_separated(r#""from=a,b","x ""y""","#), ["from=a,b", "x \"y\"", ""]);
    }
}
