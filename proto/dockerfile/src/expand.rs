//! Variables in words: `$NAME`, `${NAME}` and the forms with `:-`, `:+`, `:?`, `#`, `%` and `/`.
//!
//! BuildKit, `frontend/dockerfile/shell/lex.go`. Quotes and escapes are taken away on the way, as there. Invariant: a word
//! whose value depends on a variable that isn't known is [`None`], never a guess.

use std::collections::BTreeMap;
use std::iter::Peekable;
use std::str::Chars;

/// The variables at some place in a Dockerfile.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Variables {
    /// `None`: it has a value that isn't known.
    values: BTreeMap<String, Option<String>>,
    /// What isn't among the values may have one: a base image's environment isn't known here.
    is_open: bool,
}

/// What is known of a variable.
#[derive(Debug, PartialEq, Eq)]
enum Value<'a> {
    Known(&'a str),
    Unset,
    Unknown,
}

impl Variables {
    /// No others than those that are set.
    pub(crate) fn closed() -> Self {
        Self::default()
    }

    /// Others may be there, too.
    pub(crate) fn open() -> Self {
        Self { values: BTreeMap::new(), is_open: true }
    }

    pub(crate) fn set(&mut self, name: &str, value: Option<String>) {
        self.values.insert(name.to_owned(), value);
    }

    fn get(&self, name: &str) -> Value<'_> {
        match self.values.get(name) {
            Some(Some(value)) => Value::Known(value),
            Some(None) => Value::Unknown,
            None if self.is_open => Value::Unknown,
            None => Value::Unset,
        }
    }

    /// The value, if the name is set; the inner `None` when it isn't known.
    pub(crate) fn value(&self, name: &str) -> Option<Option<&str>> {
        self.values.get(name).map(Option::as_deref)
    }
}

/// Forms within one another are followed so deep.
const DEEPEST: u8 = 20;
/// A longer value isn't told, bytes: variables that name one another double.
const LONGEST: usize = 64 << 10;
/// Patterns are looked for in values up to this length, bytes.
const LONGEST_SEARCHED: usize = 1 << 10;

/// The word with its variables replaced and without quotes; `None` when that depends on what isn't known.
pub(crate) fn expand(word: &str, variables: &Variables, escape: char) -> Option<String> {
    let mut lexer = Lexer { rest: word.chars().peekable(), variables, escape, depth: 0 };
    let out = lexer.until(None)?;
    lexer.rest.peek().is_none().then_some(out)
}

struct Lexer<'a> {
    rest: Peekable<Chars<'a>>,
    variables: &'a Variables,
    escape: char,
    depth: u8,
}

impl Lexer<'_> {
    /// Reads up to this character outside of quotes, which stays, or to the end.
    fn until(&mut self, stop: Option<char>) -> Option<String> {
        let mut out = String::new();
        while let Some(&c) = self.rest.peek() {
            if Some(c) == stop {
                return Some(out);
            }
            if out.len() > LONGEST {
                return None;
            }
            self.rest.next();
            match c {
                '\'' => loop {
                    match self.rest.next()? {
                        '\'' => break,
                        c => out.push(c),
                    }
                },
                '"' => self.double_quoted(&mut out)?,
                '$' => out.push_str(&self.dollar()?),
                c if c == self.escape => out.extend(self.rest.next()),
                c => out.push(c),
            }
        }
        stop.is_none().then_some(out)
    }

    fn double_quoted(&mut self, out: &mut String) -> Option<()> {
        loop {
            if out.len() > LONGEST {
                return None;
            }
            match self.rest.next()? {
                '"' => return Some(()),
                '$' => out.push_str(&self.dollar()?),
                c if c == self.escape => match self.rest.next()? {
                    next if next == '"' || next == '$' || next == self.escape => out.push(next),
                    next => out.extend([c, next]),
                },
                c => out.push(c),
            }
        }
    }

    /// What follows a `$`.
    fn dollar(&mut self) -> Option<String> {
        if self.rest.next_if_eq(&'{').is_none() {
            let name = self.name();
            if name.is_empty() {
                return Some("$".to_owned());
            }
            return match self.variables.get(&name) {
                Value::Known(value) => Some(value.to_owned()),
                Value::Unset => Some(String::new()),
                Value::Unknown => None,
            };
        }
        if self.depth == DEEPEST {
            return None;
        }
        self.depth += 1;
        let name = self.name();
        if name.is_empty() {
            // The engine says what is wrong.
            return None;
        }
        let value = self.variables.get(&name);
        let out = match self.rest.next()? {
            '}' => match value {
                Value::Known(value) => Some(value.to_owned()),
                Value::Unset => Some(String::new()),
                Value::Unknown => None,
            },
            ':' => {
                let form = self.rest.next()?;
                self.default(form, value, true)
            }
            form @ ('-' | '+' | '?') => self.default(form, value, false),
            form @ ('#' | '%' | '/') => self.substitution(form, value),
            _ => None,
        };
        self.depth -= 1;
        out
    }

    /// `${X:-WORD}`, `${X:+WORD}`, `${X:?WORD}`, and without the colon; with it an empty value is as good as none.
    fn default(&mut self, form: char, value: Value<'_>, or_empty: bool) -> Option<String> {
        let word = self.until(Some('}'));
        self.rest.next();
        let known = match value {
            Value::Unknown => return None,
            Value::Unset => None,
            Value::Known("") if or_empty => None,
            Value::Known(value) => Some(value),
        };
        match (form, known) {
            ('-' | '?', Some(value)) => word.map(|_| value.to_owned()).or_else(|| Some(value.to_owned())),
            ('-', None) | ('+', Some(_)) => word,
            ('+', None) => Some(String::new()),
            // The engine ends the build with that.
            _ => None,
        }
    }

    /// `${X#PATTERN}`, `##`, `%`, `%%`, `${X/PATTERN/WORD}`, `//`.
    fn substitution(&mut self, form: char, value: Value<'_>) -> Option<String> {
        let value = match value {
            Value::Known(value) if value.len() > LONGEST_SEARCHED => Value::Unknown,
            value => value,
        };
        let is_doubled = self.rest.next_if_eq(&form).is_some();
        if form == '/' {
            let pattern = self.until(Some('/'))?;
            self.rest.next();
            let word = self.until(Some('}'))?;
            self.rest.next();
            return match value {
                Value::Unknown => None,
                Value::Unset => Some(String::new()),
                Value::Known(value) => Some(replace(value, &pattern, &word, is_doubled)),
            };
        }
        let pattern = self.until(Some('}'))?;
        self.rest.next();
        match value {
            Value::Unknown => None,
            Value::Unset => Some(String::new()),
            Value::Known(value) if form == '#' => Some(without_prefix(value, &pattern, is_doubled)),
            Value::Known(value) => Some(without_suffix(value, &pattern, is_doubled)),
        }
    }

    /// A name, a single digit, or a special parameter.
    fn name(&mut self) -> String {
        let mut name = String::new();
        while let Some(&c) = self.rest.peek() {
            let is_first = name.is_empty();
            if is_first && (c.is_ascii_digit() || "@*#?-$!".contains(c)) {
                self.rest.next();
                return c.to_string();
            }
            if !(c.is_ascii_alphabetic() || c == '_' || (!is_first && c.is_ascii_digit())) {
                break;
            }
            name.push(c);
            self.rest.next();
        }
        name
    }
}

/// The places at which a text can be cut, its ends included.
fn cuts(text: &str) -> Vec<usize> {
    text.char_indices().map(|(at, _)| at).chain([text.len()]).collect()
}

fn without_prefix(value: &str, pattern: &str, longest: bool) -> String {
    let pattern: Vec<char> = pattern.chars().collect();
    let fits = |at: &usize| matches(&pattern, &value[..*at]);
    let mut places = cuts(value).into_iter();
    let at = if longest { places.rfind(fits) } else { places.find(fits) };
    value[at.unwrap_or(0)..].to_owned()
}

fn without_suffix(value: &str, pattern: &str, longest: bool) -> String {
    let pattern: Vec<char> = pattern.chars().collect();
    let fits = |at: &usize| matches(&pattern, &value[*at..]);
    let mut places = cuts(value).into_iter();
    let at = if longest { places.find(fits) } else { places.rfind(fits) };
    value[..at.unwrap_or(value.len())].to_owned()
}

/// Replaces the first place where the pattern fits, or all; each as long as it can be.
fn replace(value: &str, pattern: &str, word: &str, all: bool) -> String {
    let pattern: Vec<char> = pattern.chars().collect();
    let mut out = String::new();
    let mut rest = value;
    while !rest.is_empty() {
        let end = cuts(rest).into_iter().skip(1).rfind(|&end| matches(&pattern, &rest[..end]));
        match end {
            Some(end) => {
                out.push_str(word);
                rest = &rest[end..];
                if !all {
                    break;
                }
            }
            None => {
                let mut chars = rest.chars();
                out.extend(chars.next());
                rest = chars.as_str();
            }
        }
    }
    out.push_str(rest);
    out
}

/// Whether a text matches a pattern of `*`, `?` and escapes.
fn matches(pattern: &[char], text: &str) -> bool {
    let text: Vec<char> = text.chars().collect();
    let (mut p, mut t) = (0, 0);
    // Where to go on after a mismatch: the last star takes one character more.
    let mut retry: Option<(usize, usize)> = None;
    while t < text.len() {
        let step = match pattern.get(p) {
            Some('*') => {
                retry = Some((p, t));
                p += 1;
                continue;
            }
            Some('\\') => pattern.get(p + 1).filter(|&&c| c == text[t]).map(|_| 2),
            Some('?') => Some(1),
            Some(&c) if c == text[t] => Some(1),
            _ => None,
        };
        match (step, retry) {
            (Some(step), _) => {
                p += step;
                t += 1;
            }
            (None, Some((star, from))) => {
                retry = Some((star, from + 1));
                p = star + 1;
                t = from + 1;
            }
            (None, None) => return false,
        }
    }
    pattern.get(p..).is_none_or(|rest| rest.iter().all(|&c| c == '*'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn with(is_open: bool) -> Variables {
        let mut known = if is_open { Variables::open() } else { Variables::closed() };
        for (name, value) in [("A", "one"), ("E", ""), ("P", "a/b/c.tar.gz")] {
            known.set(name, Some(value.to_owned()));
        }
        known.set("U", None);
        known
    }

    #[test]
    fn forms_are_those_of_the_reference() {
        for (word, value) in [
            ("x$A-${A}y", Some("xone-oney")),
            ("${N}|$N|${N:-d}|${N-d}|${N:+p}|${N+p}", Some("||d|d||")),
            ("${E:-d}|${E-d}|${E:+p}|${E+p}", Some("d|||p")),
            ("${A:-d}|${A:+p}|${A:?no}", Some("one|p|one")),
            ("${N:-${A}/$A}", Some("one/one")),
            ("${P#*/}|${P##*/}|${P%.*}|${P%%.*}", Some("b/c.tar.gz|c.tar.gz|a/b/c.tar|a/b/c")),
            ("${P/b/X}|${A//?/y}|${P/q/X}|${P/b\\/c/X}", Some("a/X/c.tar.gz|yyy|a/b/c.tar.gz|a/X.tar.gz")),
            ("'$A'\"$A \\$A\\x\"\\$A", Some("$Aone $A\\x$A")),
            ("$|$ |a$", Some("$|$ |a$")),
            ("$1", Some("")),
            ("$U", None),
            ("${U:-x}", None),
            ("${N:?said}", None),
            ("${A", None),
            ("${}", None),
            ("\"open", None),
            ("'open", None),
        ] {
            assert_eq!(expand(word, &with(false), '\\').as_deref(), value, "{word}");
        }
    }

    #[test]
    fn what_a_base_image_may_set_is_not_known() {
        assert_eq!(expand("$N", &with(true), '\\'), None);
        assert_eq!(expand("${N:-x}", &with(true), '\\'), None);
        assert_eq!(expand("$A", &with(true), '\\').as_deref(), Some("one"));
        assert_eq!(expand("a`$b", &with(true), '`').as_deref(), Some("a$b"));
    }

    #[test]
    fn values_that_grow_without_end_are_not_told() {
        let mut known = Variables::closed();
        known.set("A", Some("x".to_owned()));
        for _ in 0..60 {
            let value = expand("$A\"$A\"", &known, '\\');
            known.set("A", value);
        }
        assert_eq!(known.value("A"), Some(None));
        known.set("B", Some("y".repeat(2000)));
        assert_eq!(expand("${B//y/z}", &known, '\\'), None);
    }

    proptest! {
        #[test]
        fn no_word_is_too_odd(word in "[$a-c{}:+?#%/'\"\\\\*-]{0,40}", text in ".{0,20}") {
            let mut known = with(true);
            known.set("a", Some(text));
            let _ = expand(&word, &known, '\\');
        }

        #[test]
        fn a_word_without_anything_special_is_itself(word in "[a-zA-Z0-9 ./_*?-]{0,20}") {
            prop_assert_eq!(expand(&word, &with(true), '\\'), Some(word));
        }
    }
}
